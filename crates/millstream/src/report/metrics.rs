//! `metrics.jsonl`: a line per step and per validation.

use serde::{Deserialize, Serialize};
use train::{Event, StepMetrics, ValidationMetrics};

/// The steps and validations of a run, each in order of steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Steps.
    pub steps: Vec<StepMetrics>,
    /// Validations.
    pub validations: Vec<ValidationMetrics>,
    /// Number of lines that could not be read.
    pub n_unreadable: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Step(StepMetrics),
    Validation(ValidationMetrics),
}

/// The line of `metrics.jsonl` for an event, with its line break; `None` for events that have none.
pub fn line(event: &Event) -> Option<String> {
    let line = match event {
        Event::Step(step) => Line::Step(step.clone()),
        Event::Validation(validation) => Line::Validation(validation.clone()),
        Event::Checkpoint { .. } => return None,
    };
    Some(serde_json::to_string(&line).expect("invariant: numbers have a JSON form") + "\n")
}

impl Metrics {
    /// Reads the lines of the file. A line that is no such line, as the last one of a run that was killed, is left out.
    /// A resumed run repeats the steps after its checkpoint; those it repeats are dropped.
    pub fn parse(lines: &str) -> Self {
        let mut metrics = Metrics::default();
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(Line::Step(step)) => {
                    metrics.steps.truncate(metrics.steps.partition_point(|earlier| earlier.step < step.step));
                    // A validation comes after its step: one at this step belongs to what is dropped.
                    let n_kept = metrics.validations.partition_point(|earlier| earlier.step < step.step);
                    metrics.validations.truncate(n_kept);
                    metrics.steps.push(step);
                }
                Ok(Line::Validation(validation)) => {
                    let n_kept = metrics.validations.partition_point(|earlier| earlier.step < validation.step);
                    metrics.validations.truncate(n_kept);
                    metrics.validations.push(validation);
                }
                Err(_) => metrics.n_unreadable += 1,
            }
        }
        metrics
    }
}
