//! The head in chunks over tokens: product with the vocabulary, log-probabilities, and from the objective's derivative
//! the gradients, without logits of more tokens than a chunk's.

use crate::Kernels;
use crate::flex::{self, slice, slice_mut};
use crate::log_probability::log_sum_exp;
use crate::product::{Into, Matrix, product, unwritten};
use crate::tile::Isa;
use crate::vector::{exp, vectorised};
use burn::backend::{Dispatch, Flex, tensor::FloatTensor};
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};
use rayon::prelude::*;

/// What a head computes beside the product.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadSpec {
    /// Logits become `cap tanh(logit / cap)` (Gemma 2).
    pub soft_cap: Option<f64>,
    /// Factor on the square of each token's log-sum-exp, which is added to the loss with the token's weight
    /// (Chowdhery et al., *PaLM*, 2022). A token's weight is minus the derivative of the loss by its log-probability.
    pub z_loss: f64,
}

/// Of every token.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbabilities {
    /// Of its target `[n]`.
    pub of_target: Vec<f32>,
    /// Logarithm of the sum of the exponentials of its logits `[n]`.
    pub log_sum_exp: Vec<f32>,
}

/// What [`head_gradient`] gives.
#[derive(Debug)]
pub struct HeadGradient {
    /// As [`head_log_probability`] gives them.
    pub log_probabilities: LogProbabilities,
    /// Gradient of the head's input `[n, d]`.
    pub dx: Tensor<2>,
    /// The sum handed in plus the gradient of the matrix `[vocabulary, d]`.
    pub sum: Tensor<2>,
}

/// Tokens of a chunk. The matrix is packed once per chunk: with 256 tokens the product with 32000 words runs at 86 GFLOP/s
/// where that of 2048 tokens with 8192 words runs at 105.
pub const HEAD_CHUNK: usize = 512;

/// Log-probabilities of one target per token.
///
/// # Shapes
/// - x: `[n, d]`, w: `[vocabulary, d]`, plain; targets: `[n]`, in `0..vocabulary`
///
/// # Panics
/// When sizes differ or a target lies outside the vocabulary.
pub fn head_log_probability(x: &Tensor<2>, w: &Tensor<2>, targets: &[i32], spec: HeadSpec) -> LogProbabilities {
    let head = Head::new(x, w, targets, spec);
    match fused([x, w]) {
        Some([x, w]) => head.fused(&x, &w, None).0,
        None => head.composed(x, w, None).0,
    }
}

/// Log-probabilities, and the gradients for `derivative`, the loss's by each of them, known beforehand; with one pass
/// fewer over the product than computing the log-probabilities first. The matrix's gradient is added to `sum`, in place on
/// the CPU when nobody else holds it.
///
/// # Shapes
/// - as for [`head_log_probability`]; derivative: `[n]`; sum: `[vocabulary, d]`, plain
///
/// In f16 or bf16 the three products have operands of that type, the logits are f32 in between, and `sum` keeps its own.
/// A token whose derivative is 0 counts for nothing, whatever its logits are. The same bits whatever the number of
/// threads where the product's tiles are ours: with AVX-512 or AVX2, on the fused path.
///
/// # Panics
/// As [`head_log_probability`].
pub fn head_gradient(
    x: &Tensor<2>,
    w: &Tensor<2>,
    targets: &[i32],
    derivative: &[f32],
    spec: HeadSpec,
    sum: Tensor<2>,
) -> HeadGradient {
    let head = Head::new(x, w, targets, spec);
    assert_eq!(derivative.len(), targets.len(), "a derivative per token");
    assert_eq!(sum.dims(), w.dims(), "a gradient has its matrix's shape");
    let on_cpu = fused([x, w]).filter(|_| fused([&sum]).is_some());
    let Some([x, w]) = on_cpu else {
        let (log_probabilities, gradients) = head.composed(x, w, Some((derivative, sum)));
        let (dx, sum) = gradients.expect("invariant: asked for");
        return HeadGradient { log_probabilities, dx, sum };
    };
    let mut sum = sum.try_into_primitive::<Flex>().expect("invariant: on the CPU");
    if !sum.is_contiguous() {
        sum = sum.to_contiguous();
    }
    let (log_probabilities, dx) = head.fused(&x, &w, Some((derivative, slice_mut(&mut sum))));
    HeadGradient { log_probabilities, dx: Tensor::from_primitive::<Flex>(dx), sum: Tensor::from_primitive::<Flex>(sum) }
}

