//! Playing a schedule with costs instead of tensors.

use crate::memory::{Memory, message};
use crate::tied::Tied;
use crate::{Communication, Costs, MeetingSpan, SimulateError, Span, Timeline};
use mesh::{Key, Rank, Stage};
use schedule::{
    Action, Dependencies, Meeting, Moment, Op, Schedule, ShardOp, StageOp, dependencies, validate, with_transfers,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet};

/// The timeline of `schedule` under `costs`, exact for these rules:
///
/// - Each rank plays its list in order; an action begins when the one before it has ended and what it waits for is
///   done ([`schedule::dependencies`]).
/// - A send is handed to its link. A link takes one message after the other, in the order they were handed over, each
///   for bytes / bandwidth; the message is there the latency after its last byte left. Between ranks without a link it
///   is there at once. Sends never wait for their receive, so what `validate` accepts plays to its end.
/// - Overlapped ([`Communication::Overlapped`]): the rank plays on when the send is handed over; a receive ends when
///   the message is there.
/// - Blocking ([`Communication::Blocking`]): the rank plays on when the last byte has left, waiting in the link's queue
///   included. A receive takes its rank for bytes / bandwidth: it ends that long after both the rank had come to it, past
///   sends right before it, and the first byte was there (the latency after the link took the message), so at the
///   message's arrival if the rank was waiting. Sends right before a receive thus move together with it: links carry both
///   directions at once, and trainers start a send and the receive after it as one batch. Sends are still buffered: one
///   that waited for its receive would deadlock the plainest 1F1B, where neighbours send to each other at the same time.
/// - A compute action of a rank that shares cores holds a permit from start to end; who asked first gets the next free
///   permit, at the same moment the lower rank. Sends and receives need none.
/// - A collective ([`schedule::Meeting`]) begins when its last member has ended and takes its cost; it occupies no rank.
/// - An optimistic update stands: `TRY_OPT` takes as long as `OPT`, `VALIDATE` no time.
/// - The shares of a tied group ([`Schedule::tied`]) are exchanged as one collective: from the moment the last is
///   complete it takes the longest of its links' latency + bytes / bandwidth, of all that one rank gives another, and
///   no time from the links' messages. Then `REDUCE_GRAD` takes its cost. Ranks with replicas of one stage do not wait
///   for each other.
/// - A forward's activations and logits live from its start to the end of `I` or `B`, the part of the activations that
///   `W` needs to the end of `W`, a shard's logits from the start of `VS` to the end of `VT`, scratch while its action
///   runs; a message occupies the receiver's buffers from its arrival until the action that uses it begins, and what an
///   action gives to a collective from the end of that action on. Shares of tied gradients stay in their receivers'
///   buffers until `REDUCE_GRAD` ends, and beside them lies the sum while it runs. What goes at the moment at which something else comes
///   is never counted together with it.
///
/// A schedule without transfers is played as [`with_transfers`] makes it, and the timeline has those transfers.
/// Deterministic; takes time proportional to the number of actions (times the logarithm of the number of ranks), on one
/// core less than a second for a million of them (`benches/simulate.rs`).
///
/// # Errors
/// [`SimulateError::Schedule`] when the validator refuses the schedule; the others when costs are missing, negative or
/// contradict each other.
pub fn simulate(schedule: &Schedule, costs: &Costs) -> Result<Timeline, SimulateError> {
    validate(schedule).map_err(|problems| SimulateError::Schedule { problems })?;
    check(schedule, costs)?;
    let is_transfer = |(_, action)| matches!(action, Action::Visit { op, .. } if !op.is_compute());
    if schedule.actions().any(is_transfer) {
        return Ok(Play::new(schedule, costs).run());
    }
    let schedule = with_transfers(schedule);
    Ok(Play::new(&schedule, costs).run())
}

