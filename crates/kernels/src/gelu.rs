//! The Gaussian error linear unit by its tanh approximation (Hendrycks and Gimpel, 2016), alone as GPT-2 has it and as a
//! gate as Gemma has it (Shazeer, 2020).
//!
//! A backend extension of its own, so that everything about it stands here; see `ops.rs` for how they work.
//!
//! `gelu(x) = x (1 + tanh u) / 2 = x s` with `u = sqrt(2 / pi) (x + 0.044715 x^3)` and `s = sigmoid(2 u)`, and
//! `gelu'(x) = s + x s (1 - s) 2 u'`.

use crate::flex;
use crate::vector::{exp, vectorised};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::backend_extension;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchKindConversion, DispatchTensor, Flex};
use burn::tensor::Tensor;
use rayon::prelude::*;

/// `gelu(x)`, element by element.
///
/// # Shapes
/// - x and result: `[n, ff]`
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Gelu>::gelu_tanh(x.into_dispatch()))
}

/// `gelu(gate) up`, element by element.
///
/// # Shapes
/// - gate, up and result: `[n, ff]`
pub fn geglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Gelu>::geglu(gate.into_dispatch(), up.into_dispatch()))
}

/// The operations on any backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cuda"))]
pub trait Gelu: Backend {
    /// `gelu(x)`.
    fn gelu_tanh_forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::gelu_forward::<Self>(x)
    }

    /// Gradient of `x`.
    fn gelu_tanh_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::gelu_backward::<Self>(x, dy)
    }

    /// See [`crate::gelu()`].
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu_tanh_forward(x)
    }

    /// `gelu(gate) up`.
    fn geglu_forward(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::geglu_forward::<Self>(gate, up)
    }

    /// Gradients of `gate` and `up`.
    fn geglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::geglu_backward::<Self>(gate, up, dy)
    }

    /// See [`crate::geglu()`].
    fn geglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::geglu_forward(gate, up)
    }
}

/// `2 sqrt(2 / pi)`.
const SLOPE: f64 = 1.595_769_121_605_730_8;
const CUBIC: f64 = 0.044_715;

/// The compositions.
mod plain {
    use super::*;
    use crate::ops::plain::{narrow, wide};
    use burn::backend::TensorMetadata;

    /// `s` and `2 u'`.
    fn parts<B: Backend>(x: FloatTensor<B>) -> (FloatTensor<B>, FloatTensor<B>) {
        let square = B::float_mul(x.clone(), x.clone());
        let scaled = |square, factor: f64| {
            let inner = B::float_add_scalar(B::float_mul_scalar(square, (CUBIC * factor).into()), 1.0.into());
            B::float_mul_scalar(inner, SLOPE.into())
        };
        let twice_u = B::float_mul(x, scaled(square.clone(), 1.0));
        let s = B::float_recip(B::float_add_scalar(B::float_exp(B::float_neg(twice_u)), 1.0.into()));
        (s, scaled(square, 3.0))
    }

    pub fn gelu_forward<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        let (dtype, x) = (x.dtype(), wide::<B>(x));
        narrow::<B>(B::float_mul(x.clone(), parts::<B>(x).0), dtype)
    }

    pub fn gelu_backward<B: Backend>(x: FloatTensor<B>, dy: FloatTensor<B>) -> FloatTensor<B> {
        let (dtype, x, dy) = (x.dtype(), wide::<B>(x), wide::<B>(dy));
        let (s, slope) = parts::<B>(x.clone());
        let rest = B::float_add_scalar(B::float_neg(s.clone()), 1.0.into());
        let inner = B::float_mul(B::float_mul(x, slope), rest);
        narrow::<B>(B::float_mul(dy, B::float_mul(s, B::float_add_scalar(inner, 1.0.into()))), dtype)
    }

    pub fn geglu_forward<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
        B::float_mul(gelu_forward::<B>(gate), up)
    }

    pub fn geglu_backward<B: Backend>(
        gate: FloatTensor<B>,
        up: FloatTensor<B>,
        dy: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let dup = B::float_mul(dy.clone(), gelu_forward::<B>(gate.clone()));
        (gelu_backward::<B>(gate, B::float_mul(dy, up)), dup)
    }
}

impl Gelu for Flex {
    fn gelu_tanh_forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match flex::contiguous([&x]) {
            Some([x]) => fused(&[&x], |[x], y| gelu_forward_one(x, y)),
            None => plain::gelu_forward::<Self>(x),
        }
    }

    fn gelu_tanh_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        match flex::contiguous([&x, &dy]) {
            Some([x, dy]) => fused(&[&x, &dy], |[x, dy], dx| gelu_backward_one(x, dy, dx)),
            None => plain::gelu_backward::<Self>(x, dy),
        }
    }

    fn geglu_forward(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        match flex::contiguous([&gate, &up]) {
            Some([gate, up]) => fused(&[&gate, &up], |[gate, up], y| geglu_forward_one(gate, up, y)),
            None => plain::geglu_forward::<Self>(gate, up),
        }
    }

    fn geglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match flex::contiguous([&gate, &up, &dy]) {
            Some([gate, up, dy]) => geglu_backward_flex(&gate, &up, &dy),
            None => plain::geglu_backward::<Self>(gate, up, dy),
        }
    }
}

