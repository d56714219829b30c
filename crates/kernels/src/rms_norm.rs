//! Root-mean-square norm with a scale (Zhang and Sennrich, 2019), as Llama has it.

use crate::product::unwritten;
use crate::vector::{mul_add, sum, vectorised};
use crate::{Kernels, flex};
use burn::backend::{Dispatch, Flex, tensor::FloatTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

/// `x / sqrt(mean(x^2) + eps) * w` for every row.
///
/// # Shapes
/// - x and result: `[n, d]`; w: `[d]`
pub fn rms_norm(x: Tensor<2>, w: Tensor<1>, eps: f64) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::rms_norm(x.into_dispatch(), w.into_dispatch(), eps))
}

/// Rows whose contributions to the scale's gradient are summed together before blocks are added in order; fixed, so
/// that the sum does not depend on the number of threads.
const BLOCK_ROWS: usize = 64;

#[inline(always)]
fn forward_row<const FMA: bool>(x: &[f32], w: &[f32], eps: f64, y: &mut [f32]) -> f32 {
    let mean = f64::from(sum(x.len(), |i| x[i] * x[i])) / x.len() as f64;
    let r = (1.0 / (mean + eps).sqrt()) as f32;
    for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
        *y = x * r * w;
    }
    r
}
vectorised!(fn forward_one(x: &[f32], w: &[f32], eps: f64, y: &mut [f32]) -> f32 = forward_row);

#[inline(always)]
fn backward_row<const FMA: bool>(x: &[f32], w: &[f32], r: f32, dy: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    let n = x.len();
    let (w, dy, dx, dw) = (&w[..n], &dy[..n], &mut dx[..n], &mut dw[..n]);
    let mean = sum(n, |i| dy[i] * w[i] * x[i]) * r / n as f32;
    for i in 0..n {
        let normal = x[i] * r;
        dx[i] = r * mul_add::<FMA>(-normal, mean, dy[i] * w[i]);
        dw[i] = mul_add::<FMA>(dy[i], normal, dw[i]);
    }
}
vectorised!(fn backward_one(x: &[f32], w: &[f32], r: f32, dy: &[f32], dx: &mut [f32], dw: &mut [f32]) = backward_row);

pub(crate) fn forward_flex(
    x: &FloatTensor<Flex>,
    w: &FloatTensor<Flex>,
    eps: f64,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    let [n, d] = flex::dims(x);
    let (x, w) = (flex::slice(x), flex::slice(w));
    let (mut y, mut inverse_rms) = (unwritten(n * d), vec![0.0; n]);
    let rows = x.par_chunks(d).zip(y.par_chunks_mut(d)).zip(&mut inverse_rms).with_min_len(BLOCK_ROWS);
    rows.for_each(|((x, y), r)| *r = forward_one(x, w, eps, y));
    (flex::matrix(y, n, d), flex::vector(inverse_rms))
}

pub(crate) fn backward_flex(
    x: &FloatTensor<Flex>,
    w: &FloatTensor<Flex>,
    inverse_rms: &FloatTensor<Flex>,
    dy: &FloatTensor<Flex>,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    let [n, d] = flex::dims(x);
    let (x, w, inverse_rms, dy) = (flex::slice(x), flex::slice(w), flex::slice(inverse_rms), flex::slice(dy));
    let mut dx = unwritten(n * d);
    let block = BLOCK_ROWS * d;
    let blocks = x
        .par_chunks(block)
        .zip(dy.par_chunks(block))
        .zip(inverse_rms.par_chunks(BLOCK_ROWS))
        .zip(dx.par_chunks_mut(block));
    let partial: Vec<Vec<f32>> = blocks
        .map(|(((x, dy), r), dx)| {
            let mut dw = vec![0.0; d];
            for (((x, dy), &r), dx) in x.chunks(d).zip(dy.chunks(d)).zip(r).zip(dx.chunks_mut(d)) {
                backward_one(x, w, r, dy, dx, &mut dw);
            }
            dw
        })
        .collect();
    let mut dw = vec![0.0; d];
    for part in partial {
        dw.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    (flex::matrix(dx, n, d), flex::vector(dw))
}
