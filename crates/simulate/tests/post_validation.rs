//! When ranks update early, and what that does and does not shorten. All numbers are sums of powers of two, so every
//! comparison is exact.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Rank, StageMap};
use schedule::{Action, Backward, Kind, Schedule, Spec, StageOp, generate, with_post_validation};
use simulate::{Costs, MeetingCost, StageCost, Timeline, simulate};

fn schedule(p: usize, m: usize) -> Schedule {
    let spec = Spec { kind: Kind::ZbH2, backward: Backward::Split };
    generate(spec, &StageMap::one_per_rank(p).route(), m, &[]).unwrap()
}

/// All passes take 1; the optimizer takes its rank's time of `optimizer_s`.
fn costs(optimizer_s: &[f64], norm_s: f64) -> Costs {
    let stage = |&optimizer_s: &f64| StageCost {
        forward_s: 1.0,
        backward_input_s: 1.0,
        backward_weight_s: 1.0,
        backward_s: 2.0,
        optimizer_s,
        ..StageCost::default()
    };
    let meetings = MeetingCost { norm_s, ..MeetingCost::default() };
    Costs { stages: optimizer_s.iter().map(stage).collect(), meetings, ..Costs::default() }
}

/// When `op` begins and ends on `rank`.
fn span(timeline: &Timeline, rank: usize, op: StageOp) -> [f64; 2] {
    let is_wanted = |action| matches!(action, Action::Stage { op: found, .. } if found == op);
    let found = timeline.spans.iter().find(|span| span.rank == Rank(rank) && is_wanted(span.action)).unwrap();
    [found.start_s, found.end_s]
}

/// ZB-H2 with equal passes has no bubble inside a rank: rank `i` works from `i` to `i + 3m`. With a barrier all wait for
/// the last one. With post-validation rank `i` updates at once and is done `p-1-i` earlier; validation at the end of the
/// list still waits for the last one's gradients, but not for its update. The step ends when it did.
#[test]
fn ranks_update_when_they_are_done() {
    for (p, m) in [(1, 2), (2, 4), (3, 7), (4, 8), (8, 16)] {
        for optimizer_s in [0.5, 2.0, 16.0] {
            let costs = costs(&vec![optimizer_s; p], 0.0);
            let barrier = simulate(&schedule(p, m), &costs).unwrap();
            let optimistic = simulate(&with_post_validation(&schedule(p, m)), &costs).unwrap();
            let gradients_s = (3 * m + p - 1) as f64;
            for i in 0..p {
                let what = format!("rank {i} of {p}, {m} microbatches, optimizer {optimizer_s}");
                let done_s = (3 * m + i) as f64;
                let of_barrier = span(&barrier, i, StageOp::OptimizerStep);
                assert_eq!(of_barrier, [gradients_s, gradients_s + optimizer_s], "{what}");
                let tried = span(&optimistic, i, StageOp::OptimisticStep);
                assert_eq!(tried, [done_s, done_s + optimizer_s], "{what}");
                let validated_s = gradients_s.max(done_s + optimizer_s);
                assert_eq!(span(&optimistic, i, StageOp::PostValidate), [validated_s; 2], "{what}");
                let gained_s = optimizer_s.min((p - 1 - i) as f64);
                assert_eq!(of_barrier[1] - validated_s, gained_s, "{what}: the rank's span is so much shorter");
            }
            assert_eq!(optimistic.makespan_s(), barrier.makespan_s(), "{p} ranks: the last one ends last");
        }
    }
}

/// Where the first rank has more to update (the embedding), the step is shorter by what that takes longer, up to the time
/// that the first rank is ahead.
#[test]
fn a_longer_update_on_the_first_rank_hides_behind_the_others() {
    for (p, m) in [(2, 4), (3, 7), (4, 8), (8, 16)] {
        for more_s in [0.5, 1.0, 3.0, 32.0] {
            let mut optimizer_s = vec![2.0; p];
            optimizer_s[0] += more_s;
            let costs = costs(&optimizer_s, 0.25);
            let [barrier, optimistic] = [schedule(p, m), with_post_validation(&schedule(p, m))]
                .map(|schedule| simulate(&schedule, &costs).unwrap().makespan_s());
            assert_eq!(barrier - optimistic, more_s.min((p - 1) as f64), "{p} ranks, {m} microbatches, {more_s} more");
        }
    }
}
