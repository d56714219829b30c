//! The schedules that weigh passes against each other, and the passes that move them, under random times, messages,
//! memory limits and sizes. Times are played here once more, by relaxation, and memory is added up here.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Key, Rank, Route, Stage, Visit};
use proptest::prelude::*;
use schedule::{
    Action, Backward, Kind, Op, PassTimes, Placement, Schedule, ScheduleError, Spec, dependencies, generate_for,
    retime, squeeze, validate, with_transfers,
};

/// Sums of the same numbers in another order differ by rounding.
const ROUNDING: f64 = 1.0 + 1e-8;

fn route(kind: Kind, n_ranks: usize) -> Route {
    let n_hops = if kind.placement() == Placement::V { 2 * n_ranks } else { n_ranks };
    let rank = |hop: usize| if hop < n_ranks { hop } else { 2 * n_ranks - 1 - hop };
    Route::new((0..n_hops).map(|hop| Visit { stage: Stage(hop), rank: Rank(rank(hop)) }).collect())
}

fn made(kind: Kind, n_ranks: usize, n_microbatches: usize, times: &PassTimes) -> Result<Schedule, ScheduleError> {
    let spec = Spec { kind, backward: Backward::Split };
    generate_for(spec, &route(kind, n_ranks), n_microbatches, &[], times)
}

/// By rank the longest time from first to last pass and, first, the makespan.
fn length(schedule: &Schedule, times: &PassTimes) -> (f64, f64) {
    let dependencies = dependencies(schedule).unwrap();
    let actions: Vec<(Rank, Action)> = schedule.actions().collect();
    let n_nodes = actions.len() + dependencies.meetings().len();
    let takes = |i: usize| match actions.get(i) {
        Some(&(_, Action::Visit { op, key })) => match op {
            Op::Forward => times.forward[key.hop.0],
            Op::BackwardInput => times.backward_input[key.hop.0],
            Op::BackwardWeight => times.backward_weight[key.hop.0],
            Op::Backward => times.backward_input[key.hop.0] + times.backward_weight[key.hop.0],
            _ => 0.0,
        },
        _ => 0.0,
    };
    let mut start = vec![0.0; n_nodes];
    let mut moved = true;
    while moved {
        moved = false;
        for i in 0..n_nodes {
            let mut earliest: f64 = start[i];
            if i > 0 && i < actions.len() && actions[i - 1].0 == actions[i].0 {
                earliest = earliest.max(start[i - 1] + takes(i - 1));
            }
            for on in dependencies.of(i) {
                let is_message = i < actions.len() && on < actions.len() && actions[on].0 != actions[i].0;
                let message = if is_message { times.message } else { 0.0 };
                earliest = earliest.max(start[on] + takes(on) + message);
            }
            moved |= earliest > start[i];
            start[i] = earliest;
        }
    }
    let of_rank = |rank: usize| {
        let passes = || {
            let passes = (0..actions.len()).filter(|&i| matches!(actions[i].1, Action::Visit { .. }));
            passes.filter(|&i| actions[i].0 == Rank(rank))
        };
        let begin = passes().map(|i| start[i]).fold(f64::INFINITY, f64::min);
        let end = passes().map(|i| start[i] + takes(i)).fold(0.0, f64::max);
        (end, end - begin)
    };
    let ranks: Vec<(f64, f64)> = (0..schedule.n_ranks()).map(of_rank).collect();
    let most = |figure: fn(&(f64, f64)) -> f64| ranks.iter().map(figure).fold(0.0, f64::max);
    (most(|rank| rank.0), most(|rank| rank.1))
}

fn peaks(schedule: &Schedule, times: &PassTimes) -> Vec<f64> {
    let peak = |list: &Vec<Action>| {
        let (mut held, mut peak) = (0.0, 0.0_f64);
        for action in list {
            let Action::Visit { op, key } = action else { continue };
            let (whole, kept) = (times.activation[key.hop.0], times.kept_for_weight[key.hop.0]);
            held += match op {
                Op::Forward => whole,
                Op::BackwardInput => kept - whole,
                Op::BackwardWeight => -kept,
                Op::Backward => -whole,
                _ => 0.0,
            };
            peak = peak.max(held);
        }
        peak
    };
    schedule.ranks.iter().map(peak).collect()
}

/// 1F1B, `W` right after `I`, each rank as many microbatches ahead as its memory and the rank before it allow.
fn one_f_one_b(n_ranks: usize, n_microbatches: usize, times: &PassTimes, limit: f64) -> Schedule {
    let mut ahead = n_microbatches;
    let ranks = (0..n_ranks).map(|rank| {
        let mut n_fitting = 1;
        while n_fitting < n_ranks && (n_fitting + 1) as f64 * times.activation[rank] <= limit {
            n_fitting += 1;
        }
        ahead = ahead.min(n_ranks - 1 - rank).min(n_fitting - 1);
        let of = |op: Op, microbatch: usize| Action::visit(op, Key::new(microbatch, rank));
        let mut list: Vec<Action> = (0..ahead).map(|microbatch| of(Op::Forward, microbatch)).collect();
        for microbatch in 0..n_microbatches {
            list.extend((ahead + microbatch < n_microbatches).then(|| of(Op::Forward, ahead + microbatch)));
            list.extend([of(Op::BackwardInput, microbatch), of(Op::BackwardWeight, microbatch)]);
        }
        list
    });
    let routes = vec![route(Kind::OneFOneB, n_ranks); n_microbatches];
    Schedule {
        name: "1F1B".to_owned(),
        routes,
        vocabulary: None,
        tied: Vec::new(),
        n_segments: 1,
        ranks: ranks.collect(),
    }
}

