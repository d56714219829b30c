//! All that follow a run: the screen, `metrics.jsonl`, TensorBoard's event file, Prometheus.

use crate::commands;
#[cfg(unix)]
use crate::dashboard::Dashboard;
use crate::exporter::Exporter;
use crate::progress::Progress;
use crate::report::{Line, SampleMetrics};
use crate::tensorboard::EventFile;
use anyhow::Context;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::SystemTime;
use train::{Event, StepMetrics, ValidationMetrics};

/// Events as they come, handed to each.
pub struct Watchers {
    screen: Screen,
    metrics: File,
    events: Option<EventFile>,
    exporter: Option<Exporter>,
    last_steps: Vec<StepMetrics>,
    validation: Option<ValidationMetrics>,
    /// The first failure to write; training goes on, and the run's end reports it.
    failure: Option<std::io::Error>,
}

/// Where a person looks.
pub enum Screen {
    /// A bar or lines.
    Progress(Progress),
    /// The whole terminal.
    #[cfg(unix)]
    Dashboard(Dashboard),
}

/// Steps whose losses are averaged for the summary.
const LAST_STEPS: usize = 20;

impl Watchers {
    /// Goes on with the `metrics.jsonl` of a folder.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(
        folder: &Path,
        screen: Screen,
        events: Option<EventFile>,
        exporter: Option<Exporter>,
    ) -> anyhow::Result<Self> {
        let path = folder.join("metrics.jsonl");
        let metrics = whole_lines(&path).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { screen, metrics, events, exporter, last_steps: Vec::new(), validation: None, failure: None })
    }

    /// Hands an event to all.
    pub fn take(&mut self, event: Event) {
        match &event {
            Event::Step(step) => {
                self.last_steps.push(step.clone());
                let surplus = self.last_steps.len().saturating_sub(LAST_STEPS);
                self.last_steps.drain(..surplus);
            }
            Event::Validation(validation) => self.validation = Some(validation.clone()),
            Event::Blocks(_) => {}
            Event::Checkpoint { folder, .. } => self.say(&format!("saved {}", folder.display())),
        }
        if let Some(line) = Line::of(event) {
            self.line(&line);
        }
    }

    /// Hands on a text that the model has written, or why it has not.
    pub fn take_sample(&mut self, sample: anyhow::Result<SampleMetrics>) {
        match sample {
            Ok(sample) => self.line(&Line::Sample(sample)),
            Err(error) => self.say(&format!("no sample: {error:#}")),
        }
    }

    /// Ends what follows the run and gives the terminal back; an error says that the metrics are not complete.
    pub fn finish(self) -> (Followed, anyhow::Result<()>) {
        if let Screen::Progress(progress) = &self.screen {
            progress.finish();
        }
        let losses = self.last_steps.iter().map(|step| step.loss);
        let mean = losses.sum::<f64>() / self.last_steps.len() as f64;
        let train_loss = (!self.last_steps.is_empty()).then_some(mean);
        let complete = self.failure.map_or(Ok(()), |error| Err(error).context("the run's metrics are not complete"));
        (Followed { train_loss, validation: self.validation }, complete)
    }

    fn line(&mut self, line: &Line) {
        let now = SystemTime::now();
        let mut written = self.metrics.write_all(line.text().as_bytes());
        if let Some(events) = &mut self.events {
            written = written.and(events.write(line, now));
        }
        if let Some(exporter) = &self.exporter {
            exporter.take(line);
        }
        let shown = match &mut self.screen {
            Screen::Progress(progress) => progress.show(line, commands::print),
            #[cfg(unix)]
            Screen::Dashboard(dashboard) => {
                dashboard.take(line);
                Ok(())
            }
        };
        self.note(written.and(shown));
    }

    fn say(&mut self, text: &str) {
        let said = match &mut self.screen {
            Screen::Progress(progress) => progress.say(text, commands::print),
            #[cfg(unix)]
            Screen::Dashboard(dashboard) => {
                dashboard.say(text);
                Ok(())
            }
        };
        self.note(said);
    }

    fn note(&mut self, result: std::io::Result<()>) {
        if let Err(error) = result {
            self.failure.get_or_insert(error);
        }
    }
}

/// What is left of the events at the end.
pub struct Followed {
    /// Mean training loss of the last steps.
    pub train_loss: Option<f64>,
    /// The last one.
    pub validation: Option<ValidationMetrics>,
}

/// A file to append lines to, without the piece of a line that a killed process may have left at its end.
fn whole_lines(path: &Path) -> std::io::Result<File> {
    let mut file = File::options().create(true).read(true).append(true).open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    file.set_len(end as u64)?;
    Ok(file)
}
