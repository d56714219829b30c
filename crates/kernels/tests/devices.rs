//! Every operation in bf16, and on a GPU where there is one, against the composition in f64 on the CPU, which the other
//! tests hold against formulas and differences. Without a GPU its tests say that they were skipped.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(clippy::print_stdout, reason = "what was found, where a test fails or is asked")]
#![expect(
    clippy::explicit_write,
    reason = "that a test was skipped is said past the harness, which keeps what is printed"
)]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use kernels::{
    AdamW, AttentionSpec, HeadSpec, Moments, Seed, Size, Trained, WeightGrads, WeightPlace, attention, head_gradient,
    shard_softmax, shard_softmax_gradient, sum_of_squares, weight_gradient,
};
use std::io::Write;
use std::sync::mpsc::channel;

#[derive(Clone, Debug)]
struct Place {
    device: Device,
    dtype: DType,
}

fn exact() -> Place {
    Place { device: Device::flex(), dtype: DType::F64 }
}

/// The first GPU. Where there is none, that is said past the test harness, which would keep it to itself.
fn gpu() -> Option<Device> {
    let found = kernels::cuda(0);
    if let Err(error) = &found {
        writeln!(std::io::stderr(), "SKIPPED on the GPU: {error}").unwrap();
    }
    found.ok()
}

/// How far the outcome may be off, as a share of its norm: `||found - wanted|| / ||wanted||`.
#[derive(Clone, Copy)]
enum Made {
    /// Of elements, sums and exponentials, which are f32 whatever the operands are.
    OfElements,
    /// Of products too, whose operands a GPU takes as tf32, of 11 bits, also when they are f32.
    OfProducts,
}

impl Made {
    /// bf16 rounds by 2^-9 at most: the outcome once, and what stands between two products again; found are 2.8e-3 and
    /// 4.8e-3. f32 rounds by 6e-8, and exponentials and sums of 131 terms by more: found is 1e-7 (H200). tf32 rounds by 2^-12:
    /// found is 2.1e-4.
    fn allowed(self, place: &Place) -> f64 {
        match (place.dtype, self) {
            (DType::BF16, Made::OfElements) => 4e-3,
            (DType::BF16, Made::OfProducts) => 1e-2,
            (_, Made::OfElements) => 2e-6,
            (_, Made::OfProducts) => 1e-3,
        }
    }
}

/// Numbers in [-1, 1) that do not repeat soon (Weyl's sequence), exact in bf16: every place is given the same.
fn noise(n: usize, seed: usize) -> Vec<f64> {
    let at = |i: usize| (i + 1) as f64 * 0.618_033_988_75 + seed as f64 * 0.414_213_562;
    (0..n).map(|i| ((2.0 * (at(i) * at(i)).fract() - 1.0) * 128.0).round() / 128.0).collect()
}

fn tensor<const D: usize>(values: &[f64], shape: [usize; D], place: &Place) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape).convert_dtype(place.dtype);
    Tensor::from_data(data, (&place.device, place.dtype))
}

fn drawn<const D: usize>(seed: usize, shape: [usize; D], place: &Place) -> Tensor<D> {
    tensor(&noise(shape.iter().product(), seed), shape, place)
}

fn values<const D: usize>(t: Tensor<D>) -> Vec<f64> {
    let narrow = matches!(t.dtype(), DType::F16 | DType::BF16);
    let t = if narrow { t.cast(DType::F32) } else { t };
    t.into_data().convert_dtype(DType::F64).try_into_vec().unwrap()
}

fn ids(of: Vec<i32>, place: &Place) -> Tensor<1, Int> {
    let n = of.len();
    Tensor::from_data(TensorData::new(of, [n]), &place.device)
}

/// What an operation gives at a place: named outcomes.
type Outcome = Vec<(String, Vec<f64>)>;

/// An operation with its inputs, played at any place.
struct Case {
    name: String,
    made: Made,
    play: Box<dyn Fn(&Place) -> Outcome>,
}

