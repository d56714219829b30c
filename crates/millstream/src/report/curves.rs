//! The curves of a run over its steps.

use super::Metrics;
use super::axis::Axis;
use super::chart::{BUCKETS_MAX, Chart, Curve, Drawing, Look, Quantity};
use super::series::{Bucket, thinned};
use serde::Serialize;
use std::collections::BTreeSet;
use train::StepMetrics;

/// A chart with its legend.
#[derive(Serialize)]
pub struct Group {
    /// What its curves are.
    pub legend: Vec<Legend>,
    /// The picture.
    pub chart: Drawing,
}

/// An entry of a legend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Legend {
    /// Class of the mark's shape.
    pub mark: &'static str,
    /// Class of its colour.
    pub class: String,
    /// What it stands for.
    pub name: String,
}

impl Legend {
    /// Of a curve.
    pub fn of(curve: &Curve) -> Self {
        let mark = match curve.look {
            Look::Noisy | Look::Smooth | Look::Line => "curve",
            Look::Dashed => "curve dashed",
            Look::Dots => "disc",
            Look::Area => "box",
        };
        Self { mark, class: curve.class.clone(), name: curve.name.clone() }
    }
}

/// Number of colours for curves.
pub const COLOURS: usize = 8;

/// Training loss, the band of every step and smoothed; validation losses, of all text and by source; the entropy of single
/// tokens as a dashed line. `None` when there is nothing to show.
pub fn loss(metrics: &Metrics, unigram_nats: Option<f64>) -> Option<Group> {
    let training = metrics.steps.iter().map(|step| (step.step as f64, step.loss));
    let training = thinned(training, BUCKETS_MAX);
    let validations = metrics.validations.iter().map(|validation| (validation.step as f64, validation.loss));
    let validations = thinned(validations, BUCKETS_MAX);
    let first = training.first().or(validations.first())?.first;
    let last = training.last().or(validations.last())?.last;
    let mut curves = Vec::new();
    if let Some(nats) = unigram_nats {
        let points = thinned([(first, nats), (last, nats)].into_iter(), 2);
        let name = "token frequencies alone".to_owned();
        curves.push(Curve { name, class: "c7".to_owned(), look: Look::Dashed, points });
    }
    curves.push(Curve { name: "training".to_owned(), class: "c0".to_owned(), look: Look::Noisy, points: training });
    curves.extend(by_source(metrics));
    if !validations.is_empty() {
        let (name, class) = ("validation".to_owned(), "c1".to_owned());
        // More discs than these would be a band.
        let look = if validations.len() > 40 { Look::Line } else { Look::Dots };
        curves.push(Curve { name, class, look, points: validations });
    }
    let chart = Chart {
        what: "loss in nats per token over steps".to_owned(),
        height_px: 340,
        x: steps_axis(&curves),
        x_quantity: Quantity::Steps,
        y: Axis::around(ends(&curves)),
        y_quantity: Quantity::Number,
        curves,
    };
    let mut legend: Vec<Legend> =
        chart.curves.iter().filter(|curve| !curve.points.is_empty()).map(Legend::of).collect();
    // Training, validation, its sources, yardstick: as colours are numbered.
    legend.sort_by(|a, b| a.class.cmp(&b.class));
    Some(Group { legend, chart: chart.draw()? })
}

/// A validation curve per source of text, when there are several.
fn by_source(metrics: &Metrics) -> Vec<Curve> {
    let sources = metrics.validations.iter().flat_map(|validation| validation.validation_loss_by_source.keys());
    let sources: BTreeSet<&String> = sources.collect();
    if sources.len() < 2 {
        return Vec::new();
    }
    let curve = |(i, name): (usize, &String)| {
        let points = metrics
            .validations
            .iter()
            .filter_map(|validation| Some((validation.step as f64, *validation.validation_loss_by_source.get(name)?)));
        let (name, class) = (format!("validation, {name}"), format!("c{}", 2 + i % (COLOURS - 3)));
        Curve { name, class, look: Look::Line, points: thinned(points, BUCKETS_MAX) }
    };
    sources.into_iter().enumerate().map(curve).collect()
}

/// Any other value of the steps.
pub fn small(
    steps: &[StepMetrics],
    what: &str,
    look: Look,
    quantity: Quantity,
    value: fn(&StepMetrics) -> f64,
) -> Chart {
    // These are a third of the page wide.
    let points = thinned(steps.iter().map(|step| (step.step as f64, value(step))), BUCKETS_MAX / 4);
    let curves = vec![Curve { name: what.to_lowercase(), class: "c0".to_owned(), look, points }];
    Chart {
        what: format!("{what} over steps"),
        height_px: 150,
        x: steps_axis(&curves),
        x_quantity: Quantity::Steps,
        // What is a line has no outliers that would leave it no room.
        y: if look == Look::Line { Axis::from_zero(ends(&curves)) } else { Axis::fitting(ends(&curves)) },
        y_quantity: quantity,
        curves,
    }
}

/// From the first step of any curve to the last.
pub fn steps_axis(curves: &[Curve]) -> Axis {
    let points = curves.iter().flat_map(|curve| &curve.points);
    Axis::within(points.flat_map(|bucket| [bucket.first, bucket.last]))
}

/// Lowest and highest of every bucket.
pub fn ends(curves: &[Curve]) -> impl Iterator<Item = f64> + Clone {
    curves.iter().flat_map(|curve| &curve.points).flat_map(|bucket: &Bucket| [bucket.low, bucket.high])
}
