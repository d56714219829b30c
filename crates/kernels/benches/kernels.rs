//! The kernels of a Llama at the shapes of docs/benchmarks.md, on all cores: operations or bytes a second, to be held
//! against the machine's own limits, which are measured first.
//!
//! Before that, one check that fails: a kernel compiled for the baseline instead of the processor at hand is several
//! times slower than it should be, and 35 times when its fused multiply-adds become library calls.

use burn::tensor::{Device, Int, Tensor, TensorData};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use kernels::{AdamW, AttentionSpec, HeadSpec, Moments, Seed, Trained};
use packed::{Format, Matrix};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Tokens of a step.
const N: usize = 2048;

fn matrix(rows: usize, columns: usize) -> Tensor<2> {
    let values: Vec<f32> = (0..rows * columns).map(|i| ((i * i) as f32 * 0.618).sin()).collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), &Device::flex())
}

fn fastest(mut work: impl FnMut()) -> f64 {
    let time = |work: &mut dyn FnMut()| {
        let begin = Instant::now();
        work();
        begin.elapsed().as_secs_f64()
    };
    (0..20).map(|_| time(&mut work)).fold(f64::INFINITY, f64::min)
}

/// SwiGLU on one thread against the same written plainly with the library's exponential, one element at a time.
///
/// # Panics
/// When it is not at least 3 times faster.
fn instructions_are_this_processors(_: &mut Criterion) {
    let (gate, up) = (matrix(64, 1408), matrix(64, 1408));
    let values = |t: &Tensor<2>| t.clone().into_data().try_into_vec::<f32>().expect("f32");
    let (gate_values, up_values) = (values(&gate), values(&up));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let kernel = fastest(|| {
        pool.install(|| black_box(kernels::swiglu(gate.clone(), up.clone())));
    });
    let mut y = vec![0.0f32; gate_values.len()];
    let plain = fastest(|| {
        for ((y, gate), up) in y.iter_mut().zip(&gate_values).zip(&up_values) {
            *y = gate * up / (1.0 + black_box(-gate).exp());
        }
        black_box(&mut y);
    });
    let times = plain / kernel;
    assert!(times > 3.0, "SwiGLU is only {times:.1} times faster than a plain loop: compiled for the baseline?");
}

/// Reports `flops` floating-point operations a second as elements.
fn operations(group: &mut BenchmarkGroup<WallTime>, name: &str, flops: usize, mut work: impl FnMut()) {
    group.throughput(Throughput::Elements(flops as u64));
    group.bench_function(name, |bencher| bencher.iter(&mut work));
}

/// Reports bytes a second.
fn bytes(group: &mut BenchmarkGroup<WallTime>, name: &str, n: usize, mut work: impl FnMut()) {
    group.throughput(Throughput::Bytes(4 * n as u64));
    group.bench_function(name, |bencher| bencher.iter(&mut work));
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("products");
    for (n_in, n_out) in [(512, 512), (512, 1408), (1408, 512), (512, 8192), (256, 256), (256, 704)] {
        let (x, w, dy) = (matrix(N, n_in), matrix(n_out, n_in), matrix(N, n_out));
        let flops = 2 * N * n_in * n_out;
        operations(&mut group, &format!("forward {n_in} to {n_out}"), flops, || {
            black_box(kernels::linear_forward(x.clone(), w.clone()));
        });
        let mut sum = Some(matrix(n_out, n_in));
        operations(&mut group, &format!("weight gradient {n_in} to {n_out}"), flops, || {
            sum = Some(kernels::weight_gradient(sum.take().expect("given back"), [0, 0], dy.clone(), x.clone()));
        });
    }
    let (one, w) = (matrix(1, 2048), matrix(16384, 2048));
    bytes(&mut group, "one row of 2048 to 16384", 2048 * 16384, || {
        black_box(kernels::linear_forward(one.clone(), w.clone()));
    });
    group.finish();
}

fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    for (rows, heads, tokens, head_dim) in [(4, 8, 512, 64), (1, 8, 2048, 64), (8, 4, 256, 64), (1, 8, 512, 128)] {
        let by_head =
            || matrix(rows * tokens, heads * head_dim).reshape([rows, tokens, heads, head_dim]).swap_dims(1, 2);
        let spec =
            AttentionSpec { scale: (head_dim as f64).sqrt().recip(), n_past: 0, window: None, documents: Vec::new() };
        let (q, k, v, dy) = (by_head(), by_head(), by_head(), by_head());
        let pairs = rows * heads * tokens * (tokens + 1) / 2;
        let name = format!("{rows} x {heads} heads of {head_dim}, {tokens} tokens");
        operations(&mut group, &format!("forward, {name}"), 4 * pairs * head_dim, || {
            black_box(kernels::attention(q.clone(), k.clone(), v.clone(), &spec));
        });
        // Five products in backward; one of them makes the scores again.
        operations(&mut group, &format!("forward and backward, {name}"), 14 * pairs * head_dim, || {
            let [q, k, v] = [&q, &k, &v].map(|t| Tensor::from_inner(t.clone()).require_grad());
            let (seed, y) = Seed::new(kernels::attention(q, k, v, &spec));
            black_box(y);
            black_box(seed.backward(dy.clone()));
        });
    }
    group.finish();
}

