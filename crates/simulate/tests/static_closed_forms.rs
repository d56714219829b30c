//! Schedules that need no pass times against their closed forms. Passes take whole numbers of seconds, so every
//! comparison is exact.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Rank, Route, Stage, StageMap, Visit};
use schedule::{Action, Backward, Kind, Placement, Schedule, Spec, generate, with_transfers};
use simulate::{Category, Costs, StageCost, Timeline, simulate};

const ALL_ONE: [u32; 3] = [1, 1, 1];

fn make(kind: Kind, p: usize, v: usize, m: usize) -> Schedule {
    let route = match kind.placement() {
        Placement::V => {
            Route::new((0..2 * p).map(|s| Visit { stage: Stage(s), rank: Rank(s.min(2 * p - 1 - s)) }).collect())
        }
        _ => StageMap::looped(p * v, p).route(),
    };
    generate(Spec { kind, backward: Backward::Fused }, &route, m, &[]).unwrap()
}

/// Equal stages whose passes take `[F, I, W]`; a visit takes up one byte from the begin of `F` to the end of `W`.
/// Updates take no time: the norm before them lets all ranks wait for the last.
fn play(schedule: &Schedule, [forward, input, weight]: [u32; 3]) -> Timeline {
    let cost = StageCost {
        forward_s: forward.into(),
        backward_input_s: input.into(),
        backward_weight_s: weight.into(),
        backward_s: (input + weight).into(),
        activation_bytes: 1,
        weight_grad_bytes: 1,
        ..StageCost::default()
    };
    let n_stages = schedule.routes[0].n_hops();
    simulate(&with_transfers(schedule), &Costs { stages: vec![cost; n_stages], ..Costs::default() }).unwrap()
}

/// Most visits alive at once, on every rank.
fn peaks(timeline: &Timeline) -> Vec<usize> {
    let peak = |rank| timeline.peak_by_category(Rank(rank))[Category::Activations as usize] as usize;
    (0..timeline.n_ranks).map(peak).collect()
}

/// For every rank, the time from its first to its last pass in which it plays none.
fn idle_in_span(timeline: &Timeline) -> Vec<f64> {
    let of_rank = |rank| {
        let is_pass = |span: &&simulate::Span| matches!(span.action, Action::Visit { op, .. } if op.is_compute());
        let passes: Vec<_> = timeline.rank(Rank(rank)).filter(is_pass).collect();
        let begin = passes.iter().map(|span| span.start_s).fold(f64::INFINITY, f64::min);
        let end = passes.iter().map(|span| span.end_s).fold(0.0, f64::max);
        end - begin - passes.iter().map(|span| span.end_s - span.start_s).sum::<f64>()
    };
    (0..timeline.n_ranks).map(of_rank).collect()
}

/// `F` takes 1 and `B` 2 on every stage, so a rank's `v` stages take `v` times what `expected` is for.
fn check_makespan(kind: Kind, p: usize, v: usize, m: usize, expected: f64) {
    let timeline = play(&make(kind, p, v, m), ALL_ONE);
    assert_eq!(timeline.makespan_s(), v as f64 * expected, "{kind}, p {p} v {v} m {m}");
}

/// 3 (m + p - 1) for GPipe and 1F1B, m and min(m, p - i) microbatches alive on rank i.
#[test]
fn gpipe_and_1f1b() {
    for (p, m) in [(1, 1), (2, 2), (3, 7), (4, 8), (8, 5), (8, 32), (16, 48)] {
        let peak_1f1b: Vec<usize> = (0..p).map(|i| m.min(p - i)).collect();
        for (kind, expected) in [(Kind::Gpipe, vec![m; p]), (Kind::OneFOneB, peak_1f1b)] {
            check_makespan(kind, p, 1, m, 3.0 * (m + p - 1) as f64);
            assert_eq!(peaks(&play(&make(kind, p, 1, m), ALL_ONE)), expected, "{kind}, p {p} m {m}");
        }
    }
}

/// Published goldens; the tail group of (4, 2, 10) stalls, 34.5 would be without.
#[test]
fn interleaved_goldens() {
    for (p, v, m, expected) in
        [(4, 2, 8, 28.5), (4, 2, 12, 40.5), (8, 4, 32, 101.25), (4, 3, 16, 51.0), (4, 2, 10, 39.5)]
    {
        check_makespan(Kind::Interleaved, p, v, m, expected);
    }
    for (p, v, m, expected) in [(4, 2, 8, 5.5), (8, 4, 32, 9.75)] {
        let peak = peaks(&play(&make(Kind::Interleaved, p, v, m), ALL_ONE))[0];
        assert_eq!(peak as f64 / v as f64, expected);
    }
}

/// (m + (p - 1) / v)(F + B), where m is a multiple of p and where it goes in equal groups of n >= p (the last four);
/// min(m v, 2 (p - 1 - i) + (v - 1) n + 1) visits alive on rank i.
#[test]
fn interleaved() {
    for (p, v, m, n) in [
        (1, 2, 3, 1),
        (2, 1, 4, 2),
        (2, 3, 2, 2),
        (3, 2, 6, 3),
        (5, 4, 5, 5),
        (5, 3, 20, 5),
        (7, 2, 21, 7),
        (5, 3, 11, 6),
        (6, 2, 8, 8),
        (8, 2, 20, 10),
        (8, 4, 33, 9),
    ] {
        check_makespan(Kind::Interleaved, p, v, m, 3.0 * (m as f64 * v as f64 + (p - 1) as f64) / v as f64);
        let expected: Vec<usize> = (0..p).map(|i| (m * v).min(2 * (p - 1 - i) + (v - 1) * n + 1)).collect();
        assert_eq!(peaks(&play(&make(Kind::Interleaved, p, v, m), ALL_ONE)), expected, "p {p} v {v} m {m}");
    }
}

