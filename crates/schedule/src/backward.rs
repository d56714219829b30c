//! The passes that split backward into its two halves, and fuse them again.

use crate::{Action, Op, Schedule};

/// The schedule with every `B` as `I` and then `W`: the input's gradient is there before the weights' are computed.
pub fn split_backward(schedule: &Schedule) -> Schedule {
    let split = |&action: &Action| match action {
        Action::Visit { op: Op::Backward, key } => {
            vec![Action::visit(Op::BackwardInput, key), Action::visit(Op::BackwardWeight, key)]
        }
        action => vec![action],
    };
    let ranks = schedule.ranks.iter().map(|list| list.iter().flat_map(split).collect()).collect();
    schedule.with_ranks(ranks)
}

/// The schedule with every `I` that its `W` follows at once as `B`; other halves stay apart.
pub fn fuse_backward(schedule: &Schedule) -> Schedule {
    let ranks = schedule.ranks.iter().map(|list| {
        let mut fused: Vec<Action> = Vec::with_capacity(list.len());
        for &action in list {
            match (fused.last().copied(), action) {
                (
                    Some(Action::Visit { op: Op::BackwardInput, key: before }),
                    Action::Visit { op: Op::BackwardWeight, key },
                ) if before == key => {
                    fused.pop();
                    fused.push(Action::visit(Op::Backward, key));
                }
                _ => fused.push(action),
            }
        }
        fused
    });
    schedule.with_ranks(ranks.collect())
}
