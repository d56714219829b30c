//! The list scheduler behind the automatic zero-bubble schedules.
//!
//! Time passes; whenever a rank is free it begins what its [`Heuristic`] puts first among the passes that are ready and
//! fit into its memory: a gradient that has arrived (of several hops the latest), a forward, a `W` from its queue. A
//! `W` is played when it ends before the next forward or gradient is known to arrive, or when memory is needed.
//!
//! Nothing can get stuck under a memory limit. A forward leaves room for one forward of every later hop of its rank,
//! and microbatches pass a hop in order. So once all microbatches before the oldest unfinished one are done, that one
//! finds room on every rank.

use crate::candidate::Course;
use crate::player::{ROUNDING, duration, memory_change};
use crate::{Action, Moment, Op};
use mesh::Key;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// What a rank prefers when it could do several things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heuristic {
    pub warm_up: WarmUp,
    pub forward: Forward,
    pub idle: Idle,
}

/// Which forwards a rank begins before its first gradient can arrive at the earliest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WarmUp {
    /// Those that also end before.
    Fits,
    /// The last of them may end later.
    Overshoots,
}

/// When a forward goes ahead that could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    /// Whenever no gradient waits.
    Eager,
    /// Unless a gradient is known to arrive before it ends.
    Yields,
}

/// When a rank idles though a `W` is queued, because the `W` would delay what is known to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// Never.
    Never,
    /// As long as no rank has idled less than this one would.
    NotLongest,
}

impl Heuristic {
    /// All eight combinations.
    pub fn all() -> impl Iterator<Item = Heuristic> {
        [WarmUp::Fits, WarmUp::Overshoots].into_iter().flat_map(|warm_up| {
            [Forward::Eager, Forward::Yields].into_iter().flat_map(move |forward| {
                [Idle::Never, Idle::NotLongest].into_iter().map(move |idle| Heuristic { warm_up, forward, idle })
            })
        })
    }
}

/// The lists that `heuristic` leads to on `course`, whose limits must hold one microbatch on every rank.
pub(crate) fn scheduled(course: &Course, heuristic: Heuristic) -> Vec<Vec<Action>> {
    let mut scheduler = ListScheduler::new(course, heuristic);
    while let Some(Reverse((moment, rank))) = scheduler.calls.pop() {
        let now = moment.get();
        if scheduler.ranks[rank].free_at <= now
            && let Some((op, key)) = scheduler.choose(rank, now)
        {
            scheduler.begin(rank, op, key, now);
        }
    }
    let n_passes = 3 * course.n_microbatches * course.rank_of.len();
    let lists: Vec<Vec<Action>> = scheduler.ranks.into_iter().map(|rank| rank.list).collect();
    assert_eq!(lists.iter().map(Vec::len).sum::<usize>(), n_passes, "every pass finds room");
    lists
}

struct ListScheduler<'a> {
    course: &'a Course<'a>,
    heuristic: Heuristic,
    /// By hop and microbatch; infinite while not begun.
    forward_end: Vec<Vec<f64>>,
    backward_end: Vec<Vec<f64>>,
    ranks: Vec<RankState>,
    /// When a rank is to look for work.
    calls: BinaryHeap<Reverse<(Moment, usize)>>,
}

struct RankState {
    hops: Vec<HopState>,
    /// When the first gradient can arrive at the earliest.
    first_gradient: f64,
    free_at: f64,
    /// Time without work since the first pass.
    idled: f64,
    held: f64,
    limit: f64,
    weights: VecDeque<Key>,
    list: Vec<Action>,
}

struct HopState {
    hop: usize,
    /// Memory that must be free before a forward begins.
    room: f64,
    n_forward: usize,
    n_backward: usize,
}

impl<'a> ListScheduler<'a> {
    fn new(course: &'a Course<'a>, heuristic: Heuristic) -> Self {
        let first_gradients = first_gradients(course);
        let ranks: Vec<RankState> = (0..course.limits.len())
            .map(|rank| {
                let own = || (0..course.rank_of.len()).filter(|&hop| course.rank_of[hop] == rank);
                let room = |hop| own().filter(|&later| later >= hop).map(|later| course.times.activation[later]).sum();
                RankState {
                    hops: own().map(|hop| HopState { hop, room: room(hop), n_forward: 0, n_backward: 0 }).collect(),
                    first_gradient: own().map(|hop| first_gradients[hop]).fold(f64::INFINITY, f64::min),
                    free_at: 0.0,
                    idled: 0.0,
                    held: 0.0,
                    limit: course.limits[rank] * (1.0 + ROUNDING),
                    weights: VecDeque::new(),
                    list: Vec::new(),
                }
            })
            .collect();
        let never = vec![vec![f64::INFINITY; course.n_microbatches]; course.rank_of.len()];
        let calls = (0..ranks.len()).map(|rank| Reverse((Moment::new(0.0), rank))).collect();
        Self { course, heuristic, forward_end: never.clone(), backward_end: never, ranks, calls }
    }

