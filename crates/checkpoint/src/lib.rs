//! Weights on disk: Hugging Face folders in and out, and training checkpoints with hashes that are replaced
//! atomically.
//!
//! A training checkpoint is itself a complete Hugging Face folder, with the optimizer's moments and the caller's state
//! beside it. Everything is keyed by parameter name and nothing by stage or rank, so a run resumes on any number of
//! stages.
//!
//! Does not know about tensors, layouts or how a model computes.

mod checkpoint;
mod companion;
mod convert;
mod dtype;
mod error;
mod export;
mod folder;
mod folder_writer;
mod generation;
mod gguf;
mod manifest;
mod replace;
mod save;
mod series;
mod tensor_file;

pub use checkpoint::{Checkpoint, Part, load};
pub use companion::Companion;
pub use convert::{Conversion, Converted, Head, convert};
pub use dtype::Dtype;
pub use error::CheckpointError;
pub use export::{Export, write_folder};
pub use folder::{Folder, read_folder, stored_shapes};
pub use generation::Generation;
pub use gguf::{GgufWritten, write_gguf};
pub use replace::replace_folder;
pub use save::{Save, save};
pub use series::{Latest, Skipped, clean, latest, latest_after};
