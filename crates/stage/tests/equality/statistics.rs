//! Sizes of parameters, gradients, updates and activations: against plain sums over copies, on every layout.

use crate::setup::*;
use architecture::{Architecture, Block};
use burn::tensor::Device;
use kernels::{AdamW, Size};
use mesh::StageMap;
use model::{Output, Part, Rows, Tape};
use schedule::{InputLayer, Vocabulary, VocabularyAlgorithm, forward_only, with_transfers, with_vocabulary};
use stage::{Objective, Pipeline, Recompute, Source, Step};
use std::convert::Infallible;

const SIZES: [usize; 7] = [7, 2, 4, 2, 6, 11, 29];
const N_MICROBATCHES: usize = 3;
const ADAMW: AdamW = AdamW { learning_rate: 0.01, weight_decay: 0.1, ..STILL };

struct Case {
    tied: bool,
    sizes: &'static [usize],
    vocabulary: Option<Vocabulary>,
}

fn cases() -> Vec<Case> {
    let sharded = |input| Some(Vocabulary { algorithm: VocabularyAlgorithm::OneBarrier, input });
    let case = |tied, sizes, vocabulary| Case { tied, sizes, vocabulary };
    let mut cases = Vec::new();
    for tied in [false, true] {
        cases.push(case(tied, &[6], None));
        cases.push(case(tied, &[1, 2, 2, 1], None));
        cases.push(case(tied, &[3, 3], sharded(InputLayer::FirstStage)));
        cases.push(case(tied, &[2, 2, 2], sharded(InputLayer::Sharded)));
    }
    cases
}

fn start_case(case: &Case, architecture: &Architecture) -> (Pipeline, StageMap) {
    let (map, n) = (StageMap::one_per_rank(case.sizes.len()), case.sizes.len());
    let recompute = vec![Recompute::None; n];
    let weights = weights(architecture);
    (start_sharded(architecture, &weights, case.sizes, map.clone(), recompute, case.vocabulary), map)
}

fn plain(values: &[f32]) -> Size {
    Size {
        n: values.len() as u64,
        sum_of_squares: values.iter().map(|&x| f64::from(x) * f64::from(x)).sum(),
        max_abs: f64::from(values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()))),
    }
}

/// Equal but for the order of a sum in f64.
fn assert_same(found: Size, wanted: Size, tolerance: f64, what: &str) {
    assert_eq!(found.n, wanted.n, "{what}");
    for (found, wanted) in [(found.sum_of_squares, wanted.sum_of_squares), (found.max_abs, wanted.max_abs)] {
        assert!((found - wanted).abs() <= tolerance * wanted, "{what}: {found}, not {wanted}");
    }
}

#[test]
fn parameters_gradients_and_updates() {
    for case in cases() {
        let architecture = architecture(SIZES, case.tied, true);
        let (mut pipeline, map) = start_case(&case, &architecture);
        let before = read_all(&pipeline, &architecture, Source::Value);
        let microbatches = split(&batch(29, 6, 5), N_MICROBATCHES);
        let mut compute = schedule::generate(GPIPE, &map.route(), N_MICROBATCHES, pipeline.tied()).unwrap();
        if let Some(vocabulary) = case.vocabulary {
            let times = schedule::PassTimes::equal(map.n_stages());
            compute = with_vocabulary(&compute, vocabulary, &times).unwrap();
        }
        pipeline.play(step(with_transfers(&compute), microbatches, ADAMW)).unwrap();
        let after = read_all(&pipeline, &architecture, Source::Value);
        let gradients = read_all(&pipeline, &architecture, Source::Gradient);

        let found = pipeline.statistics(Some(ADAMW)).unwrap();
        let what = format!("{:?}, tied: {}, {:?}", case.sizes, case.tied, case.vocabulary);
        assert!(found.iter().map(|one| &one.name).eq(after.keys()), "{what}: every parameter once");
        for one in &found {
            let name = &one.name;
            assert_same(one.value, plain(&after[name]), 1e-12, &format!("{what}: {name}"));
            assert_same(one.gradient, plain(&gradients[name]), 1e-12, &format!("{what}: gradient of {name}"));
            let change: Vec<f32> =
                before[name].iter().zip(&after[name]).map(|(before, after)| before - after).collect();
            // Weights up to 1 in f32 show a change of 0.01 with an error of 6e-8, 1e-5 of it at most.
            assert_same(one.change, plain(&change), 1e-4, &format!("{what}: change of {name}"));
        }
        // A second time, to the bit; and a step that updated nothing changed nothing.
        assert_eq!(pipeline.statistics(Some(ADAMW)).unwrap(), found, "{what}");
        assert!(pipeline.statistics(None).unwrap().iter().all(|one| one.change == Size::default()), "{what}");
    }
}

/// What a model that ends after `block` gives, over all microbatches.
fn output_of(architecture: &Architecture, block: Block, microbatches: &[Rows]) -> Size {
    let weights = weights(architecture);
    let blocks = architecture.blocks();
    let end = blocks.iter().position(|&other| other == block).unwrap();
    let read = |weight: &architecture::Weight| Ok::<_, Infallible>(weights[&weight.name].clone());
    let part = Part::new(architecture, &blocks[..=end], &Device::flex(), read).unwrap();
    let values = microbatches.iter().flat_map(|rows| {
        let Output::Hidden(hidden) = part.forward(rows, None, &mut Tape::Untracked) else { panic!("no head") };
        hidden.into_data().try_to_vec::<f32>().unwrap()
    });
    plain(&values.collect::<Vec<f32>>())
}

#[test]
fn activations() {
    for case in cases() {
        let architecture = architecture(SIZES, case.tied, true);
        let (mut pipeline, map) = start_case(&case, &architecture);
        let microbatches = split(&batch(29, 6, 5), N_MICROBATCHES);
        let schedule = forward_only(&map.route(), N_MICROBATCHES, case.vocabulary).unwrap();
        let step = Step {
            number: 1,
            schedule: with_transfers(&schedule),
            microbatches: microbatches.clone(),
            objective: Objective::NextToken { total_weight: 1.0 },
            update: None,
        };
        let what = format!("{:?}, tied: {}, {:?}", case.sizes, case.tied, case.vocabulary);
        let report = pipeline.play_watched(step.clone()).unwrap();
        let blocks = architecture.blocks();
        let inner = &blocks[..blocks.len() - 1];
        let mut found: Vec<Block> = report.outputs.iter().map(|(block, _)| *block).collect();
        found.sort_by_key(|block| blocks.iter().position(|other| other == block));
        assert_eq!(found, inner, "{what}");
        for (block, size) in &report.outputs {
            let wanted = output_of(&architecture, *block, &microbatches);
            // The same products on other threads: f32 rounding of sums over at most 24 terms.
            assert_same(*size, wanted, 1e-6, &format!("{what}: {block}"));
        }
        let unwatched = pipeline.play(step).unwrap();
        assert_eq!((unwatched.outputs.len(), unwatched.loss()), (0, report.loss()), "{what}: watching changes nothing");
    }
}
