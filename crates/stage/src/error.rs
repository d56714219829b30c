//! How a step can fail.

use mesh::Rank;
use wire::WireError;

/// A step that was not played to its end. The pipeline is stopped then; weights are as the last whole step left them
/// only in the last checkpoint.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// A rank panicked: a bug of ours, or a device out of memory.
    #[error("rank {rank} panicked: {message}")]
    Panicked {
        /// Who.
        rank: Rank,
        /// The panic's message.
        message: String,
    },
    /// A device failed at what it was given.
    #[error(
        "rank {rank}: {device} failed: {reason}; when memory ran out, use more microbatches or recompute = \"full\""
    )]
    Device {
        /// Whose.
        rank: Rank,
        /// Which.
        device: String,
        /// What the tensor library said.
        reason: String,
    },
    /// The gradient is not a finite number, and [`NotFinite::Stop`](crate::NotFinite::Stop) was asked for.
    #[error(
        "step {step}: the gradient norm is {norm}, so no update was made; lower optimizer.learning_rate or set \
         optimizer.clip_norm, and check the data; optimizer.not_finite = \"skip\" goes on without such steps"
    )]
    NotFinite {
        /// Which step.
        step: u64,
        /// The norm found.
        norm: f64,
    },
    /// A message did not come.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The pipeline was stopped by an earlier failure.
    #[error("the pipeline has stopped after an earlier failure")]
    Stopped,
    /// The schedule is not one that can be played.
    #[error("the schedule cannot be played: {0}")]
    Schedule(String),
}
