//! Layer norm with scale and bias (Ba et al., 2016), as GPT-2 has it.
//!
//! A backend extension of its own, so that everything about it stands here; see `ops.rs` for how they work.

use crate::flex;
use crate::ops::plain::{narrow, wide};
use crate::vector::{mul_add, sum, vectorised};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::backend_extension;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchKindConversion, DispatchTensor, Flex, TensorMetadata};
use burn::tensor::Tensor;
use rayon::prelude::*;

/// `(x - mean(x)) / sqrt(variance(x) + eps) * w + b` for every row, the variance over all `d` entries.
///
/// # Shapes
/// - x and result: `[n, d]`; w, b: `[d]`
pub fn layer_norm(x: Tensor<2>, w: Tensor<1>, b: Tensor<1>, eps: f64) -> Tensor<2> {
    let [x, w, b] = [x.into_dispatch(), w.into_dispatch(), b.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as LayerNorm>::layer_norm(x, w, b, eps))
}

/// The operation on any backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cuda"))]
pub trait LayerNorm: Backend {
    /// Normalised, scaled and shifted rows, and of each row its mean and one over its deviation, `[n]` each.
    fn layer_norm_forward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        b: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        plain_forward::<Self>(x, w, b, eps)
    }

    /// Gradients of the rows, the scale and the bias.
    fn layer_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        inverse_deviation: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        plain_backward::<Self>(x, w, mean, inverse_deviation, dy)
    }

    /// See [`crate::layer_norm()`].
    fn layer_norm(x: FloatTensor<Self>, w: FloatTensor<Self>, b: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        Self::layer_norm_forward(x, w, b, eps).0
    }
}

fn reshaped<B: Backend>(x: FloatTensor<B>, shape: [usize; 2]) -> FloatTensor<B> {
    B::float_reshape(x, shape.into())
}

fn flat<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let n = x.shape().num_elements();
    B::float_reshape(x, [n].into())
}

fn plain_forward<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    b: FloatTensor<B>,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (d, dtype) = (w.shape()[0], x.dtype());
    let [x, w, b] = [x, w, b].map(wide::<B>);
    let mean = B::float_mean_dim(x.clone(), 1);
    let centred = B::float_sub(x, mean.clone());
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let r = B::float_recip(B::float_sqrt(B::float_add_scalar(variance, eps.into())));
    let y = B::float_mul(B::float_mul(centred, r.clone()), reshaped::<B>(w, [1, d]));
    let y = narrow::<B>(B::float_add(y, reshaped::<B>(b, [1, d])), dtype);
    (y, flat::<B>(mean), flat::<B>(r))
}

/// With `r` = 1/deviation, `z = (x - mean) r` and `g = dy w`: `dx = r (g - mean(g) - z mean(g z))`,
/// `dw = sum over rows of dy z`, `db = sum over rows of dy`.
fn plain_backward<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    mean: FloatTensor<B>,
    inverse_deviation: FloatTensor<B>,
    dy: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (n, d, dtypes) = (x.shape()[0], w.shape()[0], [x.dtype(), w.dtype()]);
    let [x, w, dy] = [x, w, dy].map(wide::<B>);
    let r = reshaped::<B>(inverse_deviation, [n, 1]);
    let z = B::float_mul(B::float_sub(x, reshaped::<B>(mean, [n, 1])), r.clone());
    let g = B::float_mul(dy.clone(), reshaped::<B>(w, [1, d]));
    let mean_g = B::float_mean_dim(g.clone(), 1);
    let mean_gz = B::float_mean_dim(B::float_mul(g.clone(), z.clone()), 1);
    let dx = B::float_mul(B::float_sub(B::float_sub(g, mean_g), B::float_mul(z.clone(), mean_gz)), r);
    let dw = B::float_sum_dim(B::float_mul(dy.clone(), z), 0);
    let of_parameter = |sum| narrow::<B>(flat::<B>(sum), dtypes[1]);
    (narrow::<B>(dx, dtypes[0]), of_parameter(dw), of_parameter(B::float_sum_dim(dy, 0)))
}

impl LayerNorm for Flex {
    fn layer_norm_forward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        b: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        match flex::contiguous([&x, &w, &b]) {
            Some([x, w, b]) => forward_flex(&x, &w, &b, eps),
            None => plain_forward::<Self>(x, w, b, eps),
        }
    }

    fn layer_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        inverse_deviation: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        match flex::contiguous([&x, &w, &mean, &inverse_deviation, &dy]) {
            Some(all) => backward_flex(&all),
            None => plain_backward::<Self>(x, w, mean, inverse_deviation, dy),
        }
    }
}

#[derive(Debug)]
struct Node;

