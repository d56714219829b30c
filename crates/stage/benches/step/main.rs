//! One training step on random tokens, one stage that has all cores: the program's side of the comparison with PyTorch in
//! docs/benchmarks.md. Prints one JSON line.
//!
//! ```text
//! cargo bench -p stage --bench step -- --hidden 512 --layers 6 --heads 8 --kv-heads 8 --ff 1408 --vocabulary 8192 \
//!     --tokens 512 --rows 4 --microbatches 1 --steps 6 --threads 2 [--composed]
//! ```

use architecture::{Architecture, Partition, from_config_json};
use burn::tensor::Device;
use kernels::{AdamW, Path};
use ledger::Ledger;
use mesh::{Cores, Grid, Rank, StageMap};
use model::Rows;
use schedule::{Backward, Kind, Op, Spec, generate, with_transfers};
use simulate::Span;
use stage::{Objective, Pipeline, PipelineSpec, Recompute, Source, Step, Update};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

/// As the program has it.
#[global_allocator]
static LEDGER: Ledger = Ledger;

/// `--name value` pairs, over the shape that comparisons begin with.
fn sizes() -> (BTreeMap<String, usize>, Path) {
    let defaults = [
        ("hidden", 512),
        ("layers", 6),
        ("heads", 8),
        ("kv-heads", 8),
        ("ff", 1408),
        ("vocabulary", 8192),
        ("tokens", 512),
        ("rows", 4),
        ("microbatches", 1),
        ("steps", 6),
        ("threads", 2),
    ];
    let mut sizes: BTreeMap<String, usize> = defaults.map(|(name, value)| (name.to_owned(), value)).into();
    let mut path = Path::Fused;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.trim_start_matches("--") {
            "bench" => {}
            "composed" => path = Path::Composed,
            name => {
                let value = words.next().and_then(|value| value.parse().ok());
                let (Some(size), Some(value)) = (sizes.get_mut(name), value) else {
                    panic!("{word}: wanted one of {:?} with a number", sizes.keys())
                };
                *size = value;
            }
        }
    }
    (sizes, path)
}

fn start(architecture: &Architecture, threads: usize) -> Pipeline {
    let stage_map = StageMap::new(vec![Grid::single(Rank(0))]).expect("a stage map");
    let spec = PipelineSpec {
        architecture: architecture.clone(),
        partition: Partition::new(architecture, &[architecture.blocks().len()]).expect("a partition"),
        stage_map,
        vocabulary: None,
        recompute: vec![Recompute::None],
        devices: vec![Device::flex()],
        cores: vec![Cores { ranks: vec![Rank(0)], permits: 1, threads }],
        deadline: Duration::from_secs(600),
    };
    let start = Pipeline::start(&spec, |weight, source| {
        Ok::<_, Infallible>(match source {
            Source::Value => model::draw(architecture, weight, 0),
            _ => vec![0.0; weight.n_elements()],
        })
    });
    start.expect("a pipeline")
}

/// What was measured of the steps after the first.
struct Measured {
    /// In order of length.
    steps_s: Vec<f64>,
    loss: f64,
    spans: Vec<Span>,
}

fn architecture(size: impl Fn(&str) -> usize) -> Architecture {
    let text = format!(
        r#"{{"model_type": "llama", "hidden_size": {}, "num_hidden_layers": {}, "num_attention_heads": {},
            "num_key_value_heads": {}, "intermediate_size": {}, "vocab_size": {}, "max_position_embeddings": {}}}"#,
        size("hidden"),
        size("layers"),
        size("heads"),
        size("kv-heads"),
        size("ff"),
        size("vocabulary"),
        size("tokens"),
    );
    from_config_json(&text).expect("a configuration")
}