#[derive(Debug)]
struct GeluNode;

impl<B: Gelu> Backward<B, 1> for GeluNode {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        if let [Some(x)] = ops.parents {
            grads.register::<B>(x.id, B::gelu_tanh_backward(ops.state, dy));
        }
    }
}

#[derive(Debug)]
struct GegluNode;

impl<B: Gelu> Backward<B, 2> for GegluNode {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [gate_node, up_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (gate, up) = ops.state;
        let (dgate, dup) = B::geglu_backward(gate, up, dy);
        if let Some(node) = gate_node {
            grads.register::<B>(node.id, dgate);
        }
        if let Some(node) = up_node {
            grads.register::<B>(node.id, dup);
        }
    }
}

impl<B: Gelu, C: CheckpointStrategy> Gelu for Autodiff<B, C>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = GeluNode.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive();
        let y = B::gelu_tanh_forward(x.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(x, y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn geglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = GegluNode.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful();
        let (gate, up) = (gate.into_primitive(), up.into_primitive());
        let y = B::geglu_forward(gate.clone(), up.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((gate, up), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

/// Elements one task works on: 64 kB of each array, so that they stay in the second-level cache.
const CHUNK: usize = 16 * 1024;

/// `s`.
#[inline(always)]
fn share<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x * (1.0 + CUBIC as f32 * x * x) * SLOPE as f32))
}

/// `gelu'(x)` from `s`.
#[inline(always)]
fn slope(x: f32, s: f32) -> f32 {
    s * (1.0 + x * (1.0 - s) * (1.0 + 3.0 * CUBIC as f32 * x * x) * SLOPE as f32)
}

#[inline(always)]
fn gelu_forward_chunk<const FMA: bool>(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * share::<FMA>(x);
    }
}
vectorised!(fn gelu_forward_one(x: &[f32], y: &mut [f32]) = gelu_forward_chunk);

#[inline(always)]
fn gelu_backward_chunk<const FMA: bool>(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
        *dx = dy * slope(x, share::<FMA>(x));
    }
}
vectorised!(fn gelu_backward_one(x: &[f32], dy: &[f32], dx: &mut [f32]) = gelu_backward_chunk);

#[inline(always)]
fn geglu_forward_chunk<const FMA: bool>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate * share::<FMA>(gate) * up;
    }
}
vectorised!(fn geglu_forward_one(gate: &[f32], up: &[f32], y: &mut [f32]) = geglu_forward_chunk);

#[inline(always)]
fn geglu_backward_chunk<const FMA: bool>(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = gate.len();
    let (up, dy, dgate, dup) = (&up[..n], &dy[..n], &mut dgate[..n], &mut dup[..n]);
    for i in 0..n {
        let s = share::<FMA>(gate[i]);
        dup[i] = dy[i] * gate[i] * s;
        dgate[i] = dy[i] * up[i] * slope(gate[i], s);
    }
}
vectorised!(
    fn geglu_backward_one(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) =
        geglu_backward_chunk
);

/// One result from inputs of its shape, chunk by chunk.
fn fused<const N: usize>(
    inputs: &[&FloatTensor<Flex>; N],
    apply: impl Fn([&[f32]; N], &mut [f32]) + Sync,
) -> FloatTensor<Flex> {
    let [n, ff] = flex::dims(inputs[0]);
    let inputs = inputs.map(flex::slice);
    let mut y = vec![0.0; n * ff];
    y.par_chunks_mut(CHUNK).enumerate().for_each(|(i, y)| {
        apply(inputs.map(|input| &input[i * CHUNK..][..y.len()]), y);
    });
    flex::matrix(y, n, ff)
}

fn geglu_backward_flex(
    gate: &FloatTensor<Flex>,
    up: &FloatTensor<Flex>,
    dy: &FloatTensor<Flex>,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    let [n, ff] = flex::dims(gate);
    let (gate, up, dy) = (flex::slice(gate), flex::slice(up), flex::slice(dy));
    let (mut dgate, mut dup) = (vec![0.0; n * ff], vec![0.0; n * ff]);
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
    let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
    inputs.zip(outputs).for_each(|(((gate, up), dy), (dgate, dup))| geglu_backward_one(gate, up, dy, dgate, dup));
    (flex::matrix(dgate, n, ff), flex::matrix(dup, n, ff))
}
