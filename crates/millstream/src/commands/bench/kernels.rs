//! Every kernel of a training step by itself: its share of its own limit, and of the step.

use super::Args;
use super::peak::Peak;
use crate::units;
use architecture::{Architecture, Role};
use burn::tensor::{Device, Int, Tensor, TensorData};
use kernels::{AdamW, AttentionSpec, HeadSpec, Moments, Seed, Trained};
use serde::Serialize;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// What a kernel can at most do is set by operations, or by bytes that it reads and writes once.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Work {
    Flop(f64),
    Bytes(f64),
}

/// A kernel at the shape of the step.
#[derive(Clone, Debug, Serialize)]
pub struct Kernel {
    name: String,
    /// Times in a step.
    calls: usize,
    /// Of one call.
    work: Work,
    /// Best of several calls: a busy neighbour only adds.
    call_s: f64,
    /// Of the matrix product's peak, or of the memory's bandwidth; over 1 where what is read was still in a cache.
    limit_share: f64,
    /// Of the measured step, all calls together.
    step_share: f64,
}

/// Time for each kernel.
const BUDGET: Duration = Duration::from_millis(60);

/// Fewest calls of each.
const CALLS_MIN: usize = 3;

/// A list that is being measured.
struct List {
    kernels: Vec<Kernel>,
}

impl List {
    fn add(&mut self, name: impl Into<String>, calls: usize, work: Work, mut call: impl FnMut()) {
        call();
        let (begin, mut n_calls, mut call_s) = (Instant::now(), 0, f64::INFINITY);
        while n_calls < CALLS_MIN || begin.elapsed() < BUDGET {
            let begin = Instant::now();
            call();
            call_s = call_s.min(begin.elapsed().as_secs_f64());
            n_calls += 1;
        }
        self.kernels.push(Kernel { name: name.into(), calls, work, call_s, limit_share: 0.0, step_share: 0.0 });
    }
}

/// All of them on the current pool's threads, one after the other with their operands warm.
pub fn measure(architecture: &Architecture, args: &Args) -> Vec<Kernel> {
    let mut list = List { kernels: Vec::new() };
    products(&mut list, architecture, args);
    attention(&mut list, architecture, args);
    head(&mut list, architecture, args);
    rows(&mut list, architecture, args);
    whole_model(&mut list, architecture);
    list.kernels
}

fn matrix(rows: usize, columns: usize) -> Tensor<2> {
    let values: Vec<f32> = (0..rows * columns).map(|i| ((i * i) as f32 * 0.618).sin()).collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), &Device::flex())
}

fn products(list: &mut List, architecture: &Architecture, args: &Args) {
    let n = args.batch * args.seq;
    let blocks = architecture.blocks().into_iter().filter(|block| *block != architecture::Block::Head);
    let mut shapes: BTreeMap<[usize; 2], usize> = BTreeMap::new();
    for weight in blocks.flat_map(|block| architecture.weights(block)).filter(|weight| weight.role == Role::Matrix) {
        if let [n_out, n_in] = weight.shape[..] {
            *shapes.entry([n_in, n_out]).or_default() += 1;
        }
    }
    for ([n_in, n_out], calls) in shapes {
        let (x, w, dy) = (matrix(n, n_in), matrix(n_out, n_in), matrix(n, n_out));
        let flop = Work::Flop(2.0 * (n * n_in * n_out) as f64);
        list.add(format!("{n_in} to {n_out}, forward"), calls, flop, || {
            black_box(kernels::linear_forward(x.clone(), w.clone()));
        });
        list.add(format!("{n_in} to {n_out}, input gradient"), calls, flop, || {
            black_box(kernels::linear_input_gradient(dy.clone(), w.clone()));
        });
        let mut sum = Some(w.clone().mul_scalar(1.0));
        list.add(format!("{n_in} to {n_out}, weight gradient"), calls, flop, || {
            let before = sum.take().expect("invariant: given back");
            sum = Some(kernels::weight_gradient(before, [0, 0], dy.clone(), x.clone()));
        });
    }
}

