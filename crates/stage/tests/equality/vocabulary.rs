//! The vocabulary sharded over all ranks against the unsplit model.

use crate::plans::FAMILIES_TOLERANCE;
use crate::reference::unsplit;
use crate::setup::*;
use architecture::Architecture;
use kernels::AdamW;
use mesh::{Grid, Rank, Stage, StageMap};
use model::Rows;
use schedule::{
    Action, Backward, InputLayer, Kind, Op, PassTimes, Schedule, ShardOp, Spec, Vocabulary, VocabularyAlgorithm,
    forward_only, generate, interlaced, validate, with_transfers, with_vocabulary,
};
use stage::{Pipeline, Recompute, Source, StageError};

/// As in `plans.rs`: a softmax put together from shards adds up to 31 exponentials in another order and rounds the shares
/// once more, 6e-8 each; where the head alone is sharded, a tied matrix adds up head and embedding apart. Largest found
/// 6e-7, of a tied matrix.
const TOLERANCE: f64 = 1e-6;

/// What makes good rows bad.
type Spoil = fn(&mut Rows);

const ROWS: usize = 8;

const VOCABULARIES: [Vocabulary; 4] = [
    Vocabulary { algorithm: VocabularyAlgorithm::OneBarrier, input: InputLayer::FirstStage },
    Vocabulary { algorithm: VocabularyAlgorithm::OneBarrier, input: InputLayer::Sharded },
    Vocabulary { algorithm: VocabularyAlgorithm::TwoBarriers, input: InputLayer::FirstStage },
    Vocabulary { algorithm: VocabularyAlgorithm::TwoBarriers, input: InputLayer::Sharded },
];

/// Stages of a model of eight blocks, and the rank of each; the last layout has two stages on every rank.
const LAYOUTS: [(&[usize], &[usize]); 6] = [
    (&[8], &[0]),
    (&[3, 5], &[0, 1]),
    (&[2, 4, 2], &[0, 1, 2]),
    (&[1, 3, 3, 1], &[0, 1, 2, 3]),
    (&[1, 1, 1, 1, 1, 1, 1, 1], &[0, 1, 2, 3, 4, 5, 6, 7]),
    (&[2, 2, 2, 2], &[0, 1, 1, 0]),
];

fn stage_map(ranks: &[usize]) -> StageMap {
    StageMap::new(ranks.iter().map(|&rank| Grid::single(Rank(rank))).collect()).unwrap()
}

/// Eight blocks with a vocabulary that no number of ranks but 1 divides.
fn model(tied: bool) -> Architecture {
    architecture([7, 3, 4, 2, 6, 11, 29], tied, false)
}

/// The training schedules of a layout: all by the placing passes, and GPipe with all `VS`, then all `VT` between its
/// forwards and its backwards.
fn schedules(pipeline: &Pipeline, ranks: &[usize], vocabulary: Vocabulary, n_microbatches: usize) -> Vec<Schedule> {
    let route = stage_map(ranks).route();
    let n_ranks = ranks.iter().max().unwrap() + 1;
    let times = PassTimes::equal(ranks.len());
    let plain = |spec| generate(spec, &route, n_microbatches, pipeline.tied()).unwrap();
    let mut specs = SPECS.to_vec();
    if n_ranks == ranks.len() {
        specs.push(Spec { kind: Kind::ZbH1, backward: Backward::Split });
    } else {
        specs.push(Spec { kind: Kind::VHalf, backward: Backward::Split });
        specs.push(Spec { kind: Kind::ZbV, backward: Backward::Split });
    }
    let mut all: Vec<Schedule> =
        specs.iter().map(|&spec| with_vocabulary(&plain(spec), vocabulary, &times).unwrap()).collect();
    if n_ranks == ranks.len() && vocabulary.algorithm == VocabularyAlgorithm::TwoBarriers {
        all.push(interlaced(&plain(SPECS[2]), vocabulary.input, &times).unwrap());
    }

    let mut by_hand = plain(GPIPE);
    let shards = |op| (0..n_microbatches).map(move |i| Action::shard(op, i));
    for list in &mut by_hand.ranks {
        let is_forward = |action: &&Action| matches!(action, Action::Visit { op: Op::Forward, .. });
        let n_forwards = list.iter().filter(is_forward).count();
        let n_backwards = list.iter().filter(|action| matches!(action, Action::Visit { op: Op::Backward, .. })).count();
        let (forwards, rest) = list.split_at(n_forwards);
        let (backwards, updates) = rest.split_at(n_backwards);
        let looks_up = vocabulary.input == InputLayer::Sharded;
        let embeds = |op| shards(op).filter(move |_| looks_up);
        *list = embeds(ShardOp::EmbedForward)
            .chain(forwards.iter().copied())
            .chain(shards(ShardOp::VocabForward))
            .chain(shards(ShardOp::VocabBackward))
            .chain(backwards.iter().copied())
            .chain(embeds(ShardOp::EmbedBackward))
            .chain(updates.iter().copied())
            .collect();
    }
    all.push(Schedule { vocabulary: Some(vocabulary), name: "GPipe, by hand".to_owned(), ..by_hand });
    all.iter().map(with_transfers).inspect(|schedule| assert_eq!(validate(schedule), Ok(()), "{schedule}")).collect()
}

