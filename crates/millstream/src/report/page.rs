//! The page: everything that a run's files say, for a person.

use super::bars::Bar;
use super::files::RunFiles;
use super::{ByCategory, Machine, ModelSummary, SpeedSummary, Status, StepSummary, Summary, Timelines, charts};
use crate::units;
use minijinja::{Environment, Value};
use serde::Serialize;
use simulate::{Bubble, Category, Costs, Timeline, bubbles, svg_until};

/// What the template is filled with.
#[derive(Serialize)]
struct Page {
    title: String,
    status: &'static str,
    failure: Option<String>,
    notes: Vec<String>,
    facts: Vec<Fact>,
    yardsticks: Option<YardstickPart>,
    loss: Option<String>,
    has_validations: bool,
    has_unigram: bool,
    curves: Vec<SmallCurve>,
    gantts: Vec<String>,
    step: Vec<Row>,
    time: Option<StackedPart>,
    memory: Option<StackedPart>,
    sample: Option<super::Sample>,
    stages: Vec<[String; 4]>,
    machine: Vec<(&'static str, String)>,
    run_file: String,
}

/// One number of the headline.
#[derive(Serialize)]
struct Fact {
    value: String,
    name: &'static str,
    note: String,
}

#[derive(Serialize)]
struct YardstickPart {
    verdict: String,
    text_size: String,
    bars: Vec<Bar>,
}

#[derive(Serialize)]
struct SmallCurve {
    name: &'static str,
    unit: &'static str,
    svg: String,
}

/// A quantity predicted and measured.
#[derive(Serialize)]
struct Row {
    name: String,
    predicted: String,
    measured: String,
    /// Of the measurement from the prediction.
    difference: String,
}

/// Stacked bars, with the same numbers as a table.
#[derive(Serialize)]
struct StackedPart {
    /// (class, name) of each part that occurs.
    legend: Vec<(String, &'static str)>,
    bars: Vec<Bar>,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<String>)>,
}

/// A timeline or a step's numbers, with the word for where they come from.
type Origin<T> = (&'static str, T);

/// The page of a run.
///
/// # Errors
/// A timeline names what there is not.
pub fn page(files: &RunFiles) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    // The name's ending turns on escaping.
    environment.add_template("report.html", include_str!("report.html.j2"))?;
    Ok(environment.get_template("report.html")?.render(value(serde_json::to_value(Page::new(files)?)?))?)
}

/// JSON as the template language has it.
fn value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(truth) => truth.into(),
        serde_json::Value::Number(number) => number.as_f64().into(),
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(items) => items.into_iter().map(value).collect(),
        serde_json::Value::Object(fields) => {
            Value::from_pairs(fields.into_iter().map(|(key, item)| (key, value(item))))
        }
    }
}

impl Page {
    fn new(files: &RunFiles) -> anyhow::Result<Self> {
        let RunFiles { run_file, metrics, timelines, summary } = files;
        let absent = Summary::default();
        let known = summary.as_ref().unwrap_or(&absent);
        let mut timeline_of: Vec<Origin<Timeline>> = Vec::new();
        if let Some(timelines) = timelines {
            for (origin, file) in [("predicted", &timelines.predicted), ("measured", &timelines.measured)] {
                if let Some(file) = file {
                    timeline_of.push((origin, Timeline::try_from(file)?));
                }
            }
        }
        let find = |wanted| timeline_of.iter().find(|(origin, _)| *origin == wanted).map(|(_, timeline)| timeline);
        let of_timeline = |wanted| find(wanted).map(StepSummary::of);
        let predicted = known.predicted.clone().or_else(|| of_timeline("predicted"));
        let measured = known.measured.clone().or_else(|| of_timeline("measured"));
        let unigram_nats = known.yardsticks.map(|yardsticks| yardsticks.unigram_nats_per_token);

        let mut notes = Vec::new();
        if metrics.n_unreadable > 0 {
            let n = metrics.n_unreadable;
            notes.push(format!("{n} line{} of metrics.jsonl could not be read.", if n == 1 { "" } else { "s" }));
        }
        if summary.is_none() {
            notes.push("There is no summary.json: the run is still going on, or it was killed.".to_owned());
        }
        let (status, failure) = match summary.as_ref().map(|summary| &summary.status) {
            None => ("not finished", None),
            Some(Status::Finished) => ("finished", None),
            Some(Status::Interrupted) => ("interrupted", None),
            Some(Status::Failed(message)) => ("failed", Some(message.clone())),
        };
        Ok(Self {
            title: known.model.as_ref().map_or("Training run".to_owned(), headline),
            status,
            failure,
            notes,
            facts: facts(files, known, measured.as_ref()),
            yardsticks: yardsticks(known),
            loss: charts::loss(&metrics.steps, &metrics.validations, unigram_nats),
            has_validations: !metrics.validations.is_empty(),
            has_unigram: unigram_nats.is_some(),
            curves: curves(files),
            gantts: gantts(&timeline_of),
            step: step(predicted.as_ref(), measured.as_ref()),
            time: time(&timeline_of, &timelines.as_ref().map_or_else(Costs::default, Timelines::costs)),
            memory: memory(&[("predicted", predicted.as_ref()), ("measured", measured.as_ref())]),
            sample: known.sample.clone(),
            stages: known.stages.iter().map(stage).collect(),
            machine: machine(known),
            run_file: run_file.clone(),
        })
    }
}

