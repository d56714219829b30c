//! The CPU backend's fused paths, for contiguous f32; everything else takes the compositions.

use crate::ops::{Kernels, plain};
use crate::path::Path;
use crate::product::Matrix;
use crate::{AttentionSpec, attention};
use crate::{linear, log_probability, rms_norm, rope, shard_softmax, swiglu};
use burn::backend::Flex;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, TensorData};
use std::sync::Arc;

/// Row-major elements. The caller made the tensor contiguous with [`contiguous`].
pub(crate) fn slice(t: &FloatTensor<Flex>) -> &[f32] {
    t.as_slice().expect("invariant: contiguous f32")
}

/// Row-major elements to write to; copies first when the tensor is shared.
pub(crate) fn slice_mut(t: &mut FloatTensor<Flex>) -> &mut [f32] {
    let (start, n) = (t.layout().start_offset(), t.layout().num_elements());
    &mut t.storage_mut()[start..start + n]
}

/// The two dimensions of a matrix.
pub(crate) fn dims(t: &FloatTensor<Flex>) -> [usize; 2] {
    let shape = t.layout().shape();
    assert_eq!(shape.num_dims(), 2, "a matrix");
    [shape[0], shape[1]]
}

/// A matrix as it lies in memory. No stride is negative: [`as_they_lie`].
pub(crate) fn view(t: &FloatTensor<Flex>) -> Matrix<'_> {
    let stride = |dim: usize| usize::try_from(t.layout().strides()[dim]).expect("invariant: no negative stride");
    Matrix { data: &t.storage::<f32>()[t.layout().start_offset()..], row: stride(0), column: stride(1) }
}

/// The matrices as they lie, or copied where they run backwards; `None` when the fused path does not take them.
fn as_they_lie<const N: usize>(tensors: [&FloatTensor<Flex>; N]) -> Option<[FloatTensor<Flex>; N]> {
    let forwards = |t: &FloatTensor<Flex>| t.layout().strides().iter().all(|stride| *stride >= 0);
    fused(tensors).then(|| tensors.map(|t| if forwards(t) { t.clone() } else { t.to_contiguous() }))
}

/// A tensor `[n]` that takes the vector over.
pub(crate) fn vector(data: Vec<f32>) -> FloatTensor<Flex> {
    let n = data.len();
    FloatTensor::<Flex>::from_data(TensorData::new(data, [n]))
}

/// A tensor `[n, d]` that takes the vector over.
pub(crate) fn matrix(data: Vec<f32>, n: usize, d: usize) -> FloatTensor<Flex> {
    FloatTensor::<Flex>::from_data(TensorData::new(data, [n, d]))
}

/// Whether the fused path takes these tensors.
pub(crate) fn fused<const N: usize>(tensors: [&FloatTensor<Flex>; N]) -> bool {
    Path::chosen() == Path::Fused && tensors.iter().all(|t| t.dtype() == DType::F32)
}

/// The tensors contiguous, or `None` when the fused path does not take them.
pub(crate) fn contiguous<const N: usize>(tensors: [&FloatTensor<Flex>; N]) -> Option<[FloatTensor<Flex>; N]> {
    fused(tensors).then(|| tensors.map(|t| t.to_contiguous()))
}

/// Token ids as indices, whatever integer type they have, checked against the vocabulary.
fn indices(ids: &IntTensor<Flex>, vocabulary: usize) -> Vec<usize> {
    let ids = ids.to_contiguous();
    let ids: Vec<i64> = match ids.dtype() {
        DType::I32 => ids.as_slice::<i32>().expect("invariant: contiguous").iter().map(|&id| id.into()).collect(),
        DType::I64 => ids.as_slice::<i64>().expect("invariant: contiguous").to_vec(),
        other => panic!("targets are i32 or i64, not {other:?}"),
    };
    let index = |id: i64| usize::try_from(id).ok().filter(|&id| id < vocabulary);
    ids.into_iter().map(|id| index(id).unwrap_or_else(|| panic!("target {id} of {vocabulary}"))).collect()
}

