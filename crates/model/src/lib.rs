//! Model families as runs of half-layer blocks on one device.
//!
//! A [`Part`] is a stage's share of a model: it maps a carry to a carry, tracked for training or untracked for
//! evaluation and generation. Does not know about schedules, ranks, transport or files.

mod attention;
mod cache;
mod gemma3;
mod gpt2;
mod init;
mod llama;
mod olmo2;
mod parameter;
mod part;
mod phi3;
mod qwen3;
mod rows;
mod tape;
mod visit;

pub use cache::Cache;
pub use init::draw;
pub use parameter::Parameter;
pub use part::{Output, Part};
pub use rows::Rows;
pub use tape::{Tape, Tracked};
