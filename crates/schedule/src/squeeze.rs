//! Passes moved into gaps before them.

use crate::player::{Player, ROUNDING, duration, memory_change, peak, play};
use crate::retime::on_compute;
use crate::{Action, PassTimes, Schedule};

/// The schedule with every pass as early on its rank as its inputs, the gaps between the passes before it and the
/// rank's peak of activation memory allow. Passes are taken in an order that `schedule` could be played in; each goes
/// into the first gap that holds it, so nothing is later than it was and no rank's peak rises.
///
/// What is no pass of a visit keeps its place, and no pass moves ahead of work on a whole stage (`OPT`, `UNSHARD` and
/// the like). Transfers, if spelled out, end up where [`with_transfers`](crate::with_transfers) puts them.
/// Deterministic; takes time proportional to the number of actions times the number of actions a pass moves past.
///
/// # Panics
/// If [`validate`](crate::validate()) refuses `schedule`, or `times` lack a hop of its routes.
pub fn squeeze(schedule: &Schedule, times: &PassTimes) -> Schedule {
    on_compute(schedule, |schedule| {
        let lasting = lasting(times);
        let player = Player::new(schedule, &lasting);
        let squeezed = into_gaps(&player);
        let mut original = player.anew(times);
        original.play();
        match play(&squeezed, times).is_within(original.length()) {
            true => squeezed,
            false => schedule.clone(),
        }
    })
}

/// The times with every pass above zero: what takes no time fits everywhere, and two lists that both let such passes
/// by at one moment can wait for each other.
fn lasting(times: &PassTimes) -> PassTimes {
    let passes = [&times.forward, &times.backward_input, &times.backward_weight];
    let longest = passes.into_iter().flatten().copied().fold(0.0, f64::max);
    let shortest = if longest > 0.0 { 1e-6 * longest } else { 1.0 };
    let lasting = |all: &[f64]| all.iter().map(|&time| time.max(shortest)).collect();
    PassTimes {
        forward: lasting(&times.forward),
        backward_input: lasting(&times.backward_input),
        backward_weight: lasting(&times.backward_weight),
        ..times.clone()
    }
}

/// `player` has played nothing yet.
fn into_gaps(player: &Player) -> Schedule {
    let (schedule, times) = (player.schedule, player.times);
    let order = player.anew(times).play();
    let mut player = player.anew(times);
    let limits: Vec<f64> = schedule.ranks.iter().map(|list| peak(list, times) * (1.0 + ROUNDING)).collect();
    let mut placed: Vec<Vec<Placed>> = vec![Vec::new(); schedule.n_ranks()];
    for i in order {
        let rank = player.rank_of(i);
        let ready = player.ready(i).expect("invariant: an order that can be played");
        let action = player.action(i);
        let needed = duration(action, times);
        let change = memory_change(action, times);
        let position = position(&placed[rank], action, ready, needed, change, limits[rank]);
        let (before, after) = placed[rank].split_at_mut(position);
        let start = before.last().map_or(ready, |before| before.end.max(ready));
        let held = before.last().map_or(0.0, |before| before.held) + change;
        after.iter_mut().for_each(|after| after.held += change);
        let end = player.commit(i, start);
        placed[rank].insert(position, Placed { action, start, end, held });
    }
    let ranks = placed.into_iter().map(|list| list.into_iter().map(|placed| placed.action).collect());
    schedule.with_ranks(ranks.collect())
}

#[derive(Clone, Copy)]
struct Placed {
    action: Action,
    start: f64,
    end: f64,
    /// Memory held from here on.
    held: f64,
}

/// Before which of the actions placed another one goes; the end of the list is always right.
fn position(placed: &[Placed], action: Action, ready: f64, needed: f64, change: f64, limit: f64) -> usize {
    let mut best = placed.len();
    if !matches!(action, Action::Visit { .. }) {
        return best;
    }
    for position in (0..placed.len()).rev() {
        let next = placed[position];
        let (end, held) =
            position.checked_sub(1).map_or((0.0, 0.0), |before| (placed[before].end, placed[before].held));
        let is_over = change > 0.0 && held.max(next.held) + change > limit;
        if is_over || next.end <= ready || matches!(next.action, Action::Stage { .. }) {
            break;
        }
        if end.max(ready) + needed * (1.0 - ROUNDING) <= next.start {
            best = position;
        }
    }
    best
}
