//! The head in chunks, fused in f32 and composed in f64, against sums written out, and these against differences.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::{HEAD_CHUNK, HeadSpec, head_gradient, head_log_probability};

/// Relative to the largest entry: f32 rounds by 6e-8, and up to 131 terms are added; `exp` has 2e-7 of its own.
const F32: f64 = 4e-6;

struct Case {
    n: usize,
    d: usize,
    vocabulary: usize,
    spec: HeadSpec,
    /// Of the entries of x; logits are up to its product with d.
    size: f64,
}

/// In order: x, w and what was in the sum.
type Inputs = [Vec<f64>; 3];

/// Numbers in [-1, 1) that do not repeat soon (Weyl's sequence), exact in f32.
fn noise(n: usize, seed: usize, size: f64) -> Vec<f64> {
    let at = |i: usize| (i + 1) as f64 * 0.618_033_988_75 + seed as f64 * 0.414_213_562;
    (0..n).map(|i| f64::from(((2.0 * (at(i) * at(i)).fract() - 1.0) * size) as f32)).collect()
}

impl Case {
    fn new([n, d, vocabulary]: [usize; 3]) -> Self {
        Self { n, d, vocabulary, spec: HeadSpec::default(), size: 1.0 }
    }

    fn inputs(&self) -> Inputs {
        let Self { n, d, vocabulary, .. } = *self;
        [noise(n * d, 1, self.size), noise(vocabulary * d, 2, 1.0), noise(vocabulary * d, 3, 1.0)]
    }

    fn targets(&self) -> Vec<i32> {
        (0..self.n).map(|i| (i * 5 % self.vocabulary) as i32).collect()
    }

    /// As of a mean over tokens of different weights; every fourth does not count.
    fn derivative(&self) -> Vec<f32> {
        (0..self.n).map(|i| if i % 4 == 3 { 0.0 } else { -(1.0 + (i % 3) as f32) / self.n as f32 }).collect()
    }

    fn logits(&self, [x, w, _]: &Inputs, token: usize) -> Vec<f64> {
        let x = &x[token * self.d..][..self.d];
        let dot = |w: &[f64]| -> f64 { x.iter().zip(w).map(|(x, w)| x * w).sum() };
        let cap = |logit: f64| self.spec.soft_cap.map_or(logit, |cap| cap * (logit / cap).tanh());
        w.chunks(self.d).map(|w| cap(dot(w))).collect()
    }

    /// Log-probabilities and log-sum-exps.
    fn reference(&self, inputs: &Inputs) -> [Vec<f64>; 2] {
        let of = |token: usize| {
            let logits = self.logits(inputs, token);
            let max = logits.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(x));
            let lse = max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
            (logits[self.targets()[token] as usize] - lse, lse)
        };
        let (y, lse) = (0..self.n).map(of).unzip();
        [y, lse]
    }

    fn loss(&self, inputs: &Inputs) -> f64 {
        let [y, lse] = self.reference(inputs);
        let weights = self.derivative();
        let of = |((y, lse), weight): ((&f64, &f64), &f32)| f64::from(*weight) * (y - self.spec.z_loss * lse * lse);
        y.iter().zip(&lse).zip(&weights).map(of).sum()
    }

    /// Gradients of x, and of w added to the sum.
    fn gradients(&self, inputs: &Inputs) -> [Vec<f64>; 2] {
        let [x, w, sum] = inputs;
        let (mut dx, mut dw) = (vec![0.0; x.len()], sum.clone());
        let [_, lse] = self.reference(inputs);
        for (token, weight) in self.derivative().into_iter().enumerate() {
            let weight = f64::from(weight);
            for (j, logit) in self.logits(inputs, token).into_iter().enumerate() {
                let hit = f64::from(u8::from(self.targets()[token] as usize == j));
                let p = (logit - lse[token]).exp();
                let slope = weight * (hit - p - 2.0 * self.spec.z_loss * lse[token] * p);
                let slope = slope * self.spec.soft_cap.map_or(1.0, |cap| 1.0 - (logit / cap).powi(2));
                for i in 0..self.d {
                    dx[token * self.d + i] += slope * w[j * self.d + i];
                    dw[j * self.d + i] += slope * x[token * self.d + i];
                }
            }
        }
        [dx, dw]
    }

    fn run(&self, inputs: &Inputs, dtype: DType) -> [Vec<f64>; 4] {
        let tensor = |values: &[f64], rows: usize| -> Tensor<2> {
            let data = TensorData::new(values.to_vec(), [rows, self.d]);
            Tensor::<2>::from_data(data, (&Device::flex(), DType::F64)).cast(dtype)
        };
        let [x, w, sum] = inputs;
        let (x, w, sum) = (tensor(x, self.n), tensor(w, self.vocabulary), tensor(sum, self.vocabulary));
        let found = head_gradient(&x, &w, &self.targets(), &self.derivative(), self.spec, sum);
        let alone = head_log_probability(&x, &w, &self.targets(), self.spec);
        assert_eq!(found.log_probabilities, alone);
        let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect();
        let values = |t: Tensor<2>| t.cast(DType::F64).into_data().try_into_vec().unwrap();
        [wide(alone.of_target), wide(alone.log_sum_exp), values(found.dx), values(found.sum)]
    }
}

