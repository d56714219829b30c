//! `summary.json`: what came out of a run.

use super::Machine;
use super::files::SUMMARY;
use crate::out_folder::write_whole;
use mesh::Rank;
use serde::{Deserialize, Deserializer, Serialize};
use simulate::{Category, Costs, Timeline, bubbles, idle_fraction};
use std::path::Path;

/// What came out of a run. What a failed or short run does not have is absent or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// How it ended.
    pub status: Status,
    /// Version of the program.
    pub version: String,
    /// The preset that the run file was laid over; absent without one.
    pub preset: Option<String>,
    /// The model.
    pub model: Option<ModelSummary>,
    /// The stages in order.
    pub stages: Vec<StageSummary>,
    /// The schedule's name.
    pub schedule: Option<String>,
    /// Microbatches of a step.
    pub microbatches: Option<usize>,
    /// Rows of a step.
    pub rows: Option<usize>,
    /// Device of rank `i`.
    pub devices: Vec<String>,
    /// Cores that the ranks shared.
    pub cores: Option<usize>,
    /// The step as simulated before the run.
    pub predicted: Option<StepSummary>,
    /// The steps as played.
    pub measured: Option<StepSummary>,
    /// Steps done.
    pub steps: u64,
    /// The step whose weights `model/` holds.
    pub exported_step: Option<u64>,
    /// Training loss of the last steps, in nats per token.
    pub train_loss: Option<f64>,
    /// The last validation.
    pub validation: Option<ValidationSummary>,
    /// What the validation text costs without a model.
    pub yardsticks: Option<Yardsticks>,
    /// A text of the trained model.
    pub sample: Option<Sample>,
    /// Where it ran.
    pub machine: Option<Machine>,
    /// The machine's measured peak of f32 matrix products, in GFLOP/s.
    pub matmul_gflops: Option<f64>,
    /// The machine's speed around the run.
    pub speed: Option<SpeedSummary>,
    /// Wall time of the whole run, in seconds.
    pub wall_s: Option<f64>,
}

/// The middle rate of a few matrix products, in GFLOP/s: a machine that is shared or warm does not keep its speed, and a
/// prediction holds for that before the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedSummary {
    /// Around the measurement of costs.
    pub calibrated_gflops: Option<f64>,
    /// Before the first step.
    pub before_gflops: f64,
    /// After the last.
    pub after_gflops: f64,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not yet: it is going on, or was killed.
    Running,
    /// All steps done.
    #[default]
    Finished,
    /// Stopped by the user, state saved.
    Interrupted,
    /// It failed, with this message.
    Failed(String),
}

/// The model in a few numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// Its family ("Llama").
    pub family: String,
    /// Number of parameters, shared ones once.
    pub parameters: u64,
    /// Number of half-layer blocks.
    pub blocks: usize,
    /// Number of distinct tokens.
    pub vocabulary: usize,
    /// Tokens in a row.
    pub sequence_length: usize,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSummary {
    /// Counted from 0.
    pub stage: usize,
    /// Where it lies.
    pub rank: usize,
    /// Its blocks in words ("embedding, attention 0, feed-forward 0").
    pub blocks: String,
    /// Number of its parameters.
    pub parameters: u64,
}

/// A step in a few numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSummary {
    /// Wall time, in seconds; when measured, that of the middle one of the last 25 steps.
    pub step_s: f64,
    /// Share of rank-seconds in which ranks did not compute, in [0, 1].
    pub bubble: f64,
    /// For each rank the most bytes it held, each category's own peak.
    pub peak_bytes: Vec<ByCategory>,
    /// For each rank the most bytes it held at once; empty in files that do not have it.
    #[serde(default)]
    pub most_bytes: Vec<u64>,
}

impl StepSummary {
    /// The numbers of one step.
    pub fn of(timeline: &Timeline) -> Self {
        Self {
            step_s: timeline.makespan_s(),
            bubble: idle_fraction(&bubbles(timeline, &Costs::default())),
            peak_bytes: (0..timeline.n_ranks).map(|rank| timeline.peak_by_category(Rank(rank)).into()).collect(),
            most_bytes: (0..timeline.n_ranks).map(|rank| timeline.peak_bytes(Rank(rank))).collect(),
        }
    }
}

/// The last validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationSummary {
    /// Mean loss over counted tokens, in nats per token.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// `exp(loss)`.
    #[serde(deserialize_with = "number")]
    pub perplexity: f64,
    /// Total loss over the bytes of the text, in bits per byte.
    #[serde(deserialize_with = "number")]
    pub bits_per_byte: f64,
}

/// JSON has null for what a model that diverged yields.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// What the validation text costs without a model, as the corpus measures it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Yardsticks {
    /// Entropy of the tokens' frequencies, in nats per token.
    pub unigram_nats_per_token: f64,
    /// The same over the text's bytes, in bits per byte.
    pub unigram_bits_per_byte: f64,
    /// The text under `xz -9`, in bits per byte.
    pub xz_bits_per_byte: f64,
    /// Bytes of the text.
    pub text_bytes: u64,
}

/// A text of the trained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What it was given.
    pub prompt: String,
    /// How it went on, without the prompt.
    pub text: String,
}

/// Bytes by what they are used for; fields as [`Category::name`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByCategory {
    pub weights: u64,
    pub gradients: u64,
    pub optimizer: u64,
    pub activations: u64,
    pub logits: u64,
    pub buffers: u64,
}

impl ByCategory {
    /// Indexed as [`Category::ALL`].
    pub fn bytes(self) -> [u64; 6] {
        Category::ALL.map(|category| match category {
            Category::Weights => self.weights,
            Category::Gradients => self.gradients,
            Category::Optimizer => self.optimizer,
            Category::Activations => self.activations,
            Category::Logits => self.logits,
            Category::Buffers => self.buffers,
        })
    }
}

impl From<[u64; 6]> for ByCategory {
    /// From an array indexed as [`Category::ALL`].
    fn from(bytes: [u64; 6]) -> Self {
        let [weights, gradients, optimizer, activations, logits, buffers] = bytes;
        Self { weights, gradients, optimizer, activations, logits, buffers }
    }
}

impl Summary {
    /// What an earlier session left, if it can be read.
    pub fn earlier(folder: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(folder.join(SUMMARY)).ok()?).ok()
    }

    /// Writes `summary.json`, whole or not at all.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        write_whole(&folder.join(SUMMARY), &(serde_json::to_string_pretty(self)? + "\n"))
    }
}
