//! What one step of a plan takes and holds.

mod bound;
mod data;
mod play;
mod stages;

pub use bound::Bound;
pub use data::DataExchange;
pub use play::{Effort, Played, Playing};
pub use stages::{Granularity, StagePlan};

use crate::PlanError;
use crate::degrees::{Batch, Degrees};
use crate::description::Description;
use crate::latency_model::LatencyModel;
use crate::machine::{Machine, NicKind, Reach};
use crate::software::Software;
use schedule::{Placement, Spec};
use simulate::Timeline;

/// What is to be done: a model, a batch, machines, a trainer.
#[derive(Clone, Debug)]
pub struct Task {
    /// The model.
    pub model: Description,
    /// The machines.
    pub machine: Machine,
    /// The trainer's conventions.
    pub software: Software,
    /// Tokens of a step.
    pub batch: Batch,
    /// Between what stages may be cut.
    pub granularity: Granularity,
}

/// How it is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Ranks along every axis.
    pub degrees: Degrees,
    /// Rows of a microbatch on one replica.
    pub microbatch_rows: usize,
    /// The schedule.
    pub spec: Spec,
    /// Stages on each rank of the pipeline, for schedules that loop over ranks; 2 in a V, else 1.
    pub chunks: usize,
    /// What is computed again.
    pub recompute: Checkpointing,
    /// Who holds the optimizer's state.
    pub optimizer: OptimizerState,
    /// Layers (or half-layers) of every stage; `None` for the balanced cut.
    pub sizes: Option<Vec<usize>>,
}

/// What backward computes again in other trainers; this program's stages go by the stage, see [`Recompute`](crate::Recompute).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Checkpointing {
    /// Nothing.
    None,
    /// Attention's scores (selective recomputation).
    Scores,
    /// Every layer, from its input.
    Layers,
}

/// Who holds the optimizer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OptimizerState {
    /// Every replica all of it.
    Replicated,
    /// Every replica an equal part (ZeRO-1).
    Sharded,
}

/// Seconds and bytes of a step.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The whole step.
    pub step_s: f64,
    /// The same by closed formulas, indexed as [`LatencyModel::ALL`]. They know equal stages and 1F1B.
    pub closed_s: [f64; 2],
    /// Its passes, from the first forward to the last backward.
    pub passes_s: f64,
    /// Summing gradients over replicas and gathering parameters, as far as it is not hidden.
    pub exchange_s: f64,
    /// The update.
    pub optimizer_s: f64,
    /// Share of the passes in which ranks do nothing, in [0, 1).
    pub bubble: f64,
    /// The part of `bubble` in which ranks move messages between stages, or wait for those that are on their way.
    pub message_share: f64,
    /// Share of the passes in which ranks of the tensor, context and expert axes wait for each other's bytes, on the
    /// busiest rank.
    pub collective_share: f64,
    /// Share of the machine's peak: operations of the model without what is computed again, over the step.
    pub peak_share: f64,
    /// Tokens of the batch over the step.
    pub tokens_per_s: f64,
    /// Bytes of every pipeline rank by what they are: weights, gradients, optimizer, activations, logits, buffers.
    pub memory: Vec<[u64; 6]>,
    /// Bytes that every pipeline rank's device may hold.
    pub usable: Vec<u64>,
    /// What each pipeline rank sends in a step, by what it goes over.
    pub traffic: Traffic,
    /// Sizes of the stages in blocks, in order.
    pub sizes: Vec<usize>,
    /// One step, or its beginning where it is long.
    pub timeline: Timeline,
    /// Microbatches of a step on each replica.
    pub microbatches: usize,
}

/// Bytes that the busiest rank sends in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Of the tensor, context and expert axes.
    pub within_layers: f64,
    /// Between stages.
    pub between_stages: f64,
    /// Gradients and parameters.
    pub between_replicas: f64,
    /// What each of these goes over.
    pub over: [Option<Over>; 3],
}

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Within a node.
    Node,
    /// Between nodes, over network cards of this kind where that is known.
    Network(Option<NicKind>),
}

impl Over {
    pub(crate) fn of(reach: Reach) -> Option<Self> {
        match reach {
            Reach::Device => None,
            Reach::Node => Some(Over::Node),
            Reach::Network(kind) => Some(Over::Network(kind)),
        }
    }
}

impl Prediction {
    /// Bytes of the fullest rank.
    pub fn peak_bytes(&self) -> u64 {
        self.memory.iter().map(|rank| rank.iter().sum()).max().unwrap_or(0)
    }

    /// Seconds of the step as `predictor` has them, `None` being the simulator.
    pub fn by(&self, predictor: Option<LatencyModel>) -> f64 {
        predictor.map_or(self.step_s, |model| self.closed_s[model as usize])
    }

    /// Bytes that are missing on the rank that misses most; 0 or less when it fits.
    pub fn missing_bytes(&self) -> i64 {
        let ranks = self.memory.iter().zip(&self.usable);
        ranks.map(|(rank, usable)| rank.iter().sum::<u64>() as i64 - *usable as i64).max().unwrap_or(0)
    }
}

impl Layout {
    /// Stages in all.
    pub fn n_stages(&self) -> usize {
        let per_rank = match self.spec.kind.placement() {
            Placement::V => 2,
            Placement::Looped => self.chunks,
            Placement::Any | Placement::OnePerRank => 1,
        };
        self.degrees.pipeline * per_rank
    }

    /// Microbatches of a step on each replica, if the batch divides so.
    pub fn microbatches(&self, batch: Batch) -> Option<usize> {
        let per_replica = batch.rows.checked_div(self.degrees.data)?;
        let fits = self.microbatch_rows > 0
            && batch.rows.is_multiple_of(self.degrees.data)
            && per_replica.is_multiple_of(self.microbatch_rows);
        fits.then(|| per_replica / self.microbatch_rows)
    }
}

/// Predicts a step.
///
/// # Errors
/// When the model cannot be divided so, the batch does not divide, or the schedule does not exist for it.
pub fn predict(task: &Task, layout: &Layout) -> Result<Prediction, PlanError> {
    let plan = StagePlan::new(task, layout)?;
    plan.predict(Effort::Full)
}
