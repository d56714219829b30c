//! The simulator against a second one that knows no events: it repeats `start = max(what it waits for)` over all actions
//! until nothing changes, with dependencies of its own, and takes memory from the intervals in which things live.
//!
//! Times are arbitrary numbers and yet compared exactly: an end is the largest of the same candidates plus the same
//! duration in both, so that rounding is the same too.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Cores, Key, Rank, Route, Stage, StageMap, Visit};
use proptest::prelude::*;
use schedule::{
    Action, Backward, InputLayer, Kind, Op, PassTimes, Placement, Schedule, ShardOp, Spec, StageOp, Vocabulary,
    VocabularyAlgorithm, generate, with_transfers, with_transfers_in_lockstep, with_vocabulary,
};
use simulate::{Category, Communication, Costs, Link, MeetingCost, ShardCost, StageCost, bubbles, simulate};
use std::collections::{BTreeSet, HashMap};

#[derive(Clone, Copy, Default, PartialEq)]
struct Times {
    start_s: f64,
    /// When the rank goes on.
    end_s: f64,
    /// When others can use the result.
    there_s: f64,
}

struct Reference<'a> {
    schedule: &'a Schedule,
    costs: &'a Costs,
    times: HashMap<(usize, Action), Times>,
}

impl<'a> Reference<'a> {
    fn play(schedule: &'a Schedule, costs: &'a Costs) -> Self {
        let times = schedule.actions().map(|(rank, action)| ((rank.0, action), Times::default())).collect();
        let mut reference = Self { schedule, costs, times };
        loop {
            let mut is_settled = true;
            for (rank, list) in schedule.ranks.iter().enumerate() {
                let mut free_s = 0.0;
                // The same without the sends right before an action.
                let mut receives_from_s = 0.0;
                let mut links_free_s = HashMap::new();
                for &action in list {
                    let times = reference.times_of(rank, action, [free_s, receives_from_s], &mut links_free_s);
                    is_settled &= reference.times.insert((rank, action), times) == Some(times);
                    free_s = times.end_s;
                    if !matches!(action, Action::Visit { op: Op::SendActivation | Op::SendGradient, .. }) {
                        receives_from_s = free_s;
                    }
                }
            }
            if is_settled {
                return reference;
            }
        }
    }

    fn times_of(
        &self,
        rank: usize,
        action: Action,
        [free_s, receives_from_s]: [f64; 2],
        links_free_s: &mut HashMap<usize, f64>,
    ) -> Times {
        let blocks = self.costs.communication == Communication::Blocking;
        let Action::Visit { op, key } = action else { return self.compute(rank, action, free_s) };
        let at = |hop: usize| self.schedule.visit(key.at(hop)).unwrap();
        match op {
            Op::SendActivation | Op::SendGradient => {
                let to = at(if op == Op::SendActivation { key.hop.0 + 1 } else { key.hop.0 - 1 }).rank.0;
                let (latency_s, transfer_s) = self.link(rank, to, self.carry(op, key));
                let start_s = links_free_s.get(&to).copied().unwrap_or(0.0).max(free_s);
                links_free_s.insert(to, start_s + transfer_s);
                let end_s = if blocks { start_s + transfer_s } else { free_s };
                Times { start_s, end_s, there_s: start_s + transfer_s + latency_s }
            }
            Op::RecvActivation | Op::RecvGradient => {
                let (send, hop) = match op {
                    Op::RecvActivation => (Op::SendActivation, key.hop.0 - 1),
                    _ => (Op::SendGradient, key.hop.0 + 1),
                };
                let from = at(hop).rank.0;
                let there_s = self.times[&(from, Action::visit(send, key.at(hop)))].there_s;
                let (_, transfer_s) = self.link(from, rank, self.carry(send, key.at(hop)));
                let end_s = there_s.max(free_s).max(if blocks { receives_from_s + transfer_s } else { free_s });
                Times { start_s: free_s, end_s, there_s: end_s }
            }
            _ => self.compute(rank, action, free_s),
        }
    }

    fn compute(&self, rank: usize, action: Action, free_s: f64) -> Times {
        let start_s = self.collective_s(action).max(free_s);
        let end_s = start_s + self.duration_s(rank, action);
        Times { start_s, end_s, there_s: end_s }
    }

