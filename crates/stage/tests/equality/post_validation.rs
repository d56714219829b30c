//! Updates before the norm is known against updates after it: the same weights, moments, losses and norms, whatever the
//! rest of the norm turns out to be.

use crate::setup::*;
use architecture::Architecture;
use kernels::AdamW;
use mesh::{Grid, Rank, StageMap};
use model::Rows;
use schedule::{
    Backward, InputLayer, Kind, PassTimes, Schedule, Spec, Vocabulary, VocabularyAlgorithm, generate, validate,
    with_post_validation, with_transfers, with_vocabulary,
};
use stage::{NotFinite, Objective, Pipeline, Recompute, Report, RollBack, Source, StageError, Step, Update};

const MICROBATCHES: usize = 4;
const VOCABULARY: usize = 29;

/// Half-layers per stage, the rank of each stage, the schedule, and how the vocabulary is sharded. The MLPs of the three
/// layers lie on the first, a middle and the last rank, as far as there are so many.
type Case = (&'static [usize], &'static [usize], Kind, Option<Vocabulary>);

const ONE_BARRIER: Option<Vocabulary> =
    Some(Vocabulary { algorithm: VocabularyAlgorithm::OneBarrier, input: InputLayer::Sharded });
const TWO_BARRIERS: Option<Vocabulary> =
    Some(Vocabulary { algorithm: VocabularyAlgorithm::TwoBarriers, input: InputLayer::FirstStage });

const CASES: [Case; 12] = [
    (&[8], &[0], Kind::OneFOneB, None),
    (&[3, 5], &[1, 0], Kind::ZbH1, None),
    (&[3, 5], &[0, 1], Kind::OneFOneB, TWO_BARRIERS),
    (&[3, 3, 2], &[0, 1, 2], Kind::OneFOneB, None),
    (&[3, 3, 2], &[0, 1, 2], Kind::ZbH2, None),
    (&[3, 3, 2], &[0, 1, 2], Kind::ZbH1, ONE_BARRIER),
    (&[3, 2, 1, 2], &[0, 1, 2, 3], Kind::ZbH1, None),
    (&[3, 2, 1, 2], &[0, 1, 2, 3], Kind::ZbH2, None),
    (&[3, 2, 1, 2], &[0, 1, 2, 3], Kind::OneFOneB, ONE_BARRIER),
    (&[3, 2, 2, 1], &[0, 1, 1, 0], Kind::VHalf, None),
    (&[3, 2, 2, 1], &[0, 1, 1, 0], Kind::VHalf, TWO_BARRIERS),
    (&[1, 1, 2, 1, 2, 1], &[2, 0, 1, 1, 0, 2], Kind::VHalf, None),
];

fn model(tied: bool) -> Architecture {
    architecture([7, 3, 4, 2, 6, 11, VOCABULARY], tied, false)
}

fn down_proj(layer: usize) -> String {
    format!("model.layers.{layer}.mlp.down_proj.weight")
}

/// Weights of the same function, in which the gradient of one `down_proj` is [`AHEAD`] times as large and overflows
/// first.
fn with_sensitive_layer(mut weights: Tensors, layer: Option<usize>) -> Tensors {
    if let Some(layer) = layer {
        for (name, factor) in
            [(format!("model.layers.{layer}.mlp.up_proj.weight"), AHEAD), (down_proj(layer), 1.0 / AHEAD)]
        {
            weights.get_mut(&name).unwrap().iter_mut().for_each(|x| *x *= factor);
        }
    }
    weights
}

const AHEAD: f32 = 1e4;
/// Brings the largest entries of the sensitive gradient above 3.4e38, and leaves all others below.
const OVERFLOWING: f64 = 1e37;

/// What is special about a step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Nothing,
    /// The norm of all ranks is larger than that of some and larger than the limit: a share of the first step's.
    Clipped(f64),
    /// One token counts so much, which is not finite: every gradient is spoilt.
    TokenWeight(f32),
    /// Tokens count so much that one layer's gradient overflows.
    Overflow,
}

/// When updates are made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Barrier,
    PostValidation(RollBack),
}

fn schedule(pipeline: &Pipeline, case: Case, way: Way) -> Schedule {
    let (_, ranks, kind, vocabulary) = case;
    let backward = if kind == Kind::OneFOneB { Backward::Fused } else { Backward::Split };
    let spec = Spec { kind, backward };
    let plain = generate(spec, &stage_map(ranks).route(), MICROBATCHES, pipeline.tied()).unwrap();
    let all = match vocabulary {
        Some(vocabulary) => with_vocabulary(&plain, vocabulary, &PassTimes::equal(ranks.len())).unwrap(),
        None => plain,
    };
    let schedule = with_transfers(&match way {
        Way::Barrier => all,
        Way::PostValidation(_) => with_post_validation(&all),
    });
    assert_eq!(validate(&schedule), Ok(()), "{schedule}");
    schedule
}

