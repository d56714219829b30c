//! AdamW against what PyTorch printed (`adamw.py`), and norms.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::{AdamW, Moments, Trained, sum_of_squares, sums_of_squares};

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

fn trained<'a>(
    value: &'a mut Tensor<1>,
    gradient: &'a Tensor<1>,
    moments: &'a mut Moments,
    weight_decay: f64,
) -> Trained<'a> {
    Trained { value, gradient, moments, weight_decay }
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
            // A parameter's own counts.
            weight_decay: 0.5,
            gradient_scale: *gradient_scale,
            step: i as u64 + 1,
        };
        let gradient = all(gradient);
        adamw.update(vec![trained(&mut p, &gradient, &mut moments, weight_decay)]);
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
fn squares_are_summed() {
    for n in [1usize, 2, 17, 16_384, 50_021] {
        let values: Vec<f64> = (0..n).map(|i| (i % 113) as f64 / 8.0).collect();
        let wanted: f64 = values.iter().map(|x| x * x).sum();
        // Squares of these numbers and their sums are exact in f64.
        assert_eq!(sum_of_squares(&tensor(&values, DType::F32)), wanted);
        let tensors = [&values[..n / 3], &values, &values[..1]].map(|values| tensor(values, DType::F32));
        let of = |t: &Tensor<1>| if t.dims() == [0] { 0.0 } else { sum_of_squares(t) };
        assert_eq!(sums_of_squares(&tensors.each_ref()), tensors.each_ref().map(of));
    }
}

/// Parameters of different sizes, decays and dtypes together are what each is alone, to the bit.
#[test]
fn all_at_once_is_one_by_one() {
    let adamw = AdamW {
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.0,
        gradient_scale: 0.3,
        step: 7,
    };
    let cases = [(1, 0.1, DType::F32), (16_385, 0.0, DType::F32), (3, 0.2, DType::F64), (50_021, 0.1, DType::F32)];
    let made = || -> Vec<(Tensor<1>, Tensor<1>, Moments, f64)> {
        let of = |(i, &(n, decay, dtype)): (usize, &(usize, f64, DType))| {
            let noise =
                |seed: usize| -> Vec<f64> { (0..n).map(|j| (((j + i + 1) * (seed + 3)) as f64).sin()).collect() };
            let positive: Vec<f64> = noise(4).iter().map(|x| x * x).collect();
            let [p, g, m] = [1, 2, 3].map(|seed| tensor(&noise(seed), dtype));
            (p, g, Moments { m, v: tensor(&positive, dtype) }, decay)
        };
        cases.iter().enumerate().map(of).collect()
    };
    let (mut together, mut alone) = (made(), made());
    adamw.update(together.iter_mut().map(|(p, g, moments, decay)| trained(p, g, moments, *decay)).collect());
    for (p, g, moments, decay) in &mut alone {
        adamw.update(vec![trained(p, g, moments, *decay)]);
    }
    let before = made();
    for ((found, wanted), before) in together.iter().zip(&alone).zip(&before) {
        let all = |(p, _, moments, _): &(Tensor<1>, Tensor<1>, Moments, f64)| [p, &moments.m, &moments.v].map(values);
        assert_eq!(all(found), all(wanted));
        assert_ne!(all(found), all(before));
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
            let (mut new_p, mut new) = (p.clone(), moments.clone());
            adamw.update(vec![trained(&mut new_p, &g, &mut new, 0.1)]);
            let (mut old_p, mut old) = (new_p.clone(), new.clone());
            adamw.undo(vec![trained(&mut old_p, &g, &mut old, 0.1)]);
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
