//! A packed matrix.

use crate::{BLOCK, Format, PackError, Q4Block, Q8Block};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Weights `[rows, columns]`, row after row.
#[derive(Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Values,
}

/// The values of a matrix in row-major order; blocks lie within rows.
#[derive(Clone, PartialEq)]
pub enum Values {
    /// As they are.
    F32(Vec<f32>),
    /// Rounded to the nearest, ties to even.
    F16(Vec<f16>),
    /// Rounded to the nearest, ties to even.
    Bf16(Vec<bf16>),
    /// As [`Q8Block::pack`] rounds.
    Q8(Vec<Q8Block>),
    /// As [`Q4Block::pack`] rounds.
    Q4(Vec<Q4Block>),
}

impl Matrix {
    /// Packs `values`; `name` is what errors call the matrix.
    ///
    /// # Errors
    /// [`PackError::Columns`] for rows that do not divide into blocks; [`PackError::Value`] for a finite value that would
    /// become infinite, and for any that is not finite where it would spoil a block. Damage that the format can hold
    /// (f32, f16, bf16) stays and shows in what is computed.
    ///
    /// # Panics
    /// When there are not `rows * columns` values.
    pub fn pack(
        format: Format,
        name: &str,
        [rows, columns]: [usize; 2],
        values: Vec<f32>,
    ) -> Result<Matrix, PackError> {
        assert_eq!(values.len(), rows * columns, "values of {name}");
        if !columns.is_multiple_of(format.values_per_unit()) {
            return Err(PackError::Columns { matrix: name.to_owned(), columns, format });
        }
        let too_large = |x: f32| match format {
            Format::F32 => false,
            Format::F16 => x.is_finite() && f16::from_f32(x).is_infinite(),
            Format::Bf16 => x.is_finite() && bf16::from_f32(x).is_infinite(),
            Format::Q8 => !f16::from_f32(x / 127.0).is_finite(),
            Format::Q4 => !f16::from_f32(x / 8.0).is_finite(),
        };
        if let Some(&found) = values.iter().find(|x| too_large(**x)) {
            return Err(PackError::Value { matrix: name.to_owned(), found, format });
        }
        let values = match format {
            Format::F32 => Values::F32(values),
            Format::F16 => Values::F16(values.iter().map(|&x| f16::from_f32(x)).collect()),
            Format::Bf16 => Values::Bf16(values.iter().map(|&x| bf16::from_f32(x)).collect()),
            Format::Q8 => Values::Q8(values.as_chunks().0.iter().map(Q8Block::pack).collect()),
            Format::Q4 => Values::Q4(values.as_chunks().0.iter().map(Q4Block::pack).collect()),
        };
        Ok(Self { rows, columns, values })
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The packed values.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// How they are packed.
    pub fn format(&self) -> Format {
        match self.values {
            Values::F32(_) => Format::F32,
            Values::F16(_) => Format::F16,
            Values::Bf16(_) => Format::Bf16,
            Values::Q8(_) => Format::Q8,
            Values::Q4(_) => Format::Q4,
        }
    }

    /// Bytes of the packed values.
    pub fn n_bytes(&self) -> usize {
        self.format().n_bytes(self.rows * self.columns)
    }

    /// Writes the values that row `i` stands for to `to`.
    ///
    /// # Panics
    /// When there is no such row, or `to` is not as long as one.
    pub fn unpack_row(&self, i: usize, to: &mut [f32]) {
        assert!(i < self.rows && to.len() == self.columns, "row {i} of {} x {}", self.rows, self.columns);
        let (from, blocks) = (i * self.columns, i * self.columns / BLOCK);
        let n_blocks = self.columns / BLOCK;
        match &self.values {
            Values::F32(values) => to.copy_from_slice(&values[from..][..to.len()]),
            Values::F16(values) => values[from..][..to.len()].convert_to_f32_slice(to),
            Values::Bf16(values) => values[from..][..to.len()].convert_to_f32_slice(to),
            Values::Q8(values) => {
                let to = to.as_chunks_mut().0.iter_mut();
                to.zip(&values[blocks..][..n_blocks]).for_each(|(to, block)| *to = block.unpack());
            }
            Values::Q4(values) => {
                let to = to.as_chunks_mut().0.iter_mut();
                to.zip(&values[blocks..][..n_blocks]).for_each(|(to, block)| *to = block.unpack());
            }
        }
    }

    /// The packed values as a GGUF file has them: little-endian, row after row.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.n_bytes());
        match &self.values {
            Values::F32(values) => values.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes())),
            Values::F16(values) => values.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes())),
            Values::Bf16(values) => values.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes())),
            Values::Q8(blocks) => {
                for Q8Block { scale, values } in blocks {
                    bytes.extend_from_slice(&scale.to_le_bytes());
                    bytes.extend(values.map(|value| value as u8));
                }
            }
            Values::Q4(blocks) => {
                for Q4Block { scale, pairs } in blocks {
                    bytes.extend_from_slice(&scale.to_le_bytes());
                    bytes.extend_from_slice(pairs);
                }
            }
        }
        bytes
    }
}

/// Without the values.
impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix({} x {}, {})", self.rows, self.columns, self.format())
    }
}
