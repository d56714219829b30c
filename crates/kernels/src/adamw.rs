//! AdamW (Loshchilov and Hutter, 2019) as PyTorch defines it, in one pass over all parameters, and gradient norms.

use crate::flex::{slice, slice_mut};
use crate::vector::vectorised;
use burn::backend::{Flex, tensor::FloatTensor};
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

/// One update's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment, after its bias correction.
    pub epsilon: f64,
    /// Decoupled weight decay; 0 for parameters that do not decay.
    pub weight_decay: f64,
    /// Factor on the gradient (clipping).
    pub gradient_scale: f64,
    /// Counted from 1.
    pub step: u64,
}

/// A parameter with its moments, all flat `[n]` and plain.
#[derive(Clone, Debug)]
pub struct Moments {
    /// First moment.
    pub m: Tensor<1>,
    /// Second moment.
    pub v: Tensor<1>,
}

/// A parameter that is updated, with what belongs to it.
#[derive(Debug)]
pub struct Trained<'a> {
    /// Its values `[n]`.
    pub value: &'a mut Tensor<1>,
    /// Its gradient `[n]`.
    pub gradient: &'a Tensor<1>,
    /// Its moments.
    pub moments: &'a mut Moments,
    /// Its own, in place of [`AdamW::weight_decay`].
    pub weight_decay: f64,
}

/// Elements one task updates: four arrays of 64 kB.
const CHUNK: usize = 16 * 1024;

/// One pass over a chunk of parameter, gradient and both moments.
type Fused = fn(Factors, &mut [f32], &[f32], &mut [f32], &mut [f32]);
/// The same as tensor operations.
type Composed = fn(Factors, Tensor<1>, Tensor<1>, Moments) -> (Tensor<1>, Moments);

#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    beta1: f32,
    beta2: f32,
    /// `1 - beta` from f64: from an f32 beta of 0.999 it would be off by 1e-5.
    rest1: f32,
    rest2: f32,
    rate: f32,
    root_correction: f32,
    epsilon: f32,
    scale: f32,
}

impl AdamW {
    fn factors(&self) -> Factors {
        let step = i32::try_from(self.step).unwrap_or(i32::MAX);
        let correction1 = 1.0 - self.beta1.powi(step);
        let correction2 = 1.0 - self.beta2.powi(step);
        Factors {
            keep: (1.0 - self.learning_rate * self.weight_decay) as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            rest1: (1.0 - self.beta1) as f32,
            rest2: (1.0 - self.beta2) as f32,
            rate: (self.learning_rate / correction1) as f32,
            root_correction: correction2.sqrt() as f32,
            epsilon: self.epsilon as f32,
            scale: self.gradient_scale as f32,
        }
    }

    /// Takes one step with every parameter: `p -= lr wd p`, `m` and `v` updated with the scaled gradient,
    /// `p -= lr m^ / (sqrt(v^) + epsilon)`. On the CPU in one pass of all threads over all of them, in place when nobody else
    /// holds the tensors.
    ///
    /// # Shapes
    /// - those of a parameter `[n]`, plain, f32 on the CPU's fused path
    pub fn update(&self, parameters: Vec<Trained<'_>>) {
        self.pass(update_one, composed, parameters);
    }

    /// What the parameters and their moments were before [`AdamW::update`] made these, by inverting its arithmetic: nothing
    /// needs to be kept for a step that may have to be taken back (Qi et al., *Zero Bubble Pipeline Parallelism*, 2024,
    /// section 4). Equal up to rounding: the parameter to a few units in its last place, each moment to a few in the last
    /// place of `beta m` or of the scaled gradient's share, whichever is larger. A second moment is at least 0.
    ///
    /// # Shapes
    /// - those of a parameter `[n]`, plain
    ///
    /// # Panics
    /// When a beta is 0 or a decay is 1: then nothing of the past is left.
    pub fn undo(&self, parameters: Vec<Trained<'_>>) {
        let keeps = |one: &Trained| self.learning_rate * one.weight_decay < 1.0;
        let is_known = self.beta1 > 0.0 && self.beta2 > 0.0 && parameters.iter().all(keeps);
        assert!(is_known, "an update that forgets the past cannot be undone");
        self.pass(undo_one, undo_composed, parameters);
    }

    /// What [`AdamW::update`] took from the parameter, seen from what it gave: nothing needs to be kept for it. Exact up
    /// to rounding of its own arithmetic.
    ///
    /// # Shapes
    /// - all `[n]`, plain
    pub fn change(&self, parameter: &Tensor<1>, moments: &Moments) -> Tensor<1> {
        let f = self.factors();
        let step = moments.m.clone() * f.rate / (moments.v.clone().sqrt() / f.root_correction + f.epsilon);
        // With p = keep q - step, q - p is this. The difference itself would lose all digits of a small step.
        let decay = self.learning_rate * self.weight_decay;
        (step + parameter.clone() * decay) / (1.0 - decay)
    }