    /// When the collective that `action` waits for has ended.
    fn collective_s(&self, action: Action) -> f64 {
        let latest = |is_member: &dyn Fn(Action) -> bool| {
            let members = self.times.iter().filter(|((_, action), _)| is_member(*action));
            members.map(|(_, times)| times.end_s).fold(0.0, f64::max)
        };
        let cost = &self.costs.meetings;
        let shards = |op: ShardOp, microbatch: usize| latest(&|action| action == Action::shard(op, microbatch));
        let visits = |ops: [Op; 2], wanted: Key| {
            latest(&|action| matches!(action, Action::Visit { op, key } if ops.contains(&op) && key == wanted))
        };
        let backward = [Op::Backward, Op::BackwardInput];
        match (action, self.schedule.vocabulary) {
            (Action::Stage { op: StageOp::OptimizerStep, .. }, _) => {
                let is_gradient = |action| match action {
                    Action::Visit { op, .. } => matches!(op, Op::Backward | Op::BackwardWeight),
                    Action::Shard { op, .. } => matches!(op, ShardOp::VocabBackward | ShardOp::EmbedBackward),
                    Action::Stage { op, .. } => op == StageOp::ReduceGradients,
                };
                latest(&is_gradient) + cost.norm_s
            }
            (Action::Stage { op: StageOp::ReduceGradients, stage }, _) => {
                let Some(group) = self.schedule.tied.iter().find(|group| group.contains(&stage)) else { return 0.0 };
                let given = self.given(group);
                let exchange_s = given.iter().flat_map(|&(from, _, bytes)| {
                    let seconds = move |to| self.link(from, to, bytes);
                    given.iter().filter(move |other| other.0 != from).map(move |&(to, ..)| seconds(to))
                });
                let exchange_s = exchange_s.map(|(latency_s, transfer_s)| latency_s + transfer_s).fold(0.0, f64::max);
                given.iter().map(|given| given.1).fold(0.0, f64::max) + exchange_s
            }
            (Action::Shard { op, microbatch }, _) => {
                let i = microbatch.0;
                match op {
                    ShardOp::VocabForward => {
                        let last = self.schedule.routes[i].n_hops() - 1;
                        visits([Op::Forward; 2], Key::new(i, last)) + cost.hidden_s
                    }
                    ShardOp::VocabBackward => shards(ShardOp::VocabForward, i) + cost.softmax_s,
                    ShardOp::EmbedForward => 0.0,
                    ShardOp::EmbedBackward => visits(backward, Key::new(i, 0)) + cost.embedded_gradient_s,
                }
            }
            (Action::Visit { op, key }, Some(vocabulary)) => {
                let i = key.microbatch.0;
                let is_last = key.hop.0 + 1 == self.schedule.routes[i].n_hops();
                match (op, vocabulary.algorithm) {
                    (Op::Forward, _) if key.hop.0 == 0 && vocabulary.input == InputLayer::Sharded => {
                        shards(ShardOp::EmbedForward, i) + cost.embedded_s
                    }
                    (Op::Backward | Op::BackwardInput, VocabularyAlgorithm::OneBarrier) if is_last => {
                        shards(ShardOp::VocabForward, i) + cost.softmax_s
                    }
                    (Op::Backward | Op::BackwardInput, VocabularyAlgorithm::TwoBarriers) if is_last => {
                        shards(ShardOp::VocabBackward, i) + cost.hidden_gradient_s
                    }
                    _ => 0.0,
                }
            }
            _ => 0.0,
        }
    }

    fn duration_s(&self, rank: usize, action: Action) -> f64 {
        let stage = &self.costs.stages[self.schedule.stage(action).0];
        match action {
            Action::Visit { op, .. } => match op {
                Op::Forward => stage.forward_s,
                Op::Backward => stage.backward_s + stage.recompute_s,
                Op::BackwardInput => stage.backward_input_s + stage.recompute_s,
                Op::BackwardWeight => stage.backward_weight_s,
                _ => unreachable!("generators play nothing else"),
            },
            Action::Shard { op, .. } => match op {
                ShardOp::VocabForward => self.costs.shards[rank].forward_s,
                ShardOp::VocabBackward => self.costs.shards[rank].backward_s,
                ShardOp::EmbedForward => self.costs.shards[rank].embed_forward_s,
                ShardOp::EmbedBackward => self.costs.shards[rank].embed_backward_s,
            },
            Action::Stage { op: StageOp::ReduceGradients, .. } => stage.reduce_s,
            Action::Stage { .. } => stage.optimizer_s,
        }
    }

