//! What a pipeline is handed for one step, and what it gives back.

use crate::Objective;
use kernels::AdamW;
use model::Rows;
use schedule::Schedule;
use simulate::Timeline;

/// One step: the lists to play and what they work on.
#[derive(Clone, Debug)]
pub struct Step {
    /// Counted from 1; tags messages and seeds nothing.
    pub number: u64,
    /// With transfers inserted, and valid.
    pub schedule: Schedule,
    /// The data of microbatch `i`; read by the rank of its first hop, and where the embedding is
    /// sharded by every rank.
    pub microbatches: Vec<Rows>,
    /// What the loss is.
    pub objective: Objective,
    /// The optimizer's numbers; needed when the schedule has optimizer steps.
    pub update: Option<Update>,
}

/// The numbers of one optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Its `gradient_scale` is replaced by what clipping asks for.
    pub adamw: AdamW,
    /// Largest global gradient norm over all stages.
    pub clip_norm: Option<f64>,
}

impl Update {
    /// Factor that brings a gradient of this norm within the limit, as `torch.nn.utils.clip_grad_norm_` has it.
    pub fn scale(&self, norm: f64) -> f64 {
        self.clip_norm.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0))
    }
}

/// A step as it was played.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each microbatch's share of the loss; they add up to the step's.
    pub losses: Vec<f64>,
    /// Global gradient norm before clipping; absent without optimizer steps.
    pub gradient_norm: Option<f64>,
    /// What was measured.
    pub timeline: Timeline,
}

impl Report {
    /// The step's loss.
    pub fn loss(&self) -> f64 {
        self.losses.iter().sum()
    }
}