    /// Over all elements on the CPU, or as tensor operations elsewhere.
    fn pass(&self, fused: Fused, composed: Composed, parameters: Vec<Trained<'_>>) {
        let (on_cpu, elsewhere): (Vec<_>, Vec<_>) = parameters.into_iter().partition(|one| flex(one.value).is_some());
        for Trained { value, gradient, moments, weight_decay } in elsewhere {
            let f = AdamW { weight_decay, ..*self }.factors();
            (*value, *moments) = composed(f, value.clone(), gradient.clone(), moments.clone());
        }
        let mut held: Vec<_> = on_cpu
            .into_iter()
            .map(|Trained { value, gradient, moments, weight_decay }| {
                let f = AdamW { weight_decay, ..*self }.factors();
                let g = flex(gradient).expect(ALIKE).to_contiguous();
                // Taken out of their places, so that nobody else holds them.
                let arrays = [&mut *value, &mut moments.m, &mut moments.v].map(taken);
                (f, g, arrays, (value, moments))
            })
            .collect();
        let chunks = held.iter_mut().flat_map(|(f, g, [p, m, v], _)| {
            let (f, moments) = (*f, slice_mut(m).chunks_mut(CHUNK).zip(slice_mut(v).chunks_mut(CHUNK)));
            slice_mut(p).chunks_mut(CHUNK).zip(slice(g).chunks(CHUNK)).zip(moments).map(move |arrays| (f, arrays))
        });
        let chunks: Vec<_> = chunks.collect();
        chunks.into_par_iter().for_each(|(f, ((p, g), (m, v)))| fused(f, p, g, m, v));
        for (_, _, arrays, (value, moments)) in held {
            let [p, m, v] = arrays.map(Tensor::from_primitive::<Flex>);
            (*value, *moments) = (p, Moments { m, v });
        }
    }
}

const ALIKE: &str = "invariant: parameter, gradient and moments share device and dtype";

/// The tensor as the CPU's fused path takes it.
fn flex(t: &Tensor<1>) -> Option<FloatTensor<Flex>> {
    t.clone().try_into_primitive::<Flex>().ok().filter(|t| t.dtype() == DType::F32)
}

/// The tensor out of its place, where an empty one is left.
fn taken(t: &mut Tensor<1>) -> FloatTensor<Flex> {
    let empty = Tensor::empty([0], &t.device());
    std::mem::replace(t, empty).try_into_primitive::<Flex>().ok().filter(|t| t.dtype() == DType::F32).expect(ALIKE)
}

#[inline(always)]
fn update_chunk<const FMA: bool>(f: Factors, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let n = p.len();
    let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
    for i in 0..n {
        let g = g[i] * f.scale;
        m[i] = f.beta1 * m[i] + f.rest1 * g;
        v[i] = f.beta2 * v[i] + f.rest2 * g * g;
        p[i] = f.keep * p[i] - f.rate * m[i] / (v[i].sqrt() / f.root_correction + f.epsilon);
    }
}
vectorised!(fn update_one(f: Factors, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) = update_chunk);

#[inline(always)]
fn undo_chunk<const FMA: bool>(f: Factors, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let n = p.len();
    let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
    for i in 0..n {
        let g = g[i] * f.scale;
        p[i] = (p[i] + f.rate * m[i] / (v[i].sqrt() / f.root_correction + f.epsilon)) / f.keep;
        m[i] = (m[i] - f.rest1 * g) / f.beta1;
        v[i] = ((v[i] - f.rest2 * g * g) / f.beta2).max(0.0);
    }
}
vectorised!(fn undo_one(f: Factors, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) = undo_chunk);

fn undo_composed(f: Factors, p: Tensor<1>, g: Tensor<1>, moments: Moments) -> (Tensor<1>, Moments) {
    let Moments { m, v } = moments;
    let g = g * f.scale;
    let p = (p + m.clone() * f.rate / (v.clone().sqrt() / f.root_correction + f.epsilon)) / f.keep;
    let m = (m - g.clone() * f.rest1) / f.beta1;
    let v = ((v - g.clone() * g * f.rest2) / f.beta2).clamp_min(0.0);
    (p, Moments { m, v })
}

fn composed(f: Factors, p: Tensor<1>, g: Tensor<1>, moments: Moments) -> (Tensor<1>, Moments) {
    let g = g * f.scale;
    let m = moments.m * f.beta1 + g.clone() * f.rest1;
    let v = moments.v * f.beta2 + g.clone() * g * f.rest2;
    let p = p * f.keep - m.clone() * f.rate / (v.clone().sqrt() / f.root_correction + f.epsilon);
    (p, Moments { m, v })
}

/// Sum of squares of a plain tensor; see [`sums_of_squares`].
pub fn sum_of_squares(t: &Tensor<1>) -> f64 {
    sums_of_squares(&[t])[0]
}

/// Sums of squares of plain tensors, in f64, on the CPU in one pass of all threads over all of them: blocks of fixed size,
/// added in order, so that the results do not depend on the number of threads.
pub fn sums_of_squares(tensors: &[&Tensor<1>]) -> Vec<f64> {
    let on_cpu: Vec<_> = tensors.iter().map(|t| flex(t).filter(|t| t.is_contiguous())).collect();
    let blocks = on_cpu.iter().enumerate().flat_map(|(number, t)| {
        let blocks = t.iter().flat_map(|t| slice(t).chunks(CHUNK));
        blocks.map(move |block| (number, block))
    });
    let blocks: Vec<_> = blocks.collect();
    let squares: Vec<(usize, f64)> =
        blocks.into_par_iter().map(|(number, block)| (number, squares_one(block))).collect();
    let mut sums = vec![0.0; tensors.len()];
    for (number, squares) in squares {
        sums[number] += squares;
    }
    for ((sum, t), _) in sums.iter_mut().zip(tensors).zip(&on_cpu).filter(|(_, on_cpu)| on_cpu.is_none()) {
        let t = (*t).clone();
        *sum = f64::from((t.clone() * t).sum().into_scalar::<f32>());
    }
    sums
}

#[inline(always)]
fn squares_chunk<const FMA: bool>(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (sum, &x) in lanes.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    lanes.into_iter().chain(rest.iter().map(|&x| f64::from(x) * f64::from(x))).sum()
}
vectorised!(fn squares_one(x: &[f32]) -> f64 = squares_chunk);