fn check(schedule: &Schedule, costs: &Costs) -> Result<(), SimulateError> {
    for (_, action) in schedule.actions() {
        let stage = schedule.stage(action);
        if stage.0 >= costs.stages.len() {
            return Err(SimulateError::MissingStage { stage, given: costs.stages.len() });
        }
    }
    if schedule.vocabulary.is_some() && costs.shards.len() < schedule.n_ranks() {
        return Err(SimulateError::MissingShard { rank: Rank(costs.shards.len()), given: costs.shards.len() });
    }
    let duration = |what: String, found: f64| match found.is_finite() && found >= 0.0 {
        true => Ok(()),
        false => Err(SimulateError::Duration { what, found }),
    };
    for (i, cost) in costs.stages.iter().enumerate() {
        for (name, seconds) in [
            ("forward", cost.forward_s),
            ("backward of the input", cost.backward_input_s),
            ("backward of the weights", cost.backward_weight_s),
            ("backward", cost.backward_s),
            ("recomputation", cost.recompute_s),
            ("optimizer step", cost.optimizer_s),
            ("gradient reduction", cost.reduce_s),
        ] {
            duration(format!("the {name} of stage {i}"), seconds)?;
        }
    }
    for (rank, cost) in costs.shards.iter().enumerate() {
        for (name, seconds) in [
            ("vocabulary forward", cost.forward_s),
            ("vocabulary backward", cost.backward_s),
            ("embedding forward", cost.embed_forward_s),
            ("embedding backward", cost.embed_backward_s),
        ] {
            duration(format!("the {name} of rank {rank}"), seconds)?;
        }
    }
    for (name, seconds) in [
        ("hidden states to the vocabulary shards", costs.meetings.hidden_s),
        ("softmax statistics", costs.meetings.softmax_s),
        ("hidden gradients of the vocabulary shards", costs.meetings.hidden_gradient_s),
        ("embedded rows", costs.meetings.embedded_s),
        ("gradient of the embedded rows", costs.meetings.embedded_gradient_s),
        ("global norm", costs.meetings.norm_s),
    ] {
        duration(format!("the collective for the {name}"), seconds)?;
    }
    let mut links = BTreeSet::new();
    for link in &costs.links {
        let (from, to) = (link.from, link.to);
        duration(format!("the latency from rank {from} to rank {to}"), link.latency_s)?;
        if link.bytes_per_s.is_nan() || link.bytes_per_s <= 0.0 {
            return Err(SimulateError::Bandwidth { from, to, found: link.bytes_per_s });
        }
        if !links.insert((from, to)) {
            return Err(SimulateError::LinkTwice { from, to });
        }
    }
    let mut ranks = BTreeSet::new();
    for cores in &costs.cores {
        if cores.permits == 0 {
            return Err(SimulateError::NoPermits);
        }
        if let Some(&rank) = cores.ranks.iter().find(|&&rank| !ranks.insert(rank)) {
            return Err(SimulateError::CoresTwice { rank });
        }
    }
    Ok(())
}

struct LinkState {
    latency_s: f64,
    bytes_per_s: f64,
    free_at_s: f64,
}

/// Something that is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// An action or a meeting ends; for a send, its message is there.
    End(usize),
    /// The last byte of a blocking send has left its rank.
    Left(usize),
}

struct CoreGroup {
    n_free: usize,
    /// (when asked, rank), first come first served.
    queue: BinaryHeap<Reverse<(Moment, usize)>>,
}

/// What a rank is at.
struct RankState {
    /// The action at the head of what is left of the list.
    head: usize,
    /// One past the rank's last action.
    end: usize,
    /// When the head became the head.
    came_at_s: f64,
    /// When what comes before the head, sends right before it left out, had ended.
    receives_from_s: f64,
    /// Whether the head computes, has asked for a permit, or moves the bytes of a message.
    is_busy: bool,
    cores: Option<usize>,
}

#[derive(Clone, Copy, Default)]
struct Times {
    asked_s: f64,
    start_s: f64,
    end_s: f64,
}

struct Play<'a> {
    schedule: &'a Schedule,
    costs: &'a Costs,
    /// All actions, rank by rank.
    actions: Vec<(Rank, Action)>,
    /// The stage that action `i` works on.
    stages: Vec<Stage>,
    /// Visits whose recomputation is an action of its own, and so not part of their backward.
    recomputed: HashSet<Key>,
    /// The collectives, nodes `actions.len()` and up.
    meetings: Vec<Meeting>,
    /// How many nodes each node still waits for.
    n_waits: Vec<u32>,
    /// The nodes that wait for node `i`: `dependents[dependent_starts[i]..dependent_starts[i + 1]]`.
    dependent_starts: Vec<u32>,
    dependents: Vec<u32>,
    times: Vec<Times>,
    ranks: Vec<RankState>,
    links: BTreeMap<(Rank, Rank), LinkState>,
    cores: Vec<CoreGroup>,
    tied: Tied,
    events: BinaryHeap<Reverse<(Moment, Event)>>,
    /// Ranks whose head may be able to begin.
    awake: Vec<usize>,
    memory: Memory,
}

