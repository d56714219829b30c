//! Step times and memory as `millstream train` predicts them, against what it then measures.
//!
//! Protocol: every run predicts from a calibration of its own, on a pipeline that has ended before the run's first step,
//! and writes the prediction down first (`timeline.json`). The machine's speed is the middle rate of a few 2048-cubed
//! products, timed around the calibration, right before and right after the run's steps; where one of the three differs
//! from the others by more than 5 %, the machine was disturbed, and the run is void and repeated. Every value is printed,
//! those of void runs too.

use crate::show;
use anyhow::{Context, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Runs: what is laid over the default preset.
const RUNS: [(&str, &[&str]); 19] = [
    ("1 rank", &["pipeline.stages=1"]),
    ("2 ranks, 1F1B", &[]),
    ("2 ranks, 1F1B, split", &["pipeline.backward=split"]),
    ("2 ranks, GPipe", &["pipeline.schedule=gpipe"]),
    ("2 ranks, 1F1B, full recompute", &["pipeline.recompute=full"]),
    ("2 ranks, ZB-H1", &["pipeline.schedule=zb-h1"]),
    ("2 ranks, interleaved", &["pipeline.schedule=interleaved", "pipeline.stages=4"]),
    ("2 ranks, ZB-V", &["pipeline.schedule=zb-v", "pipeline.stages=4"]),
    ("2 ranks, 1F1B, vocabulary in one barrier", &["pipeline.vocabulary=one-barrier"]),
    ("3 ranks, 1F1B", &["pipeline.stages=3"]),
    ("3 ranks, GPipe", &["pipeline.stages=3", "pipeline.schedule=gpipe"]),
    ("3 ranks, ZB-H1", &["pipeline.stages=3", "pipeline.schedule=zb-h1"]),
    ("3 ranks, ZB-H2", &["pipeline.stages=3", "pipeline.schedule=zb-h2"]),
    ("3 ranks, V-Half", &["pipeline.stages=6", "pipeline.schedule=v-half"]),
    ("4 ranks, 1F1B", &["pipeline.stages=4"]),
    ("4 ranks, GPipe", &["pipeline.stages=4", "pipeline.schedule=gpipe"]),
    ("4 ranks, automatic zero-bubble", &["pipeline.stages=4", "pipeline.schedule=zb-auto"]),
    ("4 ranks, interleaved", &["pipeline.stages=8", "pipeline.schedule=interleaved"]),
    ("4 ranks, V-Min", &["pipeline.stages=8", "pipeline.schedule=v-min"]),
];

/// How many runs of each are to count, and after how many tries it is given up.
const COUNTING: usize = 2;
const TRIES_MAX: usize = 8;

/// Largest range of the fixed product's rate that counts as an undisturbed machine.
const DISTURBED: f64 = 0.05;

/// Runs those of [`RUNS`] whose name contains the second argument and prints a Markdown table with every value.
pub fn measure() -> anyhow::Result<()> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/millstream");
    ensure!(program.is_file(), "build first: cargo build --release");
    show("| run | predicted / measured ms, void ones in brackets | median ratio | MB predicted / measured by rank |");
    show("| --- | --- | --- | --- |");
    let wanted = std::env::args().nth(2).unwrap_or_default();
    for (name, sets) in RUNS.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        let (mut cells, mut ratios, mut memory) = (Vec::new(), Vec::new(), String::new());
        for _ in 0..TRIES_MAX {
            if ratios.len() == COUNTING {
                break;
            }
            let run = run(&program, sets)?;
            let cell = format!("{:.0} / {:.0}", 1e3 * run.predicted_s, 1e3 * run.measured_s);
            if !run.counts() {
                cells.push(format!("[{cell}]"));
            } else {
                cells.push(cell);
                ratios.push(run.predicted_s / run.measured_s);
            }
            memory = run.memory;
        }
        ratios.sort_by(f64::total_cmp);
        let median = ratios.get(ratios.len() / 2).map_or("all void".to_owned(), |ratio| format!("{ratio:.2}"));
        show(&format!("| {name} | {} | {median} | {memory} |", cells.join(", ")));
    }
    Ok(())
}

/// What a run predicted and measured.
pub(crate) struct Run {
    /// Seconds of a step, as written down before.
    pub predicted_s: f64,
    /// The median of the steps.
    pub measured_s: f64,
    /// By how much the highest of the machine's speeds is above the lowest, as a share of the lowest.
    pub speed_range: f64,
    /// Peaks of all categories together, by rank.
    pub memory: String,
}

impl Run {
    /// Whether the machine was steady.
    pub fn counts(&self) -> bool {
        self.speed_range <= DISTURBED
    }
}

/// Trains for a few steps: the median of the last 25, which follow the calibration within seconds.
pub(crate) fn run(program: &Path, sets: &[&str]) -> anyhow::Result<Run> {
    let folder = std::env::temp_dir().join(format!("millstream-prediction-{}", std::process::id()));
    let fixed =
        ["steps=30", "optimizer.warmup_steps=4", "sample.tokens=0", "checkpoint.every=end", "validation.every=end"];
    let mut command = Command::new(program);
    command.arg("train").arg("--out").arg(&folder);
    fixed.iter().chain(sets).for_each(|set| {
        command.args(["--set", set]);
    });
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&std::fs::read_to_string(folder.join(name))?)?)
    };
    let (summary, timeline) = (read("summary.json")?, read("timeline.json")?);
    std::fs::remove_dir_all(&folder)?;
    let time = |which: &str| summary[which]["step_s"].as_f64().context("summary.json has step times");
    let (predicted, measured) = (peaks(&timeline["predicted"]), peaks(&timeline["measured"]));
    let ranks = predicted.iter().zip(&measured).map(|(predicted, measured)| format!("{predicted:.1} / {measured:.1}"));
    let memory = ranks.collect::<Vec<_>>().join(", ");
    let speed = |when: &str| summary["speed"][when].as_f64().context("summary.json has the machine's speed");
    let speeds = [speed("calibrated_gflops")?, speed("before_gflops")?, speed("after_gflops")?];
    let [lowest, highest] = [speeds.into_iter().fold(f64::MAX, f64::min), speeds.into_iter().fold(0.0, f64::max)];
    let speed_range = highest / lowest - 1.0;
    Ok(Run { predicted_s: time("predicted")?, measured_s: time("measured")?, speed_range, memory })
}

/// The most bytes of all categories together on each rank, in MB.
fn peaks(timeline: &Value) -> Vec<f64> {
    let mut peaks = vec![0.0f64; timeline["n_ranks"].as_u64().unwrap_or(0) as usize];
    for sample in timeline["memory"].as_array().into_iter().flatten() {
        let rank = sample["rank"].as_u64().unwrap_or(0) as usize;
        let sum: f64 = sample["bytes"].as_object().into_iter().flatten().filter_map(|(_, bytes)| bytes.as_f64()).sum();
        peaks[rank] = peaks[rank].max(sum / 1e6);
    }
    peaks
}
