//! Several runs side by side.

use super::axis::Axis;
use super::chart::{BUCKETS_MAX, Chart, Curve, Look, Quantity};
use super::curves::{COLOURS, Group, Legend, ends, steps_axis};
use super::files::RunFiles;
use super::page::status;
use super::series::thinned;
use super::settings::differing;
use super::{StepSummary, Summary};
use crate::speed::median;
use crate::units;
use serde::Serialize;

/// A run with the name it is called by.
pub struct NamedRun {
    /// As the user gave it.
    pub name: String,
    /// Its files.
    pub files: RunFiles,
}

/// What the template is filled with.
#[derive(Serialize)]
pub struct Comparison {
    runs: Vec<RunHead>,
    losses: Vec<Overlay>,
    curves: Vec<Overlay>,
    rows: Vec<NumberRow>,
    settings: Vec<(String, Vec<String>)>,
}

/// A run in the legend.
#[derive(Serialize)]
struct RunHead {
    name: String,
    class: String,
    status: &'static str,
    failure: Option<String>,
}

/// Curves of all runs in one picture.
#[derive(Serialize)]
struct Overlay {
    name: &'static str,
    unit: &'static str,
    group: Group,
}

/// A number of every run.
#[derive(Serialize)]
struct NumberRow {
    name: &'static str,
    /// Text, and whether it is the best of the row.
    cells: Vec<(String, bool)>,
}

/// Which of several numbers is the best.
#[derive(Clone, Copy)]
enum Best {
    Lowest,
    Highest,
    /// It depends.
    None,
}

/// What a row shows: its name, which of it is best, how it is written, and where it comes from.
type Number = (&'static str, Best, fn(f64) -> String, fn(&NamedRun) -> Option<f64>);

const ROWS: [Number; 11] = [
    ("Steps", Best::None, |n| format!("{n:.0}"), |run| run.files.metrics.steps.last().map(|step| step.step as f64)),
    (
        "Parameters",
        Best::None,
        |n| units::count(n as u64),
        |run| Some(run.summary()?.model.as_ref()?.parameters as f64),
    ),
    ("Training loss, nats per token", Best::Lowest, three, |run| {
        let last = || run.files.metrics.steps.last().map(|step| step.loss);
        run.summary().and_then(|summary| summary.train_loss).or_else(last)
    }),
    ("Validation loss, nats per token", Best::Lowest, three, |run| {
        run.files.metrics.validations.last().map(|validation| validation.loss)
    }),
    ("Bits per byte", Best::Lowest, three, |run| {
        run.files.metrics.validations.last().map(|validation| validation.bits_per_byte)
    }),
    (
        "Tokens per second",
        Best::Highest,
        |n| format!("{n:.0}"),
        |run| median(run.files.metrics.steps.iter().map(|step| step.tokens_per_s)),
    ),
    ("Step time, measured", Best::Lowest, units::seconds, |run| Some(run.summary()?.measured.as_ref()?.step_s)),
    ("Step time, predicted", Best::None, units::seconds, |run| Some(run.summary()?.predicted.as_ref()?.step_s)),
    ("Idle share of the ranks", Best::Lowest, units::percent, |run| Some(run.summary()?.measured.as_ref()?.bubble)),
    (
        "Most memory at once, all ranks",
        Best::Lowest,
        |n| units::bytes(n as u64),
        |run| {
            let most = |step: &StepSummary| step.most_bytes.iter().sum::<u64>() as f64;
            run.summary()?.measured.as_ref().map(most).filter(|&bytes| bytes > 0.0)
        },
    ),
    ("Time in all", Best::None, units::seconds, |run| run.summary()?.wall_s),
];

fn three(x: f64) -> String {
    format!("{x:.3}")
}

impl NamedRun {
    fn summary(&self) -> Option<&Summary> {
        self.files.summary.as_ref()
    }
}

impl Comparison {
    /// Of these runs, in their order.
    pub fn new(runs: &[NamedRun]) -> Self {
        let heads = runs.iter().enumerate().map(|(i, run)| {
            let (status, failure) = status(run.summary());
            RunHead { name: run.name.clone(), class: class(i), status, failure }
        });
        let files: Vec<&str> = runs.iter().map(|run| run.files.run_file.as_str()).collect();
        Self {
            runs: heads.collect(),
            losses: [
                overlay(runs, "Training loss", "nats per token, smoothed, by step", Over::Steps, Look::Smooth),
                overlay(
                    runs,
                    "Training loss",
                    "nats per token, smoothed, by time spent in steps",
                    Over::Time,
                    Look::Smooth,
                ),
                validations(runs),
            ]
            .into_iter()
            .flatten()
            .collect(),
            curves: [
                small(runs, "Learning rate", "", Look::Line, |step| step.learning_rate),
                small(runs, "Gradient norm", "before clipping", Look::Smooth, |step| step.gradient_norm),
                small(runs, "Throughput", "tokens per second", Look::Smooth, |step| step.tokens_per_s),
            ]
            .into_iter()
            .flatten()
            .collect(),
            rows: ROWS.iter().filter_map(|row| number_row(runs, row)).collect(),
            settings: differing(&files),
        }
    }
}

/// Colour of the i-th run; after the last colour dashes begin.
fn class(i: usize) -> String {
    format!("c{}{}", i % COLOURS, if i < COLOURS { "" } else { " dashed" })
}

/// What the horizontal axis is.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    Steps,
    Time,
}