fn attention(list: &mut List, architecture: &Architecture, args: &Args) {
    let (e, heads, kv_heads) =
        (architecture.head_dim, architecture.num_attention_heads, architecture.num_key_value_heads);
    let by_head = |heads: usize| {
        matrix(args.batch * args.seq, heads * e).reshape([args.batch, args.seq, heads, e]).swap_dims(1, 2)
    };
    let (q, k, v, dy) = (by_head(heads), by_head(kv_heads), by_head(kv_heads), by_head(heads));
    let spec = AttentionSpec { scale: architecture.attention_scale(), n_past: 0, window: None, documents: Vec::new() };
    // Two products forward and four backward over the pairs that the mask leaves; that backward makes scores again is not
    // counted.
    let flop = (12 * args.batch * heads * (args.seq * (args.seq + 1) / 2) * e) as f64;
    list.add("attention, forward and backward", architecture.num_hidden_layers, Work::Flop(flop), || {
        let [q, k, v] = [&q, &k, &v].map(|t| Tensor::from_inner(t.clone()).require_grad());
        let (seed, y) = Seed::new(kernels::attention(q, k, v, &spec));
        black_box(y);
        black_box(seed.backward(dy.clone()));
    });
}

fn head(list: &mut List, architecture: &Architecture, args: &Args) {
    let (n, d, vocabulary) = (args.batch * args.seq, architecture.hidden_size, architecture.vocab_size);
    let (x, w) = (matrix(n, d), matrix(vocabulary, d));
    let targets: Vec<i32> = (0..n).map(|i| (i * 7 % vocabulary) as i32).collect();
    let derivative = vec![-1.0 / n as f32; n];
    let mut sum = Some(w.clone().mul_scalar(1.0));
    list.add("head with its loss, all three products", 1, Work::Flop(6.0 * (n * d * vocabulary) as f64), || {
        let before = sum.take().expect("invariant: given back");
        let found = kernels::head_gradient(&x, &w, &targets, &derivative, HeadSpec::default(), before);
        black_box(found.dx);
        sum = Some(found.sum);
    });
}

/// What is bound by memory. Bytes: each operand and result once.
fn rows(list: &mut List, architecture: &Architecture, args: &Args) {
    let (n, d, ff) = (args.batch * args.seq, architecture.hidden_size, architecture.intermediate_size);
    let (layers, bytes) = (architecture.num_hidden_layers, |elements: usize| Work::Bytes(4.0 * elements as f64));
    let (x, dy, scale) = (matrix(n, d), matrix(n, d), matrix(1, d).reshape([d]));
    list.add("RMSNorm, forward and backward", 2 * layers + 1, bytes(5 * n * d), || {
        let (x, scale) =
            (Tensor::from_inner(x.clone()).require_grad(), Tensor::from_inner(scale.clone()).require_grad());
        let (seed, y) = Seed::new(kernels::rms_norm(x, scale, 1e-5));
        black_box(y);
        black_box(seed.backward(dy.clone()));
    });
    let angles = matrix(n, architecture.head_dim / 2);
    let queries = matrix(n, architecture.num_attention_heads * architecture.head_dim);
    let [_, width] = queries.dims();
    list.add("rotation of queries or keys", 4 * layers, bytes(2 * n * width), || {
        black_box(kernels::rope(queries.clone(), angles.clone(), angles.clone()));
    });
    let (gate, up, slope) = (matrix(n, ff), matrix(n, ff), matrix(n, ff));
    list.add("SwiGLU, forward and backward", layers, bytes(8 * n * ff), || {
        let [gate, up] = [&gate, &up].map(|t| Tensor::from_inner(t.clone()).require_grad());
        let (seed, y) = Seed::new(kernels::swiglu(gate, up));
        black_box(y);
        black_box(seed.backward(slope.clone()));
    });
    // Two a layer in the residual stream; backward one each, two for queries, keys and values, one for gate and up.
    let mut sum = Some(x.clone().mul_scalar(1.0));
    list.add("addition in the residual stream or of gradients", 7 * layers, bytes(3 * n * d), || {
        sum = Some(sum.take().expect("invariant: given back") + dy.clone());
    });
    let table = matrix(architecture.vocab_size, d);
    let ids: Vec<i32> = (0..n).map(|i| (i * 7919 % architecture.vocab_size) as i32).collect();
    let ids: Tensor<1, Int> = Tensor::from_data(TensorData::new(ids, [n]), &Device::flex());
    list.add("lookup", 1, bytes(2 * n * d), || {
        black_box(table.clone().select(0, ids.clone()));
    });
    let mut sum = Some(table.clone().mul_scalar(1.0));
    list.add("lookup's gradient", 1, bytes(3 * n * d), || {
        let before = sum.take().expect("invariant: given back");
        let add = burn::tensor::IndexingUpdateOp::Add;
        sum = Some(before.select_assign(0, ids.clone(), dy.clone(), add));
    });
}

