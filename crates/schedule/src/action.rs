//! What a rank can be told to do.

use mesh::{Key, Microbatch, Stage};
use std::fmt;

/// Work on one visit of a microbatch. Printed with the letters of torch.distributed.pipelining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// `F`: the stage's forward, keeping what backward needs under the visit's key.
    Forward,
    /// `I`: gradient of the stage's input; weight gradients are queued under the visit's key.
    BackwardInput,
    /// `W`: gradients of the weights from what `I` queued.
    BackwardWeight,
    /// `B`: `I` and `W` at once.
    Backward,
    /// `R`: the forward again from the kept input, before a backward, when activations were dropped. When a schedule
    /// does not spell it out, a checkpointed stage recomputes inside `I` or `B`.
    Recompute,
    /// `E`: forward keeping nothing (evaluation).
    ForwardNoGrad,
    /// `SEND_F`: the carry of this visit to the next visit's rank.
    SendActivation,
    /// `RECV_F`: the carry of this visit from the previous visit's rank.
    RecvActivation,
    /// `SEND_B`: the gradient of this visit's input to the previous visit's rank.
    SendGradient,
    /// `RECV_B`: the gradient of this visit's output from the next visit's rank.
    RecvGradient,
}

/// Work of one rank on its shard of the vocabulary, for one microbatch (Vocabulary Parallelism). It lies on no route:
/// every rank that holds a shard does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShardOp {
    /// `VS`: logits of the own rows and their softmax statistics (pass S); with one barrier also the own part of the
    /// hidden gradient.
    VocabForward,
    /// `VT`: gradient of the own rows (pass T); with two barriers also the own part of the hidden gradient.
    VocabBackward,
    /// `IF`: look up the own rows of the embedding.
    EmbedForward,
    /// `IB`: add the gradient to the own rows of the embedding.
    EmbedBackward,
}

/// Work on a whole stage, whatever microbatches it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StageOp {
    /// Gather the stage's sharded weights.
    Unshard,
    /// Drop gathered weights, keep the own shard.
    Reshard,
    /// Sum the stage's gradients with those of its replicas and of stages tied to it, in rank order.
    ReduceGradients,
    /// Bring the stage's weights into the device's memory.
    LoadWeights,
    /// Drop the stage's weights from the device's memory.
    EvictWeights,
    /// Update the stage's weights, clipped by the norm over all ranks.
    OptimizerStep,
    /// Update the stage's weights, clipped by the norm over this rank and those before it, which is there earlier
    /// (zero-bubble's post-validation).
    OptimisticStep,
    /// With the norm over all ranks: let the optimistic update stand, or take it back and make the right one.
    PostValidate,
}

/// One entry of a rank's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Work on one visit.
    Visit {
        /// What.
        op: Op,
        /// Which visit; the stage and the rank follow from the microbatch's route.
        key: Key,
    },
    /// Work on the rank's vocabulary shard.
    Shard {
        /// What.
        op: ShardOp,
        /// For which microbatch.
        microbatch: Microbatch,
    },
    /// Work on one stage.
    Stage {
        /// What.
        op: StageOp,
        /// Which stage.
        stage: Stage,
    },
}

/// What an action's label has beside stage, operation and microbatch, where these name several visits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelParts {
    /// `@hop`: the route comes to the stage more than once.
    pub hop: bool,
    /// `.segment`: sequences are cut.
    pub segment: bool,
}

impl Action {
    /// `op` on the visit `key`.
    pub fn visit(op: Op, key: Key) -> Self {
        Action::Visit { op, key }
    }

    /// `op` on the rank's shard for `microbatch`.
    pub fn shard(op: ShardOp, microbatch: usize) -> Self {
        Action::Shard { op, microbatch: Microbatch(microbatch) }
    }

    /// `op` on `stage`.
    pub fn stage(op: StageOp, stage: usize) -> Self {
        Action::Stage { op, stage: Stage(stage) }
    }
}

impl Action {
    /// Whether this keeps the rank's device busy (and so takes a core permit); sends and receives do not.
    pub fn is_compute(self) -> bool {
        match self {
            Action::Visit { op, .. } => op.is_compute(),
            Action::Shard { .. } | Action::Stage { .. } => true,
        }
    }
}

impl Action {
    /// As text: `{stage}{op}{microbatch}` as torch.distributed.pipelining prints it, with the parts that tell it from others
    /// ([`Schedule::label`](crate::Schedule::label)). `stage` is the one it works on.
    pub fn label(self, stage: Stage, parts: LabelParts) -> String {
        match self {
            Action::Visit { op, key } => {
                let hop = if parts.hop { format!("@{}", key.hop) } else { String::new() };
                let segment = if parts.segment { format!(".{}", key.segment) } else { String::new() };
                format!("{stage}{op}{}{hop}{segment}", key.microbatch)
            }
            Action::Shard { op, microbatch } => format!("{op}{microbatch}"),
            Action::Stage { op, stage } => format!("{stage}{op}"),
        }
    }
}

impl Op {
    /// Whether this keeps the rank's device busy (and so takes a core permit); sends and receives do not.
    pub fn is_compute(self) -> bool {
        !matches!(self, Op::SendActivation | Op::RecvActivation | Op::SendGradient | Op::RecvGradient)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Forward => "F",
            Op::BackwardInput => "I",
            Op::BackwardWeight => "W",
            Op::Backward => "B",
            Op::Recompute => "R",
            Op::ForwardNoGrad => "E",
            Op::SendActivation => "SEND_F",
            Op::RecvActivation => "RECV_F",
            Op::SendGradient => "SEND_B",
            Op::RecvGradient => "RECV_B",
        })
    }
}

impl fmt::Display for ShardOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ShardOp::VocabForward => "VS",
            ShardOp::VocabBackward => "VT",
            ShardOp::EmbedForward => "IF",
            ShardOp::EmbedBackward => "IB",
        })
    }
}

impl fmt::Display for StageOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StageOp::Unshard => "UNSHARD",
            StageOp::Reshard => "RESHARD",
            StageOp::ReduceGradients => "REDUCE_GRAD",
            StageOp::LoadWeights => "LOAD",
            StageOp::EvictWeights => "EVICT",
            StageOp::OptimizerStep => "OPT",
            StageOp::OptimisticStep => "TRY_OPT",
            StageOp::PostValidate => "VALIDATE",
        })
    }
}