    /// What a free rank begins now, if anything.
    fn choose(&self, rank: usize, now: f64) -> Option<(Op, Key)> {
        let state = &self.ranks[rank];
        let weight = state.weights.front().map(|&key| (Op::BackwardWeight, key));

        let mut next_gradient = f64::INFINITY;
        for hop in state.hops.iter().rev() {
            let arrival = self.gradient_arrival(hop);
            if arrival <= now {
                return Some((Op::BackwardInput, Key::new(hop.n_backward, hop.hop)));
            }
            next_gradient = next_gradient.min(arrival);
        }

        let mut next = next_gradient;
        for hop in state.hops.iter().rev() {
            let arrival = self.forward_arrival(hop);
            let fits = state.held + hop.room <= state.limit;
            match (arrival <= now, fits) {
                (true, true) if self.goes_ahead(state, hop, now, next_gradient) => {
                    return Some((Op::Forward, Key::new(hop.n_forward, hop.hop)));
                }
                (true, false) if weight.is_some() => return weight,
                (false, true) => next = next.min(arrival),
                _ => {}
            }
        }

        let (_, key) = weight?;
        let ends_before = now + self.course.times.backward_weight[key.hop.0] <= next * (1.0 + ROUNDING);
        let may_idle = || {
            self.heuristic.idle == Idle::NotLongest && {
                let idled_longest = self.ranks.iter().map(|rank| rank.idled).fold(0.0, f64::max);
                state.idled + (next - now) <= idled_longest
            }
        };
        if ends_before || !may_idle() { weight } else { None }
    }

    /// Whether a forward that could begin does. The first microbatch always does, so that gradients come.
    fn goes_ahead(&self, state: &RankState, hop: &HopState, now: f64, next_gradient: f64) -> bool {
        let end = (now + self.course.times.forward[hop.hop]) * (1.0 - ROUNDING);
        if hop.n_forward == 0 {
            true
        } else if state.hops.iter().all(|hop| hop.n_backward == 0) {
            match self.heuristic.warm_up {
                WarmUp::Fits => end <= state.first_gradient,
                WarmUp::Overshoots => now < state.first_gradient,
            }
        } else {
            self.heuristic.forward == Forward::Eager || end <= next_gradient
        }
    }

    /// When the input of a hop's next forward is there; infinite when that is not known.
    fn forward_arrival(&self, state: &HopState) -> f64 {
        let (hop, microbatch) = (state.hop, state.n_forward);
        match hop.checked_sub(1) {
            _ if microbatch == self.course.n_microbatches => f64::INFINITY,
            None => 0.0,
            Some(before) => self.forward_end[before][microbatch] + self.course.message(before, hop),
        }
    }

    /// When a hop's next `I` can begin; infinite when that is not known.
    fn gradient_arrival(&self, state: &HopState) -> f64 {
        let (hop, microbatch) = (state.hop, state.n_backward);
        if microbatch == self.course.n_microbatches {
            return f64::INFINITY;
        }
        let own = self.forward_end[hop][microbatch];
        let later = self.backward_end.get(hop + 1);
        later.map_or(own, |later| own.max(later[microbatch] + self.course.message(hop, hop + 1)))
    }

    fn begin(&mut self, rank: usize, op: Op, key: Key, now: f64) {
        let (hop, microbatch) = (key.hop.0, key.microbatch.0);
        let action = Action::visit(op, key);
        let end = now + duration(action, self.course.times);
        let state = &mut self.ranks[rank];
        if !state.list.is_empty() {
            state.idled += now - state.free_at;
        }
        state.free_at = end;
        state.held += memory_change(action, self.course.times);
        state.list.push(action);
        self.calls.push(Reverse((Moment::new(end), rank)));

        let own = state.hops.iter_mut().find(|own| own.hop == hop).expect("invariant: a hop of this rank");
        let to = match op {
            Op::Forward => {
                own.n_forward += 1;
                self.forward_end[hop][microbatch] = end;
                Some(hop + 1).filter(|&to| to < self.course.rank_of.len())
            }
            Op::BackwardInput => {
                own.n_backward += 1;
                state.weights.push_back(key);
                self.backward_end[hop][microbatch] = end;
                hop.checked_sub(1)
            }
            _ => {
                state.weights.pop_front();
                None
            }
        };
        if let Some(to) = to {
            // The receiver looks again now, when it learns of the arrival, and then; while it is busy there is nothing to
            // look for, and it looks again when it is free in any case.
            let receiver = self.course.rank_of[to];
            for moment in [now, end + self.course.message(hop, to)] {
                if self.ranks[receiver].free_at <= moment {
                    self.calls.push(Reverse((Moment::new(moment), receiver)));
                }
            }
        }
    }
}

/// By hop: when microbatch 0's gradient would arrive if it never waited.
fn first_gradients(course: &Course) -> Vec<f64> {
    let n_hops = course.rank_of.len();
    let messages: f64 = (1..n_hops).map(|hop| course.message(hop - 1, hop)).sum();
    let mut arrival = course.times.forward.iter().sum::<f64>() + messages;
    let mut arrivals = vec![0.0; n_hops];
    for hop in (0..n_hops).rev() {
        arrivals[hop] = arrival;
        arrival += course.times.backward_input[hop];
        arrival += hop.checked_sub(1).map_or(0.0, |before| course.message(before, hop));
    }
    arrivals
}
