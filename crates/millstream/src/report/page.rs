//! The page of a run: everything that its files say, for a person.

use super::chart::{Chart, Drawing};
use super::curves::{Group, Legend, loss, small};
use super::facts::{Fact, YardstickPart, facts, machine, yardsticks};
use super::files::RunFiles;
use super::heat::BlocksPart;
use super::memory::{MemoryChart, over_time};
use super::series::evenly;
use super::settings::MarkedFile;
use super::step::{Origin, Row, StackedPart, gantts, peaks, step, time};
use super::{ModelSummary, Status, StepSummary, Summary, Timelines};
use crate::units;
use serde::Serialize;
use simulate::{Costs, Timeline};

/// Samples that the page shows at most.
const SAMPLES_MAX: usize = 12;

/// What the template is filled with.
#[derive(Serialize)]
pub struct Page {
    title: String,
    status: &'static str,
    failure: Option<String>,
    notes: Vec<String>,
    facts: Vec<Fact>,
    yardsticks: Option<YardstickPart>,
    loss: Option<Group>,
    curves: Vec<Small>,
    gantts: Vec<String>,
    has_too_many_actions: bool,
    step: Vec<Row>,
    time: Option<StackedPart>,
    memory_over_time: Option<MemoryPart>,
    memory: Option<StackedPart>,
    blocks: Option<BlocksPart>,
    samples: Vec<SamplePart>,
    stages: Vec<[String; 4]>,
    machine: Vec<(&'static str, String)>,
    run_file: MarkedFile,
}

/// A curve among others.
#[derive(Serialize)]
struct Small {
    name: &'static str,
    unit: &'static str,
    chart: Drawing,
}

/// Memory over time, rank by rank.
#[derive(Serialize)]
struct MemoryPart {
    legend: Vec<Legend>,
    charts: Vec<MemoryChart>,
    /// Ranks that are not shown.
    n_more: usize,
}

/// A text of the model.
#[derive(Serialize)]
struct SamplePart {
    when: String,
    prompt: String,
    text: String,
}

impl Page {
    /// What a run's files say.
    ///
    /// # Errors
    /// A timeline names what there is not.
    pub fn new(files: &RunFiles) -> anyhow::Result<Self> {
        let RunFiles { run_file, metrics, timelines, summary } = files;
        let absent = Summary::default();
        let known = summary.as_ref().unwrap_or(&absent);
        let timeline_of = timelines_of(timelines.as_ref())?;
        let find = |wanted| timeline_of.iter().find(|(origin, _)| *origin == wanted).map(|(_, timeline)| timeline);
        let of_timeline = |wanted| find(wanted).map(StepSummary::of);
        let predicted = known.predicted.clone().or_else(|| of_timeline("predicted"));
        let measured = known.measured.clone().or_else(|| of_timeline("measured"));
        let (status, failure) = status(summary.as_ref());
        let gantts = gantts(&timeline_of);
        let unigram_nats = known.yardsticks.map(|yardsticks| yardsticks.unigram_nats_per_token);
        let (memory_charts, memory_legend, n_more) = over_time(&timeline_of, &known.stages);
        let small =
            |(name, unit, chart): (&'static str, &'static str, Chart)| Some(Small { name, unit, chart: chart.draw()? });
        Ok(Self {
            title: known.model.as_ref().map_or("Training run".to_owned(), headline),
            status,
            failure,
            notes: notes(files),
            facts: facts(files, known, measured.as_ref()),
            yardsticks: yardsticks(known),
            loss: loss(metrics, unigram_nats),
            curves: small_curves(files).into_iter().filter_map(small).collect(),
            has_too_many_actions: gantts.is_empty() && !timeline_of.is_empty(),
            gantts,
            step: step(predicted.as_ref(), measured.as_ref()),
            time: time(&timeline_of, &timelines.as_ref().map_or_else(Costs::default, Timelines::costs)),
            memory_over_time: (!memory_charts.is_empty()).then_some(MemoryPart {
                legend: memory_legend,
                charts: memory_charts,
                n_more,
            }),
            memory: peaks(&[("predicted", predicted.as_ref()), ("measured", measured.as_ref())]),
            blocks: BlocksPart::new(&metrics.blocks),
            samples: samples(files, known),
            stages: known.stages.iter().map(stage).collect(),
            machine: machine(known),
            run_file: MarkedFile::new(run_file, known.preset.as_deref()),
        })
    }
}

/// The timelines there are, predicted first.
fn timelines_of(timelines: Option<&Timelines>) -> anyhow::Result<Vec<Origin<Timeline>>> {
    let files = timelines
        .into_iter()
        .flat_map(|timelines| [("predicted", timelines.predicted.as_ref()), ("measured", timelines.measured.as_ref())]);
    files
        .filter_map(|(origin, file)| Some((origin, file?)))
        .map(|(o, file)| Ok((o, Timeline::try_from(file)?)))
        .collect()
}

/// The word for how the run ended, and why it failed.
pub fn status(summary: Option<&Summary>) -> (&'static str, Option<String>) {
    match summary.map(|summary| &summary.status) {
        None | Some(Status::Running) => ("not finished", None),
        Some(Status::Finished) => ("finished", None),
        Some(Status::Interrupted) => ("interrupted", None),
        Some(Status::Failed(message)) => ("failed", Some(message.clone())),
    }
}

fn notes(files: &RunFiles) -> Vec<String> {
    let (metrics, mut notes) = (&files.metrics, Vec::new());
    let steps = |n: usize| format!("{n} {}", if n == 1 { "step" } else { "steps" });
    match files.summary.as_ref().map(|summary| &summary.status) {
        None | Some(Status::Running) => notes.push("The run is still going on, or it was killed.".to_owned()),
        Some(Status::Interrupted) => {
            notes.push("The run was stopped and has saved its state: millstream train --resume goes on.".to_owned());
        }
        Some(Status::Finished | Status::Failed(_)) => {}
    }
    if metrics.n_unreadable > 0 {
        let n = metrics.n_unreadable;
        notes.push(format!("{n} line{} of metrics.jsonl could not be read.", if n == 1 { "" } else { "s" }));
    }
    let n_wild = metrics.steps.iter().filter(|step| !step.loss.is_finite()).count();
    if n_wild > 0 {
        notes.push(format!("The loss of {} is not a finite number; the curves leave it out.", steps(n_wild)));
    }
    let n_skipped = metrics.steps.iter().filter(|step| !step.gradient_norm.is_finite()).count();
    if n_skipped > 0 {
        notes.push(format!("{} updated nothing: the gradient norm is not a finite number.", steps(n_skipped)));
    }
    notes
}

fn small_curves(files: &RunFiles) -> Vec<(&'static str, &'static str, Chart)> {
    use super::chart::Look::{Line, Noisy};
    use super::chart::Quantity::{Number, Seconds, Share};
    let curve = |name: &'static str, unit, look, quantity, value| {
        (name, unit, small(&files.metrics.steps, name, look, quantity, value))
    };
    vec![
        curve("Learning rate", "", Line, Number, |step| step.learning_rate),
        curve("Gradient norm", "before clipping", Noisy, Number, |step| step.gradient_norm),
        curve("Throughput", "tokens per second", Noisy, Number, |step| step.tokens_per_s),
        curve("Step time", "", Noisy, Seconds, |step| step.step_s),
        curve("Idle share of the ranks", "", Noisy, Share, |step| step.bubble),
        curve("Share of peak", "matrix products", Noisy, Share, |step| step.peak_share.unwrap_or(f64::NAN)),
    ]
}

fn headline(model: &ModelSummary) -> String {
    format!("{} with {} parameters", model.family, units::count(model.parameters))
}

fn stage(stage: &super::StageSummary) -> [String; 4] {
    let parameters = units::count(stage.parameters);
    [stage.stage.to_string(), stage.rank.to_string(), stage.blocks.clone(), parameters]
}

/// Those written on the way and the one at the end.
fn samples(files: &RunFiles, summary: &Summary) -> Vec<SamplePart> {
    let on_the_way = evenly(&files.metrics.samples, SAMPLES_MAX - 1).into_iter().map(|sample| SamplePart {
        when: format!("after step {}", sample.step),
        prompt: sample.prompt.clone(),
        text: sample.text.clone(),
    });
    let last = summary.sample.iter().map(|sample| SamplePart {
        when: "at the end".to_owned(),
        prompt: sample.prompt.clone(),
        text: sample.text.clone(),
    });
    on_the_way.chain(last).collect()
}
