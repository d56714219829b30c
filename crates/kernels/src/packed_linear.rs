//! The linear layer of a model that is only read: its weights are packed.

use crate::matrix_vector::vectors_times_rows;
use crate::product::{Columns, Into, Matrix, Scratch, product_in, unwritten};
use crate::tile::Isa;
use burn::tensor::{Tensor, TensorData};
use packed::Values;
use rayon::prelude::*;

/// Rows of the input up to which every weight is read once and unpacked in registers; of more, weights are unpacked into
/// the cache for a product in tiles.
const FEW: usize = 8;
/// Weights unpacked at a time: 4 MB.
const UNPACKED: usize = 1 << 20;

/// `x w^T` on the CPU, computed in f32 from the values that the weights stand for.
///
/// # Shapes
/// - x: `[n, in]`, plain f32; w: `[out, in]`; result: `[n, out]`
///
/// With up to 8 rows, a row's result does not depend on the others, and weights of blocks are multiplied with x rounded to
/// 16 bits: off by at most half a 32,767th of the largest of each 32 values.
///
/// # Panics
/// When the input is not as wide as the weight.
pub fn packed_linear(x: Tensor<2>, w: &packed::Matrix) -> Tensor<2> {
    let [y] = packed_linears(x, [w]);
    y
}

/// As [`packed_linear`], of several weights with one input: quicker than one after the other where the input has few rows.
///
/// # Panics
/// As [`packed_linear`].
pub fn packed_linears<const N: usize>(x: Tensor<2>, weights: [&packed::Matrix; N]) -> [Tensor<2>; N] {
    let ([n, n_in], device) = (x.dims(), x.device());
    weights.iter().for_each(|w| assert_eq!(w.dims()[1], n_in, "a linear layer's input"));
    let x: Vec<f32> = x.into_data().try_to_vec().expect("invariant: plain f32");
    let products =
        if n <= FEW { vectors_times_rows(Isa::detect(), &x, n, weights) } else { weights.map(|w| in_tiles(&x, n, w)) };
    let mut products = products.into_iter();
    weights.map(|w| {
        let y = products.next().expect("invariant: a product for each weight");
        Tensor::from_data(TensorData::new(y, [n, w.dims()[0]]), &device)
    })
}

/// The product of many rows.
fn in_tiles(x: &[f32], n: usize, w: &packed::Matrix) -> Vec<f32> {
    let (isa, [n_out, n_in]) = (Isa::detect(), w.dims());
    let (mut y, x) = (unwritten(n * n_out), Matrix::new(x, n_in));
    let mut part = |w: &[f32], at: usize| {
        let n_columns = w.len() / n_in;
        product_in(
            isa,
            &mut y,
            Columns { width: n_out, first: at },
            [n, n_columns, n_in],
            x,
            Matrix::new(w, n_in).t(),
            Into::Place,
        );
    };
    if let Values::F32(w) = w.values() {
        part(w, 0);
        return y;
    }
    let rows = (UNPACKED / n_in.max(1)).clamp(1, n_out.max(1));
    let mut unpacked = Scratch::new(rows * n_in);
    for first in (0..n_out).step_by(rows) {
        let unpacked = &mut unpacked[..rows.min(n_out - first) * n_in];
        unpacked.par_chunks_mut(n_in).enumerate().for_each(|(i, row)| w.unpack_row(first + i, row));
        part(unpacked, first);
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use packed::Format;

    /// Whole numbers that every format holds exactly, so that sums are exact in any order: few rows and many, more weights
    /// than are unpacked at a time.
    #[test]
    fn products_are_exact() {
        for [n, n_out, n_in] in [[1, 7, 32], [8, 65, 96], [9, 65, 96], [31, 259, 64], [13, 2051, 1024]] {
            let numbers = |n: usize, step: usize| -> Vec<f32> { (0..n).map(|i| (i * step % 7) as f32 - 3.0).collect() };
            // Of largest magnitude 127 resp. 8 in every block, and 32,767 in the input's: factors are 1 and integers
            // themselves. What meets the input's largest is 0, so that sums stay below 2^24.
            let mut x = numbers(n * n_in, 5);
            x.iter_mut().skip(1).step_by(32).for_each(|x| *x = 32_767.0);
            let with = |largest: f32| -> Vec<f32> {
                let mut w = numbers(n_out * n_in, 3);
                w.chunks_mut(32).for_each(|block| block[..2].copy_from_slice(&[largest, 0.0]));
                w
            };
            for format in Format::ALL {
                let w = with(if format == Format::Q4 { -8.0 } else { 127.0 });
                let matrix = packed::Matrix::pack(format, "w", [n_out, n_in], w.clone()).unwrap();
                let input = Tensor::from_data(TensorData::new(x.clone(), [n, n_in]), &Device::flex());
                let found: Vec<f32> = packed_linear(input, &matrix).into_data().try_to_vec().unwrap();
                let sum = |i: usize| -> f32 {
                    let (x, w) = (&x[i / n_out * n_in..][..n_in], &w[i % n_out * n_in..][..n_in]);
                    x.iter().zip(w).map(|(x, w)| x * w).sum()
                };
                assert!((0..n * n_out).all(|i| found[i] == sum(i)), "{format} [{n}, {n_out}, {n_in}]");
            }
        }
    }
}
