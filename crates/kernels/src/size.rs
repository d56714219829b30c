//! How large the values of a tensor are.

use crate::adamw::sum_of_squares;
use crate::flex::slice;
use burn::backend::Flex;
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

/// Sizes of a tensor's values; those of several tensors can be put together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Size {
    /// Number of values.
    pub n: u64,
    /// Sum of their squares; not a number when one of them is none.
    pub sum_of_squares: f64,
    /// Largest magnitude, 0 of none; values that are no numbers are passed over.
    pub max_abs: f64,
}

/// Elements that one task looks at: 64 kB.
const CHUNK: usize = 16 * 1024;

impl Size {
    /// Of a plain tensor. Does not depend on the number of threads.
    ///
    /// # Shapes
    /// - t: `[n]`
    pub fn of(t: &Tensor<1>) -> Self {
        let [n] = t.dims();
        if n == 0 {
            return Self::default();
        }
        Self { n: n as u64, sum_of_squares: sum_of_squares(t), max_abs: max_abs(t) }
    }

    /// Of the values of both.
    pub fn and(self, other: Self) -> Self {
        Self {
            n: self.n + other.n,
            sum_of_squares: self.sum_of_squares + other.sum_of_squares,
            max_abs: self.max_abs.max(other.max_abs),
        }
    }

    /// Root of the mean square; 0 of none.
    pub fn rms(&self) -> f64 {
        if self.n == 0 { 0.0 } else { (self.sum_of_squares / self.n as f64).sqrt() }
    }
}

fn max_abs(t: &Tensor<1>) -> f64 {
    let largest = match t.clone().try_into_primitive::<Flex>() {
        Ok(t) if t.dtype() == DType::F32 && t.is_contiguous() => {
            let of_chunk = |chunk: &[f32]| chunk.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            slice(&t).par_chunks(CHUNK).map(of_chunk).reduce(|| 0.0, f32::max)
        }
        _ => t.clone().abs().max().into_scalar::<f32>(),
    };
    f64::from(largest)
}