fn check(places: &[Place], cases: &[Case]) {
    for case in cases {
        let wanted = (case.play)(&exact());
        for place in places {
            for ((what, found), (_, wanted)) in (case.play)(place).into_iter().zip(&wanted) {
                let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
                let off = norm(&mut found.iter().zip(wanted).map(|(found, wanted)| found - wanted));
                let off = off / norm(&mut wanted.iter().copied()).max(1e-300);
                println!("{:?} {:?} {} {what}: {off:.1e}", place.device, place.dtype, case.name);
                // NaN is not allowed either.
                let is_allowed = found.len() == wanted.len() && off <= case.made.allowed(place);
                assert!(is_allowed, "{place:?}: {what} of {} is off by {off:e}", case.name);
            }
        }
    }
}

/// An operation of matrices: the result, and the gradients of all inputs.
fn of_matrices(name: &str, shapes: &[[usize; 2]], apply: impl Fn(&[Tensor<2>], &Place) -> Tensor<2> + 'static) -> Case {
    let shapes = shapes.to_vec();
    let name = format!("{name} {shapes:?}");
    let play = move |place: &Place| {
        let leaf = |(i, shape): (usize, &[usize; 2])| Tensor::from_inner(drawn(i, *shape, place)).require_grad();
        let leaves: Vec<Tensor<2>> = shapes.iter().enumerate().map(leaf).collect();
        let (seed, y) = Seed::new(apply(&leaves, place));
        let mut gradients = seed.backward(drawn(7, y.dims(), place));
        let of_leaves = leaves
            .iter()
            .enumerate()
            .map(|(i, leaf)| (format!("gradient {i}"), values(leaf.grad_remove(&mut gradients).unwrap())));
        std::iter::once(("result".to_owned(), values(y))).chain(of_leaves).collect()
    };
    Case { name, made: Made::OfElements, play: Box::new(play) }
}

fn of_elements() -> Vec<Case> {
    let [small, large] = [[7, 13], [67, 131]];
    let mut cases = Vec::new();
    for [n, d] in [small, large] {
        let row = [1, d];
        cases.push(of_matrices("rms_norm", &[[n, d], row], move |x, _| {
            kernels::rms_norm(x[0].clone(), x[1].clone().reshape([d]), 1e-5)
        }));
        cases.push(of_matrices("layer_norm", &[[n, d], row, row], move |x, _| {
            let [w, b] = [1, 2].map(|i| x[i].clone().reshape([d]));
            kernels::layer_norm(x[0].clone(), w, b, 1e-5)
        }));
        cases.push(of_matrices("swiglu", &[[n, d]; 2], |x, _| kernels::swiglu(x[0].clone(), x[1].clone())));
        cases.push(of_matrices("gelu", &[[n, d]], |x, _| kernels::gelu(x[0].clone())));
        cases.push(of_matrices("geglu", &[[n, d]; 2], |x, _| kernels::geglu(x[0].clone(), x[1].clone())));
        cases.push(of_matrices("log_probability", &[[n, d]], move |x, place| {
            let targets = ids((0..n).map(|i| (i * 5 % d) as i32).collect(), place);
            kernels::log_probability(x[0].clone(), targets).unsqueeze_dim(1)
        }));
        let half = 3;
        cases.push(of_matrices("rope", &[[n, 10 * half]], move |x, place| {
            let wide =
                Place { dtype: if place.dtype == DType::F64 { DType::F64 } else { DType::F32 }, ..place.clone() };
            let [cos, sin] = [11, 12].map(|seed| drawn(seed, [n, half], &wide));
            kernels::rope(x[0].clone(), cos, sin)
        }));
    }
    cases
}

