//! From a pipeline file to a schedule.

use super::{Cell, CellAction, CellOp, Table, error};
use crate::transfers::in_lockstep;
use crate::{Action, Op, Schedule, ScheduleError, StageOp, validate};
use mesh::{Key, Rank, Route, Stage, Visit};
use std::collections::{BTreeMap, BTreeSet};

impl Table {
    /// The schedule that the file tells, under this name: every microbatch visits the stages in order, each on the rank
    /// of its row. Overlapped actions follow each other, waits and idle cells are left out, and each list ends with
    /// [`StageOp::OptimizerStep`] for each of the rank's stages.
    ///
    /// Whether it can be played, [`validate`](crate::validate()) tells.
    ///
    /// # Errors
    /// [`ScheduleError::NoMicrobatches`] for a file without actions on microbatches; [`ScheduleError::PytorchCell`] when
    /// a stage is on two rows; [`ScheduleError::PytorchGap`] when stages or microbatches are not counted from 0 without
    /// gaps.
    pub fn schedule(&self, name: &str) -> Result<Schedule, ScheduleError> {
        let mut rows: BTreeMap<usize, usize> = BTreeMap::new();
        let mut microbatches: BTreeSet<usize> = BTreeSet::new();
        for (row, cells) in self.ranks.iter().enumerate() {
            for (column, cell) in cells.iter().enumerate() {
                for action in cell.actions() {
                    let first = *rows.entry(action.stage.0).or_insert(row);
                    if first != row {
                        let wanted = format!("stage {} in row {}, where it began", action.stage, first + 1);
                        return Err(error(row, column, &cell.text(self.letters), wanted));
                    }
                    microbatches.extend(action.microbatch.map(|microbatch| microbatch.0));
                }
            }
        }
        if microbatches.is_empty() {
            return Err(ScheduleError::NoMicrobatches);
        }
        gapless("stage", rows.keys().copied())?;
        gapless("microbatch", microbatches.iter().copied())?;

        let visits = rows.iter().map(|(&stage, &row)| Visit { stage: Stage(stage), rank: Rank(row) });
        let route = Route::new(visits.collect());
        let list = |(row, cells): (usize, &Vec<Cell>)| {
            let steps = rows.iter().filter(|&(_, &of_stage)| of_stage == row);
            let steps = steps.map(|(&stage, _)| Action::stage(StageOp::OptimizerStep, stage));
            cells.iter().flat_map(Cell::actions).filter_map(|&action| action.action()).chain(steps).collect()
        };
        Ok(Schedule {
            name: name.to_owned(),
            routes: vec![route; microbatches.len()],
            vocabulary: None,
            tied: Vec::new(),
            n_segments: 1,
            ranks: self.ranks.iter().enumerate().map(list).collect(),
        })
    }

    /// [`Table::schedule`] with its messages spelled out as
    /// [`with_transfers_in_lockstep`](crate::with_transfers_in_lockstep) does, a rank letting a turn pass for each of
    /// its idle cells. PyTorch's own pass heeds idle cells likewise.
    ///
    /// # Errors
    /// Those of [`Table::schedule`], and those that [`validate`](crate::validate()) finds.
    pub fn schedule_in_lockstep(&self, name: &str) -> Result<Schedule, Vec<ScheduleError>> {
        let mut compute = self.clone();
        let mut n_idle = Vec::with_capacity(self.ranks.len());
        for cells in &mut compute.ranks {
            cells.retain(|cell| cell.actions().iter().all(|action| !action.op.is_message()));
            let mut of_rank = Vec::new();
            let mut n = 0;
            for cell in cells.iter() {
                match cell.actions() {
                    [] => n += 1,
                    actions => {
                        let played = actions.iter().filter_map(|action| action.action());
                        of_rank.extend(played.map(|_| std::mem::take(&mut n)));
                    }
                }
            }
            n_idle.push(of_rank);
        }
        let schedule = compute.schedule(name).map_err(|problem| vec![problem])?;
        validate(&schedule)?;
        Ok(in_lockstep(&schedule, &n_idle))
    }
}

fn gapless(what: &'static str, numbers: impl Iterator<Item = usize>) -> Result<(), ScheduleError> {
    match numbers.enumerate().find(|&(wanted, found)| wanted != found) {
        Some((wanted, found)) => Err(ScheduleError::PytorchGap { what, wanted, found }),
        None => Ok(()),
    }
}

impl CellAction {
    /// The action of a schedule that this is; `None` for waits.
    fn action(self) -> Option<Action> {
        let of_stage = |op| Some(Action::Stage { op, stage: self.stage });
        let of_visit = |op| Some(Action::visit(op, Key::new(self.microbatch?.0, self.stage.0)));
        match self.op {
            CellOp::Forward => of_visit(Op::Forward),
            CellOp::BackwardInput => of_visit(Op::BackwardInput),
            CellOp::BackwardWeight => of_visit(Op::BackwardWeight),
            CellOp::Backward => of_visit(Op::Backward),
            CellOp::SendActivation => of_visit(Op::SendActivation),
            CellOp::RecvActivation => of_visit(Op::RecvActivation),
            CellOp::SendGradient => of_visit(Op::SendGradient),
            CellOp::RecvGradient => of_visit(Op::RecvGradient),
            CellOp::Unshard => of_stage(StageOp::Unshard),
            CellOp::Reshard => of_stage(StageOp::Reshard),
            CellOp::ReduceGradients => of_stage(StageOp::ReduceGradients),
            CellOp::WaitSendActivation | CellOp::WaitSendGradient | CellOp::WaitReduceGradients => None,
        }
    }
}

impl CellOp {
    fn is_message(self) -> bool {
        use CellOp::{RecvActivation, RecvGradient, SendActivation, SendGradient};
        matches!(self, SendActivation | RecvActivation | SendGradient | RecvGradient)
    }
}
