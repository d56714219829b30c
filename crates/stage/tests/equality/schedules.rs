//! Every published schedule against the unsplit model.

use crate::reference::unsplit;
use crate::setup::*;
use mesh::{Grid, Rank, StageMap};
use schedule::{Backward, Kind, Placement, ScheduleError, Spec, generate, with_transfers};
use stage::Recompute;

/// As for GPipe and 1F1B: sums of up to 40 tokens in another order, and roundings that pass through up to 8 blocks.
const TOLERANCE: f64 = 1e-6;

const ROWS: usize = 8;

/// Half-layers per stage and the rank of each stage.
type Layout = (&'static [usize], &'static [usize]);

/// Ways to lay out the eight blocks of three layers, ranks out of order among them.
fn layouts(placement: Placement) -> &'static [Layout] {
    match placement {
        Placement::Any => &[(&[2, 3, 3], &[0, 1, 2])],
        Placement::OnePerRank => {
            &[(&[8], &[0]), (&[3, 5], &[1, 0]), (&[2, 3, 3], &[0, 1, 2]), (&[1, 2, 4, 1], &[0, 1, 2, 3])]
        }
        Placement::Looped => &[
            (&[4, 4], &[0, 0]),
            (&[2, 1, 4, 1], &[0, 1, 0, 1]),
            (&[1, 1, 2, 1, 2, 1], &[2, 0, 1, 2, 0, 1]),
            (&[1, 1, 1, 2, 2, 1], &[0, 1, 0, 1, 0, 1]),
        ],
        Placement::V => &[
            (&[4, 4], &[0, 0]),
            (&[2, 1, 4, 1], &[0, 1, 1, 0]),
            (&[1, 1, 2, 1, 2, 1], &[2, 0, 1, 1, 0, 2]),
            (&[1, 1, 1, 1, 1, 1, 1, 1], &[0, 1, 2, 3, 3, 2, 1, 0]),
        ],
    }
}

/// One kind on each of its layouts with one to eight microbatches, recomputing on every other stage.
fn check(kind: Kind, tied: bool) {
    let architecture = architecture([7, 3, 4, 2, 6, 11, 29], tied, false);
    let weights = weights(&architecture);
    let rows = batch(29, ROWS, 5);
    let wanted = unsplit(&architecture, &weights, &rows, total_weight(std::slice::from_ref(&rows)));
    let mut n_played = 0;
    for (sizes, ranks) in layouts(kind.placement()) {
        let map = StageMap::new(ranks.iter().map(|&rank| Grid::single(Rank(rank))).collect()).unwrap();
        let recompute: Vec<Recompute> =
            [Recompute::None, Recompute::Full].into_iter().cycle().take(sizes.len()).collect();
        let mut pipeline = start(&architecture, &weights, sizes, map.clone(), recompute);
        for backward in [Backward::Fused, Backward::Split] {
            for n_microbatches in 1..=ROWS {
                let spec = Spec { kind, backward };
                let generated = match generate(spec, &map.route(), n_microbatches, pipeline.tied()) {
                    // Told in advance, and only by the one schedule that needs more.
                    Err(ScheduleError::TooFewMicrobatches { wanted, .. }) if kind == Kind::DualPipeV => {
                        assert!(n_microbatches < wanted);
                        continue;
                    }
                    generated => generated.unwrap(),
                };
                let what = format!("{spec} in {n_microbatches} on {sizes:?} at {ranks:?}, tied {tied}");
                let step = step(with_transfers(&generated), split(&rows, n_microbatches), STILL);
                let report = pipeline.play(step).unwrap();
                let found = outcome(&pipeline, &architecture, &report);
                assert!((found.loss - wanted.loss).abs() < 1e-6, "{what}: {} {}", found.loss, wanted.loss);
                assert_close(&found.gradients, &wanted.gradients, TOLERANCE, &what);
                n_played += 1;
            }
        }
    }
    assert!(n_played > 0, "{kind} was never played");
}

#[test]
fn every_schedule_gives_the_gradients_of_the_unsplit_model() {
    for kind in Kind::ALL {
        for tied in [false, true] {
            check(kind, tied);
        }
    }
}
