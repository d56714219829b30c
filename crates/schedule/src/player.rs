//! Playing a schedule with pass times: when everything begins and ends, and the memory it takes. The full simulator,
//! with links, shared cores and categories of memory, is a crate of its own that reads schedules; this is as much of
//! it as the generators and passes need that weigh one order against another.

use crate::{Action, Dependencies, Op, PassTimes, Schedule, dependencies};
use mesh::{Rank, Route, Stage, Visit};
use std::rc::Rc;

/// Sums of the same numbers in another order differ by rounding: limits are kept to one part in 10^9.
pub(crate) const ROUNDING: f64 = 1e-9;

/// A schedule of compute actions under pass times, played as far as it has come. Every action begins as soon as the
/// one before it on its list and what it waits for have ended; work on shards and whole stages takes no time.
pub(crate) struct Player<'a> {
    pub schedule: &'a Schedule,
    pub times: &'a PassTimes,
    dependencies: Rc<Dependencies>,
    /// By action, numbered rank by rank in list order.
    rank: Rc<[usize]>,
    /// By action; infinite while not played.
    pub start: Vec<f64>,
    end: Vec<f64>,
}

/// How long a schedule takes; less is better.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Length {
    /// The longest time from a rank's first pass to the end of its last one.
    pub span: f64,
    /// From the start of all to the end of all.
    pub makespan: f64,
}

/// How long a schedule takes when it is played.
///
/// # Panics
/// If it deadlocks or names visits that its routes do not have.
pub(crate) fn play(schedule: &Schedule, times: &PassTimes) -> Length {
    let mut player = Player::new(schedule, times);
    player.play();
    player.length()
}

impl<'a> Player<'a> {
    pub fn new(schedule: &'a Schedule, times: &'a PassTimes) -> Self {
        let dependencies = dependencies(schedule).expect("invariant: validated schedule");
        let n_actions = dependencies.n_actions();
        let rank = schedule.actions().map(|(rank, _)| rank.0).collect();
        let (start, end) = (vec![f64::INFINITY; n_actions], vec![f64::INFINITY; n_actions]);
        Self { schedule, times, dependencies: Rc::new(dependencies), rank, start, end }
    }

    /// The same schedule under `times`, with nothing played.
    pub fn anew(&self, times: &'a PassTimes) -> Self {
        let (start, end) = (vec![f64::INFINITY; self.start.len()], vec![f64::INFINITY; self.end.len()]);
        Self { times, dependencies: Rc::clone(&self.dependencies), rank: Rc::clone(&self.rank), start, end, ..*self }
    }

    /// Plays all of it; the order in which that can be done.
    pub fn play(&mut self) -> Vec<usize> {
        let n_ranks = self.schedule.n_ranks();
        let mut clock = vec![0.0; n_ranks];
        let mut next: Vec<usize> = (0..n_ranks).map(|rank| self.actions_of(rank).start).collect();
        let mut order = Vec::with_capacity(self.end.len());
        while order.len() < self.end.len() {
            let before = order.len();
            for rank in 0..n_ranks {
                while next[rank] < self.actions_of(rank).end
                    && let Some(ready) = self.ready(next[rank])
                {
                    clock[rank] = self.commit(next[rank], ready.max(clock[rank]));
                    order.push(next[rank]);
                    next[rank] += 1;
                }
            }
            assert!(order.len() > before, "a validated schedule does not deadlock");
        }
        order
    }

    /// On which rank action `i` is.
    pub fn rank_of(&self, i: usize) -> usize {
        self.rank[i]
    }

    /// The numbers of a rank's actions.
    pub fn actions_of(&self, rank: usize) -> std::ops::Range<usize> {
        self.dependencies.actions_of(Rank(rank))
    }

    /// Action `i`.
    pub fn action(&self, i: usize) -> Action {
        let rank = self.rank[i];
        self.schedule.ranks[rank][i - self.actions_of(rank).start]
    }

