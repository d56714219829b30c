//! Vocabulary passes in any schedule, placed by time.
//!
//! After the public implementation's pass for V-Half, for schedules of any shape. The schedule is played; every rank's
//! `VS` of a microbatch is due some time after the last hop's forward of it ended, its `VT` with the next `VS`. All
//! backwards are due later by one period, the work of the busiest rank for one microbatch, per barrier: a repeating
//! pattern stays what it is, and its activations live one or two periods longer. Then everything moves to where what it
//! waits for is done, and each list is sorted by time. Nobody waits in a circle, because nothing waits for anything
//! later. Gaps that this left where the schedule is not quite regular are closed by [`squeeze()`] and [`retime()`].
//!
//! Measured on all kinds (tests of the simulator): beside the shards' own work a step takes at most one period longer
//! per barrier, with the memory of one microbatch more per barrier (interleaved 1F1B with two barriers: two and a half).
//! Only V-Min with two barriers and passes of unequal length, which has no memory to spare, takes up to a quarter
//! longer.
//!
//! Where we deviate: the reference has `VS` due after `T_B` only, where we play three choices and keep the shortest; and
//! it moves the backwards of V-Half alone, by hand.

use super::period;
use crate::player::{Player, duration, play};
use crate::{Action, Dependencies, Op, PassTimes, Schedule, ShardOp, Vocabulary, dependencies, retime, squeeze};
use mesh::Rank;
use std::collections::VecDeque;

/// The visits with `VS` and `VT`.
pub(super) fn place(visits: &Schedule, vocabulary: Vocabulary, times: &PassTimes) -> Schedule {
    let candidates = Lag::ALL.map(|lag| {
        let placed = with_lag(visits, vocabulary, times, lag);
        (play(&placed, times).makespan, placed)
    });
    let shortest = candidates.into_iter().min_by(|(a, _), (b, _)| a.total_cmp(b));
    shortest.expect("invariant: there are several lags").1
}

/// How long after the last hop's forward `VS` is due.
#[derive(Clone, Copy)]
enum Lag {
    None,
    /// The last hop's `I`.
    InputPass,
    /// The last hop's `I` and `W`.
    Backward,
}

impl Lag {
    /// Of equally good ones the first is taken.
    const ALL: [Lag; 3] = [Lag::InputPass, Lag::Backward, Lag::None];

    fn of(self, hop: usize, times: &PassTimes) -> f64 {
        match self {
            Lag::None => 0.0,
            Lag::InputPass => times.backward_input[hop],
            Lag::Backward => times.backward_input[hop] + times.backward_weight[hop],
        }
    }
}

fn with_lag(visits: &Schedule, vocabulary: Vocabulary, times: &PassTimes, lag: Lag) -> Schedule {
    let due = due(visits, vocabulary, times, lag);
    let ranks = due.iter().map(|list| list.iter().map(|&(_, action)| action).collect());
    let unordered = Schedule { vocabulary: Some(vocabulary), ranks: ranks.collect(), ..visits.clone() };
    let dependencies = dependencies(&unordered).expect("invariant: validated visits");
    let due: Vec<(f64, Action)> = due.into_iter().flatten().collect();
    let key = possible(&due, &dependencies, times);
    let ranks = (0..unordered.n_ranks()).map(|rank| {
        let mut order: Vec<usize> = dependencies.actions_of(Rank(rank)).collect();
        order.sort_by(|&a, &b| key[a].0.total_cmp(&key[b].0).then(key[a].1.cmp(&key[b].1)));
        order.into_iter().map(|i| due[i].1).collect()
    });
    let placed = Schedule { ranks: ranks.collect(), ..unordered };
    retime(&squeeze(&placed, times), times)
}

/// When each rank's actions are due, in no order.
fn due(visits: &Schedule, vocabulary: Vocabulary, times: &PassTimes, lag: Lag) -> Vec<Vec<(f64, Action)>> {
    let mut player = Player::new(visits, times);
    player.play();
    let delay = period(visits, times) * vocabulary.algorithm.n_barriers() as f64;
    let mut lists: Vec<Vec<(f64, Action)>> = vec![Vec::new(); visits.n_ranks()];
    let mut hidden_at = vec![0.0; visits.n_microbatches()];
    for ((rank, action), &start) in visits.actions().zip(&player.start) {
        let Action::Visit { op, key } = action else { unreachable!("invariant: visits only") };
        let is_forward = op == Op::Forward;
        if is_forward && visits.route(key).is_last(key.hop) {
            hidden_at[key.microbatch.0] = start + duration(action, times);
        }
        lists[rank.0].push((if is_forward { start } else { start + delay }, action));
    }

    let last_hop = |microbatch: usize| visits.routes[microbatch].n_hops() - 1;
    let lag_after = |microbatch: usize| lag.of(last_hop(microbatch), times);
    let mut in_order: Vec<usize> = (0..visits.n_microbatches()).collect();
    in_order.sort_by(|&a, &b| hidden_at[a].total_cmp(&hidden_at[b]));
    for (i, &microbatch) in in_order.iter().enumerate() {
        let at = hidden_at[microbatch] + lag_after(microbatch);
        let then = match in_order.get(i + 1) {
            Some(&next) => hidden_at[next] + lag_after(next),
            None => at + 2.0 * (times.forward[last_hop(microbatch)] + times.backward_input[last_hop(microbatch)]),
        };
        for list in &mut lists {
            list.push((at, Action::shard(ShardOp::VocabForward, microbatch)));
            list.push((then, Action::shard(ShardOp::VocabBackward, microbatch)));
        }
    }
    lists
}

/// For every node the first moment from when it is due at which all that it waits for is done, and its place in an order
/// in which nothing stands before what it waits for.
fn possible(due: &[(f64, Action)], dependencies: &Dependencies, times: &PassTimes) -> Vec<(f64, usize)> {
    let n_nodes = due.len() + dependencies.meetings().len();
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); n_nodes];
    let mut n_waits = vec![0; n_nodes];
    for (i, n_waits) in n_waits.iter_mut().enumerate() {
        *n_waits = dependencies.of(i).len();
        dependencies.of(i).for_each(|on| waiting[on].push(i));
    }
    let mut ready: VecDeque<usize> = (0..n_nodes).filter(|&i| n_waits[i] == 0).collect();
    let mut key: Vec<(f64, usize)> = (0..n_nodes).map(|i| (due.get(i).map_or(0.0, |&(at, _)| at), 0)).collect();
    let mut n_done = 0;
    while let Some(i) = ready.pop_front() {
        key[i].1 = n_done;
        n_done += 1;
        let end = key[i].0 + due.get(i).map_or(0.0, |&(_, action)| duration(action, times));
        for &dependent in &waiting[i] {
            key[dependent].0 = key[dependent].0.max(end);
            n_waits[dependent] -= 1;
            if n_waits[dependent] == 0 {
                ready.push_back(dependent);
            }
        }
    }
    assert_eq!(n_done, n_nodes, "invariant: without lists nothing waits in a circle");
    key
}