fn stage_map(ranks: &[usize]) -> StageMap {
    StageMap::new(ranks.iter().map(|&rank| Grid::single(Rank(rank))).collect()).unwrap()
}

fn start_on(architecture: &Architecture, weights: &Tensors, case: Case) -> Pipeline {
    let (sizes, ranks, _, vocabulary) = case;
    let recompute = vec![Recompute::None; sizes.len()];
    start_sharded(architecture, weights, sizes, stage_map(ranks), recompute, vocabulary)
}

/// One step; limits are shares of `usual_norm`.
fn play(
    pipeline: &mut Pipeline,
    case: Case,
    way: Way,
    (number, event): (u64, Event),
    (learning_rate, usual_norm): (f64, f64),
) -> Result<Report, StageError> {
    let mut microbatches: Vec<Rows> = split(&batch(VOCABULARY, 6, 5), MICROBATCHES);
    let mut total_weight = total_weight(&microbatches);
    let (mut clip_norm, mut not_finite) = (None, NotFinite::Stop);
    match event {
        Event::Nothing => {}
        Event::Clipped(share) => clip_norm = Some(share * usual_norm),
        Event::TokenWeight(weight) => {
            microbatches[1].weights[0] = weight;
            (clip_norm, not_finite) = (Some(usual_norm), NotFinite::Skip);
        }
        Event::Overflow => {
            total_weight /= OVERFLOWING;
            (clip_norm, not_finite) = (Some(usual_norm), NotFinite::Skip);
        }
    }
    let roll_back = match way {
        Way::Barrier => RollBack::Copy,
        Way::PostValidation(roll_back) => roll_back,
    };
    let adamw = AdamW { learning_rate, weight_decay: 0.1, step: number, ..STILL };
    pipeline.play(Step {
        number,
        schedule: schedule(pipeline, case, way),
        objective: Objective::NextToken { total_weight },
        microbatches,
        update: Some(Update { adamw, clip_norm, not_finite, roll_back }),
    })
}

/// What a step leaves behind.
struct Left {
    /// As bits: losses may be no numbers.
    losses: Vec<u64>,
    norm: f64,
    /// Values, first and second moments.
    state: [Tensors; 3],
}

/// All steps, from weights in which `sensitive` is the layer that overflows first.
fn run(tied: bool, case: Case, way: Way, sensitive: Option<usize>, learning_rate: f64, events: &[Event]) -> Vec<Left> {
    let architecture = model(tied);
    let read = |pipeline: &Pipeline| {
        [Source::Value, Source::FirstMoment, Source::SecondMoment]
            .map(|source| read_all(pipeline, &architecture, source))
    };
    let weights = weights(&architecture);
    let first = play(&mut start_on(&architecture, &weights, case), case, Way::Barrier, (1, Event::Nothing), (0.0, 0.0));
    let usual_norm = first.unwrap().gradient_norm.unwrap();

    let weights = with_sensitive_layer(weights, sensitive);
    let mut pipeline = start_on(&architecture, &weights, case);
    let mut all = Vec::new();
    for (number, &event) in (1..).zip(events) {
        let what = format!("step {number} ({event:?}) of {case:?}, {way:?}, layer {sensitive:?}, tied {tied}");
        let before = read(&pipeline);
        let report = play(&mut pipeline, case, way, (number, event), (learning_rate, usual_norm)).unwrap();
        let (norm, state) = (report.gradient_norm.unwrap(), read(&pipeline));
        match event {
            Event::Nothing => assert!(norm.is_finite(), "{what}: {norm}"),
            Event::Clipped(share) => assert!(norm > share * usual_norm, "{what}: a norm of {norm} clips nothing"),
            Event::TokenWeight(_) => assert!(!norm.is_finite(), "{what}: {norm}"),
            Event::Overflow => {
                assert!(!norm.is_finite(), "{what}: {norm}");
                let gradients = read_all(&pipeline, &architecture, Source::Gradient);
                let spoilt = gradients.iter().filter(|(_, values)| values.iter().any(|x| !x.is_finite()));
                let spoilt: Vec<&String> = spoilt.map(|(name, _)| name).collect();
                assert_eq!(spoilt, [&down_proj(sensitive.unwrap())], "{what}");
            }
        }
        assert_eq!(report.is_skipped(), !norm.is_finite(), "{what}");
        if way != Way::PostValidation(RollBack::Invert) {
            assert_eq!(state == before, report.is_skipped(), "{what}: whether nothing was updated");
        }
        all.push(Left { losses: report.losses.iter().flatten().map(|loss| loss.to_bits()).collect(), norm, state });
    }
    all
}

/// Without a sensitive layer: nothing clips, limits below and above the norms of the first ranks, and gradients that are
/// not finite anywhere.
const USUAL: [Event; 9] = [
    Event::Clipped(0.9),
    Event::Nothing,
    Event::Clipped(0.5),
    Event::TokenWeight(f32::NAN),
    Event::Nothing,
    Event::TokenWeight(f32::INFINITY),
    Event::Clipped(0.1),
    Event::Clipped(0.3),
    Event::Nothing,
];
/// With a sensitive layer, whose gradient alone is not finite.
const SPOILT: [Event; 5] = [Event::Nothing, Event::Overflow, Event::Overflow, Event::Nothing, Event::Overflow];

