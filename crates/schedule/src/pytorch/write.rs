//! From a schedule to a pipeline file.

use super::{Cell, CellAction, CellOp, Letters, Table};
use crate::error::Place;
use crate::transfers::in_lockstep;
use crate::{Action, Op, Schedule, ScheduleError, StageOp, with_reductions, with_unshards};
use mesh::{Microbatch, Rank, Stage};
use std::collections::BTreeSet;

/// How many stages' weights a rank of PyTorch's gathers at once unless told otherwise.
const N_UNSHARDED: usize = 3;

impl Table {
    /// The file in the dialect `compute_only`, in new letters. Messages, gathering of weights and reductions are left
    /// out, since PyTorch inserts its own; so are optimizer steps.
    ///
    /// # Errors
    /// [`ScheduleError::PytorchSchedule`] and [`ScheduleError::PytorchAction`]: the first thing that the file cannot
    /// tell.
    pub fn compute_only(schedule: &Schedule) -> Result<Self, ScheduleError> {
        use CellOp::{Backward, BackwardInput, BackwardWeight, Forward};
        check(schedule)?;
        let is_compute = |action: &CellAction| matches!(action.op, Forward | BackwardInput | BackwardWeight | Backward);
        Ok(table(schedule, |actions| actions.into_iter().filter(is_compute).collect()))
    }

    /// The file in the dialect `compute_comms`, in new letters, with the waits that PyTorch 2.15 wants: for a forward's
    /// send after the backward of its visit, for a gradient's send at the end of the row, for a reduction right after
    /// it. Optimizer steps are left out.
    ///
    /// A schedule whose messages are not spelled out goes through the passes that PyTorch plays on a `compute_only`
    /// file: [`with_unshards`] for three stages, [`with_reductions`],
    /// [`with_transfers_in_lockstep`](crate::with_transfers_in_lockstep). One whose messages are is written as it
    /// stands; PyTorch scales and sums gradients at `REDUCE_GRAD`, so it should have these too.
    ///
    /// # Errors
    /// Those of [`Table::compute_only`].
    ///
    /// # Panics
    /// If messages are to be inserted into a schedule that [`validate`](crate::validate()) refuses.
    pub fn compute_comms(schedule: &Schedule) -> Result<Self, ScheduleError> {
        check(schedule)?;
        let is_message = |(_, action): (Rank, Action)| matches!(action, Action::Visit { op, .. } if !op.is_compute());
        Ok(match schedule.actions().any(is_message) {
            true => table(schedule, with_waits),
            false => {
                let reduced = with_reductions(&with_unshards(schedule, N_UNSHARDED));
                let n_idle: Vec<Vec<usize>> = reduced.ranks.iter().map(|list| turns_of_waits(list)).collect();
                table(&in_lockstep(&reduced, &n_idle), with_waits)
            }
        })
    }
}

/// Whether PyTorch's idea of a pipeline covers the schedule: one route through the stages 0, 1, 2 .. for all, work for
/// every rank, and no action that PyTorch does not know but the optimizer steps.
fn check(schedule: &Schedule) -> Result<(), ScheduleError> {
    let refused = |found: String, wanted| Err(ScheduleError::PytorchSchedule { found, wanted });
    let Some(route) = schedule.routes.first() else { return Err(ScheduleError::NoMicrobatches) };
    let stages: Vec<Stage> = route.visits().iter().map(|visit| visit.stage).collect();
    if !stages.iter().copied().eq((0..stages.len()).map(Stage)) {
        let stages: Vec<String> = stages.iter().map(Stage::to_string).collect();
        return refused(format!("a route through the stages {}", stages.join(" ")), "the stages 0, 1, 2 .. in order");
    }
    if let Some(microbatch) = schedule.routes.iter().position(|other| other != route) {
        return refused(format!("another route of microbatch {microbatch}"), "the same route for all microbatches");
    }
    if let Some(rank) = (0..schedule.n_ranks()).find(|&rank| route.visits().iter().all(|visit| visit.rank.0 != rank)) {
        return refused(format!("rank {rank}, which has no stage"), "a stage on every rank");
    }
    if schedule.n_segments > 1 {
        return refused(format!("sequences in {} segments", schedule.n_segments), "whole sequences");
    }
    if schedule.vocabulary.is_some() {
        return refused("a sharded vocabulary".to_owned(), "embedding and head on the first and the last stage");
    }
    for (rank, list) in schedule.ranks.iter().enumerate() {
        let is_unknown = |&action: &Action| !is_update(action) && cell_action(schedule, action).is_none();
        if let Some(position) = list.iter().position(is_unknown) {
            return Err(ScheduleError::PytorchAction { place: Place::new(schedule, Rank(rank), position) });
        }
    }
    Ok(())
}

