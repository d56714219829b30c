//! Schedules with a sharded vocabulary: whatever they are made of, they can be played.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Rank, Route, Stage, StageMap, Visit};
use proptest::prelude::*;
use schedule::{
    Action, Backward, InputLayer, Kind, Meeting, Op, PassTimes, Placement, Schedule, ScheduleError, ShardOp, Spec,
    Vocabulary, VocabularyAlgorithm, dependencies, forward_only, generate, interlaced, validate, with_transfers,
    with_transfers_in_lockstep, with_vocabulary,
};

const ALGORITHMS: [VocabularyAlgorithm; 2] = [VocabularyAlgorithm::OneBarrier, VocabularyAlgorithm::TwoBarriers];
const INPUTS: [InputLayer; 2] = [InputLayer::FirstStage, InputLayer::Sharded];

fn vocabularies() -> impl Iterator<Item = Vocabulary> {
    ALGORITHMS.into_iter().flat_map(|algorithm| INPUTS.map(|input| Vocabulary { algorithm, input }))
}

fn route(placement: Placement, n_ranks: usize, n_rounds: usize) -> Route {
    let rank_of: Vec<usize> = match placement {
        Placement::Any | Placement::OnePerRank => (0..n_ranks).collect(),
        Placement::Looped => (0..n_rounds * n_ranks).map(|hop| hop % n_ranks).collect(),
        Placement::V => (0..n_ranks).chain((0..n_ranks).rev()).collect(),
    };
    let visit = |(hop, rank)| Visit { stage: Stage(hop), rank: Rank(rank) };
    Route::new(rank_of.into_iter().enumerate().map(visit).collect())
}

/// That a schedule can be played with either kind of messages, has its visits as before, and meets as often as its
/// algorithm says.
fn check(sharded: &Schedule, base: &Schedule) {
    assert_eq!(validate(sharded), Ok(()), "{sharded}");
    assert_eq!(validate(&with_transfers(sharded)), Ok(()), "{sharded}");
    assert_eq!(validate(&with_transfers_in_lockstep(sharded)), Ok(()), "{sharded}");
    let vocabulary = sharded.vocabulary.unwrap();
    let meetings = dependencies(sharded).unwrap().meetings().to_vec();
    let count = |is_it: fn(&Meeting) -> bool| meetings.iter().filter(|meeting| is_it(meeting)).count();
    let m = sharded.n_microbatches();
    assert_eq!(count(|meeting| matches!(meeting, Meeting::Softmax(_))), m);
    let n_second = if vocabulary.algorithm == VocabularyAlgorithm::TwoBarriers { m } else { 0 };
    assert_eq!(count(|meeting| matches!(meeting, Meeting::HiddenGradient(_))), n_second);
    let n_input = if vocabulary.input == InputLayer::Sharded { m } else { 0 };
    assert_eq!(count(|meeting| matches!(meeting, Meeting::Embedded(_))), n_input);
    let of_head =
        |action: &Action| matches!(action, Action::Shard { op: ShardOp::VocabForward | ShardOp::VocabBackward, .. });
    let head = |list: &[Action]| -> Vec<Action> { list.iter().copied().filter(of_head).collect() };
    for (list, before) in sharded.ranks.iter().zip(&base.ranks) {
        assert_eq!(head(list), head(&sharded.ranks[0]), "all ranks meet in one order\n{sharded}");
        let mut visits: Vec<Action> =
            list.iter().copied().filter(|action| !matches!(action, Action::Shard { .. })).collect();
        let mut before = before.clone();
        visits.sort();
        before.sort();
        assert_eq!(visits, before, "{sharded}");
        let is_update = |action: &Action| matches!(action, Action::Stage { .. });
        assert!(list.iter().skip_while(|action| !is_update(action)).all(is_update), "{sharded}");
    }
}

fn check_all(base: &Schedule, times: &PassTimes) {
    for vocabulary in vocabularies() {
        let sharded = with_vocabulary(base, vocabulary, times).unwrap();
        check(&sharded, base);
        assert_eq!(sharded, with_vocabulary(base, vocabulary, times).unwrap(), "the same every time");
    }
    for input in INPUTS {
        match interlaced(base, input, times) {
            Ok(sharded) => check(&sharded, base),
            Err(error) => assert!(matches!(error, ScheduleError::NotInterlaced { .. }), "{error}"),
        }
    }
}

