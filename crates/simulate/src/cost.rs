//! What actions, links and memory cost.

use crate::Category;
use mesh::{Cores, Rank};
use schedule::Meeting;

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
    /// `REDUCE_GRAD`, in seconds, when what it sums is there.
    pub reduce_s: f64,
    /// Bytes the carry leaving this stage occupies in a message.
    pub carry_bytes: u64,
    /// Bytes of the gradient of weights that the stage shares with the other stages of its tied group: what it gives to
    /// each of their ranks for `REDUCE_GRAD`.
    pub tied_bytes: u64,
    /// Bytes kept from `F` until `I` or `B` ends, logits apart.
    pub activation_bytes: u64,
    /// Bytes of logits kept from `F` until `I` or `B` ends.
    pub logit_bytes: u64,
    /// Bytes kept on from `I` until `W` ends (inputs and output gradients of matrix weights); activations.
    pub weight_grad_bytes: u64,
    /// Bytes live only while `F` runs beside what it keeps, with their category.
    pub forward_scratch: Vec<(Category, u64)>,
    /// Bytes live only while `I` or `B` runs (recomputed activations, logits gradients...), with their category.
    pub backward_scratch: Vec<(Category, u64)>,
    /// Bytes live for the whole step: weights, gradients, optimizer.
    pub resident: Vec<(Category, u64)>,
}

/// Costs of a rank's vocabulary shard, for one microbatch, in seconds and bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardCost {
    /// `VS`, in seconds.
    pub forward_s: f64,
    /// `VT`, in seconds.
    pub backward_s: f64,
    /// `IF`, in seconds.
    pub embed_forward_s: f64,
    /// `IB`, in seconds.
    pub embed_backward_s: f64,
    /// Bytes kept from `VS` until `VT` ends: the hidden states, and the shard's part of the logits or their softmax.
    pub logit_bytes: u64,
    /// Bytes of logits live only while `VS` runs.
    pub forward_scratch_bytes: u64,
    /// Bytes of buffers live only while `VT` runs.
    pub backward_scratch_bytes: u64,
    /// Bytes of the last hop's output that wait here for `VS`.
    pub hidden_bytes: u64,
    /// Bytes of the softmax statistics that `VS` gives to every rank for its `VT`, and with one barrier to the last hop.
    pub statistics_bytes: u64,
    /// Bytes of this shard's part of the hidden gradient, which wait at the last hop for its `I` or `B`: with one barrier
    /// from `VS` on, with two from `VT` on.
    pub hidden_gradient_bytes: u64,
    /// Bytes of the rows looked up here that wait at the first hop for its `F`, and of their gradient that waits here
    /// for `IB`.
    pub embedded_bytes: u64,
    /// Bytes live for the whole step: weights, gradients, optimizer.
    pub resident: Vec<(Category, u64)>,
}

/// How long collectives take from the moment the last rank is there, in seconds. They occupy no rank. The exchange of
/// tied gradients takes what bytes and links say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MeetingCost {
    /// The last hop's output to every vocabulary shard.
    pub hidden_s: f64,
    /// The softmax statistics of all shards; with one barrier their hidden gradients too.
    pub softmax_s: f64,
    /// With two barriers, the hidden gradients of all shards.
    pub hidden_gradient_s: f64,
    /// The looked-up rows of all embedding shards.
    pub embedded_s: f64,
    /// The gradient of the embedded rows to every shard.
    pub embedded_gradient_s: f64,
    /// The gradients' global norm.
    pub norm_s: f64,
}

impl MeetingCost {
    /// How long `meeting` takes, in seconds, when it is not one of tied stages.
    pub(crate) fn of(&self, meeting: Meeting) -> f64 {
        match meeting {
            Meeting::Hidden(_) => self.hidden_s,
            Meeting::Softmax(_) => self.softmax_s,
            Meeting::HiddenGradient(_) => self.hidden_gradient_s,
            Meeting::Embedded(_) => self.embedded_s,
            Meeting::EmbeddedGradient(_) => self.embedded_gradient_s,
            Meeting::PartialNorm(_) | Meeting::Norm => self.norm_s,
            Meeting::Tied(_) => unreachable!("invariant: its cost is its group's"),
        }
    }
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

/// Whether ranks compute while they send and receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Communication {
    /// Messages move by themselves: a rank that sends plays on at once, a message that arrived before its receive costs
    /// the receiver nothing.
    #[default]
    Overlapped,
    /// Ranks move the bytes themselves: a send takes its rank until the last byte has left, a receive takes its rank as
    /// long for the same bytes; a send and the receive right after it move at once.
    Blocking,
}

/// Everything the simulator is told beside the schedule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Costs {
    /// Costs of stage `i`.
    pub stages: Vec<StageCost>,
    /// Costs of the vocabulary shard of rank `i`; empty when the schedule does not shard the vocabulary.
    pub shards: Vec<ShardCost>,
    /// Costs of collectives.
    pub meetings: MeetingCost,
    /// Links; between ranks that have none, messages take no time. Messages on one link go one after the other.
    pub links: Vec<Link>,
    /// Whether ranks compute while messages move.
    pub communication: Communication,
    /// Ranks that share cores. A stage's seconds are those of a rank that holds a permit.
    pub cores: Vec<Cores>,
}
