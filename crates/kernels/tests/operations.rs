//! Every operation: the fused f32 path against the composition in f64, and the composition's gradients against
//! differences.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use kernels::{Seed, WeightGrads, WeightPlace, weight_gradient};
use std::sync::mpsc::channel;

/// Relative to the largest entry, and to 0.1 for gradients of inputs of order 1, whose terms may cancel. f32 rounds by
/// 6e-8; up to 131 terms are added, and `exp` has 2e-7 of its own.
const F32: f64 = 3e-6;
/// Central differences with a step of 1e-5 are exact to its square and to 1e-16 / 1e-5.
const DIFFERENCES: f64 = 1e-8;

type Apply = dyn Fn(&[Tensor<2>]) -> Tensor<2>;

/// An operation of matrices, as a matrix.
struct Case {
    name: &'static str,
    shapes: Vec<[usize; 2]>,
    apply: Box<Apply>,
}

/// Numbers in [-1, 1) that do not repeat soon (Weyl's sequence), exact in f32.
fn noise(n: usize, seed: usize) -> Vec<f64> {
    let at = |i: usize| (i + 1) as f64 * 0.618_033_988_75 + seed as f64 * 0.414_213_562;
    (0..n).map(|i| f64::from((2.0 * (at(i) * at(i)).fract() - 1.0) as f32)).collect()
}

fn tensor<const D: usize>(values: Vec<f64>, shape: [usize; D], dtype: DType) -> Tensor<D> {
    let exact: Tensor<D> = Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64));
    exact.cast(dtype)
}

fn values<const D: usize>(t: Tensor<D>) -> Vec<f64> {
    t.cast(DType::F64).into_data().try_into_vec().unwrap()
}

fn assert_close(found: &[f64], wanted: &[f64], least: f64, tolerance: f64, what: &str) {
    let largest = wanted.iter().fold(least, |max, x| max.max(x.abs()));
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let difference = (found - wanted).abs();
        assert!(difference <= tolerance * largest, "{what}: entry {i} is {found}, not {wanted}, of at most {largest}");
    }
}

/// The result, and the gradients of all inputs for `dy`.
fn run(case: &Case, inputs: &[Vec<f64>], dy: &[f64], dtype: DType) -> (Vec<f64>, Vec<Vec<f64>>) {
    let leaf = |(values, shape): (&Vec<f64>, &[usize; 2])| {
        Tensor::from_inner(tensor(values.clone(), *shape, dtype)).require_grad()
    };
    let leaves: Vec<Tensor<2>> = inputs.iter().zip(&case.shapes).map(leaf).collect();
    let (seed, y) = Seed::new((case.apply)(&leaves));
    let mut gradients = seed.backward(tensor(dy.to_vec(), y.dims(), dtype));
    (values(y), leaves.iter().map(|leaf| values(leaf.grad_remove(&mut gradients).unwrap())).collect())
}

fn output(case: &Case, inputs: &[Vec<f64>]) -> Vec<f64> {
    let plain = |(values, shape): (&Vec<f64>, &[usize; 2])| tensor(values.clone(), *shape, DType::F64);
    values((case.apply)(&inputs.iter().zip(&case.shapes).map(plain).collect::<Vec<_>>()))
}

/// `size` is that of the inputs' entries; differences are taken where the function is not saturated.
fn check(case: &Case, size: f64) {
    let what = |of: &str| format!("{} {:?} times {size}, {of}", case.name, case.shapes);
    let draw = |(i, shape): (usize, &[usize; 2])| noise(shape[0] * shape[1], i).iter().map(|x| x * size).collect();
    let mut inputs: Vec<Vec<f64>> = case.shapes.iter().enumerate().map(draw).collect();
    let dy = noise(output(case, &inputs).len(), 7);
    let (y, gradients) = run(case, &inputs, &dy, DType::F64);
    let (y_f32, gradients_f32) = run(case, &inputs, &dy, DType::F32);
    assert_eq!(y, output(case, &inputs), "{}", what("tracked and not"));
    assert_close(&y_f32, &y, 0.0, F32, &what("result"));
    for (i, (found, wanted)) in gradients_f32.iter().zip(&gradients).enumerate() {
        assert_close(found, wanted, 0.1 / size, F32, &what(&format!("gradient {i}")));
    }
    if size > 1.0 {
        return;
    }
    const H: f64 = 1e-5;
    for input in 0..inputs.len() {
        let mut slopes = Vec::new();
        for i in 0..inputs[input].len().min(40) {
            let x = inputs[input][i];
            let [above, below] = [x + H, x - H].map(|x| {
                inputs[input][i] = x;
                output(case, &inputs).iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>()
            });
            inputs[input][i] = x;
            slopes.push((above - below) / (2.0 * H));
        }
        // Differences are exact to their own scale, which sums of the result set, not to that of a tiny gradient.
        let found = &gradients[input][..slopes.len()];
        for (found, slope) in found.iter().zip(&slopes) {
            assert!((found - slope).abs() < DIFFERENCES * (1.0 + slope.abs()), "{}: {found} {slope}", what("slope"));
        }
    }
}

