//! How the values of a matrix are stored.

use crate::{BLOCK, Q4Block, Q8Block};
use std::fmt;

/// A number format of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// Brain floats: the upper half of an `f32`.
    Bf16,
    /// Blocks of 32 signed 8-bit integers with an f16 factor: 8.5 bits a value.
    Q8,
    /// Blocks of 32 signed 4-bit integers with an f16 factor: 4.5 bits a value.
    Q4,
}

impl Format {
    /// All of them, largest first.
    pub const ALL: [Format; 5] = [Format::F32, Format::F16, Format::Bf16, Format::Q8, Format::Q4];

    /// Values that are stored together; rows are a multiple of it.
    pub fn values_per_unit(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => 1,
            Format::Q8 | Format::Q4 => BLOCK,
        }
    }

    /// Bytes of `n_values` values, a multiple of [`Format::values_per_unit`].
    pub fn n_bytes(self, n_values: usize) -> usize {
        let bytes_per_unit = match self {
            Format::F32 => 4,
            Format::F16 | Format::Bf16 => 2,
            Format::Q8 => size_of::<Q8Block>(),
            Format::Q4 => size_of::<Q4Block>(),
        };
        n_values / self.values_per_unit() * bytes_per_unit
    }
}

/// The name on the command line.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Q8 => "q8",
            Format::Q4 => "q4",
        })
    }
}
