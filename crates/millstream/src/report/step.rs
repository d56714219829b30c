//! One step: its numbers predicted and measured, where its time went, and what it held at most.

use super::bars::Bar;
use super::{ByCategory, StepSummary};
use crate::units;
use serde::Serialize;
use simulate::{Bubble, Category, Costs, Timeline, bubbles, svg_until};

/// A timeline or a step's numbers, with the word for where they come from.
pub type Origin<T> = (&'static str, T);

/// Bars that a picture of a step has at most; a step with more is for Perfetto.
const SPANS_MAX: usize = 12_000;

/// A quantity predicted and measured.
#[derive(Serialize)]
pub struct Row {
    name: String,
    predicted: String,
    measured: String,
    /// Of the measurement from the prediction.
    difference: String,
}

/// Stacked bars, with the same numbers as a table.
#[derive(Serialize)]
pub struct StackedPart {
    /// (class, name) of each part that occurs.
    legend: Vec<(String, &'static str)>,
    bars: Vec<Bar>,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<String>)>,
}

/// The pictures, one above the other on a common time axis; none where there are more actions than a page can show.
pub fn gantts(timelines: &[Origin<Timeline>]) -> Vec<String> {
    if timelines.iter().map(|(_, timeline)| timeline.spans.len()).sum::<usize>() > SPANS_MAX {
        return Vec::new();
    }
    let until_s = timelines.iter().map(|(_, timeline)| timeline.makespan_s()).fold(0.0, f64::max);
    let title = |origin: &str, timeline: &Timeline| {
        let mut title = format!("{origin}: {}", units::seconds(timeline.makespan_s()));
        title[..1].make_ascii_uppercase();
        title
    };
    timelines.iter().map(|(origin, timeline)| svg_until(timeline, &title(origin, timeline), until_s)).collect()
}

/// Time, bubble and memory of a step.
pub fn step(predicted: Option<&StepSummary>, measured: Option<&StepSummary>) -> Vec<Row> {
    let row = |name: &str, value: fn(&StepSummary) -> f64, text: fn(f64) -> String, points: bool| {
        let (predicted, measured) = (predicted.map(value), measured.map(value));
        let difference = match (predicted, measured) {
            (Some(predicted), Some(measured)) if points => {
                format!("{:+.1} points", tenth(100.0 * (measured - predicted)))
            }
            (Some(predicted), Some(measured)) if predicted > 0.0 => {
                format!("{:+.1} %", tenth(100.0 * (measured / predicted - 1.0)))
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

/// Every rank's time by what it was spent on.
pub fn time(timelines: &[Origin<Timeline>], costs: &Costs) -> Option<StackedPart> {
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

/// The most that each rank held, by category.
pub fn peaks(steps: &[Origin<Option<&StepSummary>>]) -> Option<StackedPart> {
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

/// Class of a category's colour.
pub fn class(category: Category) -> String {
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

/// Rounded to a tenth, where a hair under nothing is nothing and not "-0.0".
fn tenth(value: f64) -> f64 {
    (10.0 * value).round() / 10.0 + 0.0
}