fn play(pipeline: &mut Pipeline, size: impl Fn(&str) -> usize) -> Measured {
    let (tokens, n_microbatches) = (size("tokens"), size("microbatches"));
    let rows = size("rows") / n_microbatches;
    let route = StageMap::new(vec![Grid::single(Rank(0))]).expect("a stage map").route();
    let spec = Spec { kind: Kind::OneFOneB, backward: Backward::Split };
    let schedule = with_transfers(&generate(spec, &route, n_microbatches, pipeline.tied()).expect("a schedule"));
    let microbatch = |number: usize| {
        let ids: Vec<i32> =
            (0..rows * tokens).map(|i| ((i + number * rows * tokens) * 7919 % size("vocabulary")) as i32).collect();
        Rows { targets: ids.clone(), weights: vec![1.0; ids.len()], ..Rows::to_read(ids, tokens) }
    };
    let mut measured = Measured { steps_s: Vec::new(), loss: 0.0, spans: Vec::new() };
    for number in 1..=size("steps") as u64 {
        let adamw = AdamW {
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            gradient_scale: 1.0,
            step: number,
        };
        let step = Step {
            number,
            schedule: schedule.clone(),
            microbatches: (0..n_microbatches).map(microbatch).collect(),
            objective: Objective::NextToken { total_weight: (size("rows") * tokens) as f64 },
            update: Some(Update { clip_norm: Some(1.0), ..Update::new(adamw) }),
        };
        let begin = Instant::now();
        let report = pipeline.play(step).expect("a step");
        if number > 1 {
            measured.steps_s.push(begin.elapsed().as_secs_f64());
        }
        (measured.loss, measured.spans) = (report.loss(), report.timeline.spans);
    }
    measured.steps_s.sort_by(f64::total_cmp);
    measured
}

#[expect(clippy::print_stdout, reason = "a benchmark's output")]
fn main() {
    keep_large_blocks();
    let (sizes, path) = sizes();
    path.choose();
    let size = |name: &str| sizes[name];
    assert!(size("steps") > 1, "the first step is not counted");
    let architecture = architecture(size);
    let at_start_mb = status_mb("VmRSS:");
    let Measured { steps_s, loss, spans } = play(&mut start(&architecture, size("threads")), size);
    let growth_mb = status_mb("VmHWM:") - at_start_mb;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(size("threads")).build().expect("threads");
    let mut rates = pool.install(|| kernels::matmul_rates(9));
    rates.sort_by(f64::total_cmp);
    let n = (size("rows") * size("tokens")) as f64;
    let gflop = architecture.training_flops_per_token(size("tokens")) * n / 1e9;
    let median_s = steps_s[steps_s.len() / 2];
    let [forward_s, input_s, weight_s, update_s] = ["F", "I", "W", "update"].map(|wanted| -> f64 {
        spans.iter().filter(|span| kind(span) == wanted).map(|span| span.end_s - span.start_s).sum()
    });
    println!(
        r#"{{"step_s": {median_s:.4}, "tokens_per_s": {:.1}, "gflop": {gflop:.1}, "gflops": {:.1}, "square_gflops": {:.1}, "forward_s": {forward_s:.4}, "input_s": {input_s:.4}, "weight_s": {weight_s:.4}, "update_s": {update_s:.4}, "growth_mb": {growth_mb:.0}, "loss": {loss:.4}, "steps_s": {steps_s:.3?}}}"#,
        n / median_s,
        gflop / median_s,
        rates[rates.len() / 2],
    );
}

fn kind(span: &Span) -> &'static str {
    match span.action {
        schedule::Action::Visit { op: Op::Forward, .. } => "F",
        schedule::Action::Visit { op: Op::BackwardInput, .. } => "I",
        schedule::Action::Visit { op: Op::BackwardWeight, .. } => "W",
        _ => "update",
    }
}

/// A line of Linux's account of this process, in MB; 0 elsewhere.
fn status_mb(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    found.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok()).map_or(0.0, |kb| kb / 1e3)
}

/// As the program does, so that large blocks are reused and not cleared by the kernel each time.
fn keep_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two integers by value; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 256 << 20);
    }
}
