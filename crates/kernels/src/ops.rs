//! The backend extension: every operation's forward and backward, as compositions that run on any backend.

use crate::AttentionSpec;
use crate::linear::{WeightGrads, WeightPlace};
use crate::seed::Slot;
use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, DeviceOps, TensorMetadata, backend_extension};
use burn::tensor::{DType, FloatDType, Slice, TensorData};
use std::sync::Arc;

/// Operations of ours. `_forward` and `_backward` are plain; the name without suffix is the differentiable one.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cuda"))]
pub trait Kernels: Backend {
    /// `x w^T`; see [`crate::linear()`].
    fn linear(x: FloatTensor<Self>, w: FloatTensor<Self>, place: WeightPlace, grads: WeightGrads) -> FloatTensor<Self> {
        drop((place, grads));
        Self::linear_forward(x, w)
    }

    /// `x w^T`; see [`crate::linear_forward`].
    fn linear_forward(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(x, Self::float_transpose(w))
    }

    /// `dy w`: the gradient of a linear layer's input.
    fn linear_input_gradient(dy: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(dy, w)
    }

    /// The result of [`crate::attention()`] and what its backward wants to know of the sums.
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spec: Arc<AttentionSpec>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::attention_forward::<Self>(q, k, v, &spec)
    }

    /// Gradients of queries, keys and values from the inputs and the outcome of the forward.
    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        y: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        spec: Arc<AttentionSpec>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        drop((y, statistics));
        plain::attention_backward::<Self>(q, k, v, dy, &spec)
    }

    /// See [`crate::attention()`].
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spec: Arc<AttentionSpec>,
    ) -> FloatTensor<Self> {
        Self::attention_forward(q, k, v, spec).0
    }

    /// `sum` with `dy^T x` added at `at`; see [`crate::weight_gradient`].
    fn weight_gradient(
        sum: FloatTensor<Self>,
        at: [usize; 2],
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::weight_gradient::<Self>(sum, at, dy, x)
    }

    /// A scalar 0 through which backward hands `y` the gradient in the slot; see [`crate::Seed`].
    fn seeded(y: FloatTensor<Self>, slot: Slot) -> FloatTensor<Self> {
        drop(slot);
        Self::float_zeros([1].into(), &y.device(), y.dtype().into())
    }

    /// Log-probabilities of the targets `[n]` and the rows' log-sum-exp `[n]`.
    fn log_probability_forward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::log_probability_forward::<Self>(logits, targets)
    }

    /// Gradient of the logits from that of the log-probabilities.
    fn log_probability_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        log_sum_exp: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::log_probability_backward::<Self>(logits, targets, log_sum_exp, gradient)
    }

    /// See [`crate::log_probability()`].
    fn log_probability(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        Self::log_probability_forward(logits, targets).0
    }

    /// Normalised and scaled rows, and one over each row's root mean square `[n]`.
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::rms_norm_forward::<Self>(x, w, eps)
    }

    /// Gradients of the rows and of the scale.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        inverse_rms: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::rms_norm_backward::<Self>(x, w, inverse_rms, dy)
    }

    /// See [`crate::rms_norm()`].
    fn rms_norm(x: FloatTensor<Self>, w: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        Self::rms_norm_forward(x, w, eps).0
    }

    /// `x` rotated.
    fn rope_forward(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::rotate::<Self>(x, cos, sin)
    }

    /// `dy` rotated back.
    fn rope_backward(dy: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::rotate_back::<Self>(dy, cos, sin)
    }

    /// See [`crate::rope()`].
    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::rope_forward(x, cos, sin)
    }

    /// Exponentials, maxima and sums of a shard's logits; see [`crate::shard_softmax()`]. Never differentiated.
    fn shard_softmax(logits: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        plain::shard_softmax::<Self>(logits)
    }

    /// Gradient of a shard's logits; see [`crate::shard_softmax_gradient`].
    fn shard_softmax_gradient(
        exponentials: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::shard_softmax_gradient::<Self>(exponentials, scale, weight, targets)
    }

    /// `silu(gate) up`.
    fn swiglu_forward(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::swiglu_forward::<Self>(gate, up)
    }

    /// Gradients of `gate` and `up`.
    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::swiglu_backward::<Self>(gate, up, dy)
    }

    /// See [`crate::swiglu()`].
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::swiglu_forward(gate, up)
    }
}

/// The compositions, callable from an override that meets a dtype it has no loop for.
pub(crate) mod plain {
    use super::*;