fn head(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head");
    for vocabulary in [8192, 32000] {
        let (x, w) = (matrix(N, 512), matrix(vocabulary, 512));
        let targets: Vec<i32> = (0..N).map(|i| (i * 7 % vocabulary) as i32).collect();
        let derivative = vec![-1.0 / N as f32; N];
        let mut sum = Some(matrix(vocabulary, 512));
        operations(
            &mut group,
            &format!("all three products, vocabulary {vocabulary}"),
            6 * N * 512 * vocabulary,
            || {
                let before = sum.take().expect("given back");
                let found = kernels::head_gradient(&x, &w, &targets, &derivative, HeadSpec::default(), before);
                black_box(found.dx);
                sum = Some(found.sum);
            },
        );
    }
    let logits = matrix(512, 8192);
    let targets: Tensor<1, Int> = Tensor::from_data(TensorData::new(vec![5; 512], [512]), &Device::flex());
    bytes(&mut group, "log-probabilities of 512 x 8192 logits", 512 * 8192, || {
        black_box(kernels::log_probability(logits.clone(), targets.clone()));
    });
    group.finish();
}

fn rows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rows");
    let (x, scale, ff) = (matrix(N, 512), matrix(1, 512).reshape([512]), matrix(N, 1408));
    let angles = matrix(N, 32);
    bytes(&mut group, "RMSNorm", 2 * N * 512, || {
        black_box(kernels::rms_norm(x.clone(), scale.clone(), 1e-5));
    });
    bytes(&mut group, "rope", 2 * N * 512, || {
        black_box(kernels::rope(x.clone(), angles.clone(), angles.clone()));
    });
    bytes(&mut group, "SwiGLU", 3 * N * 1408, || {
        black_box(kernels::swiglu(ff.clone(), ff.clone()));
    });
    let n = 8 << 20;
    let vector = |value: f32| -> Tensor<1> { Tensor::full([n], value, &Device::flex()) };
    let adamw = AdamW {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        gradient_scale: 1.0,
        step: 3,
    };
    let gradient = vector(0.1);
    let (mut value, mut moments) = (vector(1.0), Moments { m: vector(0.0), v: vector(0.0) });
    // Reads four, writes three.
    bytes(&mut group, "AdamW", 7 * n, || {
        let (value, moments) = (&mut value, &mut moments);
        adamw.update(vec![Trained { value, gradient: &gradient, moments, weight_decay: 0.1 }]);
    });
    bytes(&mut group, "sum of squares", n, || {
        black_box(kernels::sum_of_squares(&gradient));
    });
    group.finish();
}

/// One vector and four with each format of weights, of 8192 columns: 1 GiB in f32, 151 MiB in 4 bits, outside the caches.
/// Bytes are those of the weights, to be held against the speed of reading.
fn packed_weights(criterion: &mut Criterion) {
    const DIMS: [usize; 2] = [32768, 8192];
    let mut group = criterion.benchmark_group("packed weights");
    for format in Format::ALL {
        let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 - 0.5;
        let w = Matrix::pack(format, "w", DIMS, (0..DIMS[0] * DIMS[1]).map(noise).collect()).expect("whole blocks");
        kernels::hold_in_huge_pages(&w);
        group.throughput(Throughput::Bytes(w.n_bytes() as u64));
        for n in [1, 4] {
            let x = matrix(n, DIMS[1]);
            group.bench_function(format!("{format}, {n} at once"), |bencher| {
                bencher.iter(|| black_box(kernels::packed_linear(x.clone(), &w)));
            });
        }
    }
    group.finish();
}

fn limits(_: &mut Criterion) {
    let budget = Duration::from_secs(2);
    let peak = kernels::matmul_peak(budget);
    let bandwidth = kernels::memory_gbytes_per_s(budget);
    let reading = kernels::Sweep::new().best_gbytes_per_s(200);
    let line = format!(
        "this machine now: {:.0} GFLOP/s, {bandwidth:.1} GB/s, reading {reading:.1} GB/s",
        peak.all_cores_gflops
    );
    // Criterion has no way to say something of a whole run.
    #[expect(clippy::print_stdout, reason = "a benchmark's output")]
    {
        println!("{line}");
    }
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
}

criterion_group! {
    name = benches;
    config = short();
    targets = instructions_are_this_processors, limits, products, packed_weights, attention, head, rows
}
criterion_main!(benches);
