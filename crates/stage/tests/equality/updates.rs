//! Optimizer steps: one stage against several, and the two copies of a tied matrix against each other.

use crate::setup::*;
use kernels::AdamW;
use mesh::{Stage, StageMap};
use schedule::Spec;
use stage::{Objective, Pipeline, Recompute, Source, Step, Update};

const STEPS: u64 = 3;
const LEARNING_RATE: f64 = 0.01;

/// Three steps with decay, clipped to half a typical gradient.
fn train(tied: bool, sizes: &[usize], spec: Spec) -> Pipeline {
    let architecture = architecture([7, 2, 4, 2, 6, 11, 29], tied, false);
    let map = StageMap::one_per_rank(sizes.len());
    let weights = weights(&architecture);
    let mut pipeline = start(&architecture, &weights, sizes, map.clone(), vec![Recompute::None; sizes.len()]);
    for number in 1..=STEPS {
        let microbatches = split(&batch(29, 5 + number as usize, 5), 4);
        let adamw = AdamW { learning_rate: LEARNING_RATE, weight_decay: 0.1, step: number, ..STILL };
        let schedule = schedule(&pipeline, spec, &map.route(), 4);
        let report = pipeline
            .play(Step {
                number,
                schedule,
                objective: Objective::NextToken { total_weight: total_weight(&microbatches) },
                microbatches,
                update: Some(Update { clip_norm: Some(0.5), ..Update::new(adamw) }),
            })
            .unwrap();
        assert!(report.gradient_norm.unwrap() > 0.5, "the test clips");
    }
    pipeline
}

/// AdamW divides by the root of the second moment, so an entry whose gradient is nearly all rounding may move either
/// way by the learning rate; all others agree to rounding of the update.
#[test]
fn weights_do_not_depend_on_the_number_of_stages() {
    for tied in [false, true] {
        let architecture = architecture([7, 2, 4, 2, 6, 11, 29], tied, false);
        let read = |pipeline: &Pipeline, source| read_all(pipeline, &architecture, source);
        let one = train(tied, &[6], GPIPE);
        for (sizes, spec) in [([3, 3].as_slice(), GPIPE), (&[3, 3], SPECS[3]), (&[1, 2, 2, 1], SPECS[2])] {
            let several = train(tied, sizes, spec);
            let what = format!("{sizes:?}, {}, tied: {tied}", spec);
            assert_close(&read(&several, Source::FirstMoment), &read(&one, Source::FirstMoment), 1e-5, &what);
            assert_close(&read(&several, Source::Value), &read(&one, Source::Value), 1e-5, &what);
        }
    }
}

#[test]
fn copies_of_a_tied_matrix_stay_equal_to_the_bit() {
    let name = "model.embed_tokens.weight";
    for spec in SPECS {
        let pipeline = train(true, &[2, 1, 2, 1], spec);
        assert_eq!(pipeline.tied(), [[Stage(0), Stage(3)]]);
        for source in [Source::Value, Source::FirstMoment, Source::SecondMoment, Source::Gradient] {
            let [first, last] = [0, 3].map(|stage| pipeline.read_at(Stage(stage), name, source).unwrap());
            assert!(first == last, "{source:?} after {}", spec);
        }
    }
}
