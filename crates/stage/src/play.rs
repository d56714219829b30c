//! What a pipeline is handed for one step, and what it gives back.

use crate::{NotFinite, Objective, RollBack};
use architecture::Block;
use kernels::{AdamW, Size};
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
    /// What becomes of a step whose gradient norm is not finite.
    pub not_finite: NotFinite,
    /// How an update that came too early is taken back; asked only by schedules with post-validation.
    pub roll_back: RollBack,
}

impl Update {
    /// Without clipping; a norm that is not finite stops, and a copy is kept for rolling back.
    pub fn new(adamw: AdamW) -> Self {
        Self { adamw, clip_norm: None, not_finite: NotFinite::Stop, roll_back: RollBack::Copy }
    }

    /// The update that gradients of this norm ask for; none when it is not finite.
    pub(crate) fn by_norm(&self, norm: f64) -> Option<AdamW> {
        norm.is_finite().then(|| AdamW { gradient_scale: self.scale(norm), ..self.adamw })
    }

    /// Factor that brings a gradient of this norm within the limit, as `torch.nn.utils.clip_grad_norm_` has it.
    pub fn scale(&self, norm: f64) -> f64 {
        self.clip_norm.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0))
    }
}

/// A step as it was played.
#[derive(Clone, Debug)]
pub struct Report {
    /// The share of the loss of each row of each microbatch; they add up to the step's.
    pub losses: Vec<Vec<f64>>,
    /// Global gradient norm before clipping; absent without optimizer steps, and not finite when the update was skipped.
    pub gradient_norm: Option<f64>,
    /// By rank, the most visits whose activations it kept at once: from the end of `F` to the begin of `I` or `B`.
    pub most_kept: Vec<usize>,
    /// What was measured.
    pub timeline: Timeline,
    /// The residual stream after each evaluated block, over all microbatches, each block once; empty unless the
    /// step was watched ([`crate::Pipeline::play_watched`]).
    pub outputs: Vec<(Block, Size)>,
}

impl Report {
    /// The step's loss.
    pub fn loss(&self) -> f64 {
        self.losses.iter().flatten().sum()
    }

    /// Whether the step updated nothing because its gradient norm was not finite.
    pub fn is_skipped(&self) -> bool {
        self.gradient_norm.is_some_and(|norm| !norm.is_finite())
    }
}
