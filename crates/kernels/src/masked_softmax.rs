//! Softmax over the keys a query may see: attention's weights from its scores.

use crate::Kernels;
use crate::flex::{slice, slice_mut};
use crate::vector::{exp, max, sum, vectorised};
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Dispatch, Flex};
use burn::tensor::{Bool, Tensor};
use rayon::prelude::*;

/// Softmax over keys of `scale * scores`; exactly 0 for hidden keys, and everywhere in a row that hides all.
///
/// # Shapes
/// - scores and result: `[rows, heads, queries, keys]`; hidden: `[rows, 1, queries, keys]`, true where hidden
///
/// Written over the scores when nobody else holds them, so that only the result is kept for backward.
pub fn masked_softmax(scores: Tensor<4>, hidden: Tensor<4, Bool>, scale: f64) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Kernels>::masked_softmax(scores.into_dispatch(), hidden.into_dispatch(), scale))
}

/// `hidden` is 0 where a key is seen.
#[inline(always)]
fn forward_row<const FMA: bool>(x: &mut [f32], hidden: &[u8], scale: f32) {
    let hidden = &hidden[..x.len()];
    for (x, &hidden) in x.iter_mut().zip(hidden) {
        *x = if hidden == 0 { *x * scale } else { f32::NEG_INFINITY };
    }
    let max = max(x);
    for (x, &hidden) in x.iter_mut().zip(hidden) {
        *x = if hidden == 0 { exp::<FMA>(*x - max) } else { 0.0 };
    }
    let total = sum(x.len(), |i| x[i]);
    let share = if total == 0.0 { 0.0 } else { 1.0 / total };
    x.iter_mut().for_each(|x| *x *= share);
}
vectorised!(fn forward_one(x: &mut [f32], hidden: &[u8], scale: f32) = forward_row);

#[inline(always)]
fn backward_row<const FMA: bool>(dy: &mut [f32], y: &[f32], scale: f32) {
    let y = &y[..dy.len()];
    let mean = sum(y.len(), |i| y[i] * dy[i]);
    for (dy, &y) in dy.iter_mut().zip(y) {
        *dy = y * (*dy - mean) * scale;
    }
}
vectorised!(fn backward_one(dy: &mut [f32], y: &[f32], scale: f32) = backward_row);

pub(crate) fn forward_flex(mut scores: FloatTensor<Flex>, hidden: &BoolTensor<Flex>, scale: f64) -> FloatTensor<Flex> {
    let [n_rows, heads, queries, keys] = std::array::from_fn(|dim| scores.layout().shape()[dim]);
    assert_eq!(hidden.layout().shape().as_slice(), [n_rows, 1, queries, keys], "a mask has its scores' shape");
    let hidden = hidden.to_contiguous();
    let hidden = &hidden.bytes()[hidden.layout().start_offset()..][..n_rows * queries * keys];
    let mask_of = |i: usize| &hidden[(i / (heads * queries) * queries + i % queries) * keys..][..keys];
    let rows = slice_mut(&mut scores).par_chunks_mut(keys).enumerate();
    rows.for_each(|(i, x)| forward_one(x, mask_of(i), scale as f32));
    scores
}

pub(crate) fn backward_flex(y: &FloatTensor<Flex>, mut dy: FloatTensor<Flex>, scale: f64) -> FloatTensor<Flex> {
    let keys = y.layout().shape()[3];
    let rows = slice_mut(&mut dy).par_chunks_mut(keys).zip(slice(y).par_chunks(keys));
    rows.for_each(|(dy, y)| backward_one(dy, y, scale as f32));
    dy
}
