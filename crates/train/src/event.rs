//! What the loop reports while it runs. `metrics.jsonl` holds the same numbers.

use crate::BlocksMetrics;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Something worth showing.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A step is done.
    Step(StepMetrics),
    /// A validation is done.
    Validation(ValidationMetrics),
    /// Parameters and activations were looked at, which comes with every validation.
    Blocks(BlocksMetrics),
    /// A checkpoint is safely on disk.
    Checkpoint {
        /// After this step.
        step: u64,
        /// Its folder.
        folder: std::path::PathBuf,
    },
}

/// One training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Counted from 1.
    pub step: u64,
    /// Mean training loss over the step's counted tokens, in nats per token.
    #[serde(deserialize_with = "number_or_null")]
    pub loss: f64,
    /// Global gradient norm before clipping; a step whose norm is not finite updated nothing.
    #[serde(deserialize_with = "number_or_null")]
    pub gradient_norm: f64,
    /// Learning rate used.
    pub learning_rate: f64,
    /// Counted tokens of the step.
    pub tokens: u64,
    /// Wall time of the step, in seconds.
    pub step_s: f64,
    /// Tokens per second of this step.
    pub tokens_per_s: f64,
    /// Share of the machine's measured matrix-product peak, in [0, 1]; absent when the peak was not measured.
    pub peak_share: Option<f64>,
    /// Share of rank-seconds in which ranks did not compute, in [0, 1].
    pub bubble: f64,
    /// Mean training loss over the step's tokens of each source that has any, in nats per token, where the text has
    /// several sources.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "numbers_or_null")]
    pub loss_by_source: BTreeMap<String, f64>,
    /// Each rank's part; empty in files that do not have it.
    #[serde(default)]
    pub ranks: Vec<RankMetrics>,
}

/// A rank's part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankMetrics {
    /// Share of the step in which it did not compute, in [0, 1].
    pub idle: f64,
    /// The most bytes it held at once.
    pub peak_bytes: u64,
}

/// One validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationMetrics {
    /// After this step.
    pub step: u64,
    /// Mean loss over counted tokens, in nats per token; of several sources, the mean of their losses by their shares of
    /// the training rows.
    #[serde(deserialize_with = "number_or_null")]
    pub loss: f64,
    /// `exp(loss)`.
    #[serde(deserialize_with = "number_or_null")]
    pub perplexity: f64,
    /// The loss over the bytes of the text, in bits per byte; of several sources, of their mixture.
    #[serde(deserialize_with = "number_or_null")]
    pub bits_per_byte: f64,
    /// Counted tokens.
    pub tokens: u64,
    /// Wall time, in seconds.
    pub wall_s: f64,
    /// Mean loss of each source of text, in nats per token, where there are several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "numbers_or_null")]
    pub validation_loss_by_source: BTreeMap<String, f64>,
}

/// JSON has no word for a number that is not finite and writes null.
pub(crate) fn number_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

fn numbers_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let numbers = BTreeMap::<String, Option<f64>>::deserialize(from)?;
    Ok(numbers.into_iter().map(|(name, number)| (name, number.unwrap_or(f64::NAN))).collect())
}
