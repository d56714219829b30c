//! A rank's optimizer steps: the norm by which all ranks clip alike, and the updates that follow from it.
//!
//! With a barrier (`OPT`) every rank gathers the squares of all and then updates. With post-validation (`TRY_OPT`,
//! `VALIDATE`) a sum travels down the ranks: each adds its own squares, sends it on at once, and updates by the norm so
//! far. The last rank's sum goes to all; where it clips otherwise, the update is taken back and made again (Qi et al.,
//! *Zero Bubble Pipeline Parallelism*, 2024, section 4). Both ways add the same squares in the same order, so that their
//! norms are equal to the bit.

use crate::NotFinite;
use crate::error::StageError;
use crate::meeting::{NORM, RUNNING_NORM};
use crate::play::{Step, Update};
use crate::rank::Player;
use mesh::{Rank, Stage};
use schedule::{Action, Schedule, StageOp};
use wire::{Buffer, Channel, Tag};

/// What a rank knows of a step's updates so far.
#[derive(Default)]
pub(crate) struct Updates {
    /// Of the gradients of all ranks.
    pub norm: Option<f64>,
    /// Of the gradients of this rank and those before it.
    partial_norm: Option<f64>,
    /// Operations that were played: the first of each is also the shard's.
    played: Vec<StageOp>,
}

impl Player {
    /// Waits for the norm that an optimizer operation goes by; none is left to wait for after the first of its kind.
    ///
    /// # Errors
    /// [`StageError::NotFinite`] when the norm over all ranks is not finite and that stops the run.
    pub(crate) fn agree(&mut self, step: &Step, op: StageOp, updates: &mut Updates) -> Result<(), StageError> {
        match op {
            StageOp::OptimizerStep if updates.norm.is_none() => {
                self.sum_tied_rows(step)?;
                updates.norm = Some(checked(step, self.gathered_norm(step)?)?);
            }
            StageOp::OptimisticStep if updates.partial_norm.is_none() => {
                self.sum_tied_rows(step)?;
                updates.partial_norm = Some(self.travelling_norm(step)?);
            }
            StageOp::PostValidate if updates.norm.is_none() => {
                let last = *updating(&step.schedule).last().expect("invariant: this rank updates");
                let norm = match updates.partial_norm {
                    Some(norm) if last == self.endpoint.rank() => norm,
                    _ => self.take_sum(step, last, NORM)?.sqrt(),
                };
                updates.norm = Some(checked(step, norm)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Updates a stage, and with the rank's first operation of the kind its shard of the vocabulary.
    ///
    /// # Panics
    /// When `op` is none of the optimizer's.
    pub(crate) fn update(&mut self, step: &Step, op: StageOp, stage: Stage, updates: &mut Updates) {
        let update = update_of(step);
        let by = |norm: Option<f64>| update.by_norm(norm.expect("invariant: agreed before the permit"));
        let is_first = !updates.played.contains(&op);
        updates.played.push(op);
        let store = self.stores.get_mut(&stage).expect("invariant: the stage lies on its rank");
        let of_stage = (&mut store.training, store.part.parameters_mut());
        let shard = self.shard.as_mut().filter(|_| is_first);
        let of_shard = shard.map(|shard| (&mut shard.training, shard.parameters.as_mut_slice()));
        for (training, parameters) in std::iter::once(of_stage).chain(of_shard) {
            match op {
                StageOp::OptimizerStep => {
                    if let Some(adamw) = by(updates.norm) {
                        training.update(parameters, &adamw);
                    }
                }
                StageOp::OptimisticStep => {
                    if let Some(adamw) = by(updates.partial_norm) {
                        training.try_update(parameters, &adamw, update.roll_back);
                    }
                }
                StageOp::PostValidate => training.validate(parameters, by(updates.partial_norm), by(updates.norm)),
                op => unreachable!("{op:?} updates nothing"),
            }
        }
    }

    /// The norm of all gradients, each parameter once, from the squares of every rank.
    fn gathered_norm(&mut self, step: &Step) -> Result<f64, StageError> {
        let (group, squares) = (updating(&step.schedule), self.squares());
        let all = self.endpoint.all_gather(&group, tag(step, NORM), squares)?;
        Ok(all.into_iter().fold(0.0, add).sqrt())
    }

    /// The norm of the gradients of this rank and those before it. Their sum goes on to the next rank, or from the last
    /// one to all.
    fn travelling_norm(&mut self, step: &Step) -> Result<f64, StageError> {
        let (group, squares) = (updating(&step.schedule), self.squares());
        let rank = self.endpoint.rank();
        let place = group.iter().position(|&other| other == rank).expect("invariant: this rank updates");
        let before = match place.checked_sub(1) {
            Some(before) => self.take_sum(step, group[before], RUNNING_NORM)?,
            None => 0.0,
        };
        let sum = add(before, squares);
        let (channel, receivers) = match group.get(place + 1) {
            Some(next) => (RUNNING_NORM, std::slice::from_ref(next)),
            None => (NORM, &group[..place]),
        };
        for &to in receivers {
            self.endpoint.send(to, tag(step, channel), vec![Buffer::F64(vec![sum])])?;
        }
        Ok(sum.sqrt())
    }

    fn take_sum(&mut self, step: &Step, from: Rank, channel: Channel) -> Result<f64, StageError> {
        let pending = self.endpoint.receive(from, tag(step, channel));
        match self.endpoint.wait(pending)?.as_slice() {
            [Buffer::F64(sum)] => Ok(sum[0]),
            other => panic!("a sum is one f64 buffer, found {} buffers", other.len()),
        }
    }

    fn squares(&mut self) -> Vec<f64> {
        self.training_states().flat_map(|state| state.squares()).collect()
    }
}

/// One after the other: every sum of squares is made so.
fn add(sum: f64, squares: Vec<f64>) -> f64 {
    squares.into_iter().fold(sum, |sum, square| sum + square)
}

/// The norm over all ranks, unless it stops the run.
fn checked(step: &Step, norm: f64) -> Result<f64, StageError> {
    match update_of(step).not_finite {
        NotFinite::Stop if !norm.is_finite() => Err(StageError::NotFinite { step: step.number, norm }),
        NotFinite::Stop | NotFinite::Skip => Ok(norm),
    }
}

/// The ranks that update, in order.
fn updating(schedule: &Schedule) -> Vec<Rank> {
    let lists = schedule.ranks.iter().enumerate().filter(|(_, list)| list.iter().any(|&action| is_update(action)));
    lists.map(|(rank, _)| Rank(rank)).collect()
}

/// Whether an action updates weights, finally or for a try.
pub(crate) fn is_update(action: Action) -> bool {
    matches!(action, Action::Stage { op: StageOp::OptimizerStep | StageOp::OptimisticStep, .. })
}

fn update_of(step: &Step) -> Update {
    step.update.expect("invariant: a schedule with optimizer steps comes with an update")
}

fn tag(step: &Step, channel: Channel) -> Tag {
    Tag { epoch: 0, step: step.number, channel }
}