    /// When everything that action `i` waits for has ended and arrived; `None` while some of it is not played.
    pub fn ready(&self, i: usize) -> Option<f64> {
        let n_actions = self.dependencies.n_actions();
        let arrival = |on: usize| match on < n_actions {
            true if self.rank[on] == self.rank[i] => self.end[on],
            true => self.end[on] + self.times.message,
            false => self.dependencies.of(on).map(|member| self.end[member]).fold(0.0, f64::max),
        };
        let ready = self.dependencies.of(i).map(arrival).fold(0.0, f64::max);
        ready.is_finite().then_some(ready)
    }

    /// Plays action `i` from `start` on; returns when it ends.
    pub fn commit(&mut self, i: usize, start: f64) -> f64 {
        self.start[i] = start;
        self.end[i] = start + duration(self.action(i), self.times);
        self.end[i]
    }

    /// How long it took, when all of it is played. Work on whole stages is no part of a rank's span.
    pub fn length(&self) -> Length {
        let span = |rank: usize| {
            let passes = || self.actions_of(rank).filter(|&i| !matches!(self.action(i), Action::Stage { .. }));
            let start = passes().map(|i| self.start[i]).fold(f64::INFINITY, f64::min);
            let end = passes().map(|i| self.end[i]).fold(0.0, f64::max);
            end - start
        };
        let span = (0..self.schedule.n_ranks()).map(span).fold(0.0, f64::max);
        Length { span, makespan: self.end.iter().copied().fold(0.0, f64::max) }
    }
}

impl Length {
    /// Whether neither figure is worse than another's, but for rounding.
    pub fn is_within(self, other: Length) -> bool {
        self.span <= other.span * (1.0 + ROUNDING) && self.makespan <= other.makespan * (1.0 + ROUNDING)
    }
}

/// What an action takes: `B` is `I` and `W`, `R` is `F`; everything that is no pass of a visit takes nothing.
pub(crate) fn duration(action: Action, times: &PassTimes) -> f64 {
    let Action::Visit { op, key } = action else { return 0.0 };
    let hop = key.hop.0;
    match op {
        Op::Forward | Op::Recompute | Op::ForwardNoGrad => times.forward[hop],
        Op::BackwardInput => times.backward_input[hop],
        Op::BackwardWeight => times.backward_weight[hop],
        Op::Backward => times.backward_input[hop] + times.backward_weight[hop],
        Op::SendActivation | Op::RecvActivation | Op::SendGradient | Op::RecvGradient => 0.0,
    }
}

/// By how much an action changes the memory its rank holds.
pub(crate) fn memory_change(action: Action, times: &PassTimes) -> f64 {
    let Action::Visit { op, key } = action else { return 0.0 };
    let hop = key.hop.0;
    match op {
        Op::Forward => times.activation[hop],
        Op::BackwardInput => times.kept_for_weight[hop] - times.activation[hop],
        Op::BackwardWeight => -times.kept_for_weight[hop],
        Op::Backward => -times.activation[hop],
        _ => 0.0,
    }
}

/// The most memory that a list holds at once.
pub(crate) fn peak(list: &[Action], times: &PassTimes) -> f64 {
    let mut held = 0.0;
    let after = list.iter().map(|&action| {
        held += memory_change(action, times);
        held
    });
    after.fold(0.0, f64::max)
}

/// Lists of ranks in order as a schedule, for a route whose hop `i` lies on rank `rank_of[i]`.
pub(crate) fn as_schedule(lists: Vec<Vec<Action>>, rank_of: &[usize], n_microbatches: usize) -> Schedule {
    let visits = rank_of.iter().enumerate().map(|(hop, &rank)| Visit { stage: Stage(hop), rank: Rank(rank) });
    let routes = vec![Route::new(visits.collect()); n_microbatches];
    Schedule { name: String::new(), routes, vocabulary: None, tied: Vec::new(), n_segments: 1, ranks: lists }
}
