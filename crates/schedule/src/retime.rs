//! Weight passes placed anew for the times things really take.

use crate::player::{Length, Player, ROUNDING, duration, memory_change, peak};
use crate::{Action, Op, PassTimes, Schedule, with_transfers};
use std::collections::{HashMap, VecDeque};

/// The schedule with its weight passes where `times` leave room for them: everything else keeps its order, every `W`
/// waits in a queue until its rank would be idle, until the memory its activations hold is needed, or until nothing
/// else is left. What remains of a gap that is too short for a `W` is left idle, filled nonetheless, or filled when the
/// gap covers half of the `W`: the best of the three and of `schedule` itself, by the longest time a rank is occupied
/// and then by the makespan, neither of which gets longer. No rank's peak of activation memory rises.
///
/// Only `W` moves, so schedules with fused backward stay as they are. A `W` never passes work on a whole stage
/// (`OPT`, `REDUCE_GRAD` and the like). Transfers, if spelled out, end up where [`with_transfers`] puts them.
/// Deterministic.
///
/// # Panics
/// If [`validate`](crate::validate()) refuses `schedule`, or `times` lack a hop of its routes.
pub fn retime(schedule: &Schedule, times: &PassTimes) -> Schedule {
    on_compute(schedule, |schedule| {
        let limits: Vec<f64> = schedule.ranks.iter().map(|list| peak(list, times)).collect();
        let mut player = Player::new(schedule, times);
        player.play();
        let original = player.length();
        let refills = Refill::of_ranks(&player, &limits);
        let refilled = Gap::ALL.iter().map(|&gap| refill(&player, refills.clone(), gap));
        let best = refilled
            .filter(|(_, length)| length.is_within(original))
            .min_by(|(_, a), (_, b)| a.partial_cmp(b).expect("invariant: finite times"));
        match best {
            Some((retimed, length)) if length < original => retimed,
            _ => schedule.clone(),
        }
    })
}

/// What to do with a gap that is shorter than the next `W`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Leave it idle.
    Leave,
    /// Play the `W`, however much it delays what comes.
    Fill,
    /// Play the `W` if it delays what comes by no more than the gap.
    FillHalf,
}

impl Gap {
    pub const ALL: [Gap; 3] = [Gap::Leave, Gap::Fill, Gap::FillHalf];

    /// Whether a pass that takes `needed` goes into a gap of `found`, which is shorter.
    fn takes(self, found: f64, needed: f64) -> bool {
        match self {
            Gap::Leave => false,
            Gap::Fill => found > ROUNDING * needed,
            Gap::FillHalf => 2.0 * found >= needed,
        }
    }
}

/// The schedule of `player` with its `W` placed anew under a limit per rank, and how long it takes. A rank whose list
/// cannot keep its limit whatever its `W` do goes above it.
pub(crate) fn refill(player: &Player, mut ranks: Vec<Refill>, gap: Gap) -> (Schedule, Length) {
    let (schedule, times) = (player.schedule, player.times);
    let mut player = player.anew(times);
    let mut n_left: usize = ranks.iter().map(|rank| rank.to_play.len()).sum();
    while n_left > 0 {
        let before = n_left;
        for rank in &mut ranks {
            while let Some(i) = rank.next(&mut player, times)
                && let Some(ready) = player.ready(i)
            {
                rank.fill(&mut player, times, i, ready, gap);
                rank.to_play.pop_front();
                rank.play(&mut player, times, i, ready);
                n_left -= 1;
            }
        }
        assert!(n_left < before, "a validated schedule does not deadlock");
    }
    for rank in &mut ranks {
        rank.next(&mut player, times);
    }
    let length = player.length();
    (schedule.with_ranks(ranks.into_iter().map(|rank| rank.list).collect()), length)
}

/// A rank whose `W` are placed anew.
#[derive(Clone)]
pub(crate) struct Refill {
    /// Everything but `W`, by number.
    to_play: VecDeque<usize>,
    /// The `W` by number, in the order of their `I`, and how many of them may be played.
    weights: VecDeque<usize>,
    n_ready: usize,
    clock: f64,
    held: f64,
    limit: f64,
    list: Vec<Action>,
}

impl Refill {
    /// Of all ranks, under a limit each.
    pub fn of_ranks(player: &Player, limits: &[f64]) -> Vec<Self> {
        limits.iter().enumerate().map(|(rank, &limit)| Self::new(player, rank, limit)).collect()
    }

    fn new(player: &Player, rank: usize, limit: f64) -> Self {
        let actions = player.actions_of(rank);
        let list = Vec::with_capacity(actions.len());
        let mut weight_of = HashMap::new();
        for i in actions.clone() {
            if let Action::Visit { op: Op::BackwardWeight, key } = player.action(i) {
                weight_of.insert(key, i);
            }
        }
        let to_play: VecDeque<usize> = actions.filter(|&i| !is_weight(player.action(i))).collect();
        let weights = to_play.iter().filter_map(|&i| match player.action(i) {
            Action::Visit { op: Op::BackwardInput, key } => weight_of.get(&key).copied(),
            _ => None,
        });
        Self { weights: weights.collect(), to_play, n_ready: 0, clock: 0.0, held: 0.0, limit, list }
    }

    /// What comes next but for `W`. Before work on a whole stage, which may wait for them, and at the end of the list
    /// all `W` are played.
    fn next(&mut self, player: &mut Player, times: &PassTimes) -> Option<usize> {
        let next = self.to_play.front().copied();
        if next.is_none_or(|i| matches!(player.action(i), Action::Stage { .. })) {
            while self.n_ready > 0 {
                self.play_weight(player, times);
            }
        }
        next
    }

    /// Plays `W` before action `i`, which could begin at `ready`.
    fn fill(&mut self, player: &mut Player, times: &PassTimes, i: usize, ready: f64, gap: Gap) {
        let action = player.action(i);
        while self.n_ready > 0 {
            let needed = duration(player.action(self.weights[0]), times);
            let found = ready - self.clock;
            let is_full = self.held + memory_change(action, times).max(0.0) > self.limit * (1.0 + ROUNDING);
            if needed > found * (1.0 + ROUNDING) && !is_full && !gap.takes(found, needed) {
                break;
            }
            self.play_weight(player, times);
        }
    }

    fn play_weight(&mut self, player: &mut Player, times: &PassTimes) {
        let weight = self.weights.pop_front().expect("invariant: a ready weight pass");
        self.n_ready -= 1;
        self.play(player, times, weight, 0.0);
    }

    fn play(&mut self, player: &mut Player, times: &PassTimes, i: usize, ready: f64) {
        let action = player.action(i);
        self.clock = player.commit(i, ready.max(self.clock));
        self.held += memory_change(action, times);
        self.n_ready += matches!(action, Action::Visit { op: Op::BackwardInput, .. }) as usize;
        self.list.push(action);
    }
}

fn is_weight(action: Action) -> bool {
    matches!(action, Action::Visit { op: Op::BackwardWeight, .. })
}

/// Applies a pass to the compute actions of a schedule; transfers, if it has any, are spelled out again.
pub(crate) fn on_compute(schedule: &Schedule, pass: impl Fn(&Schedule) -> Schedule) -> Schedule {
    let is_compute = |action: &Action| action.is_compute();
    if schedule.ranks.iter().flatten().all(is_compute) {
        return pass(schedule);
    }
    let ranks = schedule.ranks.iter().map(|list| list.iter().copied().filter(is_compute).collect());
    with_transfers(&pass(&schedule.with_ranks(ranks.collect())))
}