fn check(case: &Case) {
    let inputs = case.inputs();
    let [y, lse] = case.reference(&inputs);
    let [dx, sum] = case.gradients(&inputs);
    // A logit is rounded to f32, which moves its exponential by as much as a part of it.
    let logit = case.spec.soft_cap.unwrap_or(case.size * case.d as f64).min(case.size * case.d as f64);
    let f32 = F32.max(logit * 4e-7);
    // Log-probabilities come as f32 from every path.
    for (dtype, values, gradients) in [(DType::F32, F32, f32), (DType::F64, 1e-7, 1e-12f64.max(logit * 1e-14))] {
        let found = case.run(&inputs, dtype);
        let wanted = [(&y, values, 1.0), (&lse, values, 1.0), (&dx, gradients, 0.0), (&sum, gradients, case.size)];
        for ((found, (wanted, tolerance, least)), of) in found.iter().zip(wanted).zip(["y", "lse", "dx", "dw"]) {
            let largest = wanted.iter().fold(least, |max, x| max.max(x.abs()));
            assert_eq!(found.len(), wanted.len());
            for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                let what = format!("{of} of [{}, {}, {}] {:?} {dtype:?}", case.n, case.d, case.vocabulary, case.spec);
                assert!((found - wanted).abs() <= tolerance * largest, "{what}: entry {i} is {found}, not {wanted}");
            }
        }
    }
}

#[test]
fn every_option() {
    for size in
        [[1, 1, 1], [1, 3, 2], [5, 3, 7], [67, 13, 131], [HEAD_CHUNK, 2, 5], [HEAD_CHUNK + 1, 5, 67], [1030, 3, 11]]
    {
        check(&Case::new(size));
    }
    for (soft_cap, z_loss) in [(Some(2.0), 0.0), (None, 0.01), (Some(30.0), 0.1)] {
        check(&Case { spec: HeadSpec { soft_cap, z_loss }, ..Case::new([67, 13, 131]) });
    }
    // Logits of up to 1e4.
    check(&Case { size: 1e4 / 13.0, ..Case::new([67, 13, 131]) });
    check(&Case { size: 1e4 / 13.0, spec: HeadSpec { soft_cap: Some(50.0), z_loss: 0.0 }, ..Case::new([67, 13, 131]) });
}

/// The formulas of the reference themselves. Central differences with a step of 1e-5 are exact to its square and to
/// 1e-16 / 1e-5.
#[test]
fn gradients_are_slopes() {
    const H: f64 = 1e-5;
    for spec in [HeadSpec::default(), HeadSpec { soft_cap: Some(1.5), z_loss: 0.2 }] {
        let case = Case { spec, ..Case::new([5, 3, 7]) };
        let mut inputs = case.inputs();
        inputs[2].fill(0.0);
        let gradients = case.gradients(&inputs);
        for (of, gradient) in gradients.iter().enumerate() {
            for (i, gradient) in gradient.iter().enumerate() {
                let along = |step: f64| {
                    let mut inputs = inputs.clone();
                    inputs[of][i] += step;
                    case.loss(&inputs)
                };
                let slope = (along(H) - along(-H)) / (2.0 * H);
                assert!((slope - gradient).abs() < 1e-8 * (1.0 + slope.abs()), "{of} {i}: {gradient}, not {slope}");
            }
        }
    }
}

#[test]
fn a_token_of_no_weight_may_be_anything() {
    let case = Case::new([8, 3, 5]);
    let mut inputs = case.inputs();
    let ordinary = inputs.clone();
    inputs[0][3 * 3] = 1e30;
    inputs[0][7 * 3 + 1] = -1e30;
    // Fused and composed.
    for dtype in [DType::F32, DType::F64] {
        let [wanted, found] = [&ordinary, &inputs].map(|inputs| case.run(inputs, dtype));
        assert_eq!(found[2..], wanted[2..], "{dtype:?}");
    }
}

#[test]
fn threads_change_no_bit() {
    let case = Case::new([700, 19, 131]);
    let inputs = case.inputs();
    let of = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| case.run(&inputs, DType::F32))
    };
    assert_eq!(of(1), of(5));
}

#[test]
#[should_panic(expected = "target 5 of 5")]
fn targets_outside_are_refused() {
    let t = |rows| Tensor::<2>::zeros([rows, 3], &Device::flex());
    head_log_probability(&t(2), &t(5), &[0, 5], HeadSpec::default());
}