/// The file with the rows that `row` makes of the ranks' actions.
fn table(schedule: &Schedule, row: impl Fn(Vec<CellAction>) -> Vec<CellAction>) -> Table {
    let rank = |list: &Vec<Action>| {
        let actions = list.iter().filter_map(|&action| cell_action(schedule, action)).collect();
        row(actions).into_iter().map(Cell::Action).collect()
    };
    Table { letters: Letters::New, ranks: schedule.ranks.iter().map(rank).collect() }
}

/// How many turns pass before each action: one after a reduction, in which PyTorch waits for it.
fn turns_of_waits(list: &[Action]) -> Vec<usize> {
    let is_reduction = |&action: &Action| matches!(action, Action::Stage { op: StageOp::ReduceGradients, .. });
    std::iter::once(0).chain(list.iter().map(|action| is_reduction(action) as usize)).take(list.len()).collect()
}

/// The actions with a wait for each that PyTorch begins and does not end.
fn with_waits(actions: Vec<CellAction>) -> Vec<CellAction> {
    let mut with = Vec::with_capacity(2 * actions.len());
    let mut sent: BTreeSet<(Stage, Option<Microbatch>)> = BTreeSet::new();
    for &action in &actions {
        with.push(action);
        let visit = (action.stage, action.microbatch);
        match action.op {
            CellOp::SendActivation => {
                sent.insert(visit);
            }
            // The gradient has come back, so what was sent has arrived.
            CellOp::BackwardInput | CellOp::Backward if sent.remove(&visit) => {
                with.push(CellAction { op: CellOp::WaitSendActivation, ..action });
            }
            CellOp::ReduceGradients => with.push(CellAction { op: CellOp::WaitReduceGradients, ..action }),
            _ => {}
        }
    }
    for action in actions {
        match action.op {
            CellOp::SendGradient => with.push(CellAction { op: CellOp::WaitSendGradient, ..action }),
            CellOp::SendActivation if sent.contains(&(action.stage, action.microbatch)) => {
                with.push(CellAction { op: CellOp::WaitSendActivation, ..action });
            }
            _ => {}
        }
    }
    with
}

/// Whether PyTorch leaves this to the optimizer, outside of the pipeline.
fn is_update(action: Action) -> bool {
    use StageOp::{OptimisticStep, OptimizerStep, PostValidate};
    matches!(action, Action::Stage { op: OptimizerStep | OptimisticStep | PostValidate, .. })
}

/// The action as PyTorch has it, if it has.
fn cell_action(schedule: &Schedule, action: Action) -> Option<CellAction> {
    let (op, microbatch) = match action {
        Action::Visit { op, key } => {
            let op = match op {
                Op::Forward => CellOp::Forward,
                Op::BackwardInput => CellOp::BackwardInput,
                Op::BackwardWeight => CellOp::BackwardWeight,
                Op::Backward => CellOp::Backward,
                Op::SendActivation => CellOp::SendActivation,
                Op::RecvActivation => CellOp::RecvActivation,
                Op::SendGradient => CellOp::SendGradient,
                Op::RecvGradient => CellOp::RecvGradient,
                Op::Recompute | Op::ForwardNoGrad => return None,
            };
            (op, Some(key.microbatch))
        }
        Action::Shard { .. } => return None,
        Action::Stage { op, .. } => match op {
            StageOp::Unshard => (CellOp::Unshard, None),
            StageOp::Reshard => (CellOp::Reshard, None),
            StageOp::ReduceGradients => (CellOp::ReduceGradients, None),
            StageOp::LoadWeights
            | StageOp::EvictWeights
            | StageOp::OptimizerStep
            | StageOp::OptimisticStep
            | StageOp::PostValidate => return None,
        },
    };
    Some(CellAction { stage: schedule.stage(action), op, microbatch })
}