fn rms_norm([n, d]: [usize; 2]) -> Case {
    let apply = move |x: &[Tensor<2>]| kernels::rms_norm(x[0].clone(), x[1].clone().reshape([d]), 1e-5);
    Case { name: "rms_norm", shapes: vec![[n, d], [1, d]], apply: Box::new(apply) }
}

fn swiglu([n, ff]: [usize; 2]) -> Case {
    let apply = |x: &[Tensor<2>]| kernels::swiglu(x[0].clone(), x[1].clone());
    Case { name: "swiglu", shapes: vec![[n, ff]; 2], apply: Box::new(apply) }
}

fn layer_norm([n, d]: [usize; 2]) -> Case {
    let apply = move |x: &[Tensor<2>]| {
        let [w, b] = [1, 2].map(|i| x[i].clone().reshape([d]));
        kernels::layer_norm(x[0].clone(), w, b, 1e-5)
    };
    Case { name: "layer_norm", shapes: vec![[n, d], [1, d], [1, d]], apply: Box::new(apply) }
}

fn gelu([n, ff]: [usize; 2]) -> Case {
    Case { name: "gelu", shapes: vec![[n, ff]], apply: Box::new(|x| kernels::gelu(x[0].clone())) }
}

fn geglu([n, ff]: [usize; 2]) -> Case {
    let apply = |x: &[Tensor<2>]| kernels::geglu(x[0].clone(), x[1].clone());
    Case { name: "geglu", shapes: vec![[n, ff]; 2], apply: Box::new(apply) }
}

fn log_probability([n, vocabulary]: [usize; 2]) -> Case {
    let apply = move |x: &[Tensor<2>]| {
        let targets: Vec<i32> = (0..n).map(|i| (i * 5 % vocabulary) as i32).collect();
        let targets: Tensor<1, Int> = Tensor::from_data(TensorData::new(targets, [n]), &Device::flex());
        kernels::log_probability(x[0].clone(), targets).unsqueeze_dim(1)
    };
    Case { name: "log_probability", shapes: vec![[n, vocabulary]], apply: Box::new(apply) }
}

/// Heads of twice `half`.
fn rope([n, heads, half]: [usize; 3]) -> Case {
    let apply = move |x: &[Tensor<2>]| {
        let angle = |f: fn(f64) -> f64| tensor((0..n * half).map(|i| f(i as f64)).collect(), [n, half], x[0].dtype());
        kernels::rope(x[0].clone(), angle(f64::cos), angle(f64::sin))
    };
    Case { name: "rope", shapes: vec![[n, heads * 2 * half]], apply: Box::new(apply) }
}

fn linear([n, n_in, n_out]: [usize; 3]) -> Case {
    let apply = move |x: &[Tensor<2>]| {
        let w = tensor(noise(n_out * n_in, 3), [n_out, n_in], x[0].dtype());
        // Backward needs somebody who listens; what it leaves is looked at in `weight_gradients`.
        let (queue, kept) = channel();
        std::mem::forget(kept);
        kernels::linear(x[0].clone(), w, WeightPlace { parameter: 0, first: 0 }, WeightGrads(queue))
    };
    Case { name: "linear", shapes: vec![[n, n_in]], apply: Box::new(apply) }
}

