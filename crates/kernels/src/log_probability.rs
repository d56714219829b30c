//! Log-probability of one target per row of logits: the head's last operation, shared by every objective.

use crate::vector::{exp, max, sum, vectorised};
use crate::{Kernels, flex};
use burn::backend::{Dispatch, Flex, tensor::FloatTensor};
use burn::tensor::{Int, Tensor};
use rayon::prelude::*;

/// `logits[i, targets[i]] - log sum_j exp(logits[i, j])` for every row.
///
/// # Shapes
/// - logits: `[n, vocabulary]`, targets: `[n]` with values in `0..vocabulary`
/// - result: `[n]`
///
/// The gradient of the logits is written over the logits when nobody else holds them.
pub fn log_probability(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Kernels>::log_probability(logits.into_dispatch(), targets.into_dispatch()))
}

#[inline(always)]
fn log_sum_exp_row<const FMA: bool>(row: &[f32]) -> f32 {
    let max = max(row);
    max + sum(row.len(), |i| exp::<FMA>(row[i] - max)).ln()
}
vectorised!(pub(crate) fn log_sum_exp(row: &[f32]) -> f32 = log_sum_exp_row);

#[inline(always)]
fn scaled_softmax_row<const FMA: bool>(row: &mut [f32], log_sum_exp: f32, scale: f32) {
    for x in row {
        *x = exp::<FMA>(*x - log_sum_exp) * scale;
    }
}
vectorised!(fn scaled_softmax(row: &mut [f32], log_sum_exp: f32, scale: f32) = scaled_softmax_row);

pub(crate) fn forward_flex(logits: &FloatTensor<Flex>, targets: &[usize]) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    let vocabulary = logits.layout().shape()[1];
    let logits = flex::slice(logits);
    let lse: Vec<f32> = logits.par_chunks(vocabulary).map(log_sum_exp).collect();
    let rows = logits.chunks(vocabulary).zip(targets).zip(&lse);
    let log_probability = rows.map(|((row, &target), lse)| row[target] - lse).collect();
    (flex::vector(log_probability), flex::vector(lse))
}

pub(crate) fn backward_flex(
    mut logits: FloatTensor<Flex>,
    targets: &[usize],
    lse: &FloatTensor<Flex>,
    gradient: &FloatTensor<Flex>,
) -> FloatTensor<Flex> {
    let vocabulary = logits.layout().shape()[1];
    let (lse, gradient) = (flex::slice(lse), flex::slice(gradient));
    let rows = flex::slice_mut(&mut logits).par_chunks_mut(vocabulary).zip(targets).zip(lse).zip(gradient);
    rows.for_each(|(((row, &target), &lse), &gradient)| {
        if gradient == 0.0 {
            // A target that does not count, and whose logits may be anything.
            row.fill(0.0);
        } else {
            scaled_softmax(row, lse, -gradient);
            row[target] += gradient;
        }
    });
    logits
}