/// The result, the gradient of the input, and that of the weight added to a sum.
fn linear([n, d_in, d_out]: [usize; 3]) -> Case {
    let play = move |place: &Place| {
        let wide = Place { dtype: if place.dtype == DType::F64 { DType::F64 } else { DType::F32 }, ..place.clone() };
        let (sender, left) = channel();
        let x = Tensor::from_inner(drawn(1, [n, d_in], place)).require_grad();
        let w = drawn(2, [d_out, d_in], place);
        let place_of_all = WeightPlace { parameter: 0, first: 0 };
        let (seed, y) = Seed::new(kernels::linear(x.clone(), w, place_of_all, WeightGrads(sender)));
        let mut gradients = seed.backward(drawn(3, [n, d_out], place));
        let left = left.recv().unwrap();
        let sum = weight_gradient(drawn(4, [d_out, d_in], &wide), [0, 0], left.dy, left.x);
        assert_eq!(sum.dtype(), wide.dtype, "a sum keeps its type");
        let dx = x.grad_remove(&mut gradients).unwrap();
        vec![("result".into(), values(y)), ("dx".into(), values(dx)), ("dw".into(), values(sum))]
    };
    Case { name: format!("linear [{n}, {d_in}] to {d_out}"), made: Made::OfProducts, play: Box::new(play) }
}

/// Rows, heads, key heads, queries, head size.
fn attends([rows, heads, kv_heads, queries, e]: [usize; 5], spec: AttentionSpec) -> Case {
    let name = format!("attention of {rows} x {heads} / {kv_heads} heads, {queries} queries of {e}, {spec:?}");
    let play = move |place: &Place| {
        let keys = spec.n_past + queries;
        let leaf = |seed, shape| Tensor::from_inner(drawn::<4>(seed, shape, place)).require_grad();
        let leaves = [
            leaf(1, [rows, heads, queries, e]),
            leaf(2, [rows, kv_heads, keys, e]),
            leaf(3, [rows, kv_heads, keys, e]),
        ];
        let [q, k, v] = leaves.clone();
        let (seed, y) = Seed::new(attention(q, k, v, &spec));
        let mut gradients = seed.backward(drawn(4, [rows, heads, queries, e], place));
        let of_leaves = leaves.into_iter().zip(["dq", "dk", "dv"]);
        let of_leaves = of_leaves.map(|(leaf, of)| (of.to_owned(), values(leaf.grad_remove(&mut gradients).unwrap())));
        std::iter::once(("result".to_owned(), values(y))).chain(of_leaves).collect()
    };
    Case { name, made: Made::OfProducts, play: Box::new(play) }
}

fn head([n, d, vocabulary]: [usize; 3], spec: HeadSpec) -> Case {
    let name = format!("head [{n}, {d}] to {vocabulary}, {spec:?}");
    let play = move |place: &Place| {
        let wide = Place { dtype: if place.dtype == DType::F64 { DType::F64 } else { DType::F32 }, ..place.clone() };
        let targets: Vec<i32> = (0..n).map(|i| (i * 5 % vocabulary) as i32).collect();
        let derivative: Vec<f32> = (0..n).map(|i| if i % 3 == 1 { 0.0 } else { -0.25 }).collect();
        let (x, w, sum) = (drawn(1, [n, d], place), drawn(2, [vocabulary, d], place), drawn(3, [vocabulary, d], &wide));
        let found = head_gradient(&x, &w, &targets, &derivative, spec, sum);
        let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect();
        vec![
            ("log-probability".into(), wide(found.log_probabilities.of_target)),
            ("log-sum-exp".into(), wide(found.log_probabilities.log_sum_exp)),
            ("dx".into(), values(found.dx)),
            ("dw".into(), values(found.sum)),
        ]
    };
    Case { name, made: Made::OfProducts, play: Box::new(play) }
}

