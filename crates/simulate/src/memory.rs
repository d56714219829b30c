//! Live bytes on every rank while a schedule is played.

use crate::{Category, MemorySample, StageCost};
use mesh::{Rank, Stage};
use schedule::{Action, Op, Schedule};
use std::collections::BTreeSet;

/// The memory curve so far.
pub(crate) struct Memory {
    live: Vec<[i64; 6]>,
    samples: Vec<Vec<MemorySample>>,
}

impl Memory {
    /// What is resident on every rank at the start: that of the stages its list works on.
    pub fn new(schedule: &Schedule, stages: &[StageCost]) -> Self {
        let n_ranks = schedule.n_ranks();
        let mut memory = Self { live: vec![[0; 6]; n_ranks], samples: vec![Vec::new(); n_ranks] };
        for (rank, list) in schedule.ranks.iter().enumerate() {
            let own: BTreeSet<Stage> = list.iter().map(|&action| schedule.stage(action)).collect();
            memory.change(Rank(rank), 0.0, Category::Buffers, 0);
            for &(category, bytes) in own.iter().flat_map(|stage| &stages[stage.0].resident) {
                memory.change(Rank(rank), 0.0, category, bytes as i64);
            }
        }
        memory
    }

    /// The samples of all ranks, rank by rank in order of time.
    pub fn into_samples(self) -> Vec<MemorySample> {
        self.samples.into_iter().flatten().collect()
    }

    /// A compute action begins: a forward's activations, a backward's scratch; the message it uses is gone.
    pub fn compute_begins(&mut self, schedule: &Schedule, stages: &[StageCost], rank: Rank, action: Action, at_s: f64) {
        let Action::Visit { op, key } = action else { return };
        let route = schedule.route(key);
        let cost = &stages[schedule.stage(action).0];
        match op {
            Op::Forward | Op::ForwardNoGrad => {
                if let Some(before) = route.before(key.hop).filter(|before| before.rank != rank) {
                    let bytes = stages[before.stage.0].carry_bytes;
                    self.change(rank, at_s, Category::Buffers, -(bytes as i64));
                }
                if op == Op::Forward {
                    self.change(rank, at_s, Category::Activations, cost.activation_bytes as i64);
                    self.change(rank, at_s, Category::Logits, cost.logit_bytes as i64);
                }
            }
            Op::BackwardInput | Op::Backward => {
                if route.after(key.hop).is_some_and(|after| after.rank != rank) {
                    self.change(rank, at_s, Category::Buffers, -(cost.carry_bytes as i64));
                }
                for &(category, bytes) in &cost.backward_scratch {
                    self.change(rank, at_s, category, bytes as i64);
                }
            }
            _ => {}
        }
    }

    /// A compute action ends: what it was the last to need is gone.
    pub fn compute_ends(&mut self, stages: &[StageCost], stage: Stage, rank: Rank, action: Action, at_s: f64) {
        let Action::Visit { op, .. } = action else { return };
        let cost = &stages[stage.0];
        let freed = match op {
            Op::Backward => cost.activation_bytes as i64,
            Op::BackwardInput => cost.activation_bytes as i64 - cost.weight_grad_bytes as i64,
            Op::BackwardWeight => cost.weight_grad_bytes as i64,
            _ => return,
        };
        self.change(rank, at_s, Category::Activations, -freed);
        if let Op::BackwardInput | Op::Backward = op {
            self.change(rank, at_s, Category::Logits, -(cost.logit_bytes as i64));
            for &(category, bytes) in &cost.backward_scratch {
                self.change(rank, at_s, category, -(bytes as i64));
            }
        }
    }

    /// The message of a send arrives.
    pub fn arrives(&mut self, schedule: &Schedule, stages: &[StageCost], send: Action, at_s: f64) {
        let (to, bytes) = message(schedule, stages, send);
        self.change(to, at_s, Category::Buffers, bytes as i64);
    }

    fn change(&mut self, rank: Rank, at_s: f64, category: Category, bytes: i64) {
        let live = &mut self.live[rank.0];
        live[category as usize] += bytes;
        let bytes = live.map(|bytes| u64::try_from(bytes).expect("invariant: nothing is freed before it is there"));
        let samples = &mut self.samples[rank.0];
        match samples.last_mut() {
            Some(last) if last.at_s == at_s => last.bytes = bytes,
            Some(last) if last.bytes == bytes => {}
            _ => samples.push(MemorySample { rank, at_s, bytes }),
        }
    }
}

/// Receiver and size in bytes of what a send carries: a carry, or its gradient, which is as large.
pub(crate) fn message(schedule: &Schedule, stages: &[StageCost], send: Action) -> (Rank, u64) {
    let Action::Visit { op, key } = send else { unreachable!("invariant: a send is a visit's") };
    let route = schedule.route(key);
    let missing = "invariant: a validated send has a hop on the other side";
    let (to, carry_of) = match op {
        Op::SendGradient => {
            let before = route.before(key.hop).expect(missing);
            (before.rank, before.stage)
        }
        _ => (route.after(key.hop).expect(missing).rank, schedule.stage(send)),
    };
    (to, stages[carry_of.0].carry_bytes)
}
