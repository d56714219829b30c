//! The V-shaped and automatic schedules against the papers' figures. All numbers are small integers, so every
//! comparison is exact.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Rank, Route, Stage, Visit};
use schedule::{Backward, Kind, PassTimes, Schedule, Spec, StageOp, generate_for};
use simulate::{Category, Costs, StageCost, Timeline, simulate};

/// Activation of one hop, in bytes; `kept` of them until `W`.
const ACTIVATION: u64 = 100;

#[derive(Clone, Copy, Debug)]
struct Passes {
    f: f64,
    i: f64,
    w: f64,
    kept: u64,
}

const UNIT: Passes = Passes { f: 1.0, i: 1.0, w: 1.0, kept: 50 };

/// Two equal stages per rank in a V, or one.
fn made(kind: Kind, p: usize, m: usize, passes: Passes, memory_limit: Option<f64>) -> (Schedule, Timeline) {
    let n_hops = if kind.placement() == schedule::Placement::V { 2 * p } else { p };
    let rank = |hop: usize| if hop < p { hop } else { 2 * p - 1 - hop };
    let route = Route::new((0..n_hops).map(|hop| Visit { stage: Stage(hop), rank: Rank(rank(hop)) }).collect());
    let times = PassTimes {
        forward: vec![passes.f; n_hops],
        backward_input: vec![passes.i; n_hops],
        backward_weight: vec![passes.w; n_hops],
        message: 0.0,
        activation: vec![ACTIVATION as f64; n_hops],
        kept_for_weight: vec![passes.kept as f64; n_hops],
        memory_limit: memory_limit.map(|limit| limit * ACTIVATION as f64),
    };
    let spec = Spec { kind, backward: Backward::Split };
    let schedule = generate_for(spec, &route, m, &[], &times).unwrap();
    let timeline = played(&schedule, n_hops, passes);
    (schedule, timeline)
}

fn played(schedule: &Schedule, n_hops: usize, passes: Passes) -> Timeline {
    let stage = StageCost {
        forward_s: passes.f,
        backward_input_s: passes.i,
        backward_weight_s: passes.w,
        backward_s: passes.i + passes.w,
        activation_bytes: ACTIVATION,
        weight_grad_bytes: passes.kept,
        ..StageCost::default()
    };
    simulate(schedule, &Costs { stages: vec![stage; n_hops], ..Costs::default() }).unwrap()
}

/// The longest time from a rank's first pass to the end of its last one; the optimizer waits for all ranks.
fn span(timeline: &Timeline) -> f64 {
    let of_rank = |rank: usize| {
        let is_update =
            |span: &&simulate::Span| matches!(span.action, schedule::Action::Stage { op: StageOp::OptimizerStep, .. });
        let passes = || timeline.rank(Rank(rank)).filter(|span| span.action.is_compute() && !is_update(span));
        let begin = passes().map(|span| span.start_s).fold(f64::INFINITY, f64::min);
        passes().map(|span| span.end_s).fold(0.0, f64::max) - begin
    };
    (0..timeline.n_ranks).map(of_rank).fold(0.0, f64::max)
}

/// Most activations held on a rank, in those of one hop.
fn peak(timeline: &Timeline) -> f64 {
    let of_rank = |rank: usize| {
        let by_category = timeline.peak_by_category(Rank(rank));
        by_category[Category::Activations as usize]
    };
    (0..timeline.n_ranks).map(of_rank).max().unwrap_or(0) as f64 / ACTIVATION as f64
}

/// What a rank does in `m` microbatches, two stages of unit passes each: 6 m. Without bubble no rank is occupied
/// longer.
fn bubble(timeline: &Timeline, m: usize) -> f64 {
    span(timeline) - 6.0 * m as f64
}

/// 1F1B's bubble with stages twice as large: (p - 1)(F + B) = 6 (p - 1).
fn bubble_of_1f1b(p: usize) -> f64 {
    let twice = Passes { f: 2.0, i: 2.0, w: 2.0, kept: 50 };
    let (schedule, _) = made(Kind::OneFOneB, p, 2 * p, twice, None);
    let timeline = played(&schedule::fuse_backward(&schedule), p, twice);
    timeline.makespan_s() - 12.0 * p as f64
}

