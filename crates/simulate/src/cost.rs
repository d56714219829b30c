//! What actions, links and memory cost.

use crate::Category;
use mesh::{Cores, Rank};

/// Costs of one stage, for one microbatch, in seconds on its rank and bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageCost {
    /// `F`, in seconds.
    pub forward_s: f64,
    /// `I`, in seconds, without recomputation.
    pub backward_input_s: f64,
    /// `W`, in seconds.
    pub backward_weight_s: f64,
    /// `B`, in seconds, without recomputation; usually close to `I` + `W`.
    pub backward_s: f64,
    /// Recomputation of the forward inside `I` or `B` (or a spelled-out `R`), in seconds; 0 when activations are kept.
    pub recompute_s: f64,
    /// `OPT`, in seconds.
    pub optimizer_s: f64,
    /// `REDUCE_GRAD`, in seconds.
    pub reduce_s: f64,
    /// Bytes the carry leaving this stage occupies in a message.
    pub carry_bytes: u64,
    /// Bytes kept from `F` until `I` or `B` ends, logits apart.
    pub activation_bytes: u64,
    /// Bytes of logits kept from `F` until `I` or `B` ends.
    pub logit_bytes: u64,
    /// Bytes kept on from `I` until `W` ends (inputs and output gradients of matrix weights); activations.
    pub weight_grad_bytes: u64,
    /// Bytes live only while `I` or `B` runs (recomputed activations, logits gradients...), with their category.
    pub backward_scratch: Vec<(Category, u64)>,
    /// Bytes live for the whole step: weights, gradients, optimizer.
    pub resident: Vec<(Category, u64)>,
}

/// A directed connection between two ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Sender.
    pub from: Rank,
    /// Receiver.
    pub to: Rank,
    /// Time before the first byte arrives, in seconds.
    pub latency_s: f64,
    /// Bytes per second; `f64::INFINITY` when ownership moves and nothing is copied.
    pub bytes_per_s: f64,
}

/// Everything the simulator is told beside the schedule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Costs {
    /// Costs of stage `i`.
    pub stages: Vec<StageCost>,
    /// Links; between ranks that have none, messages take no time. Messages on one link go one after the other.
    pub links: Vec<Link>,
    /// Ranks that share cores. A stage's seconds are those of a rank that holds a permit.
    pub cores: Vec<Cores>,
}