    /// f16 and bf16 as f32: sums, exponentials and what is made of them would keep 8 or 11 bits. Results go back with
    /// [`narrow`].
    pub fn wide<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        match x.dtype() {
            DType::F16 | DType::BF16 => B::float_cast(x, FloatDType::F32),
            _ => x,
        }
    }

    pub fn narrow<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
        if x.dtype() == dtype { x } else { B::float_cast(x, dtype.into()) }
    }

    fn column<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        let n = x.shape()[0];
        B::float_reshape(x, [n, 1].into())
    }

    fn flat<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        let n = x.shape().num_elements();
        B::float_reshape(x, [n].into())
    }

    pub fn weight_gradient<B: Backend>(
        sum: FloatTensor<B>,
        at: [usize; 2],
        dy: FloatTensor<B>,
        x: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let block: [Slice; 2] = [(at[0], dy.shape()[1]), (at[1], x.shape()[1])].map(|(at, n)| (at..at + n).into());
        let dtype = sum.dtype();
        let gradient = narrow::<B>(B::float_matmul(B::float_transpose(dy), x), dtype);
        if gradient.shape() == sum.shape() {
            return B::float_add(sum, gradient);
        }
        let part = B::float_add(B::float_slice(sum.clone(), &block), gradient);
        B::float_slice_assign(sum, &block, part)
    }

    pub fn log_probability_forward<B: Backend>(
        logits: FloatTensor<B>,
        targets: IntTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let (n, logits) = (logits.shape()[0], wide::<B>(logits));
        let max = B::float_max_dim(logits.clone(), 1);
        let exp = B::float_exp(B::float_sub(logits.clone(), max.clone()));
        let log_sum_exp = B::float_add(B::float_log(B::float_sum_dim(exp, 1)), max);
        let target = B::float_gather(1, logits, B::int_reshape(targets, [n, 1].into()));
        (flat::<B>(B::float_sub(target, log_sum_exp.clone())), flat::<B>(log_sum_exp))
    }

    pub fn log_probability_backward<B: Backend>(
        logits: FloatTensor<B>,
        targets: IntTensor<B>,
        log_sum_exp: FloatTensor<B>,
        gradient: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let (n, dtype) = (logits.shape()[0], logits.dtype());
        let probability = B::float_exp(B::float_sub(wide::<B>(logits), column::<B>(log_sum_exp)));
        let gradient = column::<B>(gradient);
        let shared = B::float_neg(B::float_mul(probability, gradient.clone()));
        let logits = B::float_scatter(
            1,
            shared,
            B::int_reshape(targets, [n, 1].into()),
            gradient,
            burn::tensor::IndexingUpdateOp::Add,
        );
        narrow::<B>(logits, dtype)
    }

    pub fn shard_softmax<B: Backend>(logits: FloatTensor<B>) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let max = B::float_max_dim(logits.clone(), 1);
        let exponentials = B::float_exp(B::float_sub(logits, max.clone()));
        let sum = B::float_sum_dim(exponentials.clone(), 1);
        (exponentials, flat::<B>(max), flat::<B>(sum))
    }

    pub fn shard_softmax_gradient<B: Backend>(
        exponentials: FloatTensor<B>,
        scale: FloatTensor<B>,
        weight: FloatTensor<B>,
        targets: IntTensor<B>,
    ) -> FloatTensor<B> {
        let n = exponentials.shape()[0];
        B::float_scatter(
            1,
            B::float_mul(exponentials, column::<B>(scale)),
            B::int_reshape(targets, [n, 1].into()),
            B::float_neg(column::<B>(weight)),
            burn::tensor::IndexingUpdateOp::Add,
        )
    }

    fn dims4<B: Backend>(x: &FloatTensor<B>) -> [usize; 4] {
        let shape = x.shape();
        std::array::from_fn(|dim| shape[dim])
    }

    /// Query heads that share a key head stacked along the queries, so that keys and values are not repeated.
    fn stacked<B: Backend>(x: FloatTensor<B>, kv_heads: usize) -> FloatTensor<B> {
        let [rows, heads, queries, head_dim] = dims4::<B>(&x);
        B::float_reshape(x, [rows, kv_heads, heads / kv_heads * queries, head_dim].into())
    }

    /// True where a key is hidden from a query, `[rows or 1, 1, queries, keys]`; made where it is used, so that a few
    /// numbers are sent there and not a mask.
    fn hidden<B: Backend>(
        spec: &AttentionSpec,
        rows: usize,
        [queries, keys]: [usize; 2],
        device: &burn::backend::tensor::Device<B>,
    ) -> BoolTensor<B> {
        let settings = device.defaults();
        let (int, bool) = (settings.int_dtype, settings.bool_dtype);
        let places = |first: usize, n: usize| B::int_arange(first as i64..(first + n) as i64, device, int);
        let all = |t: IntTensor<B>, rows| B::int_expand(t, [rows, 1, queries, keys].into());
        let query = all(B::int_reshape(places(spec.n_past, queries), [1, 1, queries, 1].into()), 1);
        let back = B::int_sub(query, all(B::int_reshape(places(0, keys), [1, 1, 1, keys].into()), 1));
        let mut hidden = B::int_lower_elem(back.clone(), 0.into(), bool);
        if let Some(window) = spec.window {
            hidden = B::bool_or(hidden, B::int_greater_equal_elem(back, (window as i64).into(), bool));
        }
        if spec.documents.is_empty() {
            return hidden;
        }
        let documents = TensorData::new(spec.documents.clone(), [rows, 1, 1, keys]);
        let of_keys = B::int_from_data(documents.convert_dtype(int.into()), device);
        let own: Vec<i32> = spec.documents.chunks(keys).flat_map(|of| &of[spec.n_past..][..queries]).copied().collect();
        let own = TensorData::new(own, [rows, 1, queries, 1]);
        let of_queries = B::int_from_data(own.convert_dtype(int.into()), device);
        let other = B::int_not_equal(all(of_keys, rows), all(of_queries, rows), bool);
        B::bool_or(B::bool_expand(hidden, [rows, 1, queries, keys].into()), other)
    }

    /// Weights `[rows, kv_heads, group * queries, keys]`.
    fn attention_weights<B: Backend>(q: FloatTensor<B>, k: FloatTensor<B>, spec: &AttentionSpec) -> FloatTensor<B> {
        let ([rows, heads, queries, _], [_, kv_heads, keys, _]) = (dims4::<B>(&q), dims4::<B>(&k));
        let hidden = hidden::<B>(spec, rows, [queries, keys], &q.device());
        let scores = B::float_matmul(stacked::<B>(q, kv_heads), B::float_swap_dims(k, 2, 3));
        let scores = B::float_reshape(scores, [rows, heads, queries, keys].into());
        let weights = masked_softmax_forward::<B>(scores, hidden, spec.scale);
        B::float_reshape(weights, [rows, kv_heads, heads / kv_heads * queries, keys].into())
    }

    /// No statistics: the backward makes the weights again.
    pub fn attention_forward<B: Backend>(
        q: FloatTensor<B>,
        k: FloatTensor<B>,
        v: FloatTensor<B>,
        spec: &AttentionSpec,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let shape = q.shape();
        let none = B::float_zeros([0].into(), &q.device(), q.dtype().into());
        (B::float_reshape(B::float_matmul(attention_weights::<B>(q, k, spec), v), shape), none)
    }

    pub fn attention_backward<B: Backend>(
        q: FloatTensor<B>,
        k: FloatTensor<B>,
        v: FloatTensor<B>,
        dy: FloatTensor<B>,
        spec: &AttentionSpec,
    ) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let (shape, [_, kv_heads, _, _]) = (q.shape(), dims4::<B>(&k));
        let weights = attention_weights::<B>(q.clone(), k.clone(), spec);
        let dy = stacked::<B>(dy, kv_heads);
        let dv = B::float_matmul(B::float_swap_dims(weights.clone(), 2, 3), dy.clone());
        let slopes = B::float_matmul(dy, B::float_swap_dims(v, 2, 3));
        let scores = masked_softmax_backward::<B>(weights, slopes, spec.scale);
        let dk = B::float_matmul(B::float_swap_dims(scores.clone(), 2, 3), stacked::<B>(q, kv_heads));
        (B::float_reshape(B::float_matmul(scores, k), shape), dk, dv)
    }

    /// Exactly 0 for hidden keys. In a row that hides all, the sum is 0, and the smallest number in its place leaves the zeros.
    fn masked_softmax_forward<B: Backend>(scores: FloatTensor<B>, hidden: BoolTensor<B>, scale: f64) -> FloatTensor<B> {
        let (dtype, hidden) = (scores.dtype(), B::bool_expand(hidden, scores.shape()));
        let scores = B::float_mul_scalar(wide::<B>(scores), scale.into());
        let scores = B::float_mask_fill(scores, hidden.clone(), f32::MIN.into());
        let max = B::float_max_dim(scores.clone(), 3);
        let exp = B::float_mask_fill(B::float_exp(B::float_sub(scores, max)), hidden, 0.0.into());
        let total = B::float_sum_dim(exp.clone(), 3);
        narrow::<B>(B::float_div(exp, B::float_clamp_min(total, f32::MIN_POSITIVE.into())), dtype)
    }

    fn masked_softmax_backward<B: Backend>(y: FloatTensor<B>, dy: FloatTensor<B>, scale: f64) -> FloatTensor<B> {
        let (dtype, y, dy) = (dy.dtype(), wide::<B>(y), wide::<B>(dy));
        let mean = B::float_sum_dim(B::float_mul(y.clone(), dy.clone()), 3);
        narrow::<B>(B::float_mul_scalar(B::float_mul(y, B::float_sub(dy, mean)), scale.into()), dtype)
    }

    pub fn rms_norm_forward<B: Backend>(
        x: FloatTensor<B>,
        w: FloatTensor<B>,
        eps: f64,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let (d, dtype, x) = (w.shape()[0], x.dtype(), wide::<B>(x));
        let square = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
        let inverse_rms = B::float_recip(B::float_sqrt(B::float_add_scalar(square, eps.into())));
        let y = B::float_mul(B::float_mul(x, inverse_rms.clone()), B::float_reshape(wide::<B>(w), [1, d].into()));
        (narrow::<B>(y, dtype), flat::<B>(inverse_rms))
    }

    /// With `r` = 1/rms and `g = dy w`: `dx = r (g - x r^2 mean(g x))`, `dw = sum over rows of dy x r`.
    pub fn rms_norm_backward<B: Backend>(
        x: FloatTensor<B>,
        w: FloatTensor<B>,
        inverse_rms: FloatTensor<B>,
        dy: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let (d, dtypes) = (w.shape()[0], [x.dtype(), w.dtype()]);
        let (r, dy) = (column::<B>(inverse_rms), wide::<B>(dy));
        let normal = B::float_mul(wide::<B>(x), r.clone());
        let g = B::float_mul(dy.clone(), B::float_reshape(wide::<B>(w), [1, d].into()));
        let mean = B::float_mean_dim(B::float_mul(g.clone(), normal.clone()), 1);
        let dx = B::float_mul(B::float_sub(g, B::float_mul(normal.clone(), mean)), r);
        let dw = B::float_sum_dim(B::float_mul(dy, normal), 0);
        (narrow::<B>(dx, dtypes[0]), narrow::<B>(flat::<B>(dw), dtypes[1]))
    }

    /// `[n, heads, 2, half]`: the first halves with the second, by the token's cosines and sines.
    pub fn rotate<B: Backend>(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>) -> FloatTensor<B> {
        let ([n, width], half, dtype) = ([x.shape()[0], x.shape()[1]], cos.shape()[1], x.dtype());
        let pairs = B::float_reshape(wide::<B>(x), [n, width / (2 * half), 2, half].into());
        let swapped = B::float_flip(pairs.clone(), &[2]);
        let angle = |t: FloatTensor<B>| B::float_reshape(t, [n, 1, 1, half].into());
        let minus_plus = B::float_cat(vec![angle(B::float_neg(sin.clone())), angle(sin)], 2);
        let y = B::float_add(B::float_mul(pairs, angle(cos)), B::float_mul(swapped, minus_plus));
        narrow::<B>(B::float_reshape(y, [n, width].into()), dtype)
    }

    /// The rotation by the negative angle.
    pub fn rotate_back<B: Backend>(dy: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>) -> FloatTensor<B> {
        rotate::<B>(dy, cos, B::float_neg(sin))
    }

    pub fn sigmoid<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        B::float_recip(B::float_add_scalar(B::float_exp(B::float_neg(x)), 1.0.into()))
    }

    pub fn swiglu_forward<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
        let (dtype, gate) = (gate.dtype(), wide::<B>(gate));
        narrow::<B>(B::float_mul(B::float_mul(gate.clone(), sigmoid::<B>(gate)), wide::<B>(up)), dtype)
    }

    /// With `s = sigmoid(gate)`: `dup = dy gate s`, `dgate = dy up s (1 + gate (1 - s))`.
    pub fn swiglu_backward<B: Backend>(
        gate: FloatTensor<B>,
        up: FloatTensor<B>,
        dy: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let dtype = gate.dtype();
        let [gate, up, dy] = [gate, up, dy].map(wide::<B>);
        let s = sigmoid::<B>(gate.clone());
        let dup = B::float_mul(dy.clone(), B::float_mul(gate.clone(), s.clone()));
        let slope = B::float_add_scalar(
            B::float_mul(gate, B::float_add_scalar(B::float_neg(s.clone()), 1.0.into())),
            1.0.into(),
        );
        let dgate = B::float_mul(B::float_mul(dy, up), B::float_mul(s, slope));
        (narrow::<B>(dgate, dtype), narrow::<B>(dup, dtype))
    }
}
