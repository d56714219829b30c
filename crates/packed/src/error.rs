//! Why a matrix cannot be packed.

use crate::{BLOCK, Format};

/// What does not fit into a format. Messages are meant for the person at the terminal.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Rows that do not divide into blocks.
    #[error(
        "rows of `{matrix}` have {columns} values, but {format} packs {BLOCK} at a time; take f16 or bf16, which have no \
         blocks"
    )]
    Columns {
        /// Its name.
        matrix: String,
        /// Values of a row.
        columns: usize,
        /// As which it was to be packed.
        format: Format,
    },
    /// A value that the format has no number near.
    #[error("`{matrix}` has the value {found}, which {format} cannot hold; take f32 or bf16")]
    Value {
        /// Its name.
        matrix: String,
        /// The value: too large, or in blocks infinite or not a number.
        found: f32,
        /// As which it was to be packed.
        format: Format,
    },
}
