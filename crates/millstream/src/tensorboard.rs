//! A run's metrics as a TensorBoard event file.
//!
//! The file is a sequence of TFRecords, each a protobuf `Event` (tensorflow/core/util/event.proto). Written as they come,
//! whole records at a time: a reader that meets a cut record at the end waits for its rest. Does not know about runs.

mod crc32c;
mod message;
#[cfg(test)]
mod tests;

use crate::report::Line;
use message::Message;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Name of the folder of event files within a run's.
pub const TENSORBOARD: &str = "tensorboard";

/// An event file that grows.
#[derive(Debug)]
pub struct EventFile {
    file: File,
}

/// What an event tells.
enum What<'a> {
    /// That the file begins.
    Version,
    /// That a session begins: what earlier files have at this step or after does not count.
    Start,
    /// Named numbers and texts.
    Values(&'a [(String, Value)]),
}

/// What a tag has at a step.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(f64),
    /// Markdown.
    Text(String),
}

impl EventFile {
    /// A new file in a run's folder, for steps after `done`. `run_file` is shown as the run's hyperparameters.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(run: &Path, done: u64, run_file: &str, now: SystemTime) -> std::io::Result<Self> {
        let folder = run.join(TENSORBOARD);
        fs::create_dir_all(&folder)?;
        // Readers go through the files in the order of their names.
        let name = format!("events.out.tfevents.{:010}.millstream.{}.0", since_1970(now).as_secs(), std::process::id());
        let mut file = Self { file: File::options().create(true).append(true).open(folder.join(name))? };
        file.write_event(0, now, &What::Version)?;
        if done > 0 {
            file.write_event(done + 1, now, &What::Start)?;
        }
        let values = [("run file".to_owned(), Value::Text(verbatim(run_file)))];
        file.write_event(done, now, &What::Values(&values))?;
        Ok(file)
    }

    /// Adds a line of the metrics.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&mut self, line: &Line, now: SystemTime) -> std::io::Result<()> {
        let (step, values) = values(line);
        self.write_event(step, now, &What::Values(&values))
    }

    fn write_event(&mut self, step: u64, now: SystemTime, what: &What) -> std::io::Result<()> {
        self.file.write_all(&record(&event(step, since_1970(now).as_secs_f64(), what).0))
    }
}

fn since_1970(now: SystemTime) -> Duration {
    // A clock before 1970 is no reason to lose metrics.
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The step and the tags of a line.
fn values(line: &Line) -> (u64, Vec<(String, Value)>) {
    let mut values = Vec::new();
    let mut number = |tag: &str, value: f64| values.push((tag.to_owned(), Value::Number(value)));
    let step = match line {
        Line::Step(step) => {
            number("loss/training", step.loss);
            number("optimizer/gradient norm", step.gradient_norm);
            number("optimizer/learning rate", step.learning_rate);
            number("speed/tokens per second", step.tokens_per_s);
            number("speed/step seconds", step.step_s);
            step.peak_share.into_iter().for_each(|share| number("speed/share of peak", share));
            number("pipeline/idle share", step.bubble);
            for (rank, part) in step.ranks.iter().enumerate() {
                number(&format!("pipeline/idle share of rank {rank}"), part.idle);
                number(&format!("memory/peak bytes of rank {rank}"), part.peak_bytes as f64);
            }
            step.step
        }
        Line::Validation(validation) => {
            number("loss/validation", validation.loss);
            number("loss/validation bits per byte", validation.bits_per_byte);
            for (source, &loss) in &validation.validation_loss_by_source {
                number(&format!("loss/validation of {source}"), loss);
            }
            validation.step
        }
        Line::Blocks(blocks) => {
            for block in &blocks.blocks {
                let name = &block.block;
                number(&format!("update over weight/{name}"), block.update_share);
                number(&format!("weight rms/{name}"), block.weight_rms);
                number(&format!("gradient rms/{name}"), block.gradient_rms);
                block.activation_rms.into_iter().for_each(|rms| number(&format!("activation rms/{name}"), rms));
                block.activation_max.into_iter().for_each(|max| number(&format!("activation max/{name}"), max));
            }
            blocks.step
        }
        Line::Sample(sample) => {
            let text = verbatim(&format!("{}{}", sample.prompt, sample.text));
            values.push(("sample".to_owned(), Value::Text(text)));
            sample.step
        }
    };
    (step, values)
}

/// Markdown that shows a text as it is: nothing in an indented block has a meaning.
fn verbatim(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// A TFRecord: length, its checksum, the bytes, their checksum.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(crc32c::checksum(&length)).to_le_bytes());
    record.extend(bytes);
    record.extend(masked(crc32c::checksum(bytes)).to_le_bytes());
    record
}

/// As TFRecords store checksums, so that one of data that holds checksums is not a simple one.
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// An `Event`; the numbers are the fields' in its `.proto`.
fn event(step: u64, wall_time_s: f64, what: &What) -> Message {
    let mut event = Message::default();
    event.double(1, wall_time_s);
    event.whole(2, step);
    match what {
        What::Version => event.text(3, "brain.Event:2"),
        // SessionLog, status START.
        What::Start => event.message(7, |session| session.whole(1, 1)),
        What::Values(values) => event.message(5, |summary| {
            for (tag, value) in *values {
                summary.message(1, |message| add_value(message, tag, value));
            }
        }),
    }
    event
}

/// A `Summary.Value`.
fn add_value(message: &mut Message, tag: &str, value: &Value) {
    message.text(1, tag);
    match value {
        Value::Number(number) => message.float(2, *number as f32),
        Value::Text(text) => {
            const DT_STRING: u64 = 7;
            // TensorProto: type, no dimensions, one string.
            message.message(8, |tensor| {
                tensor.whole(1, DT_STRING);
                tensor.message(2, |_no_dimensions| ());
                tensor.text(8, text);
            });
            // SummaryMetadata: which of TensorBoard's plugins shows it, and as what kind (DATA_CLASS_TENSOR).
            message.message(9, |metadata| {
                metadata.message(1, |plugin| plugin.text(1, "text"));
                metadata.whole(4, 2);
            });
        }
    }
}