fn headline(model: &ModelSummary) -> String {
    format!("{} with {} parameters", model.family, units::count(model.parameters))
}

fn stage(stage: &super::StageSummary) -> [String; 4] {
    let parameters = units::count(stage.parameters);
    [stage.stage.to_string(), stage.rank.to_string(), stage.blocks.clone(), parameters]
}

fn facts(files: &RunFiles, summary: &Summary, measured: Option<&StepSummary>) -> Vec<Fact> {
    let metrics = &files.metrics;
    let mut facts = Vec::new();
    let mut add = |value: String, name, note: String| facts.push(Fact { value, name, note });
    let validated = metrics.validations.last().map(|last| (last.loss, last.perplexity));
    let validated =
        summary.validation.as_ref().map(|validation| (validation.loss, validation.perplexity)).or(validated);
    if let Some((loss, perplexity)) = validated {
        add(format!("{loss:.3}"), "validation loss", format!("nats per token, perplexity {perplexity:.1}"));
    }
    if let Some(loss) = summary.train_loss.or_else(|| metrics.steps.last().map(|step| step.loss)) {
        let of = if summary.train_loss.is_some() { "mean of the last steps" } else { "of the last step" };
        add(format!("{loss:.3}"), "training loss", format!("nats per token, {of}"));
    }
    let n_steps = summary.steps.max(metrics.steps.last().map_or(0, |step| step.step));
    if n_steps > 0 {
        let note = match (summary.rows, summary.model.as_ref()) {
            (Some(rows), Some(model)) => format!("of {rows} rows of {} tokens", model.sequence_length),
            _ => String::new(),
        };
        add(n_steps.to_string(), if n_steps == 1 { "step" } else { "steps" }, note);
    }
    if let Some(speed) = median(metrics.steps.iter().map(|step| step.tokens_per_s)) {
        let share = median(metrics.steps.iter().filter_map(|step| step.peak_share));
        let note = share.map(|share| format!("{} of the machine's matrix-product peak", units::percent(share)));
        add(format!("{speed:.0}"), "tokens per second", note.unwrap_or_default());
    }
    if let Some(measured) = measured {
        let note = format!("idle for {} of it", units::percent(measured.bubble));
        add(units::seconds(measured.step_s), "per step", note);
    }
    if let Some(wall_s) = summary.wall_s {
        add(units::seconds(wall_s), "in all", String::new());
    }
    facts
}

fn median(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.filter(|number| number.is_finite()).collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}

fn yardsticks(summary: &Summary) -> Option<YardstickPart> {
    let (model, yardsticks) = (summary.validation.as_ref()?.bits_per_byte, summary.yardsticks?);
    if !model.is_finite() {
        return None;
    }
    let (unigram, xz) = (yardsticks.unigram_bits_per_byte, yardsticks.xz_bits_per_byte);
    let against = |other: f64| {
        let percent = 100.0 * (1.0 - model / other);
        format!("{:.0} % {}", percent.abs(), if percent >= 0.0 { "less than" } else { "more than" })
    };
    let verdict = format!(
        "The model needs {model:.2} bits for a byte of text it has not seen: {} token frequencies alone, {} xz\u{a0}-9.",
        against(unigram),
        against(xz)
    );
    let longest = unigram.max(xz).max(model);
    let bars = [("token frequencies", unigram, "o"), ("xz -9", xz, "o"), ("this model", model, "first")];
    let bar = |(name, bits, class): (&str, f64, &str)| {
        let part = (class.to_owned(), bits, format!("{bits:.3} bits per byte"));
        Bar::new(name.to_owned(), format!("{bits:.2}"), longest, [part])
    };
    Some(YardstickPart { verdict, text_size: units::bytes(yardsticks.text_bytes), bars: bars.map(bar).into() })
}