impl<'a> Play<'a> {
    fn new(schedule: &'a Schedule, costs: &'a Costs) -> Self {
        let dependencies = dependencies(schedule).expect("invariant: validated schedule");
        let mut actions: Vec<(Rank, Action)> = Vec::with_capacity(dependencies.n_actions());
        for (rank, list) in schedule.ranks.iter().enumerate() {
            actions.extend(list.iter().map(|&action| (Rank(rank), action)));
        }
        let n_nodes = actions.len() + dependencies.meetings().len();
        let (dependent_starts, dependents) = reversed(&dependencies, n_nodes);
        let cores_of = |rank: Rank| costs.cores.iter().position(|cores| cores.ranks.contains(&rank));
        let ranks = (0..schedule.n_ranks()).map(|rank| {
            let own = dependencies.actions_of(Rank(rank));
            RankState {
                head: own.start,
                end: own.end,
                came_at_s: 0.0,
                receives_from_s: 0.0,
                is_busy: false,
                cores: cores_of(Rank(rank)),
            }
        });
        let links = costs.links.iter().map(|link| {
            let state = LinkState { latency_s: link.latency_s, bytes_per_s: link.bytes_per_s, free_at_s: 0.0 };
            ((link.from, link.to), state)
        });
        let cores = costs.cores.iter().map(|cores| CoreGroup { n_free: cores.permits, queue: BinaryHeap::new() });
        let recomputed = actions.iter().filter_map(|&(_, action)| match action {
            Action::Visit { op: Op::Recompute, key } => Some(key),
            _ => None,
        });
        Self {
            recomputed: recomputed.collect(),
            stages: actions.iter().map(|&(_, action)| schedule.stage(action)).collect(),
            n_waits: (0..n_nodes).map(|i| dependencies.of(i).len() as u32).collect(),
            times: vec![Times::default(); n_nodes],
            meetings: dependencies.meetings().to_vec(),
            ranks: ranks.collect(),
            links: links.collect(),
            cores: cores.collect(),
            tied: Tied::new(schedule, costs, &dependencies),
            events: BinaryHeap::new(),
            awake: (0..schedule.n_ranks()).rev().collect(),
            memory: Memory::new(schedule, costs),
            schedule,
            costs,
            actions,
            dependent_starts,
            dependents,
        }
    }

    fn run(mut self) -> Timeline {
        let mut now_s = 0.0;
        let nobody = (self.actions.len()..self.n_waits.len()).filter(|&i| self.n_waits[i] == 0);
        nobody.collect::<Vec<usize>>().into_iter().for_each(|i| self.meet(i, now_s));
        loop {
            while let Some(rank) = self.awake.pop() {
                self.advance(rank, now_s);
            }
            self.grant(now_s);
            // All that ends at one moment ends before anything new begins, so that ranks ask for permits together.
            let Some(&Reverse((next, _))) = self.events.peek() else { break };
            now_s = next.get();
            while let Some(&Reverse((at, event))) = self.events.peek()
                && at == next
            {
                self.events.pop();
                match event {
                    Event::End(i) => self.end(i, now_s),
                    Event::Left(i) => self.free(self.actions[i].0.0, now_s),
                }
            }
        }
        let stuck = self.ranks.iter().find(|rank| rank.head < rank.end);
        assert!(stuck.is_none(), "a validated schedule plays to its end");
        let spans =
            self.actions.iter().zip(&self.stages).zip(&self.times).map(|((&(rank, action), &stage), times)| Span {
                rank,
                action,
                stage,
                label: self.schedule.label_parts(action),
                asked_s: times.asked_s,
                start_s: times.start_s,
                end_s: times.end_s,
            });
        let meetings = self
            .meetings
            .iter()
            .zip(&self.times[self.actions.len()..])
            .map(|(&meeting, times)| MeetingSpan { meeting, start_s: times.start_s, end_s: times.end_s });
        Timeline {
            n_ranks: self.ranks.len(),
            spans: spans.collect(),
            meetings: meetings.collect(),
            memory: self.memory.into_samples(),
        }
    }