#[derive(Clone, Debug)]
struct Case {
    kind: Kind,
    n_ranks: usize,
    n_microbatches: usize,
    times: PassTimes,
}

/// Equal hops, hops that differ a little, hops that differ without bounds; some passes take no time, some no memory.
fn cases(kinds: &'static [Kind]) -> impl Strategy<Value = Case> {
    let sizes = (prop::sample::select(kinds), 1..=7_usize, 1..=15_usize);
    (sizes, prop::sample::select(vec![0.0, 0.3, 1.0])).prop_flat_map(|((kind, n_ranks, n_microbatches), spread)| {
        let n_hops = route(kind, n_ranks).n_hops();
        let all = move |base: Vec<f64>| {
            (prop::sample::select(base), prop::collection::vec(0.0..1.0_f64, n_hops)).prop_map(move |(base, parts)| {
                parts.iter().map(|part| base * (1.0 - spread * part)).collect::<Vec<_>>()
            })
        };
        let passes = (all(vec![1.0, 10.0, 0.1]), all(vec![1.0, 2.0, 0.7, 0.0]), all(vec![1.0, 0.6, 1.3, 3.0, 0.0]));
        let memory = (all(vec![1.0, 0.3, 7.0, 0.0]), all(vec![1.0, 0.5, 0.0]), prop::option::of(1.0..16.0_f64));
        let message = prop::sample::select(vec![0.0, 0.05, 0.5, 3.0]);
        (passes, memory, message).prop_map(move |(passes, (activation, kept, room), message)| {
            let (forward, backward_input, backward_weight) = passes;
            let kept_for_weight = activation.iter().zip(&kept).map(|(whole, kept)| whole * kept).collect();
            // A limit that holds one microbatch at least: of two stages on a rank, both activations.
            let most = activation.iter().copied().fold(0.0, f64::max);
            let n_hops_per_rank = n_hops / n_ranks;
            let memory_limit = room.map(|room| room * most * n_hops_per_rank as f64);
            let times = PassTimes {
                forward,
                backward_input,
                backward_weight,
                message,
                activation,
                kept_for_weight,
                memory_limit,
            };
            Case { kind, n_ranks, n_microbatches, times }
        })
    })
}

const FITTED: [Kind; 4] = [Kind::ZbAuto, Kind::ZbV, Kind::VHalf, Kind::VMin];
const MOVED: [Kind; 7] = [Kind::Gpipe, Kind::OneFOneB, Kind::ZbH1, Kind::ZbH2, Kind::ZbAuto, Kind::ZbV, Kind::VHalf];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn zb_auto_is_never_slower_than_1f1b(case in cases(&[Kind::ZbAuto])) {
        let Case { n_ranks, n_microbatches, times, .. } = case;
        let schedule = made(Kind::ZbAuto, n_ranks, n_microbatches, &times).unwrap();
        let (makespan, span) = length(&schedule, &times);
        // Without a limit ZB-H2's memory is allowed, under which 1F1B always fits.
        let limit = times.memory_limit.unwrap_or(f64::INFINITY);
        let reference = one_f_one_b(n_ranks, n_microbatches, &times, limit);
        prop_assert_eq!(validate(&reference), Ok(()));
        prop_assert!(peaks(&reference, &times).into_iter().all(|peak| peak <= limit * ROUNDING));
        let (reference_makespan, reference_span) = length(&reference, &times);
        prop_assert!(makespan <= reference_makespan * ROUNDING, "{makespan} {reference_makespan}\n{schedule}");
        prop_assert!(span <= reference_span * ROUNDING, "{span} {reference_span}\n{schedule}");

        let published = made(Kind::OneFOneB, n_ranks, n_microbatches, &times).unwrap();
        if peaks(&published, &times).into_iter().all(|peak| peak <= limit) {
            let (published_makespan, _) = length(&published, &times);
            prop_assert!(makespan <= published_makespan * ROUNDING, "{makespan} {published_makespan}\n{schedule}");
        }
    }

    #[test]
    fn fitted_schedules_are_valid_and_keep_their_memory(case in cases(&FITTED)) {
        let Case { kind, n_ranks, n_microbatches, times } = case;
        let schedule = made(kind, n_ranks, n_microbatches, &times).unwrap();
        prop_assert_eq!(validate(&schedule), Ok(()), "{}", &schedule);
        prop_assert_eq!(validate(&with_transfers(&schedule)), Ok(()), "{}", &schedule);
        for (rank, peak) in peaks(&schedule, &times).into_iter().enumerate() {
            let largest = times.activation[rank].max(times.activation[times.activation.len() - 1 - rank]);
            let limit = match (kind, times.memory_limit) {
                (Kind::ZbAuto, None) => (2 * n_ranks - 1) as f64 * times.activation[rank],
                (Kind::ZbV, None) => (2 * n_ranks) as f64 * largest,
                (Kind::ZbAuto | Kind::ZbV, Some(limit)) => limit,
                // The patterns take what they take: p + 2 activations of the larger stage, and less in V-Min.
                _ => (n_ranks + 2) as f64 * largest,
            };
            prop_assert!(peak <= limit * ROUNDING, "rank {rank} holds {peak} of {limit} in\n{schedule}");
        }
        prop_assert_eq!(made(kind, n_ranks, n_microbatches, &times).unwrap(), schedule);
    }

    #[test]
    fn squeezed_and_retimed_schedules_are_no_worse(case in cases(&MOVED), is_fused: bool, has_transfers: bool) {
        let Case { kind, n_ranks, n_microbatches, times } = case;
        let backward = if is_fused { Backward::Fused } else { Backward::Split };
        // Made for equal hops, played with others: there is something to gain.
        let equal = PassTimes::equal(times.forward.len());
        let original =
            generate_for(Spec { kind, backward }, &route(kind, n_ranks), n_microbatches, &[], &equal).unwrap();
        let (makespan, span) = length(&original, &times);
        for pass in [squeeze, retime] {
            let moved = pass(&original, &times);
            prop_assert_eq!(validate(&moved), Ok(()), "{}", &moved);
            let (moved_makespan, moved_span) = length(&moved, &times);
            prop_assert!(moved_makespan <= makespan * ROUNDING && moved_span <= span * ROUNDING, "{original}{moved}");
            for (peak, was) in peaks(&moved, &times).into_iter().zip(peaks(&original, &times)) {
                prop_assert!(peak <= was * ROUNDING, "{peak} {was}\n{original}{moved}");
            }
            for (list, was) in moved.ranks.iter().zip(&original.ranks) {
                let sorted = |list: &[Action]| { let mut list = list.to_vec(); list.sort(); list };
                prop_assert_eq!(sorted(list), sorted(was));
            }
            if has_transfers {
                prop_assert_eq!(pass(&with_transfers(&original), &times), with_transfers(&moved));
            }
        }
    }
}

