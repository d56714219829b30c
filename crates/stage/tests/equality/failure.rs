//! A rank that fails takes the others down at once, in its own words.

use crate::setup::*;
use mesh::{Rank, StageMap};
use model::Rows;
use schedule::Spec;
use stage::{Recompute, Source, StageError};
use std::time::{Duration, Instant};

/// What goes wrong, in the third of four microbatches.
fn check(spec: Spec, spoil_rows: fn(&mut Rows), spoil_weights: fn(&mut Tensors), is_cause: fn(&StageError) -> bool) {
    let architecture = architecture([7, 2, 4, 2, 6, 11, 29], false, false);
    let (mut weights, mut microbatches) = (weights(&architecture), split(&batch(29, 8, 5), 4));
    spoil_weights(&mut weights);
    spoil_rows(&mut microbatches[2]);
    let map = StageMap::one_per_rank(3);
    let mut pipeline = start(&architecture, &weights, &[2, 2, 2], map.clone(), vec![Recompute::None; 3]);
    let schedule = schedule(&pipeline, spec, &map.route(), 4);
    let step = step(schedule, microbatches, STILL);
    let start = Instant::now();
    let error = pipeline.play(step.clone()).unwrap_err();
    assert!(is_cause(&error), "{}: {error:?}", spec);
    assert!(matches!(pipeline.play(step), Err(StageError::Stopped)));
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        assert!(matches!(pipeline.read(name, Source::Value), Err(StageError::Stopped)));
    }
    drop(pipeline);
    // Ranks that nobody told wait for the deadline, 60 s; on a busy machine telling them has taken over one.
    assert!(start.elapsed() < Duration::from_secs(20), "{}: took {:?}", spec, start.elapsed());
}

#[test]
fn an_id_outside_the_vocabulary() {
    for spec in SPECS {
        check(
            spec,
            |rows| rows.ids[3] = 29,
            |_| {},
            |error| matches!(error, StageError::Panicked { rank: Rank(0), .. }),
        );
    }
}

#[test]
fn a_target_outside_the_vocabulary() {
    let is_cause = |error: &StageError| matches!(error, StageError::Panicked { rank: Rank(2), message } if message.contains("target -1 of 29"));
    for spec in SPECS {
        check(spec, |rows| rows.targets[3] = -1, |_| {}, is_cause);
    }
}

#[test]
fn a_weight_that_is_not_a_number() {
    let spoil = |weights: &mut Tensors| weights.get_mut("model.layers.1.mlp.up_proj.weight").unwrap()[5] = f32::NAN;
    for spec in SPECS {
        let is_cause = |error: &StageError| matches!(error, StageError::NotFinite { step: 1, norm } if norm.is_nan());
        check(spec, |_| {}, spoil, is_cause);
    }
}