impl<B: LayerNorm> Backward<B, 3> for Node {
    /// Rows, scale, means, inverse deviations.
    type State = [FloatTensor<B>; 4];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let [x, w, mean, inverse_deviation] = ops.state;
        let (dx, dw, db) = B::layer_norm_backward(x, w, mean, inverse_deviation, dy);
        for (node, gradient) in ops.parents.into_iter().zip([dx, dw, db]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: LayerNorm, C: CheckpointStrategy> LayerNorm for Autodiff<B, C>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn layer_norm(x: FloatTensor<Self>, w: FloatTensor<Self>, b: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let prepared = Node.prepare::<C>([x.node(), w.node(), b.node()]).compute_bound().stateful();
        let (x, w, b) = (x.into_primitive(), w.into_primitive(), b.into_primitive());
        let (y, mean, inverse_deviation) = B::layer_norm_forward(x.clone(), w.clone(), b, eps);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish([x, w, mean, inverse_deviation], y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

/// Rows whose contributions to the gradients of scale and bias are summed together before blocks are added in order;
/// fixed, so that the sums do not depend on the number of threads.
const BLOCK_ROWS: usize = 64;

#[inline(always)]
fn forward_row<const FMA: bool>(x: &[f32], w: &[f32], b: &[f32], eps: f64, y: &mut [f32]) -> [f32; 2] {
    let n = x.len();
    let (w, b, y) = (&w[..n], &b[..n], &mut y[..n]);
    let mean = sum(n, |i| x[i]) / n as f32;
    let variance = f64::from(sum(n, |i| (x[i] - mean) * (x[i] - mean))) / n as f64;
    let r = (1.0 / (variance + eps).sqrt()) as f32;
    for i in 0..n {
        y[i] = mul_add::<FMA>((x[i] - mean) * r, w[i], b[i]);
    }
    [mean, r]
}
vectorised!(fn forward_one(x: &[f32], w: &[f32], b: &[f32], eps: f64, y: &mut [f32]) -> [f32; 2] = forward_row);

/// `sums` are the scale's gradient and the bias's.
#[inline(always)]
fn backward_row<const FMA: bool>(
    x: &[f32],
    w: &[f32],
    of_row: [f32; 2],
    dy: &[f32],
    dx: &mut [f32],
    sums: &mut [Vec<f32>; 2],
) {
    let n = x.len();
    let [mean, r] = of_row;
    let [dw, db] = sums;
    let (w, dy, dx, dw, db) = (&w[..n], &dy[..n], &mut dx[..n], &mut dw[..n], &mut db[..n]);
    let mean_g = sum(n, |i| dy[i] * w[i]) / n as f32;
    let mean_gz = sum(n, |i| dy[i] * w[i] * (x[i] - mean)) * r / n as f32;
    for i in 0..n {
        let z = (x[i] - mean) * r;
        dx[i] = r * mul_add::<FMA>(-z, mean_gz, dy[i] * w[i] - mean_g);
        dw[i] = mul_add::<FMA>(dy[i], z, dw[i]);
        db[i] += dy[i];
    }
}
vectorised!(
    fn backward_one(
        x: &[f32],
        w: &[f32],
        of_row: [f32; 2],
        dy: &[f32],
        dx: &mut [f32],
        sums: &mut [Vec<f32>; 2],
    ) = backward_row
);

fn forward_flex(
    x: &FloatTensor<Flex>,
    w: &FloatTensor<Flex>,
    b: &FloatTensor<Flex>,
    eps: f64,
) -> (FloatTensor<Flex>, FloatTensor<Flex>, FloatTensor<Flex>) {
    let [n, d] = flex::dims(x);
    let (x, w, b) = (flex::slice(x), flex::slice(w), flex::slice(b));
    let (mut y, mut mean, mut inverse_deviation) = (vec![0.0; n * d], vec![0.0; n], vec![0.0; n]);
    let of_rows = mean.par_iter_mut().zip(&mut inverse_deviation);
    let rows = x.par_chunks(d).zip(y.par_chunks_mut(d)).zip(of_rows).with_min_len(BLOCK_ROWS);
    rows.for_each(|((x, y), (mean, r))| [*mean, *r] = forward_one(x, w, b, eps, y));
    (flex::matrix(y, n, d), flex::vector(mean), flex::vector(inverse_deviation))
}

fn backward_flex(
    [x, w, mean, inverse_deviation, dy]: &[FloatTensor<Flex>; 5],
) -> (FloatTensor<Flex>, FloatTensor<Flex>, FloatTensor<Flex>) {
    let [n, d] = flex::dims(x);
    let (x, w, dy) = (flex::slice(x), flex::slice(w), flex::slice(dy));
    let (mean, inverse_deviation) = (flex::slice(mean), flex::slice(inverse_deviation));
    let mut dx = vec![0.0; n * d];
    let block = BLOCK_ROWS * d;
    let blocks = x.par_chunks(block).zip(dy.par_chunks(block)).zip(dx.par_chunks_mut(block)).enumerate();
    let partial: Vec<[Vec<f32>; 2]> = blocks
        .map(|(i, ((x, dy), dx))| {
            let mut sums = [vec![0.0; d], vec![0.0; d]];
            let of_rows = (i * BLOCK_ROWS..).map(|row| [mean[row], inverse_deviation[row]]);
            for (((x, dy), dx), of_row) in x.chunks(d).zip(dy.chunks(d)).zip(dx.chunks_mut(d)).zip(of_rows) {
                backward_one(x, w, of_row, dy, dx, &mut sums);
            }
            sums
        })
        .collect();
    let mut sums = [vec![0.0; d], vec![0.0; d]];
    for (sum, part) in partial.iter().flat_map(|parts| (0..2).map(move |i| (i, &parts[i]))) {
        sums[sum].iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    let [dw, db] = sums;
    (flex::matrix(dx, n, d), flex::vector(dw), flex::vector(db))
}