#[test]
fn a_limit_below_one_microbatch_is_refused() {
    for (kind, n_hops, wanted) in [(Kind::ZbAuto, 3, 5.0), (Kind::ZbV, 6, 6.0)] {
        let mut times = PassTimes::equal(n_hops);
        times.activation[1] = 5.0;
        times.memory_limit = Some(wanted - 0.5);
        let refused = made(kind, 3, 4, &times).unwrap_err();
        let limit = wanted - 0.5;
        assert_eq!(refused, ScheduleError::MemoryLimit { kind, rank: Rank(1), wanted, limit });
        times.memory_limit = Some(wanted);
        assert_eq!(validate(&made(kind, 3, 4, &times).unwrap()), Ok(()));
    }
}

/// A hand-made gap: rank 0 plays `W0` late although it idles before `I1`, and `F2` late although nothing holds it back.
#[test]
fn passes_move_into_gaps() {
    let times = PassTimes::equal(2);
    let list = |text: &str, hop: usize| -> Vec<Action> {
        let action = |label: &str| {
            let (op, microbatch) = label.split_at(1);
            let op = match op {
                "F" => Op::Forward,
                "I" => Op::BackwardInput,
                _ => Op::BackwardWeight,
            };
            Action::visit(op, Key::new(microbatch.parse().unwrap(), hop))
        };
        text.split_whitespace().map(action).collect()
    };
    let schedule = |first: &str, last: &str| Schedule {
        name: String::new(),
        routes: vec![route(Kind::ZbAuto, 2); 3],
        vocabulary: None,
        tied: Vec::new(),
        n_segments: 1,
        ranks: vec![list(first, 0), list(last, 1)],
    };
    let last = "F0 I0 F1 I1 W0 W1 F2 I2 W2";
    let original = schedule("F0 F1 I0 I1 W0 F2 I2 W1 W2", last);
    // Idle at 2 and at 4: `F2` fits into the second gap after `I0` freed memory, as does `W0`; the first in the list
    // goes.
    let squeezed = squeeze(&original, &times);
    assert_eq!(squeezed.ranks[0], list("F0 F1 I0 W0 I1 F2 W1 I2 W2", 0), "{squeezed}");
    assert_eq!(validate(&squeezed), Ok(()));
    // Only `W` moves: `F2` stays behind `I1`.
    let retimed = retime(&original, &times);
    let without_weights = |schedule: &Schedule| -> Vec<Action> {
        let is_weight = |action: &Action| matches!(action, Action::Visit { op: Op::BackwardWeight, .. });
        schedule.ranks[0].iter().copied().filter(|action| !is_weight(action)).collect()
    };
    assert_eq!(without_weights(&retimed), without_weights(&original));
    assert!(length(&retimed, &times).0 < length(&original, &times).0, "{retimed}");
}
