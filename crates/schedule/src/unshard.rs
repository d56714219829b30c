//! The pass that gathers sharded weights ahead of their use and drops them after it.

use crate::{Action, Schedule, StageOp};
use mesh::Stage;

/// The schedule with [`StageOp::Unshard`] and [`StageOp::Reshard`] spelled out: each rank holds the weights of the next
/// `n_stages` distinct stages that it works on, gathers one as soon as it is among them and drops one as soon as it is
/// not. This is how torch.distributed.pipelining plays fully sharded stages, with three stages. Those already present
/// are replaced.
///
/// A rank holds the weights of at most `n_stages` stages at once; a larger number gathers less often.
///
/// # Panics
/// If `n_stages` is 0: then nothing can be played. If an action names a visit that no route has; a validated schedule
/// does not.
pub fn with_unshards(schedule: &Schedule, n_stages: usize) -> Schedule {
    assert!(n_stages > 0, "a rank needs the weights of the stage it works on");
    let ranks = schedule.ranks.iter().map(|list| {
        let list: Vec<Action> = list.iter().copied().filter(|&action| !is_unshard(action)).collect();
        let mut with = Vec::with_capacity(list.len() + 2);
        let mut held: Vec<Stage> = Vec::new();
        for (&action, upcoming) in list.iter().zip(upcoming(schedule, &list, n_stages)) {
            let (kept, dropped) = held.iter().partition(|stage| upcoming.contains(stage));
            held = kept;
            with.extend(dropped.iter().map(|&stage| Action::Stage { op: StageOp::Reshard, stage }));
            for stage in upcoming {
                if !held.contains(&stage) {
                    held.push(stage);
                    with.push(Action::Stage { op: StageOp::Unshard, stage });
                }
            }
            with.push(action);
        }
        with.extend(held.iter().map(|&stage| Action::Stage { op: StageOp::Reshard, stage }));
        with
    });
    schedule.with_ranks(ranks.collect())
}

/// For every action of a list the first `n_stages` stages whose weights it and those after it use, in order of use.
fn upcoming(schedule: &Schedule, list: &[Action], n_stages: usize) -> Vec<Vec<Stage>> {
    let mut stages: Vec<Stage> = Vec::new();
    let from_the_end = list.iter().rev().map(|&action| {
        if matches!(action, Action::Visit { op, .. } if op.is_compute()) {
            let stage = schedule.stage(action);
            stages.retain(|&other| other != stage);
            stages.insert(0, stage);
        }
        stages.iter().copied().take(n_stages).collect()
    });
    let mut upcoming: Vec<Vec<Stage>> = from_the_end.collect();
    upcoming.reverse();
    upcoming
}

fn is_unshard(action: Action) -> bool {
    matches!(action, Action::Stage { op: StageOp::Unshard | StageOp::Reshard, .. })
}
