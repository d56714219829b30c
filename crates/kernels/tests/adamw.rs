//! AdamW against what PyTorch printed (`adamw.py`), and norms.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::{AdamW, Moments, sum_of_squares};

const START: [f64; 5] = [0.5, -1.25, 0.0, 3.0, -0.001];

/// Learning rate, gradient scale, gradients.
const STEPS: [(f64, f64, [f64; 5]); 4] = [
    (0.01, 1.0, [0.1, -0.2, 0.3, -4.0, 1e-6]),
    (0.02, 0.25, [0.5, 0.0, -0.7, 11.0, -2e-6]),
    (0.005, 1.0, [-0.3, 0.9, 0.0, -0.5, 3e-6]),
    (0.03, 0.5, [0.02, -0.4, 1.3, 6.0, 5e-6]),
];

const M: [f64; 5] = [-0.008585, 0.04642, 0.072695, 0.18615, 5.524e-7];
const V: [f64; 5] = [0.000115573795615, 0.00088907011996, 0.000542794050535, 0.0327491805465, 1.6487503249e-14];

fn tensor(values: &[f64], dtype: DType) -> Tensor<1> {
    let data = TensorData::new(values.to_vec(), [values.len()]);
    let exact: Tensor<1> = Tensor::from_data(data, (&Device::flex(), DType::F64));
    exact.cast(dtype)
}

fn assert_close(found: Tensor<1>, wanted: &[f64], tolerance: f64, what: &str) {
    let found: Vec<f64> = found.cast(DType::F64).into_data().try_into_vec().unwrap();
    for (i, found) in found.iter().enumerate() {
        let wanted = wanted[i % wanted.len()];
        assert!((found - wanted).abs() <= tolerance * wanted.abs(), "{what}: entry {i} is {found}, not {wanted}");
    }
}

/// The five numbers `copies` times over, so that tasks and vector lanes are crossed.
fn check(weight_decay: f64, wanted: [f64; 5], dtype: DType, copies: usize) {
    let all = |five: &[f64; 5]| tensor(&five.repeat(copies), dtype);
    let (mut p, mut moments) = (all(&START), Moments { m: all(&[0.0; 5]), v: all(&[0.0; 5]) });
    for (i, (learning_rate, gradient_scale, gradient)) in STEPS.iter().enumerate() {
        let adamw = AdamW {
            learning_rate: *learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay,
            gradient_scale: *gradient_scale,
            step: i as u64 + 1,
        };
        (p, moments) = adamw.update(p, &all(gradient), moments);
    }
    // Four steps of a handful of f32 roundings; both paths take their factors in f32.
    let what = format!("decay {weight_decay}, {dtype:?}, {copies} copies");
    assert_close(p, &wanted, 1e-6, &what);
    assert_close(moments.m, &M, 1e-6, &format!("{what}: m"));
    assert_close(moments.v, &V, 1e-6, &format!("{what}: v"));
}

#[test]
fn as_pytorch() {
    let plain = [0.475410268864, -1.23773855175, -0.0320614411812, 3.00776472263, -0.0430970274148];
    let decayed = [0.472289121395, -1.22972516572, -0.0319899179032, 2.9882401665, -0.0430077638867];
    for dtype in [DType::F32, DType::F64] {
        for copies in [1, 7, 10_007] {
            check(0.0, plain, dtype, copies);
            check(0.1, decayed, dtype, copies);
        }
    }
}

#[test]
fn sums_of_squares() {
    for n in [1usize, 2, 17, 16_384, 50_021] {
        let values: Vec<f64> = (0..n).map(|i| (i % 113) as f64 / 8.0).collect();
        let wanted: f64 = values.iter().map(|x| x * x).sum();
        // Squares of these numbers and their sums are exact in f64.
        assert_eq!(sum_of_squares(&tensor(&values, DType::F32)), wanted);
    }
}

fn values(tensor: &Tensor<1>) -> Vec<f64> {
    tensor.clone().cast(DType::F64).into_data().try_into_vec().unwrap()
}

/// Each step taken back gives what was there before it. Every number goes through at most four roundings each way, of
/// numbers no larger than the sum of the terms' magnitudes: 16 units of 2^-24 of that sum.
#[test]
fn an_undone_step_leaves_what_was_there() {
    let all = |five: &[f64; 5], dtype| tensor(&five.repeat(7001), dtype);
    for dtype in [DType::F32, DType::F64] {
        let (mut p, mut moments) = (all(&START, dtype), Moments { m: all(&[0.0; 5], dtype), v: all(&[0.0; 5], dtype) });
        for (i, &(learning_rate, gradient_scale, gradient)) in STEPS.iter().enumerate() {
            let (beta1, beta2) = (0.9, 0.999);
            let step = i as u64 + 1;
            let adamw = AdamW { learning_rate, beta1, beta2, epsilon: 1e-8, weight_decay: 0.1, gradient_scale, step };
            let before = [values(&p), values(&moments.m), values(&moments.v)];
            let g = all(&gradient, dtype);
            let (new_p, new) = adamw.update(p.clone(), &g, moments.clone());
            let (old_p, old) = adamw.undo(new_p.clone(), &g, new.clone());
            let (p_after, g) = (values(&new_p), values(&g));
            let found = [values(&old_p), values(&old.m), values(&old.v)];
            for j in 0..g.len() {
                let scaled = g[j] * gradient_scale;
                let sizes = [
                    before[0][j].abs() + (p_after[j] - before[0][j]).abs(),
                    before[1][j].abs() + (1.0 - beta1) * scaled.abs(),
                    before[2][j] + (1.0 - beta2) * scaled * scaled,
                ];
                for which in 0..3 {
                    let (found, wanted) = (found[which][j], before[which][j]);
                    let limit = 16.0 * 2f64.powi(-24) * sizes[which];
                    assert!((found - wanted).abs() <= limit, "step {step}, {which} of {j}: {found} for {wanted}");
                }
            }
            (p, moments) = (new_p, new);
        }
    }
}