/// Of the largest entry of the same tensor. What was taken back by inverting is off by a few units in the last place,
/// 6e-8, of weights, moments and of what the clipped gradient had added to them; steps of like size keep that share. Each
/// roll-back adds to it, and gradients at weights that are off differ a little more. Largest found 1.5e-6,
/// after sixty roll-backs.
const TOLERANCE: f64 = 5e-6;

fn check_near(found: &Left, wanted: &Left, what: &str) {
    assert_eq!(found.norm.is_finite(), wanted.norm.is_finite(), "{what}");
    for ((found, wanted), part) in found.state.iter().zip(&wanted.state).zip(["value", "first moment", "second moment"])
    {
        for (name, wanted) in wanted {
            let [found, wanted] = [&found[name], wanted].map(|values| Tensors::from([(name.clone(), values.clone())]));
            assert_close(&found, &wanted, TOLERANCE, &format!("{part} in {what}"));
        }
    }
}

fn check_equal(found: &Left, wanted: &Left, what: &str) {
    assert_eq!(found.losses, wanted.losses, "{what}");
    assert!(found.norm == wanted.norm || found.norm.is_nan() && wanted.norm.is_nan(), "{what}");
    assert!(found.state == wanted.state, "{what}");
}

/// Every case with all that can happen: from a copy equal to the bit, inverted within rounding.
fn check(tied: bool) {
    for case in CASES {
        for sensitive in [None, Some(0), Some(1), Some(2)] {
            // The sensitive layer has very small weights, and is to stay as it is.
            let (events, learning_rate): (&[Event], f64) =
                if sensitive.is_some() { (&SPOILT, 2e-6) } else { (&USUAL, 2e-3) };
            let [wanted, copied, inverted] =
                [Way::Barrier, Way::PostValidation(RollBack::Copy), Way::PostValidation(RollBack::Invert)]
                    .map(|way| run(tied, case, way, sensitive, learning_rate, events));
            for (i, event) in events.iter().enumerate() {
                let what = format!("step {} ({event:?}) of {case:?}, layer {sensitive:?}, tied {tied}", i + 1);
                check_equal(&copied[i], &wanted[i], &what);
                check_near(&inverted[i], &wanted[i], &what);
            }
        }
    }
}

#[test]
fn as_after_a_barrier() {
    check(false);
}

#[test]
fn as_after_a_barrier_with_tied_embeddings() {
    check(true);
}

/// Sixty steps that every rank but the last takes back; so slow that the model's own sensitivity stays out of it.
#[test]
fn inverted_in_every_step() {
    let events = [Event::Clipped(0.02); 60];
    for case in CASES.into_iter().filter(|case| case.1.contains(&2)) {
        let [wanted, found] =
            [Way::Barrier, Way::PostValidation(RollBack::Invert)].map(|way| run(false, case, way, None, 2e-4, &events));
        check_near(&found[59], &wanted[59], &format!("{case:?} after 60 steps"));
    }
}

/// What stops a run after a barrier stops it here, in the same words, wherever the gradient is not finite.
#[test]
fn a_norm_that_is_not_finite_stops() {
    let architecture = model(false);
    for case in CASES {
        for roll_back in [RollBack::Copy, RollBack::Invert] {
            let mut pipeline = start_on(&architecture, &weights(&architecture), case);
            let mut microbatches = split(&batch(VOCABULARY, 6, 5), MICROBATCHES);
            microbatches[2].weights[1] = f32::NAN;
            let schedule = schedule(&pipeline, case, Way::PostValidation(roll_back));
            let step = Step {
                update: Some(Update { roll_back, ..Update::new(STILL) }),
                ..step(schedule, microbatches, STILL)
            };
            let error = pipeline.play(step.clone()).unwrap_err();
            assert!(matches!(error, StageError::NotFinite { step: 1, norm } if norm.is_nan()), "{case:?}: {error}");
            assert!(matches!(pipeline.play(step), Err(StageError::Stopped)));
        }
    }
}

#[test]
fn one_rank_with_a_barrier_and_one_without() {
    let case = CASES[4];
    let architecture = model(false);
    let mut pipeline = start_on(&architecture, &weights(&architecture), case);
    let [mut mixed, optimistic] =
        [Way::Barrier, Way::PostValidation(RollBack::Copy)].map(|way| schedule(&pipeline, case, way));
    mixed.ranks[0] = optimistic.ranks[0].clone();
    let error = pipeline.play(step(mixed, split(&batch(VOCABULARY, 6, 5), MICROBATCHES), STILL)).unwrap_err();
    assert!(error.to_string().contains("waits for the global norm"), "{error}");
}
