//! The pass that sums gradients over replicas as soon as they are complete.

use crate::{Action, Op, Schedule, StageOp};
use mesh::Stage;
use std::collections::BTreeSet;

/// The schedule with [`StageOp::ReduceGradients`] for every stage, right after its last `W` or `B` on each rank, so that
/// the sum overlaps with the work on other stages. A stage whose reduction is already on the rank's list keeps it.
///
/// # Panics
/// If an action names a visit that no route has; a validated schedule does not.
pub fn with_reductions(schedule: &Schedule) -> Schedule {
    let ranks = schedule.ranks.iter().map(|list| {
        let reduced = list.iter().filter_map(|&action| match action {
            Action::Stage { op: StageOp::ReduceGradients, stage } => Some(stage),
            _ => None,
        });
        let mut reduced: BTreeSet<Stage> = reduced.collect();
        let mut from_the_end = Vec::with_capacity(list.len() + 1);
        for &action in list.iter().rev() {
            if matches!(action, Action::Visit { op: Op::BackwardWeight | Op::Backward, .. }) {
                let stage = schedule.stage(action);
                let is_last = reduced.insert(stage);
                from_the_end.extend(is_last.then_some(Action::Stage { op: StageOp::ReduceGradients, stage }));
            }
            from_the_end.push(action);
        }
        from_the_end.reverse();
        from_the_end
    });
    schedule.with_ranks(ranks.collect())
}
