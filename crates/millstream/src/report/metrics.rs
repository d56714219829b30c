//! `metrics.jsonl`: a line per step, validation, look at the blocks, and sample.

use serde::{Deserialize, Serialize};
use train::{BlocksMetrics, Event, StepMetrics, ValidationMetrics};

/// What a run has measured, each in order of steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Steps.
    pub steps: Vec<StepMetrics>,
    /// Validations.
    pub validations: Vec<ValidationMetrics>,
    /// Parameters and activations by block.
    pub blocks: Vec<BlocksMetrics>,
    /// Texts that the model wrote on the way.
    pub samples: Vec<SampleMetrics>,
    /// Number of lines that could not be read.
    pub n_unreadable: usize,
}

/// A text that the model wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleMetrics {
    /// After this step.
    pub step: u64,
    /// What it was given.
    pub prompt: String,
    /// How it went on, without the prompt.
    pub text: String,
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// A step is done.
    Step(StepMetrics),
    /// A validation is done.
    Validation(ValidationMetrics),
    /// Parameters and activations were looked at.
    Blocks(BlocksMetrics),
    /// A text was written.
    Sample(SampleMetrics),
}

impl Line {
    /// The line for an event; `None` for events that have none.
    pub fn of(event: Event) -> Option<Self> {
        match event {
            Event::Step(step) => Some(Line::Step(step)),
            Event::Validation(validation) => Some(Line::Validation(validation)),
            Event::Blocks(blocks) => Some(Line::Blocks(blocks)),
            Event::Checkpoint { .. } => None,
        }
    }

    /// As written, with its line break.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("invariant: numbers and texts have a JSON form") + "\n"
    }
}

impl Metrics {
    /// Reads the lines of the file. A line that is no such line, as the last one of a run that was killed, is left out.
    /// A resumed run repeats the steps after its checkpoint; those it repeats are dropped.
    pub fn parse(lines: &str) -> Self {
        let mut metrics = Metrics::default();
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(Line::Step(step)) => {
                    // What comes between steps comes after its step: that at this step belongs to what is dropped.
                    metrics.drop_from(step.step);
                    metrics.steps.push(step);
                }
                Ok(Line::Validation(validation)) => {
                    truncate(&mut metrics.validations, validation.step, |earlier| earlier.step);
                    metrics.validations.push(validation);
                }
                Ok(Line::Blocks(blocks)) => {
                    truncate(&mut metrics.blocks, blocks.step, |earlier| earlier.step);
                    metrics.blocks.push(blocks);
                }
                Ok(Line::Sample(sample)) => {
                    truncate(&mut metrics.samples, sample.step, |earlier| earlier.step);
                    metrics.samples.push(sample);
                }
                Err(_) => metrics.n_unreadable += 1,
            }
        }
        metrics
    }

    fn drop_from(&mut self, step: u64) {
        truncate(&mut self.steps, step, |earlier| earlier.step);
        truncate(&mut self.validations, step, |earlier| earlier.step);
        truncate(&mut self.blocks, step, |earlier| earlier.step);
        truncate(&mut self.samples, step, |earlier| earlier.step);
    }
}

/// Drops what is at `step` or after.
fn truncate<T>(items: &mut Vec<T>, step: u64, step_of: fn(&T) -> u64) {
    items.truncate(items.partition_point(|earlier| step_of(earlier) < step));
}
