//! Live bytes on every rank while a schedule is played.

use crate::tied::Group;
use crate::{Category, Costs, MemorySample, ShardCost, StageCost};
use mesh::{Key, Microbatch, Rank, Stage};
use schedule::{Action, InputLayer, Op, Schedule, ShardOp, Vocabulary, VocabularyAlgorithm};
use std::collections::BTreeSet;

/// The memory curve so far.
pub(crate) struct Memory {
    live: Vec<[i64; 6]>,
    samples: Vec<Vec<MemorySample>>,
    /// By microbatch: whether its shards have a `VT` for which their `VS` keeps something.
    is_trained: Vec<bool>,
}

impl Memory {
    /// What is resident on every rank at the start: that of the stages its list works on, and of its vocabulary shard.
    pub fn new(schedule: &Schedule, costs: &Costs) -> Self {
        let n_ranks = schedule.n_ranks();
        // About what compute actions and messages change.
        let samples = schedule.ranks.iter().map(|list| Vec::with_capacity(list.len() + 1)).collect();
        let mut is_trained = vec![false; schedule.n_microbatches()];
        for (_, action) in schedule.actions() {
            if let Action::Shard { op: ShardOp::VocabBackward, microbatch } = action {
                is_trained[microbatch.0] = true;
            }
        }
        let mut memory = Self { live: vec![[0; 6]; n_ranks], samples, is_trained };
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

    /// A compute action begins: a forward's activations, its scratch or a backward's; the messages it uses are gone.
    pub fn compute_begins(
        &mut self,
        schedule: &Schedule,
        costs: &Costs,
        stage: Stage,
        rank: Rank,
        action: Action,
        at_s: f64,
    ) {
        let stages = &costs.stages;
        let (op, key) = match action {
            Action::Visit { op, key } => (op, key),
            Action::Shard { op, .. } => {
                return self.shard_begins(&costs.shards, rank, op, at_s);
            }
            Action::Stage { .. } => return,
        };
        let route = schedule.route(key);
        let cost = &stages[stage.0];
        match op {
            Op::Forward | Op::ForwardNoGrad => {
                if let Some(before) = route.before(key.hop).filter(|before| before.rank != rank) {
                    let bytes = stages[before.stage.0].carry_bytes;
                    self.change(rank, at_s, Category::Buffers, -(bytes as i64));
                }
                if looks_up_in_shards(schedule, key) {
                    let bytes: u64 = costs.shards.iter().map(|shard| shard.embedded_bytes).sum();
                    self.change(rank, at_s, Category::Buffers, -(bytes as i64));
                }
                if op == Op::Forward {
                    self.change(rank, at_s, Category::Activations, cost.activation_bytes as i64);
                    self.change(rank, at_s, Category::Logits, cost.logit_bytes as i64);
                    self.add(rank, at_s, &cost.forward_scratch);
                }
            }
            Op::BackwardInput | Op::Backward => {
                if route.after(key.hop).is_some_and(|after| after.rank != rank) {
                    self.change(rank, at_s, Category::Buffers, -(cost.carry_bytes as i64));
                }
                if let Some(vocabulary) = schedule.vocabulary.filter(|_| route.is_last(key.hop)) {
                    let parts = costs.shards.iter().map(|shard| match vocabulary.algorithm {
                        VocabularyAlgorithm::OneBarrier => shard.hidden_gradient_bytes + shard.statistics_bytes,
                        VocabularyAlgorithm::TwoBarriers => shard.hidden_gradient_bytes,
                    });
                    self.change(rank, at_s, Category::Buffers, -(parts.sum::<u64>() as i64));
                }
                self.add(rank, at_s, &cost.backward_scratch);
            }
            _ => {}
        }
    }

    fn shard_begins(&mut self, shards: &[ShardCost], rank: Rank, op: ShardOp, at_s: f64) {
        let shard = &shards[rank.0];
        match op {
            ShardOp::VocabForward => {
                self.change(rank, at_s, Category::Buffers, -(shard.hidden_bytes as i64));
                let bytes = shard.logit_bytes + shard.forward_scratch_bytes;
                self.change(rank, at_s, Category::Logits, bytes as i64);
            }
            ShardOp::VocabBackward => {
                let statistics: u64 = shards.iter().map(|shard| shard.statistics_bytes).sum();
                let bytes = shard.backward_scratch_bytes as i64 - statistics as i64;
                self.change(rank, at_s, Category::Buffers, bytes);
            }
            ShardOp::EmbedForward => {}
            ShardOp::EmbedBackward => {
                self.change(rank, at_s, Category::Buffers, -(shard.embedded_bytes as i64));
            }
        }
    }

    /// A compute action ends: what it was the last to need is gone, and what it gives to the members of a collective
    /// waits where it will be used.
    pub fn compute_ends(
        &mut self,
        schedule: &Schedule,
        costs: &Costs,
        stage: Stage,
        rank: Rank,
        action: Action,
        at_s: f64,
    ) {
        let (op, key) = match action {
            Action::Visit { op, key } => (op, key),
            Action::Shard { op, microbatch } => {
                return self.shard_ends(schedule, &costs.shards, rank, op, microbatch, at_s);
            }
            Action::Stage { .. } => return,
        };
        let cost = &costs.stages[stage.0];
        match op {
            Op::Forward => self.remove(rank, at_s, &cost.forward_scratch),
            Op::Backward | Op::BackwardInput => {
                let kept_on = if op == Op::BackwardInput { cost.weight_grad_bytes } else { 0 };
                let freed = cost.activation_bytes as i64 - kept_on as i64;
                self.change(rank, at_s, Category::Activations, -freed);
                self.change(rank, at_s, Category::Logits, -(cost.logit_bytes as i64));
                self.remove(rank, at_s, &cost.backward_scratch);
                if looks_up_in_shards(schedule, key) {
                    self.give_all(costs, at_s, |shard| shard.embedded_bytes);
                }
            }
            Op::BackwardWeight => {
                self.change(rank, at_s, Category::Activations, -(cost.weight_grad_bytes as i64));
            }
            _ => {}
        }
        let gives_hidden = matches!(op, Op::Forward | Op::ForwardNoGrad) && schedule.vocabulary.is_some();
        if gives_hidden && schedule.route(key).is_last(key.hop) {
            self.give_all(costs, at_s, |shard| shard.hidden_bytes);
        }
    }

    fn shard_ends(
        &mut self,
        schedule: &Schedule,
        shards: &[ShardCost],
        rank: Rank,
        op: ShardOp,
        microbatch: Microbatch,
        at_s: f64,
    ) {
        let shard = &shards[rank.0];
        let visits = schedule.routes[microbatch.0].visits();
        let (Some(first), Some(last)) = (visits.first(), visits.last()) else { return };
        let algorithm = schedule.vocabulary.map(|vocabulary| vocabulary.algorithm);
        let is_trained = self.is_trained[microbatch.0];
        let mut waits_at = |to: Rank, bytes: u64| self.change(to, at_s, Category::Buffers, bytes as i64);
        match op {
            ShardOp::VocabForward if is_trained => {
                (0..schedule.n_ranks()).for_each(|to| waits_at(Rank(to), shard.statistics_bytes));
                if algorithm == Some(VocabularyAlgorithm::OneBarrier) {
                    waits_at(last.rank, shard.hidden_gradient_bytes + shard.statistics_bytes);
                }
                self.change(rank, at_s, Category::Logits, -(shard.forward_scratch_bytes as i64));
            }
            ShardOp::VocabForward => {
                waits_at(last.rank, shard.statistics_bytes);
                let bytes = shard.logit_bytes + shard.forward_scratch_bytes;
                self.change(rank, at_s, Category::Logits, -(bytes as i64));
            }
            ShardOp::VocabBackward => {
                if algorithm == Some(VocabularyAlgorithm::TwoBarriers) {
                    waits_at(last.rank, shard.hidden_gradient_bytes);
                }
                self.change(rank, at_s, Category::Logits, -(shard.logit_bytes as i64));
                self.change(rank, at_s, Category::Buffers, -(shard.backward_scratch_bytes as i64));
            }
            ShardOp::EmbedForward => waits_at(first.rank, shard.embedded_bytes),
            ShardOp::EmbedBackward => {}
        }
    }

    /// What goes to every rank of a collective waits there.
    fn give_all(&mut self, costs: &Costs, at_s: f64, bytes: impl Fn(&ShardCost) -> u64) {
        for (rank, shard) in costs.shards.iter().enumerate() {
            self.change(Rank(rank), at_s, Category::Buffers, bytes(shard) as i64);
        }
    }

    /// A rank's share of a tied group's gradients is complete: a copy waits at each of the others.
    pub fn share(&mut self, group: &Group, rank: Rank, at_s: f64) {
        let bytes = group.given[&rank] as i64;
        let others = group.given.keys().filter(|&&other| other != rank);
        others.for_each(|&other| self.change(other, at_s, Category::Buffers, bytes));
    }

    /// A rank sums a tied group's gradients.
    pub fn sum_begins(&mut self, group: &Group, rank: Rank, at_s: f64) {
        self.change(rank, at_s, Category::Gradients, group.sum_bytes as i64);
    }

    /// The sum takes the place of the rank's own share; the others' are gone.
    pub fn sum_ends(&mut self, group: &Group, rank: Rank, at_s: f64) {
        let of_others: u64 = group.given.iter().filter(|&(&other, _)| other != rank).map(|(_, bytes)| bytes).sum();
        self.change(rank, at_s, Category::Buffers, -(of_others as i64));
        self.change(rank, at_s, Category::Gradients, -(group.sum_bytes as i64));
    }

    /// The message of a send arrives.
    pub fn arrives(&mut self, schedule: &Schedule, stages: &[StageCost], send: Action, at_s: f64) {
        let (to, bytes) = message(schedule, stages, send);
        self.change(to, at_s, Category::Buffers, bytes as i64);
    }

    fn add(&mut self, rank: Rank, at_s: f64, list: &[(Category, u64)]) {
        list.iter().for_each(|&(category, bytes)| self.change(rank, at_s, category, bytes as i64));
    }

    fn remove(&mut self, rank: Rank, at_s: f64, list: &[(Category, u64)]) {
        list.iter().for_each(|&(category, bytes)| self.change(rank, at_s, category, -(bytes as i64)));
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

/// Whether the visit is a first hop's, whose embedding's rows lie in the shards.
fn looks_up_in_shards(schedule: &Schedule, key: Key) -> bool {
    let is_sharded = |vocabulary: Vocabulary| vocabulary.input == InputLayer::Sharded;
    key.hop.0 == 0 && schedule.vocabulary.is_some_and(is_sharded)
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
