//! `cargo xtask plans [NAME]`: ten run files planned, predicted and measured.
//!
//! For every run file the planner ranks what `millstream train` could do with its model and batch, on this machine as
//! `millstream doctor --machine` measures it and one short run of the model calibrates it. Of its ranking the first plan and
//! one each of up to three further kinds (the best other schedule, the best other number of ranks, the best with
//! recomputation) are then trained. Every run predicts by the protocol of `prediction.rs` and is void where the machine's
//! speed moved; void runs are repeated while there is time. Every value is printed. Plans are judged by the mean of their
//! runs that count. Once a run file's share of [`BUDGET`] is used its further plans and repeats are left out; its first plan
//! and one to compare it with are measured in any case, so that the whole may take longer.

use crate::prediction::{Run, run};
use crate::show;
use anyhow::{Context, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A run file: what is laid over the default preset.
struct RunFile {
    name: &'static str,
    sets: &'static [&'static str],
    rows: usize,
    tokens: usize,
}

const fn file(name: &'static str, sets: &'static [&'static str], rows: usize, tokens: usize) -> RunFile {
    RunFile { name, sets, rows, tokens }
}

/// Models, batch shapes and, through what plans choose, stages, schedules and recomputation.
const RUN_FILES: [RunFile; 10] = [
    file("Llama", &[], 8, 128),
    file("Llama, long rows", &[], 4, 256),
    file("Llama, many rows", &[], 24, 64),
    file(
        "Llama, wide",
        &[
            "model.hidden_size=288",
            "model.intermediate_size=768",
            "model.num_attention_heads=9",
            "model.num_key_value_heads=3",
        ],
        8,
        128,
    ),
    file("Llama, deep", &["model.num_hidden_layers=9"], 8, 96),
    file("Llama, large vocabulary", &["tokenizer.vocab_size=4096"], 8, 128),
    file("GPT-2", &["model.model_type=gpt2", "model.num_key_value_heads=6"], 8, 128),
    file("Qwen 3", &["model.model_type=qwen3"], 12, 96),
    file(
        "OLMo 2, narrow",
        &["model.model_type=olmo2", "model.hidden_size=128", "model.num_attention_heads=4"],
        16,
        128,
    ),
    file("Mistral, shallow", &["model.model_type=mistral", "model.num_hidden_layers=2"], 10, 160),
];

/// Shared by the run files: after its share no further plan or repeat of one is begun.
const BUDGET: Duration = Duration::from_secs(12 * 60);
/// Tries of one plan at most.
const TRIES_MAX: usize = 3;
/// The plan ranked first may be slower than the best by this.
const SLOWER: f64 = 0.10;

/// A plan of the ranking.
#[derive(Clone)]
struct Plan {
    ranks: usize,
    schedule: String,
    recompute: String,
    microbatches: usize,
    step_s: f64,
    sets: Vec<String>,
}

/// What came of a plan.
struct Measured {
    plan: Plan,
    runs: Vec<Run>,
}

impl Measured {
    /// Those that count; all when the machine was never steady.
    fn counting(&self) -> impl Iterator<Item = &Run> {
        let any = self.runs.iter().any(Run::counts);
        self.runs.iter().filter(move |run| run.counts() || !any)
    }

    /// The mean: the least of more runs would be lower for that alone.
    fn mean_s(&self) -> f64 {
        self.counting().map(|run| run.measured_s).sum::<f64>() / self.counting().count() as f64
    }

    fn fastest_s(&self) -> f64 {
        self.counting().map(|run| run.measured_s).fold(f64::INFINITY, f64::min)
    }

    fn slowest_s(&self) -> f64 {
        self.counting().map(|run| run.measured_s).fold(0.0, f64::max)
    }
}

/// Plans, trains and prints a Markdown table of the run files whose name contains the second argument.
pub fn measure() -> anyhow::Result<()> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/millstream");
    ensure!(program.is_file(), "build first: cargo build --release");
    let wanted = std::env::args().nth(2).unwrap_or_default();
    let folder = std::env::temp_dir().join(format!("millstream-plans-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let chosen: Vec<&RunFile> = RUN_FILES.iter().filter(|file| file.name.contains(&wanted)).collect();
    let begin = Instant::now();
    show(
        "| run file | plan | ranked, ms | predicted / measured ms, void ones in brackets | MB predicted / measured by rank |",
    );
    show("| --- | --- | --- | --- | --- |");
    let mut verdicts = Vec::new();
    for (i, file) in chosen.iter().enumerate() {
        // What is left is shared by those that are left.
        let until = Instant::now() + (BUDGET.saturating_sub(begin.elapsed())) / (chosen.len() - i) as u32;
        verdicts.push(one(&program, &folder, file, until)?);
    }
    std::fs::remove_dir_all(&folder)?;
    show("");
    verdicts.iter().for_each(|verdict| show(verdict));
    show(&format!("\nAll of it took {:.0} s.", begin.elapsed().as_secs_f64()));
    Ok(())
}

/// Plans and measures one run file, and says how good the first plan was.
fn one(program: &Path, folder: &Path, file: &RunFile, until: Instant) -> anyhow::Result<String> {
    let begin = Instant::now();
    let mut measured: Vec<Measured> = Vec::new();
    for plan in plans(program, folder, file)? {
        // The first and one to compare it with in any case.
        if measured.len() > 1 && Instant::now() > until {
            break;
        }
        measured.push(Measured { runs: vec![run(program, &strs(&plan.sets))?], plan });
    }
    // Again what is void, then once more what may be the best, while there is time for another run of this length.
    let one_run = begin.elapsed() / (measured.len() as u32 + 2);
    while Instant::now() + one_run < until {
        let open = measured
            .iter_mut()
            .filter(|of| of.runs.len() < TRIES_MAX && of.runs.iter().filter(|r| r.counts()).count() < 2);
        let Some(next) = open.min_by_key(|of| of.runs.len()) else { break };
        next.runs.push(run(program, &strs(&next.plan.sets))?);
    }
    for Measured { plan, runs } in &measured {
        let cells = runs.iter().map(|run| {
            let cell = format!("{:.0} / {:.0}", 1e3 * run.predicted_s, 1e3 * run.measured_s);
            if run.counts() { cell } else { format!("[{cell}]") }
        });
        let Plan { ranks, schedule, recompute, microbatches, step_s, .. } = plan;
        show(&format!(
            "| {} | {ranks} x {schedule}, {microbatches} microbatches, recompute {recompute} | {:.0} | {} | {} |",
            file.name,
            1e3 * step_s,
            cells.collect::<Vec<String>>().join(", "),
            runs.last().map_or("", |run| run.memory.as_str())
        ));
    }
    let first = &measured[0];
    let best = measured.iter().map(Measured::mean_s).fold(f64::INFINITY, f64::min);
    let slower = first.mean_s() / best - 1.0;
    // Tied within the spread: some run of the best plan was as slow as some run of the first.
    let is_tied = measured.iter().any(|other| other.mean_s() <= best && other.slowest_s() >= first.fastest_s());
    let verdict = match (slower <= SLOWER, is_tied) {
        (true, _) => "holds",
        (false, true) => "tied within the spread",
        (false, false) => "fails",
    };
    let void = if measured.iter().any(|of| !of.runs.iter().any(Run::counts)) {
        "; some plans have void runs only"
    } else {
        ""
    };
    Ok(format!(
        "- {}: the plan ranked first is {:.1} % above the best measured, by the means: {verdict}{void}.",
        file.name,
        100.0 * slower
    ))
}

fn strs(sets: &[String]) -> Vec<&str> {
    sets.iter().map(String::as_str).collect()
}

/// The plans to measure, the one ranked first before the others.
fn plans(program: &Path, folder: &Path, file: &RunFile) -> anyhow::Result<Vec<Plan>> {
    let place = |name: &str| folder.join(name);
    let shape = [format!("data.sequence_length={}", file.tokens), format!("batch.rows={}", file.rows)];
    let mut of_file: Vec<String> = file.sets.iter().map(|set| (*set).to_owned()).chain(shape).collect();
    if file.tokens > 128 {
        of_file.push(format!("model.max_position_embeddings={}", file.tokens));
    }
    let machine = place("machine.toml");
    if !machine.is_file() {
        call(program, &["doctor", "--machine", text(&machine)?])?;
    }
    // A short run, for the model's own configuration and what its passes take.
    let calibrating = place("run");
    let microbatches = format!("batch.microbatches={}", file.rows.min(2));
    let mut arguments = vec!["train", "--out", text(&calibrating)?];
    let short =
        ["steps=6", "optimizer.warmup_steps=2", "sample.tokens=0", "checkpoint.every=end", "validation.every=end"];
    for set in short.into_iter().chain(strs(&of_file)).chain([microbatches.as_str()]) {
        arguments.extend(["--set", set]);
    }
    call(program, &arguments)?;
    let (config, timeline) = (calibrating.join("model/config.json"), calibrating.join("timeline.json"));
    let (rows, tokens) = (file.rows.to_string(), file.tokens.to_string());
    let fitted = place("fitted.toml");
    let asked = ["plan", "--model", text(&config)?, "--batch", &rows, "--sequence", &tokens, "--trainer", "millstream"];
    let call_plan = |more: &[&str]| call(program, &asked.iter().chain(more).copied().collect::<Vec<&str>>());
    call_plan(&["--machine", text(&machine)?, "--calibrate", text(&timeline)?, "--machine-out", text(&fitted)?])?;
    let json: Value = serde_json::from_str(&call_plan(&["--machine", text(&fitted)?, "--json", "--best", "1000"])?)?;
    std::fs::remove_dir_all(&calibrating)?;
    let all = json["plans"].as_array().context("the planner lists plans")?;
    let all = all.iter().map(|plan| Plan::read(plan, &of_file)).collect::<anyhow::Result<Vec<Plan>>>()?;
    let first = all.first().cloned().context("there is a plan")?;
    let differs: [&dyn Fn(&Plan) -> bool; 3] =
        [&|plan| plan.schedule != first.schedule && plan.ranks > 1, &|plan| plan.ranks != first.ranks, &|plan| {
            plan.recompute != first.recompute
        }];
    let mut chosen = vec![first.clone()];
    for differs in differs {
        let is_new = |plan: &&Plan| differs(plan) && !chosen.iter().any(|other| other.sets == plan.sets);
        chosen.extend(all.iter().find(is_new).cloned());
    }
    Ok(chosen)
}

impl Plan {
    fn read(plan: &Value, of_file: &[String]) -> anyhow::Result<Self> {
        let whole = |key: &str| plan[key].as_u64().map(|n| n as usize).with_context(|| format!("plans have {key}"));
        let word = |key: &str| plan[key].as_str().map(str::to_owned).with_context(|| format!("plans have {key}"));
        let (ranks, microbatches) = (whole("ranks")?, whole("microbatches")?);
        let (schedule, recompute, backward) = (word("schedule")?, word("recompute")?, word("backward")?);
        let cut: Vec<u64> = plan["cut"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let mut sets = of_file.to_vec();
        sets.extend([
            format!("batch.microbatches={microbatches}"),
            format!("pipeline.stages={}", cut.len()),
            format!("pipeline.cut={cut:?}"),
            format!("pipeline.schedule={schedule}"),
            format!("pipeline.backward={backward}"),
            format!("pipeline.recompute={recompute}"),
        ]);
        let step_s = plan["step_s"].as_f64().context("plans have step_s")?;
        Ok(Self { ranks, schedule, recompute, microbatches, step_s, sets })
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}

/// What a command prints.
fn call(program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
