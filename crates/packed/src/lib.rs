//! Matrices of weights in fewer bytes: 16-bit floats, and blocks of 32 values of 8 or 4 bits with a common factor.
//!
//! A [`Matrix`] is packed once and then only read. Blocks are those of GGUF files (`Q8_0`, `Q4_0`), bit for bit, so that
//! what is written to a file is what generation computes with. Does not know about models, files or products.

mod block;
mod error;
mod format;
mod matrix;

pub use block::{BLOCK, Q4Block, Q8Block};
pub use error::PackError;
pub use format::Format;
pub use matrix::{Matrix, Values};

// Numbers of 16 bits as they lie in a matrix.
pub use half::{bf16, f16};
