//! Live progress: a bar on a terminal, plain lines elsewhere.

use crate::report::Line;
use crate::units::{count, percent, seconds};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Instant;
use train::StepMetrics;

/// Shows a run's events.
pub struct Progress {
    steps: u64,
    start: Instant,
    done_before: u64,
    validation_loss: Option<f64>,
    show: Show,
}

enum Show {
    Bar(ProgressBar),
    /// A line every so many steps.
    Lines(u64),
}

/// Plain lines of a run, validations apart.
const LINES: u64 = 20;

/// Characters of a sample that are shown on the way: a line.
const SAMPLE_CHARS: usize = 80;

impl Progress {
    /// Progress of a run that goes from `done_before` steps to `steps`.
    pub fn new(steps: u64, done_before: u64) -> Self {
        let show = if std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}").expect("invariant: a valid template");
            Show::Bar(ProgressBar::new(steps).with_position(done_before).with_style(style))
        } else {
            Show::Lines(steps.saturating_sub(done_before).div_ceil(LINES).max(1))
        };
        Self { steps, start: Instant::now(), done_before, validation_loss: None, show }
    }

    /// Shows a line of the metrics; lines of text go through `print`.
    ///
    /// # Errors
    /// What `print` gives.
    pub fn show(&mut self, line: &Line, mut print: impl FnMut(&str) -> std::io::Result<()>) -> std::io::Result<()> {
        match line {
            Line::Step(step) => {
                let text = self.step_text(step);
                match &self.show {
                    Show::Bar(bar) => {
                        bar.set_position(step.step);
                        bar.set_message(text);
                    }
                    Show::Lines(every) => {
                        if step.step == self.done_before + 1
                            || step.step.is_multiple_of(*every)
                            || step.step == self.steps
                        {
                            print(&format!(
                                "step {:>width$}/{}  {text}\n",
                                step.step,
                                self.steps,
                                width = digits(self.steps)
                            ))?;
                        }
                    }
                }
                Ok(())
            }
            Line::Validation(validation) => {
                self.validation_loss = Some(validation.loss);
                let text = format!(
                    "validation after step {}: loss {:.3}, perplexity {:.1}, {:.3} bits per byte",
                    validation.step, validation.loss, validation.perplexity, validation.bits_per_byte
                );
                self.say(&text, print)
            }
            Line::Blocks(_) => Ok(()),
            Line::Sample(sample) => {
                let text: String = format!("{}{}", sample.prompt, sample.text).chars().take(SAMPLE_CHARS).collect();
                let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
                self.say(&format!("sample after step {}: {}", sample.step, shown.collect::<String>()), print)
            }
        }
    }

    /// Leaves the last state on the screen.
    pub fn finish(&self) {
        if let Show::Bar(bar) = &self.show {
            bar.abandon();
        }
    }

    /// Shows a sentence; see [`Progress::show`].
    ///
    /// # Errors
    /// What `print` gives.
    pub fn say(&self, text: &str, mut print: impl FnMut(&str) -> std::io::Result<()>) -> std::io::Result<()> {
        match &self.show {
            Show::Bar(bar) => {
                bar.println(text);
                Ok(())
            }
            Show::Lines(_) => print(&format!("{text}\n")),
        }
    }

    fn step_text(&self, step: &StepMetrics) -> String {
        let done = step.step - self.done_before;
        let left_s = self.start.elapsed().as_secs_f64() / done as f64 * (self.steps - step.step) as f64;
        let mut parts = vec![format!("loss {:.3}", step.loss)];
        parts.extend(self.validation_loss.map(|loss| format!("val {loss:.3}")));
        parts.push(format!("{} tokens/s", count(step.tokens_per_s.round() as u64)));
        parts.extend(step.peak_share.map(|share| format!("{} of peak", percent(share))));
        parts.push(format!("{} left", seconds(left_s.round())));
        parts.join("  ")
    }
}

fn digits(n: u64) -> usize {
    n.to_string().len()
}