fn curves(files: &RunFiles) -> Vec<SmallCurve> {
    let steps = &files.metrics.steps;
    let curve = |name, unit, value: fn(&train::StepMetrics) -> f64| {
        charts::small(steps, name, value).map(|svg| SmallCurve { name, unit, svg })
    };
    let curves = [
        curve("Learning rate", "", |step| step.learning_rate),
        curve("Gradient norm", "before clipping", |step| step.gradient_norm),
        curve("Throughput", "tokens per second", |step| step.tokens_per_s),
    ];
    curves.into_iter().flatten().collect()
}

fn gantts(timelines: &[Origin<Timeline>]) -> Vec<String> {
    let until_s = timelines.iter().map(|(_, timeline)| timeline.makespan_s()).fold(0.0, f64::max);
    let title = |origin: &str, timeline: &Timeline| {
        let mut title = format!("{origin}: {}", units::seconds(timeline.makespan_s()));
        title[..1].make_ascii_uppercase();
        title
    };
    timelines.iter().map(|(origin, timeline)| svg_until(timeline, &title(origin, timeline), until_s)).collect()
}

fn step(predicted: Option<&StepSummary>, measured: Option<&StepSummary>) -> Vec<Row> {
    let row = |name: &str, value: fn(&StepSummary) -> f64, text: fn(f64) -> String, points: bool| {
        let (predicted, measured) = (predicted.map(value), measured.map(value));
        let difference = match (predicted, measured) {
            (Some(predicted), Some(measured)) if points => format!("{:+.1} points", 100.0 * (measured - predicted)),
            (Some(predicted), Some(measured)) if predicted > 0.0 => {
                format!("{:+.1} %", 100.0 * (measured / predicted - 1.0))
            }
            _ => String::new(),
        };
        let shown = |value: Option<f64>| value.map_or("–".to_owned(), text);
        Row { name: name.to_owned(), predicted: shown(predicted), measured: shown(measured), difference }
    };
    if predicted.is_none() && measured.is_none() {
        return Vec::new();
    }
    let most = |step: &StepSummary| step.most_bytes.iter().sum::<u64>() as f64;
    let mut rows = vec![
        row("Time", |step| step.step_s, units::seconds, false),
        row("Idle share of the ranks", |step| step.bubble, units::percent, true),
    ];
    if [predicted, measured].into_iter().flatten().any(|step| !step.most_bytes.is_empty()) {
        rows.push(row("Most memory at once, all ranks", most, |bytes| units::bytes(bytes as u64), false));
    }
    rows
}

type Cause = (&'static str, &'static str, fn(&Bubble) -> f64);

/// Class, name and value of what a rank spends its time on.
const CAUSES: [Cause; 8] = [
    ("t0", "computing", |bubble| bubble.compute_s),
    ("t1", "warm-up", |bubble| bubble.warm_up_s),
    ("t2", "drain", |bubble| bubble.drain_s),
    ("t3", "not produced yet", |bubble| bubble.dependency_s),
    ("t7", "no room to go ahead", |bubble| bubble.memory_s),
    ("t4", "message on its way", |bubble| bubble.communication_s),
    ("t5", "waiting for a core", |bubble| bubble.permit_s),
    ("t6", "other", |bubble| bubble.other_s),
];

fn time(timelines: &[Origin<Timeline>], costs: &Costs) -> Option<StackedPart> {
    let longest = timelines.iter().map(|(_, timeline)| timeline.makespan_s()).fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let (mut bars, mut rows) = (Vec::new(), Vec::new());
    let spent = timelines.iter().map(|(origin, timeline)| (*origin, bubbles(timeline, costs)));
    for_each_rank(spent, |name, bubble| {
        let parts = CAUSES.map(|(class, cause, value)| {
            let title = format!("{cause}: {}", units::seconds(value(bubble)));
            (class.to_owned(), value(bubble), title)
        });
        let all_s = bubble.compute_s + bubble.idle_s();
        let idle = if all_s > 0.0 { bubble.idle_s() / all_s } else { 0.0 };
        bars.push(Bar::new(name.clone(), format!("{} idle", units::percent(idle)), longest, parts));
        let times = CAUSES.iter().map(|(.., value)| value(bubble)).chain([bubble.idle_s(), all_s]);
        rows.push((name, times.map(|time_s| milliseconds(time_s, longest)).collect()));
    });
    let columns = CAUSES.iter().map(|(_, name, _)| *name).chain(["all idle", "step"]).collect();
    let legend = CAUSES.iter().map(|(class, name, _)| ((*class).to_owned(), *name)).collect();
    Some(StackedPart { legend, bars, columns, rows })
}

/// A time in milliseconds, with the digits that `longest_s` calls for.
fn milliseconds(time_s: f64, longest_s: f64) -> String {
    // A measured remainder may be a rounding error below 0.
    let digits = (2.0 - (1e3 * longest_s).log10().floor()).clamp(0.0, 4.0) as usize;
    format!("{:.digits$}", (1e3 * time_s).max(0.0))
}