fn whole_model(list: &mut List, architecture: &Architecture) {
    let sizes: Vec<usize> = architecture
        .blocks()
        .into_iter()
        .flat_map(|block| architecture.weights(block))
        .map(|weight| weight.n_elements())
        .collect();
    let total: usize = sizes.iter().sum();
    let vector = |n: &usize| -> Tensor<1> { Tensor::full([*n], 0.01, &Device::flex()) };
    let gradients: Vec<Tensor<1>> = sizes.iter().map(vector).collect();
    let mut values: Vec<Tensor<1>> = sizes.iter().map(vector).collect();
    let mut moments: Vec<Moments> = sizes.iter().map(|n| Moments { m: vector(n), v: vector(n) }).collect();
    list.add("gradient norm", 1, Work::Bytes(4.0 * total as f64), || {
        black_box(kernels::sums_of_squares(&gradients.iter().collect::<Vec<_>>()));
    });
    let adamw = AdamW {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        gradient_scale: 1.0,
        step: 3,
    };
    // Reads four arrays, writes three.
    list.add("AdamW", 1, Work::Bytes(28.0 * total as f64), || {
        let held = values.iter_mut().zip(&gradients).zip(&mut moments);
        let trained = held.map(|((value, gradient), moments)| Trained { value, gradient, moments, weight_decay: 0.01 });
        adamw.update(trained.collect());
    });
}

impl Kernel {
    /// As shares of what the machine can do, and of a step.
    pub fn against(mut self, peak: &Peak, step_s: f64) -> Self {
        self.limit_share = match self.work {
            Work::Flop(flop) => 1e-9 * flop / self.call_s / peak.matmul_gflops,
            Work::Bytes(bytes) => 1e-9 * bytes / self.call_s / peak.memory_gbytes_per_s,
        };
        self.step_share = self.calls as f64 * self.call_s / step_s;
        self
    }
}

/// A line for each, and what no kernel explains.
pub fn page(kernels: &[Kernel]) -> String {
    let mut page =
        format!("\n{:<48} {:>5} {:>9} {:>14} {:>9} {:>7}\n", "kernel", "calls", "each", "rate", "of limit", "of step");
    for Kernel { name, calls, work, call_s, limit_share, step_share } in kernels {
        let rate = match work {
            Work::Flop(flop) => format!("{:.0} GFLOP/s", 1e-9 * flop / call_s),
            Work::Bytes(bytes) => format!("{:.1} GB/s", 1e-9 * bytes / call_s),
        };
        let [limit, step] = [limit_share, step_share].map(|share| units::percent(*share));
        page += &format!("{name:<48} {calls:>5} {:>9} {rate:>14} {limit:>9} {step:>7}\n", units::seconds(*call_s));
    }
    let explained: f64 = kernels.iter().map(|kernel| kernel.step_share).sum();
    page + &format!(
        "{:<48} {:>5} {:>9} {:>14} {:>9} {:>7}\n",
        "everything else, and operands not in cache",
        "",
        "",
        "",
        "",
        units::percent(1.0 - explained)
    )
}
