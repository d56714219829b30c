//! The automatic zero-bubble scheduler: the best of several orders for unequal stages, messages that take time and a
//! memory limit.
//!
//! Qi et al., *Zero Bubble Pipeline Parallelism* (2024), section 3.1. Candidates are the lists of a list scheduler
//! under all eight combinations of its three preferences (whether the last forward of the warm-up may overshoot the
//! first gradient, whether a forward yields to a gradient about to arrive, whether a rank that has idled little may
//! idle on instead of delaying what comes by a `W`), and the orders of 1F1B and ZB-H2 with `W` placed where there is
//! time or right after `I`. The one whose busiest rank is occupied for the shortest time wins, from its first pass to
//! the end of its last one; of equals the one with the shortest makespan. Candidates that take longer than 1F1B with
//! split backward under the same limit, by either measure, are out: a step that ends in a barrier is no slower either.
//!
//! Where we deviate: the paper's heuristic goes microbatch by microbatch over the ranks; ours goes by time, so
//! that ranks with different costs and memory decide when they are free and not in turn.
//!
//! The limit holds at every moment. A rank plays 1F1B with as many microbatches ahead as fit and no more than the rank
//! before it. Without a limit a rank may hold `2p - 1` microbatches, as in ZB-H2. Closed forms are bounds here: with
//! equal stages and `W <= min(F, I)` it idles no longer than ZB-H1 when `p` microbatches fit and than ZB-H2 when
//! `2p - 1` do.

use crate::candidate::{Candidate, Course, Weights, shortest};
use crate::list_scheduler::{Heuristic, scheduled};
use crate::player::ROUNDING;
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
    InTurn(WarmUp, Weights),
}

/// How many forwards come before forward and input pass in turn, where memory allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WarmUp {
    /// One for every rank ahead, as in 1F1B and ZB-H1.
    Once,
    /// Two, as in ZB-H2.
    Twice,
}

/// The winner, and what made it.
pub(crate) fn best(
    n_ranks: usize,
    n_microbatches: usize,
    times: &PassTimes,
) -> Result<Candidate<Origin>, ScheduleError> {
    let limits = limits(n_ranks, times)?;
    let rank_of: Vec<usize> = (0..n_ranks).collect();
    let course = Course { rank_of: &rank_of, n_microbatches, times, limits: &limits };

    let bound = course.candidate(in_turn(&course, WarmUp::Once), ()).length;
    let by_time =
        Heuristic::all().map(|heuristic| course.candidate(scheduled(&course, heuristic), Origin::Scheduled(heuristic)));
    let in_turn = [WarmUp::Once, WarmUp::Twice]
        .into_iter()
        .flat_map(|warm_up| course.with_weights(in_turn(&course, warm_up), |weights| Origin::InTurn(warm_up, weights)));
    let candidates = by_time.chain(in_turn).filter(|candidate| candidate.length.is_within(bound));
    Ok(shortest(candidates).expect("invariant: 1F1B is within its own bound"))
}

/// 1F1B with split backward, by position.
pub(crate) fn plain(
    n_ranks: usize,
    n_microbatches: usize,
    times: &PassTimes,
) -> Result<Vec<Vec<Action>>, ScheduleError> {
    let limits = limits(n_ranks, times)?;
    let rank_of: Vec<usize> = (0..n_ranks).collect();
    Ok(in_turn(&Course { rank_of: &rank_of, n_microbatches, times, limits: &limits }, WarmUp::Once))
}

/// The most memory of each rank, which holds one microbatch at least.
fn limits(n_ranks: usize, times: &PassTimes) -> Result<Vec<f64>, ScheduleError> {
    let unlimited = Kind::ZbAuto.unlimited(n_ranks).expect("invariant: it keeps to a limit") as f64;
    let limit = |&activation: &f64| times.memory_limit.unwrap_or(unlimited * activation);
    let limits: Vec<f64> = times.activation.iter().map(limit).collect();
    for (rank, (&wanted, &limit)) in times.activation.iter().zip(&limits).enumerate() {
        if wanted > limit * (1.0 + ROUNDING) {
            return Err(ScheduleError::MemoryLimit { kind: Kind::ZbAuto, rank: Rank(rank), wanted, limit });
        }
    }
    Ok(limits)
}