fn start_on(
    architecture: &Architecture,
    weights: &Tensors,
    (sizes, ranks): (&[usize], &[usize]),
    vocabulary: Vocabulary,
    recompute: Recompute,
) -> Pipeline {
    let recompute = vec![recompute; sizes.len()];
    start_sharded(architecture, weights, sizes, stage_map(ranks), recompute, Some(vocabulary))
}

/// Loss, gradients and norm of every schedule on every layout, and the loss of an evaluation. `loss_tolerance` is
/// relative to the loss, or to 1.
fn check(architecture: &Architecture, weights: &Tensors, rows: &Rows, n_microbatches: usize, tolerance: f64) {
    check_on(&LAYOUTS, architecture, weights, rows, n_microbatches, tolerance);
}

fn check_on(
    layouts: &[(&[usize], &[usize])],
    architecture: &Architecture,
    weights: &Tensors,
    rows: &Rows,
    n_microbatches: usize,
    tolerance: f64,
) {
    let wanted = unsplit(architecture, weights, rows, total_weight(std::slice::from_ref(rows)));
    let near = |found: f64| (found - wanted.loss).abs() <= tolerance * wanted.loss.abs().max(1.0);
    for &layout in layouts {
        for vocabulary in VOCABULARIES {
            for recompute in [Recompute::None, Recompute::Full] {
                let mut pipeline = start_on(architecture, weights, layout, vocabulary, recompute);
                for schedule in schedules(&pipeline, layout.1, vocabulary, n_microbatches) {
                    let what = format!("{} on {layout:?}, {vocabulary:?}, {recompute:?}", schedule.name);
                    let report = pipeline.play(step(schedule, split(rows, n_microbatches), STILL)).unwrap();
                    let found = outcome(&pipeline, architecture, &report);
                    assert!(near(found.loss), "{what}: {} {}", found.loss, wanted.loss);
                    assert_close(&found.gradients, &wanted.gradients, tolerance, &what);
                    let norms = [report.gradient_norm.unwrap(), norm(&wanted.gradients)];
                    assert!((norms[0] / norms[1] - 1.0).abs() < tolerance, "{what}: norms {norms:?}");
                }
                let route = stage_map(layout.1).route();
                let schedule = with_transfers(&forward_only(&route, n_microbatches, Some(vocabulary)).unwrap());
                let evaluated = pipeline.play(step(schedule, split(rows, n_microbatches), STILL)).unwrap();
                assert!(near(evaluated.loss()), "evaluation on {layout:?}, {vocabulary:?}: {}", evaluated.loss());
            }
        }
    }
}