fn memory(steps: &[Origin<Option<&StepSummary>>]) -> Option<StackedPart> {
    let peaks = steps.iter().filter_map(|(origin, step)| Some((*origin, &step.as_ref()?.peak_bytes)));
    let peaks: Vec<Origin<&Vec<ByCategory>>> = peaks.collect();
    let sum = |peak: &ByCategory| peak.bytes().iter().sum::<u64>();
    let longest = peaks.iter().flat_map(|(_, ranks)| ranks.iter().map(sum)).max().filter(|&longest| longest > 0)?;
    let (mut bars, mut rows) = (Vec::new(), Vec::new());
    for_each_rank(peaks.iter().map(|(origin, ranks)| (*origin, (*ranks).clone())), |name, peak| {
        let parts = Category::ALL.iter().zip(peak.bytes()).map(|(category, bytes)| {
            let title = format!("{}: {}", category.name(), units::bytes(bytes));
            (class(*category), bytes as f64, title)
        });
        bars.push(Bar::new(name.clone(), units::bytes(sum(peak)), longest as f64, parts));
        rows.push((name, peak.bytes().into_iter().chain([sum(peak)]).map(units::bytes).collect::<Vec<String>>()));
    });
    let mut columns: Vec<&str> = Category::ALL.iter().map(|category| category.name()).chain(["sum"]).collect();
    let mut at_once = Vec::new();
    for_each_rank(
        steps.iter().filter_map(|(origin, step)| Some((*origin, step.as_ref()?.most_bytes.clone()))),
        |name, &bytes| at_once.push((name, bytes)),
    );
    if at_once.iter().any(|(_, bytes)| *bytes > 0) {
        columns.push("most at once");
        for (name, row) in &mut rows {
            let bytes = at_once.iter().find(|(other, _)| other == name).map(|(_, bytes)| units::bytes(*bytes));
            row.push(bytes.unwrap_or_else(|| "–".to_owned()));
        }
    }
    let legend = Category::ALL.map(|category| (class(category), category.name())).into();
    Some(StackedPart { legend, bars, columns, rows })
}

fn class(category: Category) -> String {
    format!("m{}", category as usize)
}

/// Calls `show` with a name and the value of each rank, predicted and measured of one rank side by side.
fn for_each_rank<T>(origins: impl Iterator<Item = Origin<Vec<T>>>, mut show: impl FnMut(String, &T)) {
    let origins: Vec<Origin<Vec<T>>> = origins.collect();
    let n_ranks = origins.iter().map(|(_, ranks)| ranks.len()).max().unwrap_or(0);
    for rank in 0..n_ranks {
        for (origin, ranks) in &origins {
            if let Some(value) = ranks.get(rank) {
                show(format!("rank {rank} {origin}"), value);
            }
        }
    }
}

fn machine(summary: &Summary) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(Machine { system, cpu, physical_cores, logical_cores, available_cores, memory_bytes }) =
        &summary.machine
    {
        let physical = physical_cores.map(|cores| format!("{cores} physical, ")).unwrap_or_default();
        rows.push(("Processor", cpu.clone()));
        rows.push(("Cores", format!("{physical}{logical_cores} logical, {available_cores} available to the program")));
        rows.push(("Memory", units::bytes(*memory_bytes)));
        rows.push(("System", system.clone()));
    }
    if let Some(gflops) = summary.matmul_gflops {
        rows.push(("Matrix products, f32", format!("{gflops:.0} GFLOP/s at most")));
    }
    if let Some(SpeedSummary { before_gflops, after_gflops, .. }) = summary.speed {
        rows.push(("Their speed before and after", format!("{before_gflops:.0} and {after_gflops:.0} GFLOP/s")));
    }
    if let Some(cores) = summary.cores {
        rows.push(("Cores used", cores.to_string()));
    }
    if !summary.devices.is_empty() {
        rows.push(("Devices, by rank", summary.devices.join(", ")));
    }
    if let Some(schedule) = &summary.schedule {
        let microbatches = summary.microbatches.map(|n| format!(", {n} microbatches a step")).unwrap_or_default();
        rows.push(("Schedule", format!("{schedule}{microbatches}")));
    }
    if let Some(model) = &summary.model {
        let ModelSummary { blocks, vocabulary, sequence_length, .. } = model;
        let text = format!("{blocks} blocks, vocabulary of {vocabulary}, rows of {sequence_length} tokens");
        rows.push(("Model", text));
    }
    if !summary.version.is_empty() {
        rows.push(("millstream", summary.version.clone()));
    }
    rows
}
