//! Schedules of any size, played with any pass times.

use mesh::{Rank, Route, Stage, StageMap, Visit};
use proptest::prelude::*;
use schedule::{Backward, Kind, Placement, Spec, generate, validate, with_transfers};
use simulate::{Costs, Link, StageCost, simulate};

const KINDS: [Kind; 8] = [
    Kind::Gpipe,
    Kind::OneFOneB,
    Kind::Interleaved,
    Kind::LoopedBfs,
    Kind::ZbH1,
    Kind::ZbH2,
    Kind::InterleavedZb,
    Kind::DualPipeV,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Every action is played once, in no less time than the busiest rank computes.
    #[test]
    fn is_valid_and_plays_to_its_end(
        kind in prop::sample::select(&KINDS[..]),
        backward in prop_oneof![Just(Backward::Fused), Just(Backward::Split)],
        p in 1..=9_usize,
        v in 1..=4_usize,
        m in 1..=40_usize,
        times in prop::collection::vec((0..20_u32, 0..20_u32, 0..20_u32), 36),
        latency in 0..5_u32,
    ) {
        let (route, m) = match kind.placement() {
            Placement::V => {
                let visit = |s: usize| Visit { stage: Stage(s), rank: Rank(s.min(2 * p - 1 - s)) };
                (Route::new((0..2 * p).map(visit).collect()), m + 2 * p - 1)
            }
            Placement::Looped => (StageMap::looped(p * v, p).route(), m),
            Placement::OnePerRank | Placement::Any => (StageMap::one_per_rank(p).route(), m),
        };
        let schedule = with_transfers(&generate(Spec { kind, backward }, &route, m, &[]).unwrap());
        prop_assert_eq!(validate(&schedule), Ok(()), "{}", schedule);

        let cost = |&(forward, input, weight): &(u32, u32, u32)| StageCost {
            forward_s: forward.into(),
            backward_input_s: input.into(),
            backward_weight_s: weight.into(),
            backward_s: (input + weight).into(),
            ..StageCost::default()
        };
        let pairs = (0..p).flat_map(|from| (0..p).map(move |to| (Rank(from), Rank(to))));
        let links = pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| Link { from, to, latency_s: latency.into(), bytes_per_s: f64::INFINITY });
        let costs =
            Costs { stages: times.iter().map(cost).collect(), links: links.collect(), ..Costs::default() };
        let timeline = simulate(&schedule, &costs).unwrap();
        prop_assert_eq!(timeline.spans.len(), schedule.actions().count());
        let works = (0..p).map(|rank| {
            let of_rank = route.visits().iter().filter(|visit| visit.rank.0 == rank);
            of_rank.map(|visit| times[visit.stage.0]).map(|(f, i, w)| m as u32 * (f + i + w)).sum::<u32>()
        });
        prop_assert!(timeline.makespan_s() >= f64::from(works.max().unwrap()));
    }
}
