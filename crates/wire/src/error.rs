//! How a wait can fail.

use crate::Tag;
use mesh::Rank;
use std::time::Duration;

/// A message that will not come.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A peer said that it failed.
    #[error("rank {peer} failed: {message}")]
    PeerFailed {
        /// Who.
        peer: Rank,
        /// Its own words.
        message: String,
    },
    /// Nothing came in time.
    #[error("rank {rank} waited {} s for {tag:?} from rank {peer}", deadline.as_secs_f64())]
    Deadline {
        /// Who waited.
        rank: Rank,
        /// For whom.
        peer: Rank,
        /// For what.
        tag: Tag,
        /// How long.
        deadline: Duration,
    },
    /// The peer's end is gone.
    #[error("rank {peer} has left")]
    Gone {
        /// Who.
        peer: Rank,
    },
}