fn overlay(runs: &[NamedRun], name: &'static str, unit: &'static str, over: Over, look: Look) -> Option<Overlay> {
    let curve = |(i, run): (usize, &NamedRun)| {
        let mut spent_s = 0.0;
        let points = run.files.metrics.steps.iter().map(|step| {
            spent_s += step.step_s;
            (if over == Over::Steps { step.step as f64 } else { spent_s }, step.loss)
        });
        Curve { name: run.name.clone(), class: class(i), look, points: thinned(points, BUCKETS_MAX) }
    };
    let curves: Vec<Curve> = runs.iter().enumerate().map(curve).collect();
    // Means and not extremes: the smoothed lines are all that is shown.
    let means = curves.iter().flat_map(|curve| &curve.points).map(|bucket| bucket.mean);
    let y = Axis::around(means);
    let x_quantity = if over == Over::Steps { Quantity::Steps } else { Quantity::Seconds };
    grouped(name, unit, 300, x_quantity, (y, Quantity::Number), curves)
}

fn validations(runs: &[NamedRun]) -> Option<Overlay> {
    let curve = |(i, run): (usize, &NamedRun)| {
        let points = run.files.metrics.validations.iter().map(|validation| (validation.step as f64, validation.loss));
        let points = thinned(points, BUCKETS_MAX);
        let look = if points.len() > 40 { Look::Line } else { Look::Dots };
        Curve { name: run.name.clone(), class: class(i), look, points }
    };
    let curves: Vec<Curve> = runs.iter().enumerate().map(curve).collect();
    let y = Axis::around(ends(&curves));
    grouped("Validation loss", "nats per token, by step", 300, Quantity::Steps, (y, Quantity::Number), curves)
}

fn small(
    runs: &[NamedRun],
    name: &'static str,
    unit: &'static str,
    look: Look,
    value: fn(&train::StepMetrics) -> f64,
) -> Option<Overlay> {
    let curve = |(i, run): (usize, &NamedRun)| {
        let points = run.files.metrics.steps.iter().map(|step| (step.step as f64, value(step)));
        Curve { name: run.name.clone(), class: class(i), look, points: thinned(points, BUCKETS_MAX / 4) }
    };
    let curves: Vec<Curve> = runs.iter().enumerate().map(curve).collect();
    let y = if look == Look::Line { Axis::from_zero(ends(&curves)) } else { Axis::fitting(ends(&curves)) };
    grouped(name, unit, 150, Quantity::Steps, (y, Quantity::Number), curves)
}

fn grouped(
    name: &'static str,
    unit: &'static str,
    height_px: u32,
    x_quantity: Quantity,
    (y, y_quantity): (Axis, Quantity),
    curves: Vec<Curve>,
) -> Option<Overlay> {
    let legend = curves.iter().map(Legend::of).collect();
    let x = steps_axis(&curves);
    let chart = Chart { what: format!("{name}, {unit}"), height_px, x, x_quantity, y, y_quantity, curves };
    Some(Overlay { name, unit, group: Group { legend, chart: chart.draw()? } })
}

fn number_row(runs: &[NamedRun], &(name, best, text, value): &Number) -> Option<NumberRow> {
    let values: Vec<Option<f64>> = runs.iter().map(value).collect();
    // A run that failed is not the best at anything.
    let counts = |run: &NamedRun| !matches!(status(run.summary()), ("failed", _));
    let counted = || runs.iter().zip(&values).filter(|(run, _)| counts(run)).filter_map(|(_, value)| *value);
    let finite = || counted().filter(|value| value.is_finite());
    let wanted = match best {
        Best::Lowest => finite().reduce(f64::min),
        Best::Highest => finite().reduce(f64::max),
        Best::None => None,
    };
    let differ = finite().any(|value| Some(value) != wanted);
    let cell = |(run, value): (&NamedRun, &Option<f64>)| match value {
        None => ("–".to_owned(), false),
        Some(value) if !value.is_finite() => ("not finite".to_owned(), false),
        Some(value) => (text(*value), differ && counts(run) && Some(*value) == wanted),
    };
    let cells = runs.iter().zip(&values).map(cell).collect();
    values.iter().any(Option::is_some).then_some(NumberRow { name, cells })
}
