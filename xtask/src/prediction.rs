//! Step times and memory as `millstream train` predicts them, against what it then measures.
//!
//! Protocol: every run predicts from a calibration of its own that has ended before its first step, and writes the
//! prediction down first (`timeline.json`). Before and after each run a fixed 2048-cubed product is timed; where the two
//! differ by more than 5 %, the machine was disturbed and the run is repeated. Every run that counts is printed.

use crate::show;
use anyhow::{Context, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Runs: what is laid over the default preset.
const RUNS: [(&str, &[&str]); 8] = [
    ("1 stage", &["pipeline.stages=1"]),
    ("2 stages, 1F1B", &[]),
    ("2 stages, 1F1B, split", &["pipeline.backward=split"]),
    ("2 stages, GPipe", &["pipeline.schedule=gpipe"]),
    ("2 stages, 1F1B, full recompute", &["pipeline.recompute=full"]),
    ("2 stages, 8 microbatches of 1 x 256", &["data.sequence_length=256", "batch.microbatches=8"]),
    ("3 stages, 1F1B", &["pipeline.stages=3"]),
    ("4 stages, 1F1B, split", &["pipeline.stages=4", "pipeline.backward=split"]),
];

/// A run is repeated at most so often.
const TRIES: usize = 4;

/// Largest change of the fixed product's rate that counts as an undisturbed machine.
const DISTURBED: f64 = 0.05;

/// Runs all of [`RUNS`] and prints a Markdown table.
pub fn measure() -> anyhow::Result<()> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/millstream");
    ensure!(program.is_file(), "build first: cargo build --release");
    show("| run | predicted ms | measured ms | ratio | predicted MB | measured MB | ratio | GFLOP/s before, after |");
    show("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (name, sets) in RUNS {
        for n_try in 1..=TRIES {
            let before = gflops(&program)?;
            let summary = run(&program, sets)?;
            let after = gflops(&program)?;
            let disturbed = (after / before - 1.0).abs() > DISTURBED;
            let time = |which: &str| summary[which]["step_s"].as_f64().context("summary.json has step times");
            let memory = |which: &str| -> f64 {
                let ranks = summary[which]["peak_bytes"].as_array().cloned().unwrap_or_default();
                let of_rank =
                    |rank: &Value| rank.as_object().map_or(0.0, |c| c.values().filter_map(Value::as_f64).sum());
                ranks.iter().map(of_rank).sum::<f64>() / 1e6
            };
            let (predicted, measured) = (1e3 * time("predicted")?, 1e3 * time("measured")?);
            let (bytes_predicted, bytes_measured) = (memory("predicted"), memory("measured"));
            show(&format!(
                "| {name}{} | {predicted:.1} | {measured:.1} | {:.3} | {bytes_predicted:.1} | {bytes_measured:.1} | {:.3} | {before:.0}, {after:.0} |",
                if disturbed { " (void: disturbed)" } else { "" },
                predicted / measured,
                bytes_predicted / bytes_measured
            ));
            if !disturbed || n_try == TRIES {
                break;
            }
        }
    }
    Ok(())
}

/// Trains for 60 steps and yields the run's summary.
fn run(program: &Path, sets: &[&str]) -> anyhow::Result<Value> {
    let folder = std::env::temp_dir().join(format!("millstream-prediction-{}", std::process::id()));
    let fixed = ["steps=60", "sample.tokens=0", "checkpoint.every=end", "validation.every=end"];
    let mut command = Command::new(program);
    command.arg("train").arg("--out").arg(&folder);
    fixed.iter().chain(sets).for_each(|set| {
        command.args(["--set", set]);
    });
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary = std::fs::read_to_string(folder.join("summary.json"))?;
    std::fs::remove_dir_all(&folder)?;
    Ok(serde_json::from_str(&summary)?)
}

/// The fixed product's rate on all cores.
fn gflops(program: &Path) -> anyhow::Result<f64> {
    let output = Command::new(program).args(["doctor", "--json"]).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    find(&report, "all_cores_gflops").context("doctor --json has all_cores_gflops")
}

fn find(value: &Value, key: &str) -> Option<f64> {
    let object = value.as_object()?;
    object.get(key).and_then(Value::as_f64).or_else(|| object.values().find_map(|value| find(value, key)))
}
