//! The schedules over several stages per rank, and the direct zero-bubble constructions: published orders, and whether
//! any number of ranks, stages and microbatches can be played.

use mesh::{Rank, Route, Stage, StageMap, Visit};
use schedule::{
    Action, Backward, Kind, Op, Placement, Schedule, ScheduleError, Spec, generate, validate, with_transfers,
};

fn make(kind: Kind, p: usize, v: usize, m: usize) -> Result<Schedule, ScheduleError> {
    let route = match kind.placement() {
        Placement::V => {
            Route::new((0..2 * p).map(|s| Visit { stage: Stage(s), rank: Rank(s.min(2 * p - 1 - s)) }).collect())
        }
        _ => StageMap::looped(p * v, p).route(),
    };
    generate(Spec { kind, backward: Backward::Fused }, &route, m, &[])
}

fn line(schedule: &Schedule, rank: usize) -> String {
    let labels: Vec<String> = schedule.ranks[rank].iter().map(|&action| schedule.label(action)).collect();
    labels.join(" ")
}

/// Megatron-LM's table of virtual microbatches for 3 ranks of 2 stages and 5 microbatches: a full and a tail group.
#[test]
fn interleaved_order() {
    let microbatches = [0, 1, 2, 0, 1, 2, 3, 4, 3, 4];
    let chunks = [0, 0, 0, 1, 1, 1, 0, 0, 1, 1];
    let schedule = make(Kind::Interleaved, 3, 2, 5).unwrap();
    for (rank, list) in schedule.ranks.iter().enumerate() {
        let of = |wanted: Op| -> Vec<(usize, usize)> {
            list.iter()
                .filter_map(|action| match action {
                    Action::Visit { op, key } if *op == wanted => Some((key.microbatch.0, key.hop.0)),
                    _ => None,
                })
                .collect()
        };
        let expected = |hop: &dyn Fn(usize) -> usize| -> Vec<(usize, usize)> {
            microbatches.iter().zip(chunks).map(|(&microbatch, chunk)| (microbatch, hop(chunk))).collect()
        };
        assert_eq!(of(Op::Forward), expected(&|chunk| 3 * chunk + rank));
        assert_eq!(of(Op::Backward), expected(&|chunk| 3 * (1 - chunk) + rank));
        let n_warm_up =
            list.iter().take_while(|action| matches!(action, Action::Visit { op: Op::Forward, .. })).count();
        // Beside the warm-up of 2 (p - 1 - i) + (v - 1) p, the first forward that a backward follows.
        assert_eq!(n_warm_up, 2 * (2 - rank) + 3 + 1);
    }
}

/// The direct constructions, written out by hand.
#[test]
fn zero_bubble_orders() {
    for (kind, m, expected) in [
        (
            Kind::ZbH1,
            4,
            [
                "0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3 0OPT",
                "1F0 1F1 1I0 1F2 1I1 1W0 1F3 1I2 1W1 1I3 1W2 1W3 1OPT",
                "2F0 2I0 2F1 2I1 2F2 2I2 2W0 2F3 2I3 2W1 2W2 2W3 2OPT",
            ],
        ),
        (
            Kind::ZbH2,
            6,
            [
                "0F0 0F1 0F2 0F3 0F4 0I0 0W0 0F5 0I1 0W1 0I2 0W2 0I3 0W3 0I4 0W4 0I5 0W5 0OPT",
                "1F0 1F1 1F2 1I0 1F3 1I1 1F4 1I2 1W0 1F5 1I3 1W1 1I4 1W2 1I5 1W3 1W4 1W5 1OPT",
                "2F0 2I0 2F1 2I1 2F2 2I2 2F3 2I3 2F4 2I4 2W0 2F5 2I5 2W1 2W2 2W3 2W4 2W5 2OPT",
            ],
        ),
        (Kind::ZbH2, 1, ["0F0 0I0 0W0 0OPT", "1F0 1I0 1W0 1OPT", "2F0 2I0 2W0 2OPT"]),
    ] {
        let schedule = make(kind, 3, 1, m).unwrap();
        for (rank, expected) in expected.iter().enumerate() {
            assert_eq!(line(&schedule, rank), *expected, "{kind}, m {m}");
        }
    }
}

#[test]
fn one_stage_per_rank_of_interleaved_zero_bubble_is_zb_h1() {
    for (p, m) in [(1, 1), (3, 2), (4, 9), (5, 20)] {
        assert_eq!(make(Kind::InterleavedZb, p, 1, m).unwrap().ranks, make(Kind::ZbH1, p, 1, m).unwrap().ranks);
    }
}

/// Every small case, fewer microbatches than ranks and uneven groups included.
#[test]
fn all_sizes_are_valid() {
    for p in 1..=9 {
        for v in 1..=4 {
            for m in 1..=30 {
                for kind in [Kind::Interleaved, Kind::LoopedBfs, Kind::InterleavedZb] {
                    let schedule = make(kind, p, v, m).unwrap();
                    assert_eq!(validate(&with_transfers(&schedule)), Ok(()), "{kind}, p {p} v {v} m {m}");
                }
            }
        }
        for m in 1..=30 {
            for kind in [Kind::ZbH1, Kind::ZbH2] {
                let schedule = make(kind, p, 1, m).unwrap();
                assert_eq!(validate(&with_transfers(&schedule)), Ok(()), "{kind}, p {p} m {m}");
            }
            let (kind, n_ranks, found, wanted) = (Kind::DualPipeV, p, m, 2 * p);
            match make(kind, p, 2, m) {
                Ok(schedule) => {
                    assert!(m >= wanted);
                    assert_eq!(validate(&with_transfers(&schedule)), Ok(()), "{kind}, p {p} m {m}");
                }
                Err(problem) => {
                    assert!(m < wanted);
                    assert_eq!(problem, ScheduleError::TooFewMicrobatches { kind, n_ranks, found, wanted });
                }
            }
        }
    }
}
