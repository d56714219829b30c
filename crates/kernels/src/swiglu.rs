//! The gated activation of Llama's MLP (Shazeer, 2020).

use crate::product::unwritten;
use crate::vector::{exp, vectorised};
use crate::{Kernels, flex};
use burn::backend::{Dispatch, Flex, tensor::FloatTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

/// `gate sigmoid(gate) up`, element by element.
///
/// # Shapes
/// - gate, up and result: `[n, ff]`
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// Elements one task works on: 64 kB of each array, so that they stay in the second-level cache.
const CHUNK: usize = 16 * 1024;

#[inline(always)]
fn forward_chunk<const FMA: bool>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate * up / (1.0 + exp::<FMA>(-gate));
    }
}
vectorised!(fn forward_one(gate: &[f32], up: &[f32], y: &mut [f32]) = forward_chunk);

#[inline(always)]
fn backward_chunk<const FMA: bool>(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = gate.len();
    let (up, dy, dgate, dup) = (&up[..n], &dy[..n], &mut dgate[..n], &mut dup[..n]);
    for i in 0..n {
        let s = 1.0 / (1.0 + exp::<FMA>(-gate[i]));
        dup[i] = dy[i] * gate[i] * s;
        dgate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
    }
}
vectorised!(fn backward_one(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) = backward_chunk);

pub(crate) fn forward_flex(gate: &FloatTensor<Flex>, up: &FloatTensor<Flex>) -> FloatTensor<Flex> {
    let [n, ff] = flex::dims(gate);
    let (gate, up) = (flex::slice(gate), flex::slice(up));
    let mut y = unwritten(n * ff);
    let chunks = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(y.par_chunks_mut(CHUNK));
    chunks.for_each(|((gate, up), y)| forward_one(gate, up, y));
    flex::matrix(y, n, ff)
}

pub(crate) fn backward_flex(
    gate: &FloatTensor<Flex>,
    up: &FloatTensor<Flex>,
    dy: &FloatTensor<Flex>,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    let [n, ff] = flex::dims(gate);
    let (gate, up, dy) = (flex::slice(gate), flex::slice(up), flex::slice(dy));
    let (mut dgate, mut dup) = (unwritten(n * ff), unwritten(n * ff));
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
    let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
    inputs.zip(outputs).for_each(|(((gate, up), dy), (dgate, dup))| backward_one(gate, up, dy, dgate, dup));
    (flex::matrix(dgate, n, ff), flex::matrix(dup, n, ff))
}
