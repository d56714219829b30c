//! Playing a schedule with costs instead of tensors.

use crate::memory::{Memory, message};
use crate::{Costs, SimulateError, Span, StageCost, Timeline};
use mesh::{Key, Rank};
use schedule::{Action, Dependencies, Op, Schedule, StageOp, dependencies, validate, with_transfers};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet};

/// The timeline of `schedule` under `costs`, exact for these rules:
///
/// - Each rank plays its list in order; an action begins when the one before it has ended and what it waits for is
///   done ([`schedule::dependencies`]).
/// - A send is handed to its link and the rank plays on. A link sends one message after the other, each occupying it
///   for bytes / bandwidth and arriving the latency after its last byte left. A receive ends when the message is there.
/// - A compute action of a rank that shares cores holds a permit from start to end; who asked first gets the next free
///   permit, at the same moment the lower rank.
/// - Ranks do not wait for each other in `REDUCE_GRAD`, which takes its cost.
/// - A forward's activations live from its start to the end of `I` or `B`, the part that `W` needs to the end of `W`;
///   a message occupies the receiver's buffers from its arrival until the action that uses it begins.
///
/// A schedule without transfers is played as [`with_transfers`] makes it, and the timeline has those transfers.
/// Deterministic; takes time proportional to the number of actions (times the logarithm of the number of ranks).
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

/// A time, ordered.
#[derive(Clone, Copy, PartialEq)]
struct Time(f64);

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

struct LinkState {
    latency_s: f64,
    bytes_per_s: f64,
    free_at_s: f64,
}

struct CoreGroup {
    n_free: usize,
    /// (when asked, rank), first come first served.
    queue: BinaryHeap<Reverse<(Time, usize)>>,
}

/// What a rank is at.
struct RankState {
    /// The action at the head of what is left of the list.
    head: usize,
    /// One past the rank's last action.
    end: usize,
    /// When the head became the head.
    came_at_s: f64,
    /// Whether the head computes or has asked for a permit.
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
    /// Visits whose recomputation is an action of its own, and so not part of their backward.
    recomputed: HashSet<Key>,
    /// How many actions each one still waits for.
    n_waits: Vec<u32>,
    /// The actions that wait for action `i`: `dependents[dependent_starts[i]..dependent_starts[i + 1]]`.
    dependent_starts: Vec<u32>,
    dependents: Vec<u32>,
    times: Vec<Times>,
    ranks: Vec<RankState>,
    links: BTreeMap<(Rank, Rank), LinkState>,
    cores: Vec<CoreGroup>,
    /// Ends of computations and arrivals of messages.
    events: BinaryHeap<Reverse<(Time, usize)>>,
    /// Ranks whose head may be able to begin.
    awake: Vec<usize>,
    memory: Memory,
}

