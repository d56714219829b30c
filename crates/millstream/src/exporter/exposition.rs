//! The latest numbers of a run in Prometheus' text format, version 0.0.4.

use crate::report::Line;
use std::fmt::Write;
use train::{StepMetrics, ValidationMetrics};

/// What a run is, for labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunInfo {
    /// Its folder.
    pub folder: String,
    /// Its model's family.
    pub model: String,
    /// Its schedule.
    pub schedule: String,
    /// Parameters of the model.
    pub parameters: u64,
    /// Steps it is to do.
    pub steps: u64,
}

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition {
    run: RunInfo,
    step: Option<StepMetrics>,
    validation: Option<ValidationMetrics>,
    /// Trained on since the process began.
    tokens: u64,
}

/// Text with a line per number.
struct Text(String);

impl Exposition {
    /// Nothing measured yet.
    pub fn new(run: RunInfo) -> Self {
        Self { run, ..Self::default() }
    }

    /// Shows a line's numbers from now on.
    pub fn take(&mut self, line: &Line) {
        match line {
            Line::Step(step) => {
                self.tokens += step.tokens;
                self.step = Some(step.clone());
            }
            Line::Validation(validation) => self.validation = Some(validation.clone()),
            Line::Blocks(_) | Line::Sample(_) => {}
        }
    }

    /// Everything, each metric with its help and its type.
    pub fn text(&self) -> String {
        let mut text = Text(String::new());
        let RunInfo { folder, model, schedule, parameters, steps } = &self.run;
        text.family("run_info", "gauge", "The run; its value is always 1.");
        let version = env!("CARGO_PKG_VERSION");
        let labels = [("version", version), ("folder", folder), ("model", model), ("schedule", schedule)];
        text.number("run_info", &labels, 1.0);
        text.single("model_parameters", "gauge", "Parameters of the model.", *parameters as f64);
        text.single("steps_planned", "gauge", "Optimizer steps that the run is to do.", *steps as f64);
        text.single(
            "trained_tokens_total",
            "counter",
            "Tokens trained on since the process began.",
            self.tokens as f64,
        );
        if let Some(step) = &self.step {
            step_text(&mut text, step);
        }
        if let Some(validation) = &self.validation {
            validation_text(&mut text, validation);
        }
        text.0
    }
}

fn step_text(text: &mut Text, step: &StepMetrics) {
    text.single("steps_total", "counter", "Optimizer steps done, those before a resume included.", step.step as f64);
    text.single("training_loss_nats", "gauge", "Training loss of the last step, in nats per token.", step.loss);
    text.single("gradient_norm", "gauge", "Global gradient norm before clipping.", step.gradient_norm);
    text.single("learning_rate", "gauge", "Learning rate of the last step.", step.learning_rate);
    text.single("step_seconds", "gauge", "Wall time of the last step.", step.step_s);
    text.single("tokens_per_second", "gauge", "Tokens per second of the last step.", step.tokens_per_s);
    if let Some(share) = step.peak_share {
        text.single("peak_ratio", "gauge", "Share of the machine's measured matrix-product peak.", share);
    }
    text.single("idle_ratio", "gauge", "Share of rank-seconds in which ranks did not compute.", step.bubble);
    let ranks = || step.ranks.iter().enumerate().map(|(rank, part)| (rank.to_string(), part));
    if !step.ranks.is_empty() {
        text.family("rank_idle_ratio", "gauge", "Share of the last step in which the rank did not compute.");
        ranks().for_each(|(rank, part)| text.number("rank_idle_ratio", &[("rank", &rank)], part.idle));
        text.family("rank_peak_bytes", "gauge", "The most bytes that the rank held at once in the last step.");
        ranks().for_each(|(rank, part)| text.number("rank_peak_bytes", &[("rank", &rank)], part.peak_bytes as f64));
    }
}

fn validation_text(text: &mut Text, validation: &ValidationMetrics) {
    let ValidationMetrics { step, loss, bits_per_byte, validation_loss_by_source, .. } = validation;
    text.single("validation_step", "gauge", "Step after which the last validation was.", *step as f64);
    text.single("validation_loss_nats", "gauge", "Loss of the last validation, in nats per token.", *loss);
    text.single("validation_bits_per_byte", "gauge", "The same in bits per byte of the text.", *bits_per_byte);
    if !validation_loss_by_source.is_empty() {
        text.family("validation_source_loss_nats", "gauge", "Loss of the last validation by source of text.");
        for (source, &loss) in validation_loss_by_source {
            text.number("validation_source_loss_nats", &[("source", source)], loss);
        }
    }
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP millstream_{name} {help}\n# TYPE millstream_{name} {kind}")
            .expect("invariant: text takes text");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.number(name, &[], value);
    }

    fn number(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let value = match value {
            value if value.is_nan() => "NaN".to_owned(),
            f64::INFINITY => "+Inf".to_owned(),
            f64::NEG_INFINITY => "-Inf".to_owned(),
            value => value.to_string(),
        };
        writeln!(self.0, "millstream_{name}{labels} {value}").expect("invariant: text takes text");
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use train::RankMetrics;

    #[test]
    fn text_of_a_run() {
        let mut exposition = Exposition::new(RunInfo {
            folder: "a \"b\"\\c\nd".to_owned(),
            model: "Llama".to_owned(),
            schedule: "1F1B".to_owned(),
            parameters: 12_345_678,
            steps: 9,
        });
        let step = StepMetrics {
            step: 3,
            loss: f64::NAN,
            gradient_norm: f64::INFINITY,
            learning_rate: 1e-7,
            tokens: 10,
            step_s: 0.5,
            tokens_per_s: 20.0,
            peak_share: None,
            bubble: 0.25,
            loss_by_source: std::collections::BTreeMap::new(),
            ranks: vec![RankMetrics { idle: 0.5, peak_bytes: 7_000_000_000 }],
        };
        let sources = [("books".to_owned(), 2.0), ("web".to_owned(), 3.0)];
        exposition.take(&Line::Step(StepMetrics { step: 2, ..step.clone() }));
        exposition.take(&Line::Step(step));
        exposition.take(&Line::Validation(ValidationMetrics {
            step: 3,
            loss: 2.5,
            perplexity: 12.0,
            bits_per_byte: 1.25,
            tokens: 5,
            wall_s: 0.1,
            validation_loss_by_source: sources.into(),
        }));
        let expected = include_str!("../../tests/fixtures/metrics.txt").replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert_eq!(exposition.text(), expected);
        assert!(!Exposition::default().text().contains("steps_total"));
    }
}