#[test]
fn fused_equals_composed_equals_differences() {
    let cases = [
        [[1, 1], [1, 7], [3, 32], [67, 5], [130, 131]].map(rms_norm).into_iter().collect::<Vec<_>>(),
        [[1, 1], [3, 11], [131, 127]].map(swiglu).into(),
        [[1, 7], [3, 32], [67, 5], [130, 131]].map(layer_norm).into(),
        [[1, 1], [3, 11], [131, 127]].map(gelu).into(),
        [[1, 1], [3, 11], [131, 127]].map(geglu).into(),
        [[1, 1], [1, 2], [5, 33], [11, 131]].map(log_probability).into(),
        [[1, 1, 1], [3, 2, 5], [67, 3, 4]].map(rope).into(),
        [[1, 1, 1], [5, 3, 7], [67, 31, 13]].map(linear).into(),
    ];
    for case in cases.iter().flatten() {
        check(case, 1.0);
    }
    for size in [30.0, 1e4] {
        check(&log_probability([5, 33]), size);
        check(&swiglu([3, 11]), size);
        check(&rms_norm([3, 32]), size);
        check(&layer_norm([3, 32]), size);
        check(&gelu([3, 11]), size);
        check(&geglu([3, 11]), size);
    }
}

/// The queue's entry and the weight pass against a tracked product of burn's own, added to what was there.
#[test]
fn weight_gradients() {
    for [n, n_in, n_out] in [[1, 1, 1], [5, 3, 7], [67, 31, 13]] {
        for (dtype, tolerance) in [(DType::F32, F32), (DType::F64, 1e-14)] {
            let [x, w, dy, sum] = [[n, n_in], [n_out, n_in], [n, n_out], [n_out, n_in]]
                .map(|shape| tensor(noise(shape[0] * shape[1], shape[0] + shape[1]), shape, dtype));
            let leaf = Tensor::from_inner(w.clone()).require_grad();
            let mut gradients = (x.clone().matmul(leaf.clone().transpose()) * dy.clone()).sum().backward();
            let wanted = values(leaf.grad_remove(&mut gradients).unwrap() + sum.clone());

            let (queue, left) = channel();
            let place = WeightPlace { parameter: 11, first: 0 };
            let y = kernels::linear(Tensor::from_inner(x.clone()).require_grad(), w.clone(), place, WeightGrads(queue));
            drop(Seed::new(y).0.backward(dy.clone()));
            let left = left.recv().unwrap();
            assert_eq!(left.place, place);
            let found = values(weight_gradient(sum.clone(), [0, 0], left.dy, left.x));
            assert_close(&found, &wanted, 0.0, tolerance, &format!("[{n}, {n_in}, {n_out}] {dtype:?}"));

            // The same in two layers, the second from output `first` on: of a matrix and of its transpose.
            let first = n_out / 2;
            let whole = w.transpose().reshape([n_in, n_out]).transpose();
            let parts = [0..first, first..n_out].into_iter().filter(|part| !part.is_empty());
            let (mut by_rows, mut by_columns) = (sum.clone(), sum.clone().transpose().reshape([n_in, n_out]));
            for part in parts {
                let (queue, left) = channel();
                let w = whole.clone().narrow(0, part.start, part.len());
                let place = WeightPlace { parameter: 3, first: part.start };
                let leaf = Tensor::from_inner(x.clone()).require_grad();
                let (seed, y) = Seed::new(kernels::linear(leaf.clone(), w.clone(), place, WeightGrads(queue)));
                let plain = values(x.clone().matmul(w.clone().transpose()));
                assert_close(&values(y), &plain, 0.0, tolerance, &format!("outputs {part:?} of {n_out}, {dtype:?}"));
                let dy = dy.clone().narrow(1, part.start, part.len());
                let mut gradients = seed.backward(dy.clone());
                let (found, plain) = (leaf.grad_remove(&mut gradients).unwrap(), values(dy.matmul(w)));
                assert_close(&values(found), &plain, 0.0, tolerance, &format!("input of {part:?}, {dtype:?}"));
                let left = left.recv().unwrap();
                by_rows = weight_gradient(by_rows, [left.place.first, 0], left.dy.clone(), left.x.clone());
                by_columns = weight_gradient(by_columns, [0, left.place.first], left.x, left.dy);
            }
            for (found, what) in [(by_rows, "rows"), (by_columns.transpose(), "columns")] {
                assert_close(&values(found), &wanted, 0.0, tolerance, &format!("{what} of {n_out}, {dtype:?}"));
            }
        }
    }
}