    /// Plays a rank on until it computes, waits, or has played all.
    fn advance(&mut self, rank: usize, now_s: f64) {
        loop {
            let state = &mut self.ranks[rank];
            let head = state.head;
            if state.is_busy || head == state.end || self.n_waits[head] > 0 {
                return;
            }
            let times = &mut self.times[head];
            match self.actions[head].1 {
                Action::Visit { op: Op::SendActivation | Op::SendGradient, .. } => {
                    if self.send(head, now_s) > now_s {
                        self.ranks[rank].is_busy = true;
                        return;
                    }
                    self.next(rank, now_s);
                }
                Action::Visit { op: Op::RecvActivation | Op::RecvGradient, .. } => {
                    let (came_at_s, from_s) = (state.came_at_s, state.receives_from_s);
                    let end_s = self.received_s(head, from_s).max(now_s);
                    self.times[head] = Times { asked_s: came_at_s, start_s: came_at_s, end_s };
                    if end_s > now_s {
                        self.ranks[rank].is_busy = true;
                        self.events.push(Reverse((Moment::new(end_s), Event::End(head))));
                        return;
                    }
                    self.next(rank, now_s);
                    self.done(head, now_s);
                }
                _ => {
                    times.asked_s = now_s;
                    state.is_busy = true;
                    match state.cores {
                        Some(cores) => self.cores[cores].queue.push(Reverse((Moment::new(now_s), rank))),
                        None => self.compute(rank, now_s),
                    }
                }
            }
        }
    }

    fn next(&mut self, rank: usize, now_s: f64) {
        let state = &mut self.ranks[rank];
        if !matches!(self.actions[state.head].1, Action::Visit { op: Op::SendActivation | Op::SendGradient, .. }) {
            state.receives_from_s = now_s;
        }
        state.head += 1;
        state.came_at_s = now_s;
    }

    /// A rank's head has ended.
    fn free(&mut self, rank: usize, now_s: f64) {
        self.ranks[rank].is_busy = false;
        self.next(rank, now_s);
        self.awake.push(rank);
    }

    /// Hands a message to its link and returns when the rank can play on.
    fn send(&mut self, i: usize, now_s: f64) -> f64 {
        let (from, action) = self.actions[i];
        let (to, bytes) = message(self.schedule, &self.costs.stages, action);
        let (start_s, left_s, there_s) = match self.links.get_mut(&(from, to)) {
            Some(link) => {
                let start_s = link.free_at_s.max(now_s);
                link.free_at_s = start_s + bytes as f64 / link.bytes_per_s;
                (start_s, link.free_at_s, link.free_at_s + link.latency_s)
            }
            None => (now_s, now_s, now_s),
        };
        self.events.push(Reverse((Moment::new(there_s), Event::End(i))));
        match self.costs.communication {
            Communication::Overlapped => {
                self.times[i] = Times { asked_s: now_s, start_s, end_s: there_s };
                now_s
            }
            Communication::Blocking => {
                self.times[i] = Times { asked_s: now_s, start_s, end_s: left_s };
                if left_s > now_s {
                    self.events.push(Reverse((Moment::new(left_s), Event::Left(i))));
                }
                left_s
            }
        }
    }

    /// When the receiver has moved the bytes of a message that it could begin with at `from_s`.
    fn received_s(&self, i: usize, from_s: f64) -> f64 {
        if self.costs.communication == Communication::Overlapped {
            return from_s;
        }
        let (to, action) = self.actions[i];
        let (from, bytes) = message(self.schedule, &self.costs.stages, action);
        self.links.get(&(from, to)).map_or(from_s, |link| from_s + bytes as f64 / link.bytes_per_s)
    }

    fn grant(&mut self, now_s: f64) {
        for cores in 0..self.cores.len() {
            while self.cores[cores].n_free > 0
                && let Some(Reverse((_, rank))) = self.cores[cores].queue.pop()
            {
                self.cores[cores].n_free -= 1;
                self.compute(rank, now_s);
            }
        }
    }

    fn compute(&mut self, rank: usize, now_s: f64) {
        let i = self.ranks[rank].head;
        let action = self.actions[i].1;
        self.times[i].start_s = now_s;
        self.times[i].end_s = now_s + self.duration_s(Rank(rank), action, self.stages[i]);
        self.events.push(Reverse((Moment::new(self.times[i].end_s), Event::End(i))));
        self.memory.compute_begins(self.schedule, self.costs, self.stages[i], Rank(rank), action, now_s);
        if is_reduction(action)
            && let Some(group) = self.tied.sum(i)
        {
            self.memory.sum_begins(group, Rank(rank), now_s);
        }
    }

