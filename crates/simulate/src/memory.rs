//! Live bytes on every rank while a schedule is played.

use crate::{Category, Costs, MemorySample, StageCost};
use mesh::{Rank, Stage};
use schedule::{Action, Op, Schedule, ShardOp};
use std::collections::BTreeSet;

/// The memory curve so far.
pub(crate) struct Memory {
    live: Vec<[i64; 6]>,
    samples: Vec<Vec<MemorySample>>,
}

impl Memory {
    /// What is resident on every rank at the start: that of the stages its list works on, and of its vocabulary shard.
    pub fn new(schedule: &Schedule, costs: &Costs) -> Self {
        let n_ranks = schedule.n_ranks();
        // About what compute actions and messages change.
        let samples = schedule.ranks.iter().map(|list| Vec::with_capacity(list.len() + 1)).collect();
        let mut memory = Self { live: vec![[0; 6]; n_ranks], samples };
        for (rank, list) in schedule.ranks.iter().enumerate() {
            let is_own = |action: &Action| !matches!(action, Action::Shard { .. });
            let own: BTreeSet<Stage> =
                list.iter().copied().filter(is_own).map(|action| schedule.stage(action)).collect();
            memory.change(Rank(rank), 0.0, Category::Buffers, 0);
            let of_shard = schedule.vocabulary.and_then(|_| costs.shards.get(rank)).map(|shard| &shard.resident);
            let of_stages = own.iter().map(|stage| &costs.stages[stage.0].resident);
            for &(category, bytes) in of_stages.chain(of_shard).flatten() {
                memory.change(Rank(rank), 0.0, category, bytes as i64);
            }
        }
        memory
    }

    /// The samples of all ranks, rank by rank in order of time.
    pub fn into_samples(self) -> Vec<MemorySample> {
        self.samples.concat()
    }

    /// A compute action begins: a forward's activations, a backward's scratch; the message it uses is gone.
    pub fn compute_begins(&mut self, schedule: &Schedule, costs: &Costs, rank: Rank, action: Action, at_s: f64) {
        let stages = &costs.stages;
        let (op, key) = match action {
            Action::Visit { op, key } => (op, key),
            Action::Shard { op: ShardOp::VocabForward, .. } => {
                return self.change(rank, at_s, Category::Logits, costs.shards[rank.0].logit_bytes as i64);
            }
            Action::Shard { .. } | Action::Stage { .. } => return,
        };
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
    pub fn compute_ends(&mut self, costs: &Costs, stage: Stage, rank: Rank, action: Action, at_s: f64) {
        let op = match action {
            Action::Visit { op, .. } => op,
            Action::Shard { op: ShardOp::VocabBackward, .. } => {
                return self.change(rank, at_s, Category::Logits, -(costs.shards[rank.0].logit_bytes as i64));
            }
            Action::Shard { .. } | Action::Stage { .. } => return,
        };
        let cost = &costs.stages[stage.0];
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

/// The rank on the other side of a send or receive, and the size in bytes of what goes between them: a carry, or its
/// gradient, which is as large.
pub(crate) fn message(schedule: &Schedule, stages: &[StageCost], transfer: Action) -> (Rank, u64) {
    let Action::Visit { op, key } = transfer else { unreachable!("invariant: a transfer is a visit's") };
    let route = schedule.route(key);
    let (other, carry_of) = match op {
        Op::SendGradient | Op::RecvActivation => (route.before(key.hop), route.before(key.hop)),
        _ => (route.after(key.hop), route.get(key.hop)),
    };
    let missing = "invariant: a validated transfer has a hop on the other side";
    (other.expect(missing).rank, stages[carry_of.expect(missing).stage.0].carry_bytes)
}
