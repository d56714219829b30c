//! What a rank holds in the course of a step, predicted beside measured.

use super::StageSummary;
use super::axis::Axis;
use super::chart::{Chart, Curve, Drawing, Look, Quantity};
use super::curves::Legend;
use super::series::Bucket;
use super::step::{Origin, class};
use serde::Serialize;
use simulate::{Category, MemorySample, Timeline};

/// Ranks that are shown at most; the table of peaks has all.
const RANKS_MAX: usize = 8;

/// Moments of a step that a picture distinguishes.
const MOMENTS: usize = 240;

/// One rank's step.
#[derive(Serialize)]
pub struct MemoryChart {
    name: String,
    chart: Drawing,
}

/// A picture per rank and origin, on common axes; the legend of what occurs; and the number of ranks that are left out.
pub fn over_time(timelines: &[Origin<Timeline>], stages: &[StageSummary]) -> (Vec<MemoryChart>, Vec<Legend>, usize) {
    let until_s = timelines.iter().map(|(_, timeline)| timeline.makespan_s()).fold(0.0, f64::max);
    let samples = || timelines.iter().flat_map(|(_, timeline)| &timeline.memory);
    let total = |sample: &MemorySample| sample.bytes.iter().sum::<u64>() as f64;
    let most = samples().map(total).fold(0.0, f64::max);
    if most <= 0.0 || until_s <= 0.0 {
        return (Vec::new(), Vec::new(), 0);
    }
    let occurring: Vec<Category> = Category::ALL
        .into_iter()
        .filter(|&category| samples().any(|sample| sample.bytes[category as usize] > 0))
        .collect();
    let n_ranks = timelines.iter().map(|(_, timeline)| timeline.n_ranks).max().unwrap_or(0);
    let mut charts = Vec::new();
    for rank in 0..n_ranks.min(RANKS_MAX) {
        for (origin, timeline) in timelines {
            let samples: Vec<&MemorySample> = timeline.memory.iter().filter(|sample| sample.rank.0 == rank).collect();
            let name = format!("rank {rank}{}, {origin}", stages_of(stages, rank));
            let curves = stacked(&samples, &occurring, timeline.makespan_s(), until_s);
            let chart = Chart {
                what: format!("memory of {name}"),
                height_px: 150,
                x: Axis::within([0.0, until_s].into_iter()),
                x_quantity: Quantity::Seconds,
                y: Axis::from_zero([most].into_iter()),
                y_quantity: Quantity::Bytes,
                curves,
            };
            charts.extend(chart.draw().map(|chart| MemoryChart { name, chart }));
        }
    }
    let legend = occurring.iter().map(|&category| Legend {
        mark: "box",
        class: class(category),
        name: category.name().to_owned(),
    });
    (charts, legend.collect(), n_ranks.saturating_sub(RANKS_MAX))
}

fn stages_of(stages: &[StageSummary], rank: usize) -> String {
    let own: Vec<String> =
        stages.iter().filter(|stage| stage.rank == rank).map(|stage| stage.stage.to_string()).collect();
    match own.as_slice() {
        [] => String::new(),
        [one] => format!(" (stage {one})"),
        several => format!(" (stages {})", several.join(", ")),
    }
}

/// One area per category, from the bottom; of each moment the sample with the most bytes.
fn stacked(samples: &[&MemorySample], categories: &[Category], end_s: f64, until_s: f64) -> Vec<Curve> {
    let total = |sample: &MemorySample| sample.bytes.iter().sum::<u64>();
    let mut steps: Vec<(f64, &MemorySample)> = Vec::new();
    for &sample in samples {
        let moment_s = (sample.at_s / until_s * MOMENTS as f64).floor() * until_s / MOMENTS as f64;
        match steps.last_mut() {
            Some((at_s, kept)) if *at_s == moment_s => {
                if total(sample) > total(kept) {
                    *kept = sample;
                }
            }
            _ => steps.push((moment_s, sample)),
        }
    }
    let curve = |(i, &category): (usize, &Category)| {
        let points = steps.iter().enumerate().map(|(at, (from_s, sample))| {
            let bytes = |category: &Category| sample.bytes[*category as usize] as f64;
            let low: f64 = categories[..i].iter().map(bytes).sum();
            let last = steps.get(at + 1).map_or(end_s.max(*from_s), |next| next.0);
            Bucket { first: *from_s, last, low, high: low + bytes(&category), mean: bytes(&category) }
        });
        Curve { name: category.name().to_owned(), class: class(category), look: Look::Area, points: points.collect() }
    };
    categories.iter().enumerate().map(curve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::Rank;

    #[test]
    fn stacking_keeps_the_peak_of_every_moment() {
        let sample = |at_s: f64, weights: u64, logits: u64| MemorySample {
            rank: Rank(0),
            at_s,
            bytes: [weights, 0, 0, 0, logits, 0],
        };
        // 240 moments of 1 s: the second and third sample fall into one.
        let samples = [sample(0.0, 5, 0), sample(100.1, 5, 9), sample(100.9, 5, 7), sample(102.0, 5, 1)];
        let curves = stacked(&samples.iter().collect::<Vec<_>>(), &[Category::Weights, Category::Logits], 200.0, 240.0);
        let bucket = |first, last, low, high| Bucket { first, last, low, high, mean: high - low };
        assert_eq!(
            curves[1].points,
            [bucket(0.0, 100.0, 5.0, 5.0), bucket(100.0, 102.0, 5.0, 14.0), bucket(102.0, 200.0, 5.0, 6.0)]
        );
        assert_eq!((curves[0].class.as_str(), curves[1].name.as_str()), ("m0", "logits"));
    }
}
