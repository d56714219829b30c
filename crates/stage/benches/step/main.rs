//! One training step on random tokens: by itself, against PyTorch, or on two stages against one.
//!
//! ```text
//! cargo bench -p stage -p millstream --bench step -- ARGUMENTS
//!
//!   [SIZES] [--composed]    one shape; prints a JSON line
//!   --against PYTHON        all shapes of docs/benchmarks.md; prints its table; with --shape 1 to 4 one of them
//!   --stages [SIZES]        two stages of one core each against one of both
//! ```
//!
//! SIZES are `--name number` pairs: hidden, layers, heads, kv-heads, ff, vocabulary, tokens, rows, microbatches, threads,
//! and steps, of which the first is not counted. With one thread time is the process's own CPU time, so that busy
//! neighbours do not count; else wall time.

// As the program does, so that large blocks are reused and not cleared by the kernel each time.
#[path = "../../../millstream/src/allocator.rs"]
mod allocator;
mod clock;
mod comparison;
mod shape;
mod stages;
mod steps;

use clock::Clock;
use kernels::Path;
use ledger::Ledger;
use shape::Shape;
use std::process::ExitCode;
use steps::Steps;

/// As the program has it.
#[global_allocator]
static LEDGER: Ledger = Ledger;

/// What to do.
enum Task {
    One,
    /// One shape, by commands from the standard input: the comparison's own end.
    Answer,
    Stages,
    /// With this Python.
    Against(String),
}

fn main() -> ExitCode {
    allocator::keep_large_blocks();
    let (mut task, mut sizes) = (Task::One, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bench" => {}
            "--composed" => Path::Composed.choose(),
            "--answer" => task = Task::Answer,
            "--stages" => task = Task::Stages,
            "--against" => task = Task::Against(words.next().expect("--against takes a Python with torch")),
            name => sizes.push((name.trim_start_matches("--").to_owned(), words.next().unwrap_or_default())),
        }
    }
    match task {
        Task::One => one(Shape::default().with(&sizes)),
        Task::Answer => comparison::answer(Shape::default().with(&sizes)),
        Task::Stages => stages::compare(stages::SHAPE.with(&sizes)),
        Task::Against(python) => return comparison::compare(&python, &sizes),
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "a benchmark's output")]
fn one(shape: Shape) {
    assert!(shape.steps > 1, "the first step is not counted");
    let (clock, at_start_mb) = (Clock::of(shape.threads), status_mb("VmRSS:"));
    let mut steps = Steps::start(shape, &[shape.architecture().blocks().len()], shape.threads);
    let (mut steps_s, mut last) = (Vec::new(), None);
    for number in 0..shape.steps {
        let (step_s, report) = steps.play(clock);
        if number > 0 {
            steps_s.push(step_s);
        }
        last = Some(report);
    }
    let growth_mb = status_mb("VmHWM:") - at_start_mb;
    let report = last.expect("a step");
    let most = report.timeline.memory.iter().map(|sample| sample.bytes.iter().sum::<u64>()).max();
    let [forward_s, input_s, weight_s, update_s] = steps::passes_s(&report.timeline);
    let (median_s, gflop) = (median(&steps_s), shape.gflop());
    println!(
        r#"{{"step_s": {median_s:.4}, "tokens_per_s": {:.1}, "gflop": {gflop:.1}, "gflops": {:.1}, "square_gflops": {:.1}, "forward_s": {forward_s:.4}, "input_s": {input_s:.4}, "weight_s": {weight_s:.4}, "update_s": {update_s:.4}, "growth_mb": {growth_mb:.0}, "counted_mb": {:.0}, "loss": {:.4}, "steps_s": {steps_s:.3?}}}"#,
        shape.tokens_of_step() / median_s,
        gflop / median_s,
        clock.product_gflops(shape.threads),
        most.unwrap_or(0) as f64 / 1e6,
        report.loss(),
    );
}

/// The middle value, of an even number the higher of both.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A line of Linux's account of this process, in MB; 0 elsewhere.
fn status_mb(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    found.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok()).map_or(0.0, |kb| kb / 1e3)
}