/// After a warm-up forward, `I` and its `W` in turn, under the course's limits: 1F1B with split backward.
fn in_turn(course: &Course, warm_up: WarmUp) -> Vec<Vec<Action>> {
    let n_ranks = course.limits.len();
    let mut n_ahead = course.n_microbatches;
    let list = |rank: usize| {
        let fits = |&n: &usize| n as f64 * course.times.activation[rank] <= course.limits[rank] * (1.0 + ROUNDING);
        let n_wanted = match warm_up {
            WarmUp::Once => n_ranks - 1 - rank,
            WarmUp::Twice => 2 * (n_ranks - 1 - rank),
        };
        n_ahead = n_ahead.min((2..=n_wanted + 1).take_while(fits).count());
        let forward = |microbatch| Action::visit(Op::Forward, Key::new(microbatch, rank));
        let mut list: Vec<Action> = (0..n_ahead).map(forward).collect();
        for microbatch in 0..course.n_microbatches {
            let ahead = n_ahead + microbatch;
            list.extend((ahead < course.n_microbatches).then(|| forward(ahead)));
            let key = Key::new(microbatch, rank);
            list.extend([Op::BackwardInput, Op::BackwardWeight].map(|op| Action::visit(op, key)));
        }
        list
    };
    (0..n_ranks).map(list).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use std::collections::BTreeMap;

    fn cases() -> impl Strategy<Value = (usize, usize, PassTimes)> {
        let sizes = (2..=8_usize, 1..=32_usize);
        (sizes, prop::sample::select(vec![0.0, 0.2, 1.0])).prop_flat_map(|((p, m), spread)| {
            let passes = move || {
                (0.5..1.5_f64, prop::collection::vec(-0.5..0.5_f64, p))
                    .prop_map(move |(base, parts)| parts.iter().map(|part| base * (1.0 + spread * part)).collect())
            };
            let memory = (0.0..1.0_f64, 1.0..=2.0 * p as f64);
            let message = prop_oneof![Just(0.0), 0.0..0.5_f64];
            (passes(), passes(), passes(), memory, message).prop_map(
                move |(forward, backward_input, backward_weight, (kept, limit), message)| {
                    let kept_for_weight = vec![kept; p];
                    let memory_limit = Some(limit);
                    let equal = PassTimes::equal(p);
                    let times = PassTimes {
                        forward,
                        backward_input,
                        backward_weight,
                        message,
                        kept_for_weight,
                        memory_limit,
                        ..equal
                    };
                    (p, m, times)
                },
            )
        })
    }

    /// Every kind of candidate is worth its while: it wins somewhere, ties going to the list scheduler. Which how often
    /// is printed under `--nocapture`.
    #[test]
    fn every_order_wins_somewhere() {
        let mut runner = TestRunner::deterministic();
        let mut wins: BTreeMap<String, usize> = BTreeMap::new();
        let (mut won, mut of_1f1b) = ([0; 3], 0.0);
        for _ in 0..3000 {
            let (p, m, times) = cases().new_tree(&mut runner).unwrap().current();
            let best = best(p, m, &times).unwrap();
            *wins.entry(format!("{:?}", best.origin)).or_default() += 1;
            won[match best.origin {
                Origin::Scheduled(_) => 0,
                Origin::InTurn(_, Weights::Placed(_)) => 1,
                Origin::InTurn(_, Weights::AtOnce) => 2,
            }] += 1;
            let (rank_of, limits) = ((0..p).collect::<Vec<_>>(), vec![times.memory_limit.unwrap(); p]);
            let course = Course { rank_of: &rank_of, n_microbatches: m, times: &times, limits: &limits };
            let plain = course.candidate(in_turn(&course, WarmUp::Once), ()).length;
            of_1f1b += best.length.span / plain.span / 3000.0;
        }
        println!("list scheduler {}, W placed {}, W at once {}; {of_1f1b:.3} of 1F1B's span", won[0], won[1], won[2]);
        for (origin, n) in wins {
            println!("{n:5} {origin}");
        }
        assert!(won.iter().all(|&n| n > 0), "{won:?}");
    }
}