/// The tensors of the CPU's fused path, contiguous.
fn fused<const N: usize>(tensors: [&Tensor<2>; N]) -> Option<[FloatTensor<Flex>; N]> {
    let primitives = tensors.map(|t| t.clone().try_into_primitive::<Flex>().ok());
    if primitives.iter().any(|t| t.as_ref().is_none_or(|t| !flex::fused([t]))) {
        return None;
    }
    Some(primitives.map(|t| t.expect("invariant: on the CPU").to_contiguous()))
}

/// Sizes and targets of a head.
struct Head<'a> {
    n: usize,
    d: usize,
    vocabulary: usize,
    targets: &'a [i32],
    spec: HeadSpec,
}

impl<'a> Head<'a> {
    fn new(x: &Tensor<2>, w: &Tensor<2>, targets: &'a [i32], spec: HeadSpec) -> Self {
        let ([n, d], [vocabulary, d_w]) = (x.dims(), w.dims());
        assert!(
            d == d_w && targets.len() == n,
            "a head of [{vocabulary}, {d_w}] on [{n}, {d}], {} targets",
            targets.len()
        );
        let is_outside = |id: &&i32| usize::try_from(**id).map_or(true, |id| id >= vocabulary);
        if let Some(id) = targets.iter().find(is_outside) {
            panic!("target {id} of {vocabulary}");
        }
        Self { n, d, vocabulary, targets, spec }
    }

    /// Without `gradients` the second result is empty.
    fn fused(
        &self,
        x: &FloatTensor<Flex>,
        w: &FloatTensor<Flex>,
        mut gradients: Option<(&[f32], &mut [f32])>,
    ) -> (LogProbabilities, FloatTensor<Flex>) {
        let Self { n, d, vocabulary, .. } = *self;
        let (isa, x, w) = (Isa::detect(), slice(x), Matrix::new(slice(w), d));
        let mut dx = unwritten(if gradients.is_some() { n * d } else { 0 });
        let mut logits = unwritten(HEAD_CHUNK.min(n) * vocabulary);
        let mut both = vec![(0.0, 0.0); n];
        for first in (0..n).step_by(HEAD_CHUNK) {
            let tokens = first..n.min(first + HEAD_CHUNK);
            let m = tokens.len();
            let logits = &mut logits[..m * vocabulary];
            let x = Matrix::new(&x[first * d..tokens.end * d], d);
            product(isa, logits, [m, vocabulary, d], x, w.t(), Into::Place);
            let rows = logits.par_chunks_mut(vocabulary).zip(&mut both[tokens.clone()]).zip(tokens.clone());
            rows.for_each(|((row, both), token)| {
                *both = self.row(row, token, gradients.as_ref().map(|(derivative, _)| derivative[token]));
            });
            if let Some((_, sum)) = &mut gradients {
                let slopes = Matrix::new(logits, vocabulary);
                product(isa, &mut dx[first * d..tokens.end * d], [m, d, vocabulary], slopes, w, Into::Place);
                product(isa, sum, [vocabulary, d, m], slopes.t(), x, Into::Sum);
            }
        }
        let (of_target, log_sum_exp) = both.into_iter().unzip();
        let n_dx = dx.len() / d.max(1);
        (LogProbabilities { of_target, log_sum_exp }, flex::matrix(dx, n_dx, d))
    }

    /// The target's log-probability and the log-sum-exp; the logits become their gradient where a derivative is given.
    fn row(&self, row: &mut [f32], token: usize, derivative: Option<f32>) -> (f32, f32) {
        let target = self.targets[token] as usize;
        let cap = self.spec.soft_cap.map(|cap| cap as f32);
        if let Some(cap) = cap {
            soft_cap(row, cap);
        }
        let log_sum_exp = log_sum_exp(row);
        let log_probability = row[target] - log_sum_exp;
        if let Some(derivative) = derivative {
            if derivative == 0.0 {
                row.fill(0.0);
            } else {
                let shared = -derivative * (1.0 + 2.0 * self.spec.z_loss as f32 * log_sum_exp);
                // Not capped: 1 - (logit / infinity)^2 = 1.
                let inverse_cap = cap.map_or(0.0, f32::recip);
                let own = derivative * (1.0 - (row[target] * inverse_cap).powi(2));
                gradient(row, log_sum_exp, shared, inverse_cap);
                row[target] += own;
            }
        }
        (log_probability, log_sum_exp)
    }