#[test]
fn every_kind_of_every_size() {
    for kind in Kind::ALL {
        for (p, rounds) in [(1, 2), (2, 2), (3, 2), (4, 3), (5, 2), (8, 2)] {
            let route = route(kind.placement(), p, rounds);
            for m in [1, 2, 3, 4, 7, 8, 16, 17] {
                for backward in [Backward::Fused, Backward::Split] {
                    match generate(Spec { kind, backward }, &route, m, &[]) {
                        Ok(base) => check_all(&base, &PassTimes::equal(route.n_hops())),
                        Err(ScheduleError::TooFewMicrobatches { .. }) => {}
                        Err(error) => panic!("{kind:?} p {p} m {m}: {error}"),
                    }
                }
            }
        }
    }
}

/// 1F1B up to 16 ranks, with backwards from as long as forwards to much longer: every order of `S` among `B` and `F`.
#[test]
fn one_f_one_b_with_any_ratio() {
    for p in 1..=16 {
        for backward in [1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 7.0, 20.0] {
            let times = PassTimes {
                backward_input: vec![0.5 * backward; p],
                backward_weight: vec![0.5 * backward; p],
                ..PassTimes::equal(p)
            };
            let spec = Spec { kind: Kind::OneFOneB, backward: Backward::Fused };
            for m in [1, p.div_ceil(2), p, p + 1, p + 2, 3 * p] {
                let base = generate(spec, &route(Placement::Any, p, 1), m, &[]).unwrap();
                check_all(&base, &times);
            }
        }
    }
}

/// Section 5.2 of the paper: `p - i + 1` or `p - i + 2` forwards before the first backward of rank `i`, of them `p - i`
/// before its first `S`. With T_B = 2 T_F the offsets are 0, -1, -2 on the last
/// three ranks, -2 (`B F S`) on the fourth from the end, then -1, -2, -2 (`B F S`), -1.
#[test]
fn the_reference_order() {
    let (p, m) = (8, 24);
    let base = generate(Spec { kind: Kind::OneFOneB, backward: Backward::Fused }, &route(Placement::Any, p, 1), m, &[])
        .unwrap();
    for (algorithm, n_more) in [(VocabularyAlgorithm::OneBarrier, 1), (VocabularyAlgorithm::TwoBarriers, 2)] {
        let vocabulary = Vocabulary { algorithm, input: InputLayer::FirstStage };
        let sharded = with_vocabulary(&base, vocabulary, &PassTimes::equal(p)).unwrap();
        for (i, list) in sharded.ranks.iter().enumerate() {
            let n_forwards = |until: &str| {
                let before = list.iter().take_while(|&&action| sharded.label(action) != until);
                before.filter(|action| matches!(action, Action::Visit { op: Op::Forward, .. })).count()
            };
            assert_eq!(n_forwards(&format!("{i}B0")), p - i + n_more, "rank {i}");
            assert_eq!(n_forwards("VS0"), p - i, "rank {i}");
            let after: Vec<String> = list.iter().map(|&action| sharded.label(action)).collect();
            let at = after.iter().position(|label| *label == format!("{i}B8")).unwrap();
            let order: String = after[at..at + 4].iter().map(|label| &label[1..2]).collect();
            assert_eq!(order, if [4, 1].contains(&i) { "BFTS" } else { "BTSF" }, "rank {i}");
        }
    }
}

/// By hand: three ranks, four microbatches.
#[test]
fn small_lists() {
    let p = 3;
    let base = generate(Spec { kind: Kind::OneFOneB, backward: Backward::Fused }, &route(Placement::Any, p, 1), 4, &[])
        .unwrap();
    let one = Vocabulary { algorithm: VocabularyAlgorithm::OneBarrier, input: InputLayer::FirstStage };
    assert_eq!(
        with_vocabulary(&base, one, &PassTimes::equal(p)).unwrap().to_string(),
        "1F1B, Vocab-2
rank 0: 0F0 0F1 0F2 VS0 0F3 VT0 VS1 VT1 VS2 0B0 VT2 VS3 0B1 VT3 0B2 0B3 0OPT
rank 1: 1F0 1F1 VS0 1F2 VT0 VS1 1B0 VT1 VS2 1F3 1B1 VT2 VS3 1B2 VT3 1B3 1OPT
rank 2: 2F0 VS0 2F1 2B0 VT0 VS1 2F2 2B1 VT1 VS2 2F3 2B2 VT2 VS3 2B3 VT3 2OPT
"
    );
    assert_eq!(
        interlaced(&base, InputLayer::FirstStage, &PassTimes::equal(p)).unwrap().to_string(),
        "1F1B, interlaced vocabulary
rank 0: 0F0 0F1 VS0 VT0 0F2 VS1 VT1 0F3 VS2 VT2 0B0 VS3 VT3 0B1 0B2 0B3 0OPT
rank 1: 1F0 VS0 VT0 1F1 VS1 VT1 1F2 1B0 VS2 VT2 1F3 1B1 VS3 VT3 1B2 1B3 1OPT
rank 2: 2F0 VS0 VT0 2B0 2F1 VS1 VT1 2B1 2F2 VS2 VT2 2B2 2F3 VS3 VT3 2B3 2OPT
"
    );
}