/// No bubble when F = I = W and m >= 2 p, the memory of p microbatches (zero-bubble sheet), however much of it `W`
/// keeps.
#[test]
fn zb_v_has_no_bubble() {
    for p in 1..=16 {
        for m in [2 * p, 2 * p + 1, 3 * p + 2] {
            for kept in [0, 25, 50, 75, 100] {
                let (_, timeline) = made(Kind::ZbV, p, m, Passes { kept, ..UNIT }, None);
                assert_eq!(bubble(&timeline, m), 0.0, "p {p} m {m} kept {kept}");
                assert_eq!(timeline.makespan_s(), (6 * m + p - 1) as f64, "p {p} m {m} kept {kept}");
                assert_eq!(peak(&timeline), (2 * p) as f64, "p {p} m {m} kept {kept}");
            }
        }
    }
}

/// Peaks in activations of one stage, where 1F1B holds 2 p (zero-bubble sheet): p + 2 for even p. At most half of
/// 1F1B's bubble (README of zero-bubble-pipeline-parallelism); its exact size is our squeezing's.
#[test]
fn v_half_takes_half() {
    for p in 3..=16 {
        for (m, kept) in [(2 * p, 50), (2 * p, 100), (3 * p + 1, 50)] {
            let (_, timeline) = made(Kind::VHalf, p, m, Passes { kept, ..UNIT }, None);
            let even = p - p % 2;
            assert_eq!(peak(&timeline), (even + 2) as f64, "p {p} m {m} kept {kept}");
            let idle = bubble(&timeline, m);
            assert_eq!(idle, (6 * p.div_ceil(2) - 7) as f64, "p {p} m {m} kept {kept}");
            assert!(idle <= bubble_of_1f1b(p) / 2.0, "p {p} m {m} kept {kept}: {idle}");
        }
    }
}

/// Peaks when `W` keeps all: the sheet's 4, 6, 8, 10, 12 for p = 4, 6, 8, 12, 16. Two thirds of 1F1B's bubble, one pass
/// less.
#[test]
fn v_min_takes_a_third() {
    for (p, expected) in [(4, 4.0), (5, 6.0), (6, 6.0), (7, 6.0), (8, 8.0), (12, 10.0), (13, 10.0), (16, 12.0)] {
        for m in [2 * p, 3 * p + 1] {
            let (_, timeline) = made(Kind::VMin, p, m, Passes { kept: 100, ..UNIT }, None);
            assert_eq!(peak(&timeline), expected, "p {p} m {m}");
            assert_eq!(bubble(&timeline, m), bubble_of_1f1b(p) * 2.0 / 3.0 - 1.0, "p {p} m {m}");
        }
    }
}

/// The automatic scheduler under the memory of ZB-H1 and ZB-H2 idles no longer than they do, whose closed forms are
/// (p - 1)(F + I - W) and (p - 1)(F + I - 2 W).
#[test]
fn zb_auto_is_no_worse_than_by_hand() {
    let costs = [(1.0, 1.0, 1.0), (10.0, 11.0, 8.0), (10.0, 12.0, 6.0), (10.0, 20.0, 10.0)];
    for (f, i, w) in costs {
        for kept in [0, 50, 100] {
            let passes = Passes { f, i, w, kept };
            for p in 1..=9 {
                for m in [2 * p, 3 * p + 2] {
                    for (kind, limit) in [(Kind::ZbH1, p), (Kind::ZbH2, 2 * p - 1)] {
                        let (_, by_hand) = made(kind, p, m, passes, None);
                        let (_, automatic) = made(Kind::ZbAuto, p, m, passes, Some(limit as f64));
                        let (found, bound) = (span(&automatic), span(&by_hand));
                        assert!(found <= bound, "{kind}, {passes:?} p {p} m {m}: {found}, by hand {bound}");
                        assert!(peak(&automatic) <= limit as f64, "{kind}, {passes:?} p {p} m {m}");
                    }
                }
            }
        }
    }
}
