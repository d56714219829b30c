//! Passes of a sharded embedding, placed by time in a schedule whose head is sharded already.
//!
//! The schedule is played. `IF` of a microbatch is due on every rank one period before its first forward begins, those of
//! the first microbatches at the start; `IB` one period after its first hop's backward ends, those of the last
//! microbatches at the end. So the rows are there and the gradient has come although ranks are not quite in step.
//!
//! The reference counts in `VS` passes instead (`p / 2 + 1` ahead, two more behind), which is right for its V-Half only.

use super::period;
use crate::player::{Player, duration};
use crate::{Action, InputLayer, Op, PassTimes, Schedule, ShardOp, Vocabulary};

/// The schedule with `IF` and `IB`.
pub(super) fn place(head: &Schedule, times: &PassTimes) -> Schedule {
    let mut player = Player::new(head, times);
    player.play();
    let period = period(head, times);
    let mut lookups = Vec::new();
    let mut updates = Vec::new();
    for ((_, action), &start) in head.actions().zip(&player.start) {
        match action {
            Action::Visit { op: Op::Forward, key } if key.hop.0 == 0 => {
                lookups.push((start - period, Action::shard(ShardOp::EmbedForward, key.microbatch.0)));
            }
            Action::Visit { op: Op::Backward | Op::BackwardInput, key } if key.hop.0 == 0 => {
                let end = start + duration(action, times);
                updates.push((end + period, Action::shard(ShardOp::EmbedBackward, key.microbatch.0)));
            }
            _ => {}
        }
    }

    let mut starts = player.start.iter().copied();
    let ranks = head.ranks.iter().map(|list| {
        let own: Vec<(f64, Action)> =
            list.iter().copied().zip(starts.by_ref()).map(|(action, start)| (start, action)).collect();
        // A stable sort: at one moment lookups come first and updates last, on every rank alike.
        let mut all = [lookups.clone(), own, updates.clone()].concat();
        all.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        all.into_iter().map(|(_, action)| action).collect()
    });
    let ranks = ranks.collect();
    let vocabulary = head.vocabulary.map(|vocabulary| Vocabulary { input: InputLayer::Sharded, ..vocabulary });
    Schedule { vocabulary, ranks, ..head.clone() }
}
