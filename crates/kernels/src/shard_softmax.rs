//! Softmax over a vocabulary whose columns lie on several ranks (Vocabulary Parallelism, Yeung et al., 2024): what one
//! rank does on its own columns, before and after the ranks have told each other their maxima and sums.

use crate::vector::{exp, max, sum, vectorised};
use crate::{Kernels, flex};
use burn::backend::{Dispatch, Flex, tensor::FloatTensor};
use burn::tensor::{Int, Tensor};
use rayon::prelude::*;

/// Exponentials of a shard's logits, and what the softmax over all shards needs of them.
#[derive(Debug)]
pub struct ShardSoftmax {
    /// `exp(logit - max)`: `[n, columns]`.
    pub exponentials: Tensor<2>,
    /// Largest logit of each row: `[n]`.
    pub max: Tensor<1>,
    /// Sum of each row's exponentials: `[n]`.
    pub sum: Tensor<1>,
}

/// The exponentials of a shard's logits, written over them when nobody else holds them.
///
/// # Shapes
/// - logits: `[n, columns]`, at least one column, untracked
pub fn shard_softmax(logits: Tensor<2>) -> ShardSoftmax {
    let (exponentials, max, sum) = <Dispatch as Kernels>::shard_softmax(logits.into_dispatch());
    let [max, sum] = [max, sum].map(Tensor::from_dispatch);
    ShardSoftmax { exponentials: Tensor::from_dispatch(exponentials), max, sum }
}

/// Gradient of a shard's logits: `scale[i] exponentials[i, j]`, less `weight[i]` where `j` is `targets[i]`; written over
/// the exponentials when nobody else holds them. A row of scale 0 counts for nothing, whatever its exponentials are.
///
/// # Shapes
/// - exponentials and result: `[n, columns]`; scale, weight: `[n]`
/// - targets: `[n]`, in `0..columns`; any of them with weight 0 where the target lies on another shard
pub fn shard_softmax_gradient(
    exponentials: Tensor<2>,
    scale: Tensor<1>,
    weight: Tensor<1>,
    targets: Tensor<1, Int>,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::shard_softmax_gradient(
        exponentials.into_dispatch(),
        scale.into_dispatch(),
        weight.into_dispatch(),
        targets.into_dispatch(),
    ))
}

#[inline(always)]
fn exponentials_row<const FMA: bool>(row: &mut [f32]) -> (f32, f32) {
    let max = max(row);
    for x in row.iter_mut() {
        *x = exp::<FMA>(*x - max);
    }
    (max, sum(row.len(), |i| row[i]))
}
vectorised!(fn exponentials(row: &mut [f32]) -> (f32, f32) = exponentials_row);

/// Baseline instructions do: it is one product per element.
fn gradient(row: &mut [f32], scale: f32, weight: f32, target: usize) {
    if scale == 0.0 {
        row.fill(0.0);
    } else {
        row.iter_mut().for_each(|x| *x *= scale);
    }
    row[target] -= weight;
}

pub(crate) fn forward_flex(mut logits: FloatTensor<Flex>) -> (FloatTensor<Flex>, FloatTensor<Flex>, FloatTensor<Flex>) {
    let columns = flex::dims(&logits)[1];
    let (max, sum) = flex::slice_mut(&mut logits).par_chunks_mut(columns).map(exponentials).unzip();
    (logits, flex::vector(max), flex::vector(sum))
}

pub(crate) fn gradient_flex(
    mut exponentials: FloatTensor<Flex>,
    scale: &FloatTensor<Flex>,
    weight: &FloatTensor<Flex>,
    targets: &[usize],
) -> FloatTensor<Flex> {
    let columns = flex::dims(&exponentials)[1];
    let (scale, weight) = (flex::slice(scale), flex::slice(weight));
    let rows = flex::slice_mut(&mut exponentials).par_chunks_mut(columns).zip(targets).zip(scale).zip(weight);
    rows.for_each(|(((row, &target), &scale), &weight)| gradient(row, scale, weight, target));
    exponentials
}