    /// The ranks that hold stages of a tied group: when the last action has ended that adds to their gradients, and how
    /// many bytes those are.
    fn given(&self, group: &[Stage]) -> Vec<(usize, f64, u64)> {
        let of_rank = |(rank, list): (usize, &Vec<Action>)| {
            let is_added = |action: &&Action| match **action {
                Action::Visit { op: Op::Backward | Op::BackwardInput | Op::BackwardWeight, .. } => {
                    group.contains(&self.schedule.stage(**action))
                }
                _ => false,
            };
            let ends = list.iter().filter(is_added).map(|&action| self.times[&(rank, action)].end_s);
            let last_s = ends.reduce(f64::max)?;
            let lies_here = |stage: &&Stage| list.contains(&Action::stage(StageOp::ReduceGradients, stage.0));
            let bytes = group.iter().filter(lies_here).map(|stage| self.costs.stages[stage.0].tied_bytes).sum();
            Some((rank, last_s, bytes))
        };
        self.schedule.ranks.iter().enumerate().filter_map(of_rank).collect()
    }

    /// What the other ranks of a tied group gave to this one, until it has summed them, and the sum while it is made.
    fn tied_items(&self, rank: usize) -> Vec<(Category, u64, f64, f64)> {
        let mut items = Vec::new();
        for group in &self.schedule.tied {
            let is_sum = |action: &&Action| match **action {
                Action::Stage { op: StageOp::ReduceGradients, stage } => group.contains(&stage),
                _ => false,
            };
            let Some(&first) = self.schedule.ranks[rank].iter().find(is_sum) else { continue };
            let sum = self.times[&(rank, first)];
            let others = self.given(group).into_iter().filter(|given| given.0 != rank);
            items.extend(others.map(|(_, from_s, bytes)| (Category::Buffers, bytes, from_s, sum.end_s)));
            let bytes = group.iter().map(|stage| self.costs.stages[stage.0].tied_bytes).max().unwrap();
            items.push((Category::Gradients, bytes, sum.start_s, sum.end_s));
        }
        items
    }

    /// Latency, and how long the bytes take.
    fn link(&self, from: usize, to: usize, bytes: u64) -> (f64, f64) {
        let link = self.costs.links.iter().find(|link| (link.from.0, link.to.0) == (from, to));
        link.map_or((0.0, 0.0), |link| (link.latency_s, bytes as f64 / link.bytes_per_s))
    }

    /// Bytes of what leaves the hop before the boundary that the send crosses.
    fn carry(&self, send: Op, key: Key) -> u64 {
        let hop = if send == Op::SendActivation { key.hop.0 } else { key.hop.0 - 1 };
        self.costs.stages[self.schedule.visit(key.at(hop)).unwrap().stage.0].carry_bytes
    }