fn of_products() -> Vec<Case> {
    let plain = AttentionSpec { scale: 0.5, n_past: 0, window: None, documents: Vec::new() };
    let documents: Vec<i32> = (0..2 * 67).map(|i| i % 67 * 5 / 67).collect();
    let later: Vec<i32> = (0..2 * 80).map(|i| i % 80 * 4 / 80).collect();
    vec![
        linear([7, 13, 5]),
        linear([67, 131, 53]),
        linear([256, 128, 512]),
        attends([2, 4, 2, 7, 5], plain.clone()),
        attends([1, 3, 3, 67, 64], plain.clone()),
        attends([1, 2, 1, 128, 128], plain.clone()),
        attends([2, 4, 2, 67, 16], AttentionSpec { window: Some(11), ..plain.clone() }),
        attends([2, 6, 2, 67, 17], AttentionSpec { documents, ..plain.clone() }),
        attends([2, 2, 2, 67, 16], AttentionSpec { n_past: 13, documents: later, window: Some(29), ..plain }),
        head([67, 13, 131], HeadSpec::default()),
        head([kernels::HEAD_CHUNK + 1, 16, 67], HeadSpec::default()),
        head([67, 13, 131], HeadSpec { soft_cap: Some(2.0), z_loss: 0.1 }),
    ]
}

/// Operations that only f32 is made for.
fn of_f32() -> Vec<Case> {
    let n = 1031;
    let adamw = move |place: &Place| {
        let numbers = AdamW {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_scale: 0.5,
            step: 3,
        };
        let v = noise(n, 4).iter().map(|x| x * x + 0.1).collect::<Vec<_>>();
        let mut moments = Moments { m: drawn(3, [n], place), v: tensor(&v, [n], place) };
        let (mut p, g) = (drawn(1, [n], place), drawn(2, [n], place));
        let weight_decay = numbers.weight_decay;
        numbers.update(vec![Trained { value: &mut p, gradient: &g, moments: &mut moments, weight_decay }]);
        let change = numbers.change(&p, &moments);
        let (mut back, mut earlier) = (p.clone(), moments.clone());
        numbers.undo(vec![Trained { value: &mut back, gradient: &g, moments: &mut earlier, weight_decay }]);
        let outcomes = [("parameter", p), ("m", moments.m), ("v", moments.v), ("change", change), ("back", back)];
        outcomes.map(|(name, t)| (name.to_owned(), values(t))).into()
    };
    let sizes = move |place: &Place| {
        let t = drawn(5, [n], place);
        let size = Size::of(&t);
        vec![("sum of squares".into(), vec![sum_of_squares(&t)]), ("size".into(), vec![size.rms(), size.max_abs])]
    };
    let shard = |place: &Place| {
        let (n, columns) = (67, 131);
        let found = shard_softmax(drawn(1, [n, columns], place));
        let [max, sum] = [found.max, found.sum].map(values);
        let targets = ids((0..n).map(|i| (i * 5 % columns) as i32).collect(), place);
        let gradient =
            shard_softmax_gradient(found.exponentials.clone(), drawn(2, [n], place), drawn(3, [n], place), targets);
        let exponentials = values(found.exponentials);
        let gradient = values(gradient);
        vec![
            ("exponentials".into(), exponentials),
            ("max".into(), max),
            ("sum".into(), sum),
            ("gradient".into(), gradient),
        ]
    };
    let case =
        |name: &str, play: Box<dyn Fn(&Place) -> Outcome>| Case { name: name.into(), made: Made::OfElements, play };
    vec![case("AdamW", Box::new(adamw)), case("sizes", Box::new(sizes)), case("shards of a softmax", Box::new(shard))]
}

#[test]
fn in_bf16_on_the_cpu() {
    let place = [Place { device: Device::flex(), dtype: DType::BF16 }];
    check(&place, &of_elements());
    check(&place, &of_products());
}

#[test]
fn on_the_gpu() {
    let Some(device) = gpu() else { return };
    let [f32, bf16] = [DType::F32, DType::BF16].map(|dtype| Place { device: device.clone(), dtype });
    check(&[f32.clone(), bf16.clone()], &of_elements());
    check(&[f32.clone(), bf16], &of_products());
    check(&[f32], &of_f32());
}