impl Kernels for Flex {
    fn linear_forward(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        match as_they_lie([&x, &w]) {
            Some([x, w]) => linear::forward_flex(&x, &w),
            None => Self::float_matmul(x, Self::float_transpose(w)),
        }
    }

    fn linear_input_gradient(dy: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        match as_they_lie([&dy, &w]) {
            Some([dy, w]) => linear::input_gradient_flex(&dy, &w),
            None => Self::float_matmul(dy, w),
        }
    }

    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spec: Arc<AttentionSpec>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if fused([&q, &k, &v]) {
            attention::forward_flex([q, k, v], &spec)
        } else {
            plain::attention_forward::<Self>(q, k, v, &spec)
        }
    }

    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        y: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        spec: Arc<AttentionSpec>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if fused([&q, &k, &v, &dy]) {
            attention::backward_flex([q, k, v], [y, dy], &statistics, &spec).into()
        } else {
            plain::attention_backward::<Self>(q, k, v, dy, &spec)
        }
    }

    fn weight_gradient(
        sum: FloatTensor<Self>,
        at: [usize; 2],
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::weight_gradient_flex(sum, at, dy, x)
    }

    fn log_probability_forward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match contiguous([&logits]) {
            Some([logits]) => log_probability::forward_flex(&logits, &indices(&targets, dims(&logits)[1])),
            None => plain::log_probability_forward::<Self>(logits, targets),
        }
    }

    fn log_probability_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        log_sum_exp: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        match contiguous([&log_sum_exp, &gradient]) {
            Some([lse, gradient]) if fused([&logits]) && logits.is_contiguous() => {
                let targets = indices(&targets, dims(&logits)[1]);
                log_probability::backward_flex(logits, &targets, &lse, &gradient)
            }
            _ => plain::log_probability_backward::<Self>(logits, targets, log_sum_exp, gradient),
        }
    }

    fn rms_norm_forward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match contiguous([&x, &w]) {
            Some([x, w]) => rms_norm::forward_flex(&x, &w, eps),
            None => plain::rms_norm_forward::<Self>(x, w, eps),
        }
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        inverse_rms: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match contiguous([&x, &w, &inverse_rms, &dy]) {
            Some([x, w, r, dy]) => rms_norm::backward_flex(&x, &w, &r, &dy),
            None => plain::rms_norm_backward::<Self>(x, w, inverse_rms, dy),
        }
    }

    fn shard_softmax(logits: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if fused([&logits]) && logits.is_contiguous() {
            shard_softmax::forward_flex(logits)
        } else {
            plain::shard_softmax::<Self>(logits)
        }
    }

    fn shard_softmax_gradient(
        exponentials: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        match contiguous([&scale, &weight]) {
            Some([scale, weight]) if fused([&exponentials]) && exponentials.is_contiguous() => {
                let targets = indices(&targets, dims(&exponentials)[1]);
                shard_softmax::gradient_flex(exponentials, &scale, &weight, &targets)
            }
            _ => plain::shard_softmax_gradient::<Self>(exponentials, scale, weight, targets),
        }
    }

    fn swiglu_forward(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        match contiguous([&gate, &up]) {
            Some([gate, up]) => swiglu::forward_flex(&gate, &up),
            None => plain::swiglu_forward::<Self>(gate, up),
        }
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match contiguous([&gate, &up, &dy]) {
            Some([gate, up, dy]) => swiglu::backward_flex(&gate, &up, &dy),
            None => plain::swiglu_backward::<Self>(gate, up, dy),
        }
    }

    fn rope_forward(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        match contiguous([&x, &cos, &sin]) {
            Some([x, cos, sin]) => rope::rotate_flex(&x, &cos, &sin, 1.0),
            None => plain::rotate::<Self>(x, cos, sin),
        }
    }

    fn rope_backward(dy: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        match contiguous([&dy, &cos, &sin]) {
            Some([dy, cos, sin]) => rope::rotate_flex(&dy, &cos, &sin, -1.0),
            None => plain::rotate_back::<Self>(dy, cos, sin),
        }
    }
}