    /// What lives on a rank: category, bytes, from when, until when.
    fn items(&self, rank: usize) -> Vec<(Category, u64, f64, f64)> {
        let list = &self.schedule.ranks[rank];
        let end_s = |op: Op, key: Key| self.times.get(&(rank, Action::visit(op, key))).map(|times| times.end_s);
        let mut items = Vec::new();
        let works_on = |action: &&Action| !matches!(action, Action::Shard { .. });
        let own: BTreeSet<Stage> = list.iter().filter(works_on).map(|&action| self.schedule.stage(action)).collect();
        for stage in own {
            items
                .extend(self.costs.stages[stage.0].resident.iter().map(|&(of, bytes)| (of, bytes, 0.0, f64::INFINITY)));
        }
        if self.schedule.vocabulary.is_some() {
            let resident = self.costs.shards[rank].resident.iter();
            items.extend(resident.map(|&(of, bytes)| (of, bytes, 0.0, f64::INFINITY)));
        }
        for &action in list {
            let times = self.times[&(rank, action)];
            let cost = &self.costs.stages[self.schedule.stage(action).0];
            match action {
                Action::Shard { op: ShardOp::VocabForward, microbatch } => {
                    let shard = &self.costs.shards[rank];
                    let after = self.times[&(rank, Action::shard(ShardOp::VocabBackward, microbatch.0))];
                    items.push((Category::Logits, shard.logit_bytes, times.start_s, after.end_s));
                    items.push((Category::Logits, shard.forward_scratch_bytes, times.start_s, times.end_s));
                    items.push((Category::Buffers, shard.backward_scratch_bytes, after.start_s, after.end_s));
                }
                Action::Visit { op: Op::Forward, key } => {
                    let until_s = end_s(Op::Backward, key).or(end_s(Op::BackwardInput, key)).unwrap();
                    let for_weight = end_s(Op::BackwardWeight, key).map_or(0, |_| cost.weight_grad_bytes);
                    let until_weight_s = end_s(Op::BackwardWeight, key).unwrap_or(until_s);
                    items.push((Category::Logits, cost.logit_bytes, times.start_s, until_s));
                    items.push((Category::Activations, cost.activation_bytes - for_weight, times.start_s, until_s));
                    items.push((Category::Activations, for_weight, times.start_s, until_weight_s));
                    let scratch = cost.forward_scratch.iter();
                    items.extend(scratch.map(|&(of, bytes)| (of, bytes, times.start_s, times.end_s)));
                }
                Action::Visit { op: Op::Backward | Op::BackwardInput, .. } => {
                    let scratch = cost.backward_scratch.iter();
                    items.extend(scratch.map(|&(of, bytes)| (of, bytes, times.start_s, times.end_s)));
                }
                _ => {}
            }
        }
        items.extend(self.tied_items(rank));
        items.extend(
            self.waiting(rank).into_iter().map(|(bytes, from_s, to_s)| (Category::Buffers, bytes, from_s, to_s)),
        );
        for (&(from, send), sent) in &self.times {
            let Action::Visit { op: op @ (Op::SendActivation | Op::SendGradient), key } = send else { continue };
            let (there, users) = match op {
                Op::SendActivation => (key.at(key.hop.0 + 1), [Op::Forward; 2]),
                _ => (key.at(key.hop.0 - 1), [Op::Backward, Op::BackwardInput]),
            };
            if self.schedule.visit(there).unwrap().rank.0 == rank {
                assert_ne!(from, rank);
                let user = users.iter().find_map(|&op| self.times.get(&(rank, Action::visit(op, there)))).unwrap();
                items.push((Category::Buffers, self.carry(op, key), sent.there_s, user.start_s));
            }
        }
        items
    }

    /// Bytes of collectives that wait on a rank: from when one of a microbatch's passes ends, until when another begins.
    fn waiting(&self, rank: usize) -> Vec<(u64, f64, f64)> {
        let Some(vocabulary) = self.schedule.vocabulary else { return Vec::new() };
        let mut waiting = Vec::new();
        for (i, route) in self.schedule.routes.iter().enumerate() {
            let visit = |ops: &[Op], hop: usize| {
                let times = |&op: &Op| {
                    let holder = route.visits()[hop].rank.0;
                    self.times.get(&(holder, Action::visit(op, Key::new(i, hop)))).copied()
                };
                ops.iter().find_map(times).unwrap()
            };
            let (first, last) = (0, route.n_hops() - 1);
            let backward = [Op::Backward, Op::BackwardInput];
            let of_shard = |op: ShardOp, at: usize| self.times[&(at, Action::shard(op, i))];
            let own = &self.costs.shards[rank];
            let forward = of_shard(ShardOp::VocabForward, rank);
            waiting.push((own.hidden_bytes, visit(&[Op::Forward], last).end_s, forward.start_s));
            for (from, shard) in self.costs.shards.iter().enumerate() {
                let sent_s = of_shard(ShardOp::VocabForward, from).end_s;
                waiting.push((shard.statistics_bytes, sent_s, of_shard(ShardOp::VocabBackward, rank).start_s));
                if route.visits()[last].rank.0 == rank {
                    let used_s = visit(&backward, last).start_s;
                    if vocabulary.algorithm == VocabularyAlgorithm::OneBarrier {
                        waiting.push((shard.statistics_bytes, sent_s, used_s));
                        waiting.push((shard.hidden_gradient_bytes, sent_s, used_s));
                    } else {
                        let sent_s = of_shard(ShardOp::VocabBackward, from).end_s;
                        waiting.push((shard.hidden_gradient_bytes, sent_s, used_s));
                    }
                }
                if vocabulary.input == InputLayer::Sharded && route.visits()[first].rank.0 == rank {
                    let sent_s = of_shard(ShardOp::EmbedForward, from).end_s;
                    waiting.push((shard.embedded_bytes, sent_s, visit(&[Op::Forward], first).start_s));
                }
            }
            if vocabulary.input == InputLayer::Sharded {
                let used_s = of_shard(ShardOp::EmbedBackward, rank).start_s;
                waiting.push((own.embedded_bytes, visit(&backward, first).end_s, used_s));
            }
        }
        waiting
    }
}

