//! What the dashboard knows of a run.

use super::course::Course;
use crate::report::{Line, SampleMetrics};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use train::{StepMetrics, ValidationMetrics};

/// Sentences that the log keeps.
const LOG_MAX: usize = 50;

/// A run as far as it has come.
#[derive(Clone, Debug)]
pub struct State {
    /// The run in a line.
    pub title: String,
    /// Steps in all.
    pub steps: u64,
    /// Steps of earlier sessions.
    pub done_before: u64,
    /// For each rank, its stages in words, and the most bytes it is predicted to hold.
    pub ranks: Vec<(String, u64)>,
    pub(super) loss: Course,
    pub(super) validation: Course,
    pub(super) learning_rate: Course,
    pub(super) tokens_per_s: Course,
    pub(super) step: Option<StepMetrics>,
    pub(super) validated: Option<ValidationMetrics>,
    pub(super) sample: Option<SampleMetrics>,
    pub(super) log: VecDeque<String>,
    pub(super) is_stopping: bool,
    start: Instant,
}

impl State {
    /// Before the first step.
    pub fn new(title: String, steps: u64, done_before: u64, ranks: Vec<(String, u64)>) -> Self {
        Self {
            title,
            steps,
            done_before,
            ranks,
            loss: Course::default(),
            validation: Course::default(),
            learning_rate: Course::default(),
            tokens_per_s: Course::default(),
            step: None,
            validated: None,
            sample: None,
            log: VecDeque::new(),
            is_stopping: false,
            start: Instant::now(),
        }
    }

    /// Takes a line of the metrics in.
    pub fn take(&mut self, line: &Line) {
        match line {
            Line::Step(step) => {
                let x = step.step as f64;
                self.loss.push(x, step.loss);
                self.learning_rate.push(x, step.learning_rate);
                self.tokens_per_s.push(x, step.tokens_per_s);
                self.step = Some(step.clone());
            }
            Line::Validation(validation) => {
                self.validation.push(validation.step as f64, validation.loss);
                self.say(&format!("validation after step {}: loss {:.3}", validation.step, validation.loss));
                self.validated = Some(validation.clone());
            }
            Line::Blocks(_) => {}
            Line::Sample(sample) => self.sample = Some(sample.clone()),
        }
    }

    /// Adds a sentence to the log.
    pub fn say(&mut self, text: &str) {
        self.log.push_back(text.to_owned());
        if self.log.len() > LOG_MAX {
            self.log.pop_front();
        }
    }

    /// The user wants an end.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        self.say("stopping after this step; once more to end at once");
    }

    /// Steps done.
    pub fn done(&self) -> u64 {
        self.step.as_ref().map_or(self.done_before, |step| step.step)
    }

    /// Since the session began, and what is left at its pace.
    pub fn times(&self) -> (Duration, Option<Duration>) {
        let elapsed = self.start.elapsed();
        let done = self.done().saturating_sub(self.done_before);
        let left = self.steps.saturating_sub(self.done());
        (elapsed, (done > 0).then(|| elapsed.mul_f64(left as f64 / done as f64)))
    }
}
