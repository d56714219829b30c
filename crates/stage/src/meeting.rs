//! The collectives of a sharded vocabulary: who waits for what from whom.
//!
//! They are no actions: a rank sends its share to all at once at the end of the action that makes it, and takes the
//! others' in before the action that needs them.

use mesh::Rank;
use schedule::{Action, InputLayer, Meeting, Op, Schedule, ShardOp};
use wire::Channel;

/// The meeting whose messages `action` needs, and the ranks they come from, in order.
///
/// The last hop's backward always takes messages of [`Meeting::HiddenGradient`]. With one barrier there is no such
/// meeting in the schedule: they are what `VS` sends to the last hop alone, beside the statistics for everyone's `VT`.
pub(crate) fn awaited(schedule: &Schedule, action: Action) -> Option<(Meeting, Vec<Rank>)> {
    let vocabulary = schedule.vocabulary?;
    let all = || (0..schedule.n_ranks()).map(Rank).collect();
    match action {
        Action::Visit { op: Op::Forward | Op::ForwardNoGrad, key } => {
            let looks_up = key.hop.0 == 0 && vocabulary.input == InputLayer::Sharded;
            looks_up.then(|| (Meeting::Embedded(key.microbatch), all()))
        }
        Action::Visit { op: Op::BackwardInput | Op::Backward, key } => {
            let is_last = schedule.route(key).is_last(key.hop);
            is_last.then(|| (Meeting::HiddenGradient(key.microbatch), all()))
        }
        Action::Shard { op: ShardOp::VocabForward, microbatch } => {
            Some((Meeting::Hidden(microbatch), vec![end(schedule, microbatch)]))
        }
        Action::Shard { op: ShardOp::VocabBackward, microbatch } => Some((Meeting::Softmax(microbatch), all())),
        Action::Shard { op: ShardOp::EmbedBackward, microbatch } => {
            Some((Meeting::EmbeddedGradient(microbatch), vec![schedule.routes[microbatch.0].visits()[0].rank]))
        }
        Action::Visit { .. } | Action::Shard { op: ShardOp::EmbedForward, .. } | Action::Stage { .. } => None,
    }
}

/// The rank of a microbatch's last hop, which makes the hidden states and has the loss.
pub(crate) fn end(schedule: &Schedule, microbatch: mesh::Microbatch) -> Rank {
    schedule.routes[microbatch.0].visits().last().expect("invariant: a route visits a stage").rank
}

/// The gradients' norm over all ranks.
pub(crate) const NORM: Channel = Channel::Collective(0);
/// The rows of a whole embedding's gradient, to the ranks that hold them in the head.
pub(crate) const TIED_ROWS_OUT: Channel = Channel::Collective(1);
/// Their sums with the head's gradient, back.
pub(crate) const TIED_ROWS_BACK: Channel = Channel::Collective(2);
/// The sum of squares that travels down the ranks.
pub(crate) const RUNNING_NORM: Channel = Channel::Collective(3);
const BEFORE_MICROBATCHES: usize = 4;
const PER_MICROBATCH: usize = 5;

/// What the messages of a microbatch's meeting are tagged with.
///
/// # Panics
/// When the meeting is not one of shards.
pub(crate) fn channel(meeting: Meeting) -> Channel {
    let (microbatch, kind) = match meeting {
        Meeting::Norm | Meeting::PartialNorm(_) => unreachable!("a norm belongs to no microbatch"),
        Meeting::Tied(_) => unreachable!("tied gradients belong to no microbatch"),
        Meeting::Hidden(microbatch) => (microbatch, 0),
        Meeting::Softmax(microbatch) => (microbatch, 1),
        Meeting::HiddenGradient(microbatch) => (microbatch, 2),
        Meeting::Embedded(microbatch) => (microbatch, 3),
        Meeting::EmbeddedGradient(microbatch) => (microbatch, 4),
    };
    Channel::Collective(BEFORE_MICROBATCHES + PER_MICROBATCH * microbatch.0 + kind)
}