impl<'a> Play<'a> {
    fn new(schedule: &'a Schedule, costs: &'a Costs) -> Self {
        let dependencies = dependencies(schedule).expect("invariant: validated schedule");
        let actions: Vec<(Rank, Action)> = schedule.actions().collect();
        let (dependent_starts, dependents) = reversed(&dependencies);
        let cores_of = |rank: Rank| costs.cores.iter().position(|cores| cores.ranks.contains(&rank));
        let ranks = (0..schedule.n_ranks()).map(|rank| {
            let own = dependencies.actions_of(Rank(rank));
            RankState { head: own.start, end: own.end, came_at_s: 0.0, is_busy: false, cores: cores_of(Rank(rank)) }
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
            n_waits: (0..actions.len()).map(|i| dependencies.of(i).len() as u32).collect(),
            times: vec![Times::default(); actions.len()],
            ranks: ranks.collect(),
            links: links.collect(),
            cores: cores.collect(),
            events: BinaryHeap::new(),
            awake: (0..schedule.n_ranks()).rev().collect(),
            memory: Memory::new(schedule, &costs.stages),
            schedule,
            costs,
            actions,
            dependent_starts,
            dependents,
        }
    }

    fn run(mut self) -> Timeline {
        let mut now_s = 0.0;
        loop {
            while let Some(rank) = self.awake.pop() {
                self.advance(rank, now_s);
            }
            self.grant(now_s);
            // All that ends at one moment ends before anything new begins, so that ranks ask for permits together.
            let Some(&Reverse((next, _))) = self.events.peek() else { break };
            now_s = next.0;
            while let Some(&Reverse((Time(at_s), i))) = self.events.peek()
                && at_s == now_s
            {
                self.events.pop();
                self.end(i, now_s);
            }
        }
        let stuck = self.ranks.iter().find(|rank| rank.head < rank.end);
        assert!(stuck.is_none(), "a validated schedule plays to its end");
        let spans = self.actions.iter().zip(&self.times).map(|(&(rank, action), times)| Span {
            rank,
            action,
            stage: self.schedule.stage(action),
            label: self.schedule.label(action),
            asked_s: times.asked_s,
            start_s: times.start_s,
            end_s: times.end_s,
        });
        Timeline { n_ranks: self.ranks.len(), spans: spans.collect(), memory: self.memory.into_samples() }
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
                    self.send(head, now_s);
                    self.next(rank, now_s);
                }
                Action::Visit { op: Op::RecvActivation | Op::RecvGradient, .. } => {
                    *times = Times { asked_s: state.came_at_s, start_s: state.came_at_s, end_s: now_s };
                    self.next(rank, now_s);
                    self.done(head);
                }
                _ => {
                    times.asked_s = now_s;
                    state.is_busy = true;
                    match state.cores {
                        Some(cores) => self.cores[cores].queue.push(Reverse((Time(now_s), rank))),
                        None => self.compute(rank, now_s),
                    }
                }
            }
        }
    }

    fn next(&mut self, rank: usize, now_s: f64) {
        self.ranks[rank].head += 1;
        self.ranks[rank].came_at_s = now_s;
    }

    fn send(&mut self, i: usize, now_s: f64) {
        let (from, action) = self.actions[i];
        let (to, bytes) = message(self.schedule, &self.costs.stages, action);
        let (start_s, end_s) = match self.links.get_mut(&(from, to)) {
            Some(link) => {
                let start_s = link.free_at_s.max(now_s);
                link.free_at_s = start_s + bytes as f64 / link.bytes_per_s;
                (start_s, link.free_at_s + link.latency_s)
            }
            None => (now_s, now_s),
        };
        self.times[i] = Times { asked_s: now_s, start_s, end_s };
        self.events.push(Reverse((Time(end_s), i)));
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
        let cost = &self.costs.stages[self.schedule.stage(action).0];
        self.times[i].start_s = now_s;
        self.times[i].end_s = now_s + self.duration_s(action, cost);
        self.events.push(Reverse((Time(self.times[i].end_s), i)));
        self.memory.compute_begins(self.schedule, &self.costs.stages, Rank(rank), action, now_s);
    }

    fn duration_s(&self, action: Action, cost: &StageCost) -> f64 {
        match action {
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
            Action::Stage { op: StageOp::OptimizerStep, .. } => cost.optimizer_s,
            Action::Stage { op: StageOp::ReduceGradients, .. } => cost.reduce_s,
            Action::Stage { .. } => 0.0,
        }
    }

    /// The end of a computation or the arrival of a message.
    fn end(&mut self, i: usize, now_s: f64) {
        let (rank, action) = self.actions[i];
        match action {
            Action::Visit { op: Op::SendActivation | Op::SendGradient, .. } => {
                self.memory.arrives(self.schedule, &self.costs.stages, action, now_s);
            }
            _ => {
                self.memory.compute_ends(&self.costs.stages, self.schedule.stage(action), rank, action, now_s);
                if let Some(cores) = self.ranks[rank.0].cores {
                    self.cores[cores].n_free += 1;
                }
                self.ranks[rank.0].is_busy = false;
                self.next(rank.0, now_s);
                self.awake.push(rank.0);
            }
        }
        self.done(i);
    }

    fn done(&mut self, i: usize) {
        for at in self.dependent_starts[i]..self.dependent_starts[i + 1] {
            let dependent = self.dependents[at as usize] as usize;
            self.n_waits[dependent] -= 1;
            let rank = self.actions[dependent].0.0;
            if self.n_waits[dependent] == 0 && self.ranks[rank].head == dependent {
                self.awake.push(rank);
            }
        }
    }
}

/// For each action those that wait for it: where its part begins, and all parts one after the other.
fn reversed(dependencies: &Dependencies) -> (Vec<u32>, Vec<u32>) {
    let n_actions = dependencies.n_actions();
    let mut starts = vec![0; n_actions + 1];
    for i in 0..n_actions {
        dependencies.of(i).for_each(|on| starts[on + 1] += 1);
    }
    for i in 0..n_actions {
        starts[i + 1] += starts[i];
    }
    let mut next = starts.clone();
    let mut dependents = vec![0; starts[n_actions] as usize];
    for i in 0..n_actions {
        for on in dependencies.of(i) {
            dependents[next[on] as usize] = i as u32;
            next[on] += 1;
        }
    }
    (starts, dependents)
}
