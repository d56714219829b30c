//! The second interpreter of a schedule: tensors in, timeline, memory and updated weights out.
//!
//! A rank is a thread that owns its stages' weights, gradients and moments, and plays the list it is handed. It
//! decides nothing: where the list came from it does not know, nor what a run, a file or a dataset is.

mod carry;
mod cut;
mod drawn;
mod error;
mod meeting;
mod not_finite;
mod objective;
mod permits;
mod pipeline;
mod play;
mod precision;
mod rank;
mod roll_back;
mod shard;
mod softmax;
mod statistics;
mod store;
mod tied;
mod training_state;
mod updates;
mod visit;
mod vocabulary;

pub use drawn::drawn;
pub use error::StageError;
pub use not_finite::NotFinite;
pub use objective::Objective;
pub use pipeline::{Pipeline, PipelineSpec, Source};
pub use plan::Recompute;
pub use play::{Report, Step, Update};
pub use precision::Precision;
pub use roll_back::RollBack;
pub use statistics::ParameterStatistics;
