//! Where the gradients of tied stages are summed: a list that has it elsewhere is refused, or played to its end with the
//! gradients of the unsplit model.

use crate::reference::unsplit;
use crate::setup::*;
use mesh::{Grid, Rank, Stage, StageMap};
use schedule::{
    Action, Backward, Kind, Schedule, Spec, StageOp, generate, validate, with_post_validation, with_transfers,
};
use stage::{Recompute, StageError};

/// As in `plans.rs`.
const TOLERANCE: f64 = 1e-6;

const MICROBATCHES: usize = 4;

/// Kind, half-layers per stage and rank of each stage; embedding and head on two ranks, with other stages beside them,
/// or both on one.
const LAYOUTS: [(Kind, &[usize], &[usize]); 6] = [
    (Kind::Gpipe, &[2, 3, 3], &[0, 1, 2]),
    (Kind::OneFOneB, &[2, 2, 3, 1], &[1, 0, 2, 1]),
    (Kind::Interleaved, &[1, 2, 2, 1, 1, 1], &[0, 1, 2, 0, 1, 2]),
    (Kind::ZbH1, &[3, 3, 2], &[2, 0, 1]),
    (Kind::ZbV, &[2, 2, 2, 2], &[0, 1, 1, 0]),
    (Kind::InterleavedZb, &[2, 2, 2, 2], &[0, 1, 0, 1]),
];

/// Numbers that do not repeat soon, the same every time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        // Knuth's generator; its high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

fn is_reduction(action: &Action) -> bool {
    matches!(action, Action::Stage { op: StageOp::ReduceGradients, .. })
}

/// One or two reductions moved to anywhere on their lists, most of them not far.
fn misplaced(schedule: &Schedule, draw: &mut Draw) -> Schedule {
    let mut moved = schedule.clone();
    for _ in 0..1 + draw.below(2) {
        let holders: Vec<usize> =
            (0..moved.n_ranks()).filter(|&rank| moved.ranks[rank].iter().any(is_reduction)).collect();
        let list = &mut moved.ranks[holders[draw.below(holders.len())]];
        let places: Vec<usize> = (0..list.len()).filter(|&i| is_reduction(&list[i])).collect();
        let action = list.remove(places[draw.below(places.len())]);
        let to = match draw.below(4) {
            0 => draw.below(list.len() + 1),
            _ => list.len() - draw.below(5),
        };
        list.insert(to, action);
    }
    moved
}

#[test]
fn a_misplaced_reduction_is_refused_or_played() {
    let architecture = architecture([7, 3, 4, 2, 6, 11, 29], true, false);
    let weights = weights(&architecture);
    let rows = batch(29, 8, 5);
    let wanted = unsplit(&architecture, &weights, &rows, total_weight(std::slice::from_ref(&rows)));
    let mut draw = Draw(7);
    for (kind, sizes, ranks) in LAYOUTS {
        let map = StageMap::new(ranks.iter().map(|&rank| Grid::single(Rank(rank))).collect()).unwrap();
        let mut pipeline = start(&architecture, &weights, sizes, map.clone(), vec![Recompute::None; sizes.len()]);
        assert_eq!(pipeline.tied(), [[Stage(0), Stage(sizes.len() - 1)]]);
        let (mut n_refused, mut n_played) = (0, 0);
        for backward in [Backward::Fused, Backward::Split] {
            let plain = generate(Spec { kind, backward }, &map.route(), MICROBATCHES, pipeline.tied()).unwrap();
            for schedule in [plain.clone(), with_post_validation(&plain)].map(|schedule| with_transfers(&schedule)) {
                for _ in 0..60 {
                    let moved = misplaced(&schedule, &mut draw);
                    if validate(&moved).is_err() {
                        n_refused += 1;
                        continue;
                    }
                    // What hangs ends at the deadline, with an error.
                    let report = pipeline.play(step(moved.clone(), split(&rows, MICROBATCHES), STILL)).unwrap();
                    let found = outcome(&pipeline, &architecture, &report);
                    assert_close(&found.gradients, &wanted.gradients, TOLERANCE, &moved.to_string());
                    n_played += 1;
                }
            }
        }
        assert!(n_refused > 20 && n_played > 10, "{kind} on {ranks:?}: {n_refused} refused, {n_played} played");
    }
}

#[test]
fn other_ties_than_those_of_the_weights_are_refused() {
    let architecture = architecture([7, 2, 4, 2, 6, 11, 29], true, false);
    let weights = weights(&architecture);
    let map = StageMap::one_per_rank(3);
    let mut pipeline = start(&architecture, &weights, &[2, 2, 2], map.clone(), vec![Recompute::None; 3]);
    let spec = Spec { kind: Kind::OneFOneB, backward: Backward::Fused };
    let rows = split(&batch(29, 4, 5), 2);
    for (tied, found) in [(&[][..], "no stages"), (&[vec![Stage(1), Stage(2)]][..], "stages 1 2")] {
        let schedule = with_transfers(&generate(spec, &map.route(), 2, tied).unwrap());
        let Err(StageError::Schedule(text)) = pipeline.play(step(schedule.clone(), rows.clone(), STILL)) else {
            panic!("played {tied:?}");
        };
        assert_eq!(
            text,
            format!(
                "it ties {found}, but in the pipeline stages 0 2 share weights; generate it with what `Pipeline::tied` says"
            )
        );
    }
}