#[test]
fn refused() {
    let gpipe =
        generate(Spec { kind: Kind::Gpipe, backward: Backward::Fused }, &StageMap::one_per_rank(2).route(), 3, &[])
            .unwrap();
    let times = PassTimes::equal(2);
    assert_eq!(
        interlaced(&gpipe, InputLayer::Sharded, &times).unwrap_err().to_string(),
        "interlaced vocabulary passes need 1F1B with one stage on each rank, not GPipe; use that or vocabulary \
         parallelism, which any schedule can have"
    );
    let mut broken = gpipe.clone();
    broken.ranks[1].remove(0);
    let one = Vocabulary { algorithm: VocabularyAlgorithm::OneBarrier, input: InputLayer::Sharded };
    let problems = validate(&broken).unwrap_err();
    assert_eq!(with_vocabulary(&broken, one, &times).unwrap_err(), problems[0]);
}

#[test]
fn evaluation() {
    for p in [1, 2, 5] {
        let route = StageMap::one_per_rank(p).route();
        let base = forward_only(&route, 7, None).unwrap();
        for vocabulary in vocabularies() {
            check(&forward_only(&route, 7, Some(vocabulary)).unwrap(), &base);
            let refused = with_vocabulary(&base, vocabulary, &PassTimes::equal(p)).unwrap_err();
            assert_eq!(refused, ScheduleError::Evaluates { name: base.name.clone() });
        }
    }
}

prop_compose! {
    /// Times from nothing to something, unequal.
    fn times(n_hops: usize)(
        passes in prop::collection::vec((0_u8..6, 0_u8..6, 0_u8..6), n_hops),
        message in 0_u8..3,
    ) -> PassTimes {
        let column = |of: fn(&(u8, u8, u8)) -> u8| passes.iter().map(|pass| f64::from(of(pass))).collect();
        PassTimes {
            forward: column(|pass| pass.0),
            backward_input: column(|pass| pass.1),
            backward_weight: column(|pass| pass.2),
            message: f64::from(message),
            ..PassTimes::equal(n_hops)
        }
    }
}

fn cases() -> impl Strategy<Value = (Schedule, PassTimes)> {
    let kind = prop::sample::select(Kind::ALL.to_vec());
    (kind, 1..=6_usize, 1..=3_usize, 1..=14_usize, any::<bool>()).prop_flat_map(|(kind, p, rounds, m, is_split)| {
        let route = route(kind.placement(), p, rounds);
        let spec = Spec { kind, backward: if is_split { Backward::Split } else { Backward::Fused } };
        let base = match generate(spec, &route, m, &[]) {
            Err(ScheduleError::TooFewMicrobatches { wanted, .. }) => generate(spec, &route, wanted, &[]),
            base => base,
        };
        times(route.n_hops()).prop_map(move |times| (base.clone().unwrap(), times))
    })
}

/// Routes of any shape for the kinds that take them, ranks without a stage included.
fn any_route() -> impl Strategy<Value = (Schedule, PassTimes)> {
    let kind = prop::sample::select(vec![Kind::Gpipe, Kind::OneFOneB]);
    (kind, prop::collection::vec((0..5_usize, 0..4_usize), 1..7), 1..=9_usize).prop_flat_map(|(kind, visits, m)| {
        // A stage lies on one rank: that of its first visit.
        let rank_of = |stage| visits.iter().find(|visit| visit.0 == stage).unwrap().1;
        let visit = |&(stage, _): &(usize, usize)| Visit { stage: Stage(stage), rank: Rank(rank_of(stage)) };
        let route = Route::new(visits.iter().map(visit).collect());
        let base = generate(Spec { kind, backward: Backward::Fused }, &route, m, &[]).unwrap();
        times(route.n_hops()).prop_map(move |times| (base.clone(), times))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_times((base, times) in cases()) {
        check_all(&base, &times);
    }

    #[test]
    fn any_route_at_all((base, times) in any_route()) {
        check_all(&base, &times);
    }
}