#[test]
fn untied() {
    let model = model(false);
    check(&model, &weights(&model), &batch(29, ROWS, 5), 5, TOLERANCE);
}

#[test]
fn tied() {
    let model = model(true);
    check(&model, &weights(&model), &batch(29, ROWS, 5), 3, TOLERANCE);
}

/// Every family: what is looked up in shards is scaled (Gemma 3) and given its positions (GPT-2) on the first stage.
#[test]
fn families() {
    for model in of_families() {
        check_on(&LAYOUTS[1..3], &model, &weights(&model), &batch(29, ROWS, 5), 3, FAMILIES_TOLERANCE);
    }
}

/// With eight ranks and five rows, three shards are empty.
#[test]
fn fewer_rows_than_ranks() {
    for tied in [false, true] {
        let model = architecture([7, 3, 4, 2, 6, 11, 5], tied, false);
        check(&model, &weights(&model), &batch(5, ROWS, 5), 2, TOLERANCE);
    }
}

/// The first shard, the last, and the row between two that falls to another shard as ranks are added.
#[test]
fn targets_all_in_one_shard() {
    let model = model(false);
    for target in [0, 14, 28] {
        let rows = batch(29, ROWS, 5);
        let rows = Rows { targets: vec![target; rows.n()], ids: vec![28 - target; rows.n()], ..rows };
        check(&model, &weights(&model), &rows, 2, TOLERANCE);
    }
}

/// Logits of up to 1e4 of either sign: without the maxima, exponentials would be infinite and shares 0 / 0. The largest
/// logit of a row is far above the others, so that the probabilities are 0 and 1, and the loss is a difference of logits.
#[test]
fn logits_of_ten_thousand() {
    let model = model(false);
    let mut weights = weights(&model);
    // Hidden states after the norm are of order 1, rows of the head have 7 entries of order 0.3.
    weights.get_mut("lm_head.weight").unwrap().iter_mut().for_each(|x| *x *= 1e4);
    let rows = batch(29, ROWS, 5);
    let loss = unsplit(&model, &weights, &rows, total_weight(std::slice::from_ref(&rows))).loss;
    assert!((5e3..5e4).contains(&loss), "{loss}");
    check(&model, &weights, &rows, 2, TOLERANCE);
}

/// The algorithms cut the same sums differently; see [`TOLERANCE`]. One after the other on the same pipeline.
#[test]
fn one_barrier_equals_two() {
    let model = model(false);
    let (weights, rows) = (weights(&model), batch(29, ROWS, 5));
    for layout in LAYOUTS {
        let mut pipeline = start_on(&model, &weights, layout, VOCABULARIES[1], Recompute::None);
        let [one, two] = [VOCABULARIES[1], VOCABULARIES[3]].map(|vocabulary| {
            let schedule = schedules(&pipeline, layout.1, vocabulary, 4).swap_remove(2);
            let report = pipeline.play(step(schedule, split(&rows, 4), STILL)).unwrap();
            outcome(&pipeline, &model, &report)
        });
        assert_eq!(one.loss, two.loss, "{layout:?}: the statistics are the same");
        assert_close(&one.gradients, &two.gradients, TOLERANCE, &format!("{layout:?}"));
    }
}