    /// The same as tensor operations.
    fn composed(
        &self,
        x: &Tensor<2>,
        w: &Tensor<2>,
        gradients: Option<(&[f32], Tensor<2>)>,
    ) -> (LogProbabilities, Option<(Tensor<2>, Tensor<2>)>) {
        // Fetched together at the end: every fetch waits for a device to finish.
        let (mut dx, mut of_targets, mut log_sum_exps) = (Vec::new(), Vec::new(), Vec::new());
        let narrow = x.dtype();
        let (wide, w) =
            (if matches!(narrow, DType::F16 | DType::BF16) { DType::F32 } else { narrow }, w.clone().cast(narrow));
        let (derivative, mut sum) = gradients.map_or((None, None), |(derivative, sum)| (Some(derivative), Some(sum)));
        for first in (0..self.n).step_by(HEAD_CHUNK) {
            let m = HEAD_CHUNK.min(self.n - first);
            let x = x.clone().narrow(0, first, m);
            let mut logits = x.clone().matmul(w.clone().transpose()).cast(wide);
            if let Some(cap) = self.spec.soft_cap {
                logits = (logits / cap).tanh() * cap;
            }
            let targets: Tensor<1, Int> =
                Tensor::from_data(TensorData::new(self.targets[first..first + m].to_vec(), [m]), &x.device());
            let both = <Dispatch as Kernels>::log_probability_forward(
                logits.clone().into_dispatch(),
                targets.clone().into_dispatch(),
            );
            let [of_target, lse] = <[_; 2]>::from(both).map(Tensor::<1>::from_dispatch);
            of_targets.push(of_target);
            log_sum_exps.push(lse.clone());
            let (targets, lse) = (targets.unsqueeze_dim::<2>(1), lse.unsqueeze_dim::<2>(1));
            if let (Some(derivative), Some(so_far)) = (derivative, sum.take()) {
                let derivative = Tensor::<1>::from_data(
                    TensorData::new(derivative[first..first + m].to_vec(), [m]),
                    (&x.device(), wide),
                );
                let derivative = derivative.unsqueeze_dim::<2>(1);
                let shared = -derivative.clone() * (lse.clone() * (2.0 * self.spec.z_loss) + 1.0);
                let probabilities = (logits.clone() - lse).exp();
                let slopes = (probabilities * shared).scatter(1, targets, derivative.clone(), IndexingUpdateOp::Add);
                let slopes = match self.spec.soft_cap {
                    Some(cap) => slopes * ((logits / cap).powi_scalar(2).neg() + 1.0),
                    None => slopes,
                };
                let counted = derivative.equal_elem(0.0).expand(slopes.dims());
                let slopes = slopes.mask_fill(counted, 0.0).cast(narrow);
                dx.push(slopes.clone().matmul(w.clone()));
                let gradient = slopes.transpose().matmul(x);
                let gradient = gradient.cast(so_far.dtype());
                sum = Some(so_far + gradient);
            }
        }
        let [of_target, log_sum_exp] = [of_targets, log_sum_exps].map(host);
        (LogProbabilities { of_target, log_sum_exp }, sum.map(|sum| (Tensor::cat(dx, 0), sum)))
    }
}

fn host(chunks: Vec<Tensor<1>>) -> Vec<f32> {
    if chunks.is_empty() {
        return Vec::new();
    }
    Tensor::cat(chunks, 0).cast(DType::F32).into_data().try_into_vec().expect("invariant: cast to f32")
}

/// `tanh x = 1 - 2 / (e^2x + 1)`.
#[inline(always)]
fn soft_cap_row<const FMA: bool>(row: &mut [f32], cap: f32) {
    let twice = 2.0 / cap;
    for x in row {
        *x = cap * (1.0 - 2.0 / (exp::<FMA>(*x * twice) + 1.0));
    }
}
vectorised!(fn soft_cap(row: &mut [f32], cap: f32) = soft_cap_row);

#[inline(always)]
fn gradient_row<const FMA: bool>(row: &mut [f32], log_sum_exp: f32, shared: f32, inverse_cap: f32) {
    for x in row {
        let capped = *x * inverse_cap;
        *x = exp::<FMA>(*x - log_sum_exp) * shared * (1.0 - capped * capped);
    }
}
vectorised!(fn gradient(row: &mut [f32], log_sum_exp: f32, shared: f32, inverse_cap: f32) = gradient_row);
