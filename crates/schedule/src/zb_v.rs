//! ZB-V: two stages per rank in a V, no bubble with the memory of 1F1B.
//!
//! Qi et al., *Zero Bubble Pipeline Parallelism* (2024), section 6. Rank `i` holds hop `i` on the way down and hop
//! `2p - 1 - i` on the way up, so every rank is near both ends of the route and can begin backward early. Candidates
//! are the lists of the list scheduler of [`zb_auto`](crate::zb_auto) over both hops, and an order by hand that closes
//! without bubbles, which is also that of torch.distributed.pipelining's `ScheduleZBVZeroBubble`: `2(p - i) - 1`
//! forwards down, `i` times up and down, `p - i` times forward and input pass up; then forward down, input pass down,
//! forward up, input pass up in turn until forwards are left out; `i` input passes down and up in turn, `p - i` down.
//! Its `W` come right after their `I` or where there is time. The one whose busiest rank is occupied for the shortest
//! time wins. With fewer than `2p` microbatches the order by hand is that of `2p` without those that are not there.
//!
//! Closed forms for equal stages: with `F = I = W`, messages that take no time and `m >= 2p` no rank idles between its
//! first pass and its last (the makespan is `p - 1` passes longer than `6m`); activations of at most `2p` of a rank's
//! `2m` forwards, which is the memory of `p` microbatches: the limit when none is given.
//!
//! Where we deviate: all eight combinations of preferences are tried; the paper's heuristic goes round by round.

use crate::candidate::{Candidate, Course, Weights, shortest};
use crate::list_scheduler::{Heuristic, scheduled};
use crate::player::{ROUNDING, peak};
use crate::v_pattern::ranks_of_v;
use crate::{Action, Kind, Op, PassTimes, ScheduleError};
use mesh::{Key, Rank};

/// What the ranks play, by position.
pub(crate) fn lists(
    n_ranks: usize,
    n_microbatches: usize,
    times: &PassTimes,
) -> Result<Vec<Vec<Action>>, ScheduleError> {
    Ok(best(n_ranks, n_microbatches, times)?.lists)
}

/// Where the lists come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Scheduled(Heuristic),
    ByHand(Weights),
}

/// The winner, and what made it.
pub(crate) fn best(
    n_ranks: usize,
    n_microbatches: usize,
    times: &PassTimes,
) -> Result<Candidate<Origin>, ScheduleError> {
    let rank_of = ranks_of_v(n_ranks);
    let unlimited = Kind::ZbV.unlimited(n_ranks).expect("invariant: it keeps to a limit") as f64;
    let mut limits = Vec::with_capacity(n_ranks);
    for rank in 0..n_ranks {
        let (down, up) = (times.activation[rank], times.activation[2 * n_ranks - 1 - rank]);
        let limit = times.memory_limit.unwrap_or(unlimited * down.max(up));
        if down + up > limit * (1.0 + ROUNDING) {
            return Err(ScheduleError::MemoryLimit { kind: Kind::ZbV, rank: Rank(rank), wanted: down + up, limit });
        }
        limits.push(limit);
    }
    let course = Course { rank_of: &rank_of, n_microbatches, times, limits: &limits };

    let by_time =
        Heuristic::all().map(|heuristic| course.candidate(scheduled(&course, heuristic), Origin::Scheduled(heuristic)));
    let by_hand: Vec<Vec<Action>> = (0..n_ranks).map(|rank| by_hand(rank, n_ranks, n_microbatches)).collect();
    let fits = by_hand.iter().zip(&limits).all(|(list, limit)| peak(list, times) <= limit * (1.0 + ROUNDING));
    let by_hand = if fits { course.with_weights(by_hand, Origin::ByHand) } else { Vec::new() };
    Ok(shortest(by_time.chain(by_hand)).expect("invariant: the list scheduler always finds lists"))
}

/// The order by hand on one rank, every `W` right after its `I`.
fn by_hand(rank: usize, n_ranks: usize, n_microbatches: usize) -> Vec<Action> {
    let (down, up) = (rank, 2 * n_ranks - 1 - rank);
    let n = n_microbatches.max(2 * n_ranks);
    let (n_down, n_down_and_up, n_up) = (2 * (n_ranks - rank) - 1, rank, n_ranks - rank);
    let n_in_turn = n - n_down_and_up - n_up;
    let n_last_forwards = n_down + n_down_and_up + n_in_turn - n;

    use Op::{BackwardInput as I, Forward as F};
    let order = [(F, down)]
        .repeat(n_down)
        .into_iter()
        .chain([(F, up), (F, down)].repeat(n_down_and_up))
        .chain([(F, up), (I, up)].repeat(n_up))
        .chain([(F, down), (I, down), (F, up), (I, up)].repeat(n_in_turn - n_last_forwards))
        .chain([(I, down), (F, up), (I, up)].repeat(n_last_forwards))
        .chain([(I, down), (I, up)].repeat(n_down_and_up))
        .chain([(I, down)].repeat(n_up));
    let mut next = [[0; 2]; 2];
    let mut list = Vec::with_capacity(6 * n_microbatches);
    for (op, hop) in order {
        let next = &mut next[(op == I) as usize][(hop == up) as usize];
        let key = Key::new(*next, hop);
        *next += 1;
        if key.microbatch.0 < n_microbatches {
            list.push(Action::visit(op, key));
            list.extend((op == I).then_some(Action::visit(Op::BackwardWeight, key)));
        }
    }
    list
}