/// Three steps that change weights: the same bits from two pipelines, weights and moments as without shards, and both
/// copies of a tied matrix the same where only the head is sharded.
#[test]
fn updates() {
    for tied in [false, true] {
        let model = model(tied);
        let weights = weights(&model);
        let sources = [Source::Value, Source::FirstMoment, Source::SecondMoment];
        let adamw = |number| AdamW { learning_rate: 1e-3, weight_decay: 0.1, step: number, ..STILL };
        let batches = |number: u64| split(&batch(29, 4 + number as usize, 5), 4);
        let wanted = {
            let map = StageMap::one_per_rank(1);
            let mut pipeline = start(&model, &weights, &[8], map.clone(), vec![Recompute::None]);
            for number in 1..=3 {
                let schedule = schedule(&pipeline, GPIPE, &map.route(), 4);
                pipeline.play(step(schedule, batches(number), adamw(number))).unwrap();
            }
            sources.map(|source| read_all(&pipeline, &model, source))
        };
        for layout in LAYOUTS {
            for vocabulary in VOCABULARIES {
                let what = format!("{layout:?}, {vocabulary:?}, tied {tied}");
                let run = || {
                    let mut pipeline = start_on(&model, &weights, layout, vocabulary, Recompute::None);
                    let schedule = schedules(&pipeline, layout.1, vocabulary, 4).swap_remove(3);
                    let losses: Vec<Vec<Vec<f64>>> = (1..=3)
                        .map(|number| {
                            let step = step(schedule.clone(), batches(number), adamw(number));
                            pipeline.play(step).unwrap().losses
                        })
                        .collect();
                    if tied && vocabulary.input == InputLayer::FirstStage {
                        let name = "model.embed_tokens.weight";
                        for source in [Source::Value, Source::Gradient] {
                            let copy = pipeline.read_at(Stage(0), name, source).unwrap();
                            assert!(copy == pipeline.read(name, source).unwrap(), "{what}: copies, {source:?}");
                        }
                    }
                    (losses, sources.map(|source| read_all(&pipeline, &model, source)))
                };
                let found = run();
                assert!(found == run(), "{what}: not the same bits");
                // Moments are sums of gradients and of their squares. AdamW divides one by the root of the other, which
                // for entries near 0 makes much of a rounding: at most a rate of 1e-3, against entries of order 1.
                for (i, tolerance) in [2e-5, 2e-6, 2e-6].into_iter().enumerate() {
                    assert_close(&found.1[i], &wanted[i], tolerance, &format!("{what}, {:?}", sources[i]));
                }
            }
        }
    }
}

/// A target outside the vocabulary is found by the shards, an id by those of the embedding.
#[test]
fn ids_outside_the_vocabulary() {
    let model = model(false);
    let weights = weights(&model);
    let layout = LAYOUTS[2];
    let spoils: [(Spoil, &str); 2] =
        [(|rows| rows.targets[3] = -1, "token -1 of 29"), (|rows| rows.ids[3] = 29, "token 29 of 29")];
    for (spoil, words) in spoils {
        let mut rows = batch(29, ROWS, 5);
        spoil(&mut rows);
        let mut pipeline = start_on(&model, &weights, layout, VOCABULARIES[1], Recompute::None);
        let schedule = schedules(&pipeline, layout.1, VOCABULARIES[1], 4).swap_remove(2);
        let error = pipeline.play(step(schedule, split(&rows, 4), STILL)).unwrap_err();
        assert!(matches!(&error, StageError::Panicked { message, .. } if message == words), "{error}");
    }
}

/// A schedule that shards the vocabulary otherwise than the weights are is refused, and says so.
#[test]
fn other_shards_are_refused() {
    let model = model(false);
    let (weights, rows) = (weights(&model), batch(29, ROWS, 5));
    let (layout, ranks) = (LAYOUTS[1], LAYOUTS[1].1);
    let mut pipeline = start_on(&model, &weights, layout, VOCABULARIES[0], Recompute::None);
    let sharded = schedules(&pipeline, ranks, VOCABULARIES[1], 2).swap_remove(0);
    let plain = schedule(&pipeline, GPIPE, &stage_map(ranks).route(), 2);
    for (schedule, has) in [(sharded, "shards of the head and the embedding"), (plain, "no shards of the vocabulary")] {
        let error = pipeline.play(step(schedule, split(&rows, 2), STILL)).unwrap_err();
        let words = format!("it has {has}, but the pipeline was started with shards of the head");
        assert!(error.to_string().ends_with(&words), "{error}");
    }
    let fits = schedules(&pipeline, ranks, VOCABULARIES[0], 2).swap_remove(0);
    assert!(pipeline.play(step(fits, split(&rows, 2), STILL)).is_ok(), "a refusal does not stop the pipeline");
}