fn peak(items: &[(Category, u64, f64, f64)], counts: impl Fn(Category) -> bool) -> u64 {
    let live = |at_s: f64| {
        let alive = items.iter().filter(|&&(of, _, from_s, to_s)| counts(of) && from_s <= at_s && at_s < to_s);
        alive.map(|item| item.1).sum()
    };
    items.iter().map(|item| live(item.2)).max().unwrap_or(0)
}

fn costs(n_stages: usize, n_ranks: usize) -> impl Strategy<Value = Costs> {
    let time = || prop_oneof![Just(0.0), 0.0..3.0_f64];
    let bytes = || 0..50_u64;
    let stage = (prop::array::uniform6(time()), time(), prop::array::uniform8(bytes()), [bytes(), bytes(), bytes()])
        .prop_map(|(times, reduce_s, bytes, [kept, begun, tied_bytes])| {
            let [forward_s, backward_input_s, backward_weight_s, backward_s, recompute_s, optimizer_s] = times;
            let [carry_bytes, weight_grad_bytes, logit_bytes, scratch, more, weights, gradients, buffers] = bytes;
            StageCost {
                forward_s,
                backward_input_s,
                backward_weight_s,
                backward_s,
                recompute_s,
                optimizer_s,
                reduce_s,
                tied_bytes,
                carry_bytes,
                activation_bytes: weight_grad_bytes + kept,
                logit_bytes,
                weight_grad_bytes,
                forward_scratch: vec![(Category::Activations, begun)],
                backward_scratch: vec![(Category::Logits, scratch), (Category::Activations, more)],
                resident: vec![
                    (Category::Weights, weights),
                    (Category::Gradients, gradients),
                    (Category::Buffers, buffers),
                ],
            }
        });
    let shard = (prop::array::uniform4(time()), prop::array::uniform8(bytes())).prop_map(|(times, bytes)| {
        let [forward_s, backward_s, embed_forward_s, embed_backward_s] = times;
        ShardCost {
            forward_s,
            backward_s,
            embed_forward_s,
            embed_backward_s,
            logit_bytes: bytes[0],
            forward_scratch_bytes: bytes[1],
            backward_scratch_bytes: bytes[2],
            hidden_bytes: bytes[3],
            statistics_bytes: bytes[4],
            hidden_gradient_bytes: bytes[5],
            embedded_bytes: bytes[6],
            resident: vec![(Category::Weights, bytes[7])],
        }
    });
    let meetings = prop::array::uniform6(time()).prop_map(|times| {
        let [hidden_s, softmax_s, hidden_gradient_s, embedded_s, embedded_gradient_s, norm_s] = times;
        MeetingCost { hidden_s, softmax_s, hidden_gradient_s, embedded_s, embedded_gradient_s, norm_s }
    });
    let speed = prop_oneof![Just(f64::INFINITY), 1.0..100.0_f64];
    let links = prop::collection::vec(prop::option::of((time(), speed)), n_ranks * n_ranks);
    let communication = prop_oneof![Just(Communication::Overlapped), Just(Communication::Blocking)];
    let stages = prop::collection::vec(stage, n_stages);
    let shards = prop::collection::vec(shard, n_ranks);
    (stages, shards, meetings, links, communication).prop_map(
        move |(stages, shards, meetings, links, communication)| {
            let link = |(i, link): (usize, Option<(f64, f64)>)| {
                let (latency_s, bytes_per_s) = link?;
                Some(Link { from: Rank(i / n_ranks), to: Rank(i % n_ranks), latency_s, bytes_per_s })
            };
            let links = links.into_iter().enumerate().filter_map(link).collect();
            Costs { stages, shards, meetings, links, communication, ..Costs::default() }
        },
    )
}