/// To the bit what a product with the gradient gives.
#[test]
fn seeds() {
    let [x, g] = [1, 2].map(|seed| tensor(noise(35, seed), [5, 7], DType::F32));
    let through = |backward: fn(Tensor<2>, Tensor<2>) -> burn::tensor::Gradients| {
        let leaf = Tensor::from_inner(x.clone()).require_grad();
        let mut gradients = backward(leaf.clone().exp(), g.clone());
        values(leaf.grad_remove(&mut gradients).unwrap())
    };
    assert_eq!(through(|y, g| Seed::new(y).0.backward(g)), through(|y, g| (y * g).sum().backward()));
}

#[test]
#[should_panic(expected = "a gradient has the shape of its tensor")]
fn seeds_refuse_other_shapes() {
    let y = Tensor::from_inner(tensor(noise(6, 1), [2, 3], DType::F32)).require_grad();
    drop(Seed::new(y).0.backward(tensor(noise(6, 1), [3, 2], DType::F32)));
}

/// Both paths of the shards' softmax against `exp` in f64, put together as ranks do: three shards of 1, 7 and 40 columns,
/// logits of up to 1 and 1e4, where only the shift by the maximum keeps exponentials finite.
#[test]
fn shards_of_a_softmax() {
    let (n, widths) = (5, [1, 7, 40]);
    for size in [1.0, 1e4] {
        for dtype in [DType::F64, DType::F32] {
            let shards: Vec<Vec<f64>> =
                widths.iter().map(|&w| noise(n * w, w).iter().map(|x| x * size).collect()).collect();
            let row = |shard: usize, i: usize| &shards[shard][i * widths[shard]..][..widths[shard]];
            let parts: Vec<kernels::ShardSoftmax> =
                (0..3).map(|s| kernels::shard_softmax(tensor(shards[s].clone(), [n, widths[s]], dtype))).collect();
            let of_row: Vec<(f64, f64)> = (0..n)
                .map(|i| {
                    let all = || (0..3).flat_map(|shard| row(shard, i));
                    let max = all().fold(f64::NEG_INFINITY, |max, &x| max.max(x));
                    (max, all().map(|x| (x - max).exp()).sum())
                })
                .collect();
            for (shard, part) in parts.into_iter().enumerate() {
                let what = format!("shard {shard} of size {size} in {dtype:?}");
                let [max, sum] = [part.max, part.sum].map(values);
                let maxima: Vec<f64> =
                    (0..n).map(|i| row(shard, i).iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x))).collect();
                assert_close(&max, &maxima, 0.0, F32 * 0.1, &what);
                let sums: Vec<f64> =
                    (0..n).map(|i| row(shard, i).iter().map(|x| (x - maxima[i]).exp()).sum()).collect();
                // Rounding a logit of 1e4 to f32 moves its exponential by up to 1e4 x 6e-8 of itself.
                let tolerance = if dtype == DType::F32 { F32.max(size * 1.2e-7) } else { 1e-13 };
                assert_close(&sum, &sums, 0.0, tolerance, &what);

                let weights = [0.5, 0.0, 2.0, 1.0, 0.25];
                let target = |i: usize| i % widths[shard];
                let scale: Vec<f64> = (0..n).map(|i| weights[i] * (max[i] - of_row[i].0).exp() / of_row[i].1).collect();
                let targets: Vec<i32> = (0..n).map(|i| target(i) as i32).collect();
                let targets: Tensor<1, Int> = Tensor::from_data(TensorData::new(targets, [n]), &Device::flex());
                let vector = |values: &[f64]| tensor(values.to_vec(), [n], dtype);
                let found =
                    kernels::shard_softmax_gradient(part.exponentials, vector(&scale), vector(&weights), targets);
                let wanted: Vec<f64> = (0..n)
                    .flat_map(|i| {
                        let (max, total) = of_row[i];
                        row(shard, i).iter().enumerate().map(move |(j, x)| {
                            weights[i] * ((x - max).exp() / total - f64::from(u8::from(j == target(i))))
                        })
                    })
                    .collect();
                assert_close(&values(found), &wanted, 1.0, tolerance, &what);
            }
        }
    }
}
