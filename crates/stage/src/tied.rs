//! Weights that lie on several stages: their gradients are summed over all holders.
//!
//! A rank gives its share to the other ranks at the end of the action that completes it
//! ([`Schedule::tied_share`](schedule::Schedule::tied_share)) and plays on; its first `REDUCE_GRAD` of the group waits for
//! theirs.

use crate::carry::into_vec;
use crate::error::StageError;
use crate::play::Step;
use crate::rank::Player;
use burn::tensor::{Tensor, TensorData};
use mesh::{Rank, Stage};
use schedule::{Action, StageOp};
use simulate::Category;
use std::collections::BTreeSet;
use wire::{Buffer, Channel, Tag};

/// A parameter that lies on several stages, each with its own leaf: their gradients are summed.
#[derive(Clone, Debug)]
pub(crate) struct Tie {
    /// Stage, its rank, and the parameter's number there; in order of stages.
    pub holders: Vec<(Stage, Rank, usize)>,
}

/// Where a rank's list completes a tie's share: position and number of the tie.
pub(crate) type Shares = Vec<(usize, usize)>;

/// A tie that is about to be summed.
pub(crate) struct Gathered {
    number: usize,
    /// Gradients of the holders on other ranks, in order of stages.
    of_others: Vec<Vec<f32>>,
}

impl Player {
    /// Where this rank's list completes the shares of ties that it reduces.
    pub(crate) fn shares(&self, step: &Step) -> Shares {
        let rank = self.endpoint.rank();
        let ties = self.ties.iter().enumerate().filter(|(_, tie)| {
            let is_held = |stage| tie.holders.iter().any(|&(holder, _, _)| holder == stage);
            let reduces = |&action: &Action| match action {
                Action::Stage { op: StageOp::ReduceGradients, stage } => is_held(stage),
                _ => false,
            };
            step.schedule.ranks[rank.0].iter().any(reduces)
        });
        let share = |(number, tie): (usize, &Tie)| {
            let stages: Vec<Stage> = tie.holders.iter().map(|holder| holder.0).collect();
            let position = step.schedule.tied_share(rank, &stages);
            (position.expect("invariant: what is reduced has gradients on its rank"), number)
        };
        ties.map(share).collect()
    }

    /// Gives the shares that the action at `position` has completed to the other holders' ranks.
    pub(crate) fn give_shares(&self, step: &Step, shares: &Shares, position: usize) -> Result<(), StageError> {
        let rank = self.endpoint.rank();
        for &(_, number) in shares.iter().filter(|share| share.0 == position) {
            let holders = &self.ties[number].holders;
            let others: BTreeSet<Rank> = holders.iter().map(|holder| holder.1).filter(|&other| other != rank).collect();
            for &(holder, _, parameter) in holders.iter().filter(|holder| holder.1 == rank) {
                for &other in &others {
                    let values = into_vec(self.stores[&holder].training.gradients[parameter].clone());
                    self.send(other, tag(step, number, holder), vec![Buffer::F32(values)])?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the other ranks' shares of what `stage` is tied to; of none that this rank gathered before.
    pub(crate) fn gather_ties(
        &mut self,
        step: &Step,
        stage: Stage,
        gathered: &mut BTreeSet<usize>,
    ) -> Result<Vec<Gathered>, StageError> {
        let rank = self.endpoint.rank();
        let mut all = Vec::new();
        for (number, tie) in self.ties.clone().iter().enumerate() {
            if tie.holders.iter().all(|&(holder, _, _)| holder != stage) || !gathered.insert(number) {
                continue;
            }
            let mut of_others = Vec::new();
            for &(holder, place, _) in tie.holders.iter().filter(|holder| holder.1 != rank) {
                let pending = self.endpoint.receive(place, tag(step, number, holder));
                let [Buffer::F32(values)] =
                    <[Buffer; 1]>::try_from(self.endpoint.wait(pending)?).expect("invariant: one buffer")
                else {
                    panic!("a gradient is f32");
                };
                of_others.push(values);
            }
            all.push(Gathered { number, of_others });
        }
        Ok(all)
    }

    /// Sums each tie's gradients in order of stages, for every holder on this rank.
    pub(crate) fn sum_ties(&mut self, ties: Vec<Gathered>) {
        let rank = self.endpoint.rank();
        let _account = ledger::scope(rank.0, Category::Gradients);
        for Gathered { number, of_others } in ties {
            let mut of_others = of_others.into_iter();
            let mut sum: Option<Tensor<1>> = None;
            for &(holder, place, parameter) in &self.ties[number].holders {
                let term = if place == rank {
                    self.stores[&holder].training.gradients[parameter].clone()
                } else {
                    let values = of_others.next().expect("invariant: gathered from every other holder");
                    ledger::adopt(&values);
                    let n = values.len();
                    let device = self.stores.values().next().expect("invariant: a holder has a stage").part.device();
                    Tensor::from_data(TensorData::new(values, [n]), device)
                };
                sum = Some(match sum {
                    Some(sum) => sum + term,
                    None => term,
                });
            }
            let sum = sum.expect("invariant: a tie has holders");
            for &(holder, _, parameter) in self.ties[number].holders.iter().filter(|holder| holder.1 == rank) {
                let store = self.stores.get_mut(&holder).expect("invariant: the stage lies on its rank");
                store.training.gradients[parameter] = sum.clone();
            }
        }
    }
}

fn tag(step: &Step, tie: usize, holder: Stage) -> Tag {
    Tag { epoch: 0, step: step.number, channel: Channel::Tied(tie, holder.0) }
}