/// A schedule of any kind, with every way to shard the vocabulary or none, with stages tied or not, and both ways to
/// spell out messages.
fn schedules() -> impl Strategy<Value = Schedule> {
    let vocabulary = prop::option::of((
        prop::sample::select(&[VocabularyAlgorithm::OneBarrier, VocabularyAlgorithm::TwoBarriers][..]),
        prop::sample::select(&[InputLayer::FirstStage, InputLayer::Sharded][..]),
    ));
    let backward = prop_oneof![Just(Backward::Fused), Just(Backward::Split)];
    let ranks = prop::collection::vec(0..3_usize, 1..6);
    let tied = prop::collection::vec(prop::option::of(0..2_usize), 12);
    let with = prop_oneof![Just(with_transfers as fn(&Schedule) -> Schedule), Just(with_transfers_in_lockstep as _)];
    (
        prop::sample::select(&Kind::ALL[..]),
        backward,
        1..=4_usize,
        1..=3_usize,
        1..=7_usize,
        ranks,
        (vocabulary, tied),
        with,
    )
        .prop_map(|(kind, backward, p, v, m, ranks, (vocabulary, tied), with)| {
            let visit = |(stage, rank): (usize, usize)| Visit { stage: Stage(stage), rank: Rank(rank) };
            let (route, m) = match kind.placement() {
                Placement::V => {
                    let ranks = (0..p).chain((0..p).rev());
                    (Route::new(ranks.enumerate().map(visit).collect()), m + 2 * p - 1)
                }
                Placement::Looped => (StageMap::looped(p * v, p).route(), m),
                Placement::OnePerRank => (StageMap::one_per_rank(p).route(), m),
                Placement::Any => (Route::new(ranks.into_iter().enumerate().map(visit).collect()), m),
            };
            // Two groups, of none to all stages.
            let group = |number| (0..route.n_hops()).filter(|&stage| tied[stage] == Some(number)).map(Stage).collect();
            let tied: Vec<Vec<Stage>> = (0..2).map(group).collect();
            let schedule = generate(Spec { kind, backward }, &route, m, &tied).unwrap();
            let schedule = match vocabulary {
                Some((algorithm, input)) => {
                    let times = PassTimes::equal(route.n_hops());
                    with_vocabulary(&schedule, Vocabulary { algorithm, input }, &times).unwrap()
                }
                None => schedule,
            };
            with(&schedule)
        })
}

fn cases() -> impl Strategy<Value = (Schedule, Costs)> {
    schedules().prop_flat_map(|schedule| {
        let n_ranks = schedule.n_ranks();
        let n_stages = schedule.routes[0].n_hops();
        (Just(schedule), costs(n_stages, n_ranks))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Every start and end, and on every rank every category's peak and the peak of their sum.
    #[test]
    fn times_and_peaks_equal_those_of_the_reference((schedule, costs) in cases()) {
        let timeline = simulate(&schedule, &costs).unwrap();
        let reference = Reference::play(&schedule, &costs);
        for span in &timeline.spans {
            let times = reference.times[&(span.rank.0, span.action)];
            let is_send = matches!(span.action, Action::Visit { op: Op::SendActivation | Op::SendGradient, .. });
            let end_s = if is_send && costs.communication == Communication::Overlapped { times.there_s } else { times.end_s };
            prop_assert_eq!((span.start_s, span.end_s), (times.start_s, end_s), "{} {:?}", schedule, span);
        }
        for rank in 0..schedule.n_ranks() {
            let items = reference.items(rank);
            let expected = Category::ALL.map(|category| peak(&items, |of| of == category));
            prop_assert_eq!(timeline.peak_by_category(Rank(rank)), expected, "rank {} {}", rank, schedule);
            prop_assert_eq!(timeline.peak_bytes(Rank(rank)), peak(&items, |_| true), "rank {} {}", rank, schedule);
        }
    }

    /// Every moment of every rank has one cause, with core permits or without.
    #[test]
    fn causes_sum_to_the_makespan((schedule, costs) in cases(), permits in 0..=2_usize) {
        let cores = (permits > 0).then(|| Cores { permits, ..Cores::shared(schedule.n_ranks(), 1) });
        let costs = Costs { cores: cores.into_iter().collect(), ..costs };
        let timeline = simulate(&schedule, &costs).unwrap();
        let makespan_s = timeline.makespan_s();
        for bubble in bubbles(&timeline, &costs) {
            let parts_s = [
                bubble.compute_s, bubble.warm_up_s, bubble.drain_s, bubble.dependency_s, bubble.memory_s,
                bubble.communication_s, bubble.permit_s,
            ];
            prop_assert!(parts_s.iter().all(|&part_s| part_s >= 0.0), "{:?}", bubble);
            prop_assert_eq!(bubble.other_s, 0.0, "{:?}", bubble);
            // Sums of a few hundred parts, each rounded: at most as many units in the last place of the makespan.
            let sum_s: f64 = parts_s.iter().sum();
            let rounding_s = 4.0 * timeline.spans.len() as f64 * f64::EPSILON * makespan_s;
            prop_assert!((sum_s - makespan_s).abs() <= rounding_s, "{} {} {:?}", sum_s, makespan_s, bubble);
        }
    }
}
