//! Every way of splitting, scheduling and recomputing against the unsplit model.

use crate::reference::unsplit;
use crate::setup::*;
use architecture::{Architecture, Block};
use mesh::{Grid, Rank, Stage, StageMap};
use stage::{Recompute, Source};

/// Sums of up to 40 tokens in another order, each rounding f32 by 6e-8, and roundings that pass through up to 8 blocks;
/// largest found 3e-7.
const TOLERANCE: f64 = 1e-6;

/// The same with the norms of other families, which magnify roundings where what they divide is small; largest found
/// 1.1e-6, of Gemma 3.
pub const FAMILIES_TOLERANCE: f64 = 3e-6;

/// Rows of five tokens; one to eight microbatches, so that they are of different sizes too.
const ROWS: usize = 8;

/// Half-layers per stage and the rank of each stage.
type Layout = (&'static [usize], &'static [usize]);

fn stage_map(ranks: &[usize]) -> StageMap {
    StageMap::new(ranks.iter().map(|&rank| Grid::single(Rank(rank))).collect()).unwrap()
}

fn recomputes(n_stages: usize) -> Vec<Vec<Recompute>> {
    let mixed = [Recompute::Full, Recompute::None].into_iter().cycle().take(n_stages).collect();
    vec![vec![Recompute::None; n_stages], vec![Recompute::Full; n_stages], mixed]
}

/// Every schedule, backward and recomputation with every number of microbatches, on every layout.
fn check(architecture: &Architecture, layouts: &[Layout], tolerance: f64) {
    let weights = weights(architecture);
    let rows = batch(architecture.vocab_size, ROWS, 5);
    let wanted = unsplit(architecture, &weights, &rows, total_weight(std::slice::from_ref(&rows)));
    // What each schedule gave on the first layout. Where gradients are added in the same order they are the same bits,
    // whatever the cut, the recomputation and the split of the backward; a tied matrix on one stage adds head and
    // embedding in turn, on two stages one after the other.
    let mut first = Vec::new();
    for (sizes, ranks) in layouts {
        for recompute in recomputes(sizes.len()) {
            let mut pipeline = start(architecture, &weights, sizes, stage_map(ranks), recompute.clone());
            let route = stage_map(ranks).route();
            for spec in SPECS {
                for n_microbatches in 1..=ROWS {
                    let what = format!("{} in {n_microbatches} on {sizes:?} at {ranks:?}, {recompute:?}", spec);
                    let schedule = schedule(&pipeline, spec, &route, n_microbatches);
                    let report = pipeline.play(step(schedule, split(&rows, n_microbatches), STILL)).unwrap();
                    let found = outcome(&pipeline, architecture, &report);
                    assert!((found.loss - wanted.loss).abs() < 1e-6, "{what}: {} {}", found.loss, wanted.loss);
                    assert_close(&found.gradients, &wanted.gradients, tolerance, &what);
                    let norms = [report.gradient_norm.unwrap(), norm(&wanted.gradients)];
                    assert!((norms[0] / norms[1] - 1.0).abs() < tolerance, "{what}: norms {norms:?}");

                    if architecture.tie_word_embeddings {
                        let holders = pipeline.tied().iter().flatten().copied();
                        let name = architecture.vocabulary_matrix(Block::Head).unwrap().name;
                        let copies: Vec<_> = holders
                            .map(|stage: Stage| pipeline.read_at(stage, &name, Source::Gradient).unwrap())
                            .collect();
                        assert!(copies.windows(2).all(|pair| pair[0] == pair[1]), "{what}: tied gradients");
                    }
                    let key = (spec.kind, n_microbatches, pipeline.tied().is_empty());
                    match first.iter().find(|(known, _)| *known == key) {
                        None => first.push((key, found)),
                        Some((_, first)) => assert!(found == *first, "{what}: not the bits of the first"),
                    }
                }
            }
        }
    }
}

#[test]
fn grouped_heads() {
    check(
        &architecture([7, 2, 4, 2, 6, 11, 29], false, false),
        &[
            (&[6], &[0]),
            (&[3, 3], &[0, 1]),
            (&[5, 1], &[0, 1]),
            (&[1, 4, 1], &[0, 1, 2]),
            (&[2, 1, 3], &[0, 1, 0]),
            (&[1, 1, 1, 3], &[0, 1, 2, 3]),
            (&[2, 1, 1, 2], &[0, 1, 0, 1]),
            (&[1, 1, 1, 1, 1, 1], &[1, 0, 0, 1, 2, 1]),
        ],
        TOLERANCE,
    );
}

#[test]
fn tied_embeddings() {
    check(
        &architecture([10, 3, 3, 1, 4, 13, 31], true, false),
        &[
            (&[8], &[0]),
            (&[4, 4], &[0, 1]),
            (&[3, 5], &[0, 0]),
            (&[1, 6, 1], &[0, 1, 2]),
            (&[2, 3, 3], &[0, 1, 0]),
            (&[3, 2, 2, 1], &[0, 1, 2, 3]),
        ],
        TOLERANCE,
    );
}

#[test]
fn biases() {
    check(
        &architecture([5, 2, 3, 3, 2, 7, 17], false, true),
        &[(&[6], &[0]), (&[2, 4], &[0, 1]), (&[1, 1, 4], &[0, 1, 2]), (&[3, 1, 1, 1], &[0, 1, 2, 3])],
        TOLERANCE,
    );
}

/// Every family, cut within layers and with tied heads on two stages.
#[test]
fn families() {
    for architecture in of_families() {
        let layouts: [Layout; 3] = [(&[8], &[0]), (&[2, 3, 3], &[0, 1, 0]), (&[1, 1, 4, 2], &[0, 1, 2, 3])];
        check(&architecture, &layouts, FAMILIES_TOLERANCE);
    }
}

/// The same steps twice, from two pipelines: the same bits everywhere, moments and weights included.
#[test]
fn the_same_plan_gives_the_same_bits() {
    let architecture = architecture([7, 2, 4, 2, 6, 11, 29], true, true);
    let weights = weights(&architecture);
    for spec in SPECS {
        let run = || {
            let map = StageMap::one_per_rank(3);
            let mut pipeline = start(&architecture, &weights, &[2, 2, 2], map.clone(), vec![Recompute::None; 3]);
            let losses: Vec<Vec<Vec<f64>>> = (1..=3)
                .map(|number| {
                    let schedule = schedule(&pipeline, spec, &map.route(), 4);
                    let rows = batch(29, 4 + number as usize, 5);
                    let adamw = kernels::AdamW { learning_rate: 0.01, step: number, ..STILL };
                    pipeline.play(step(schedule, split(&rows, 4), adamw)).unwrap().losses
                })
                .collect();
            let sources = [Source::Value, Source::FirstMoment, Source::SecondMoment, Source::Gradient];
            (losses, sources.map(|source| read_all(&pipeline, &architecture, source)))
        };
        assert!(run() == run(), "{}", spec);
    }
}