/// (m + (p - 1) / v)(F + B) for m >= p, otherwise (p + (m - 1) / v)(F + B); m v visits alive on every rank.
#[test]
fn looped_breadth_first() {
    for (p, v, m) in [(1, 3, 2), (2, 2, 5), (3, 4, 3), (4, 2, 9), (5, 3, 2), (8, 4, 1), (8, 2, 32)] {
        let (large, small) = (p.max(m), p.min(m));
        check_makespan(Kind::LoopedBfs, p, v, m, 3.0 * (large * v + small - 1) as f64 / v as f64);
        assert_eq!(peaks(&play(&make(Kind::LoopedBfs, p, v, m), ALL_ONE)), vec![m * v; p], "p {p} v {v} m {m}");
    }
}

/// Pass times with W <= min(F, I), as the zero-bubble papers assume.
const TIMES: [[u32; 3]; 4] = [ALL_ONE, [10, 11, 8], [10, 12, 6], [10, 20, 10]];

/// Makespan m (F + I + W) + (p - 1)(F + I - W), p microbatches alive on every rank.
#[test]
fn zb_h1() {
    for p in 2..=16 {
        for m in [2 * p, 3 * p + 1] {
            let schedule = make(Kind::ZbH1, p, 1, m);
            for [f, i, w] in TIMES {
                let timeline = play(&schedule, [f, i, w]);
                let expected = m as u32 * (f + i + w) + (p - 1) as u32 * (f + i - w);
                assert_eq!(timeline.makespan_s(), f64::from(expected), "p {p} m {m} {f} {i} {w}");
                assert_eq!(peaks(&timeline), vec![p; p]);
            }
        }
    }
    for (p, m, expected) in [(4, 12, 39.0), (8, 24, 79.0)] {
        assert_eq!(play(&make(Kind::ZbH1, p, 1, m), ALL_ONE).makespan_s(), expected);
    }
}

/// Outside W <= min(F, I): a bubble of 30 where the closed form says 15.
#[test]
fn zb_h1_with_long_weight_passes() {
    let m = 12;
    let timeline = play(&make(Kind::ZbH1, 4, 1, m), [5, 10, 10]);
    assert_eq!(timeline.makespan_s(), (m * 25 + 30) as f64);
}

/// Idle (p - 1 - i)(F + I - 2 W) from the first to the last pass of rank i, on the first rank the paper's closed form;
/// 2 p - 1 microbatches alive on every rank.
#[test]
fn zb_h2() {
    for p in 2..=16 {
        for m in [2 * p, 3 * p + 1] {
            let schedule = make(Kind::ZbH2, p, 1, m);
            for [f, i, w] in TIMES {
                let timeline = play(&schedule, [f, i, w]);
                let idle = idle_in_span(&timeline);
                let expected = |rank| f64::from((p - 1 - rank) as u32 * (f + i - 2 * w));
                assert_eq!(idle, (0..p).map(expected).collect::<Vec<f64>>(), "p {p} m {m} {f} {i} {w}");
                assert_eq!(peaks(&timeline), vec![2 * p - 1; p]);
            }
        }
    }
}

/// Makespan m (F + I + W) + (p - 1)(F + I - W) / v with the times of a rank's stages together; with n microbatches in
/// the first group, (v - 1) n + p visits alive on every rank.
#[test]
fn interleaved_zero_bubble() {
    for (p, v, m, n) in [(2, 2, 4, 2), (3, 2, 6, 3), (4, 3, 16, 4), (8, 2, 16, 8), (4, 2, 9, 5), (6, 2, 17, 9)] {
        let schedule = make(Kind::InterleavedZb, p, v, m);
        for [f, i, w] in TIMES {
            let timeline = play(&schedule, [f, i, w]);
            let expected = (m * v) as u32 * (f + i + w) + (p - 1) as u32 * (f + i - w);
            assert_eq!(timeline.makespan_s(), f64::from(expected), "p {p} v {v} m {m} {f} {i} {w}");
            assert_eq!(peaks(&timeline), vec![(v - 1) * n + p; p]);
        }
    }
}

/// With equal passes, makespan (6 m + p - 1) F; 2 p + 1 visits alive on every rank, the published PP + 1 of PP = 2 p
/// stages.
#[test]
fn dualpipe_v() {
    for p in 1..=12 {
        for m in [2 * p + 1, 2 * p + 2, 3 * p + 4] {
            let timeline = play(&make(Kind::DualPipeV, p, 2, m), ALL_ONE);
            assert_eq!(timeline.makespan_s(), (6 * m + p - 1) as f64, "p {p} m {m}");
            assert_eq!(peaks(&timeline), vec![2 * p + 1; p], "p {p} m {m}");
        }
    }
}