    fn duration_s(&self, rank: Rank, action: Action, stage: Stage) -> f64 {
        let cost = &self.costs.stages[stage.0];
        match action {
            Action::Shard { op, .. } => {
                let shard = &self.costs.shards[rank.0];
                match op {
                    ShardOp::VocabForward => shard.forward_s,
                    ShardOp::VocabBackward => shard.backward_s,
                    ShardOp::EmbedForward => shard.embed_forward_s,
                    ShardOp::EmbedBackward => shard.embed_backward_s,
                }
            }
            Action::Visit { op, key } => {
                let recompute_s = if self.recomputed.contains(&key) { 0.0 } else { cost.recompute_s };
                match op {
                    Op::Forward | Op::ForwardNoGrad => cost.forward_s,
                    Op::BackwardInput => cost.backward_input_s + recompute_s,
                    Op::Backward => cost.backward_s + recompute_s,
                    Op::BackwardWeight => cost.backward_weight_s,
                    Op::Recompute => cost.recompute_s,
                    _ => 0.0,
                }
            }
            Action::Stage { op: StageOp::OptimizerStep | StageOp::OptimisticStep, .. } => cost.optimizer_s,
            Action::Stage { op: StageOp::ReduceGradients, .. } => cost.reduce_s,
            Action::Stage { .. } => 0.0,
        }
    }

    /// The last member of a meeting is there.
    fn meet(&mut self, i: usize, now_s: f64) {
        let end_s = now_s
            + match self.meetings[i - self.actions.len()] {
                Meeting::Tied(number) => self.tied.group(number).exchange_s,
                meeting => self.costs.meetings.of(meeting),
            };
        self.times[i] = Times { asked_s: now_s, start_s: now_s, end_s };
        self.events.push(Reverse((Moment::new(end_s), Event::End(i))));
    }

    /// The end of a computation, a meeting or a blocking receive, or the arrival of a message.
    fn end(&mut self, i: usize, now_s: f64) {
        if i >= self.actions.len() {
            return self.done(i, now_s);
        }
        let (rank, action) = self.actions[i];
        match action {
            Action::Visit { op: Op::SendActivation | Op::SendGradient, .. } => {
                self.memory.arrives(self.schedule, &self.costs.stages, action, now_s);
            }
            Action::Visit { op: Op::RecvActivation | Op::RecvGradient, .. } => self.free(rank.0, now_s),
            _ => {
                self.memory.compute_ends(self.schedule, self.costs, self.stages[i], rank, action, now_s);
                if let Some(group) = self.tied.share(i) {
                    self.memory.share(group, rank, now_s);
                }
                if is_reduction(action)
                    && let Some(group) = self.tied.sum(i)
                {
                    self.memory.sum_ends(group, rank, now_s);
                }
                if let Some(cores) = self.ranks[rank.0].cores {
                    self.cores[cores].n_free += 1;
                }
                self.free(rank.0, now_s);
            }
        }
        self.done(i, now_s);
    }

    fn done(&mut self, i: usize, now_s: f64) {
        for at in self.dependent_starts[i]..self.dependent_starts[i + 1] {
            let dependent = self.dependents[at as usize] as usize;
            self.n_waits[dependent] -= 1;
            if dependent >= self.actions.len() {
                if self.n_waits[dependent] == 0 {
                    self.meet(dependent, now_s);
                }
                continue;
            }
            let rank = self.actions[dependent].0.0;
            if self.n_waits[dependent] == 0 && self.ranks[rank].head == dependent {
                self.awake.push(rank);
            }
        }
    }
}

fn is_reduction(action: Action) -> bool {
    matches!(action, Action::Stage { op: StageOp::ReduceGradients, .. })
}

/// For each node those that wait for it: where its part begins, and all parts one after the other.
fn reversed(dependencies: &Dependencies, n_nodes: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0; n_nodes + 1];
    for i in 0..n_nodes {
        dependencies.of(i).for_each(|on| starts[on + 1] += 1);
    }
    for i in 0..n_nodes {
        starts[i + 1] += starts[i];
    }
    let mut next = starts.clone();
    let mut dependents = vec![0; starts[n_nodes] as usize];
    for i in 0..n_nodes {
        for on in dependencies.of(i) {
            dependents[next[on] as usize] = i as u32;
            next[on] += 1;
        }
    }
    (starts, dependents)
}
