//! Bytes counted at the allocator against the planner's prediction.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use architecture::{Architecture, Family, Partition, Rope, RopeScaling};
use burn::tensor::Device;
use kernels::AdamW;
use ledger::Ledger;
use mesh::{Cores, Rank, StageMap};
use model::Rows;
use plan::{MicrobatchShape, Shards, shard_costs, stage_costs};
use schedule::{
    Backward, InputLayer, Kind, PassTimes, Schedule, Spec, Vocabulary, VocabularyAlgorithm, generate, with_transfers,
    with_vocabulary,
};
use simulate::{Category, Costs, Timeline, simulate};
use stage::{Objective, Pipeline, PipelineSpec, Recompute, Source, Step, Update};
use std::convert::Infallible;
use std::time::Duration;

#[global_allocator]
static LEDGER: Ledger = Ledger;

/// A model, its cut, the microbatch and their number.
#[derive(Clone, Copy)]
struct Case {
    /// Hidden size, layers, heads, key heads, head width, MLP width, vocabulary.
    sizes: [usize; 7],
    tied: bool,
    cut: &'static [usize],
    shape: MicrobatchShape,
    n_microbatches: usize,
}

fn architecture(case: &Case) -> Architecture {
    let [
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        intermediate_size,
        vocab_size,
    ] = case.sizes;
    Architecture {
        family: Family::Llama,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        intermediate_size,
        vocab_size,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-6,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        attention_bias: false,
        mlp_bias: false,
        tie_word_embeddings: case.tied,
        initializer_range: 0.02,
        bos_token_id: None,
        eos_token_id: Vec::new(),
        pad_token_id: None,
    }
}

fn rows(case: &Case, seed: usize) -> Rows {
    let n = case.shape.rows * case.shape.tokens;
    let ids = (0..n).map(|i| ((i + seed) * 31 % case.sizes[6]) as i32).collect();
    Rows { weights: vec![1.0; n], ..Rows::to_read(ids, case.shape.tokens) }
}

/// The second of two steps: as it was counted, and as it was predicted.
fn measure(case: &Case, spec: Spec, recompute: Recompute, vocabulary: Option<Vocabulary>) -> (Timeline, Timeline) {
    let architecture = architecture(case);
    let n_stages = case.cut.len();
    let partition = Partition::new(&architecture, case.cut).unwrap();
    let stage_map = StageMap::one_per_rank(n_stages);
    let cores = vec![Cores { ranks: (0..n_stages).map(Rank).collect(), permits: 2, threads: 1 }];
    let mut pipeline = Pipeline::start(
        &PipelineSpec {
            architecture: architecture.clone(),
            partition: partition.clone(),
            stage_map: stage_map.clone(),
            vocabulary,
            recompute: vec![recompute; n_stages],
            devices: vec![Device::flex(); n_stages],
            cores: cores.clone(),
            deadline: Duration::from_secs(60),
        },
        |weight, source| {
            Ok::<_, Infallible>(match source {
                Source::Value => model::draw(&architecture, weight, 3),
                _ => vec![0.0; weight.n_elements()],
            })
        },
    )
    .unwrap();
    let schedule = generate(spec, &stage_map.route(), case.n_microbatches, pipeline.tied()).unwrap();
    let schedule: Schedule = with_transfers(&match vocabulary {
        Some(vocabulary) => with_vocabulary(&schedule, vocabulary, &PassTimes::equal(n_stages)).unwrap(),
        None => schedule,
    });
    let mut play = |number| {
        let adamw = AdamW {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_scale: 1.0,
            step: number,
        };
        let microbatches: Vec<Rows> = (0..case.n_microbatches).map(|i| rows(case, i)).collect();
        let n = case.n_microbatches * case.shape.rows * case.shape.tokens;
        let objective = Objective::NextToken { total_weight: n as f64 };
        let update = Some(Update { adamw, clip_norm: Some(1.0) });
        pipeline.play(Step { number, schedule: schedule.clone(), microbatches, objective, update }).unwrap().timeline
    };
    play(1);
    let counted = play(2);
    let shards = vocabulary.map(|vocabulary| Shards { vocabulary, n_ranks: n_stages });
    let stages = stage_costs(&architecture, &partition, case.shape, &vec![recompute; n_stages], shards, 1e9);
    let shards = shards.map_or_else(Vec::new, |shards| shard_costs(&architecture, case.shape, shards, 1e9));
    let predicted = simulate(&schedule, &Costs { stages, shards, cores, ..Costs::default() }).unwrap();
    (counted, predicted)
}

const SPECS: [Spec; 4] = [
    Spec { kind: Kind::Gpipe, backward: Backward::Fused },
    Spec { kind: Kind::Gpipe, backward: Backward::Split },
    Spec { kind: Kind::OneFOneB, backward: Backward::Fused },
    Spec { kind: Kind::OneFOneB, backward: Backward::Split },
];

const CASES: [Case; 4] = [
    Case {
        sizes: [64, 4, 4, 2, 16, 171, 251],
        tied: false,
        cut: &[5, 5],
        shape: MicrobatchShape { rows: 2, tokens: 64 },
        n_microbatches: 4,
    },
    Case {
        sizes: [96, 3, 6, 6, 16, 256, 1021],
        tied: true,
        cut: &[4, 2, 2],
        shape: MicrobatchShape { rows: 1, tokens: 96 },
        n_microbatches: 5,
    },
    Case {
        sizes: [48, 2, 3, 1, 16, 127, 509],
        tied: false,
        cut: &[6],
        shape: MicrobatchShape { rows: 3, tokens: 128 },
        n_microbatches: 2,
    },
    Case {
        sizes: [128, 2, 4, 4, 32, 340, 257],
        tied: false,
        cut: &[2, 2, 2],
        shape: MicrobatchShape { rows: 4, tokens: 32 },
        n_microbatches: 6,
    },
];

/// Of the sum over categories. Not predicted: buffers that live for one operation, the mask and the rotary angles,
/// messages of tied gradients, and which of two ranks is ahead of the other. Largest found in ten runs 3.5 %. A stage of
/// the head alone is not among the cases: its forward holds the logits twice for a moment, up to 13 % of so small a stage.
const TOLERANCE: f64 = 0.05;

fn check(case: &Case) {
    let n_stages = case.cut.len();
    for recompute in [Recompute::None, Recompute::Full] {
        for spec in SPECS {
            let (counted, predicted) = measure(case, spec, recompute, None);
            for rank in (0..n_stages).map(Rank) {
                let [found, wanted] = [&counted, &predicted].map(|timeline| timeline.peak_bytes(rank) as f64);
                let what = format!("{:?}, {}, {recompute:?}, rank {rank}", case.cut, spec);
                assert!((wanted / found - 1.0).abs() < TOLERANCE, "{what}: {found} bytes, predicted {wanted}");
            }
        }
    }
    // Activations of min(m, p - i) microbatches, as GPipe has them of all. With recomputation these would be inputs,
    // which are booked as the messages they came in.
    for rank in 0..n_stages {
        let activations = |case: &Case, spec| {
            measure(case, spec, Recompute::None, None).0.peak_by_category(Rank(rank))[Category::Activations as usize]
                as f64
        };
        let in_flight = Case { n_microbatches: case.n_microbatches.min(n_stages - rank), ..*case };
        let [found, wanted] = [activations(case, SPECS[2]), activations(&in_flight, SPECS[0])];
        assert!((found / wanted - 1.0).abs() < TOLERANCE, "{:?}, rank {rank}: {found} of {wanted}", case.cut);
    }
}

/// As [`TOLERANCE`]; not predicted either is what waits between ranks: hidden states for their `VS`, and shards' hidden
/// gradients for the last hop's backward, which are counted while it runs. Largest found 4.4 %. GPipe makes the last hop
/// keep those of all microbatches, up to 15 % of so small a stage, and is not among the cases.
const SHARDS_TOLERANCE: f64 = 0.08;

/// Blocks under 4 kB are not counted: norms.
const RESIDENT_TOLERANCE: f64 = 0.01;

/// The same with shards of the vocabulary; what they hold for the whole step by itself too.
fn check_shards(case: &Case) {
    for algorithm in [VocabularyAlgorithm::OneBarrier, VocabularyAlgorithm::TwoBarriers] {
        for input in [InputLayer::FirstStage, InputLayer::Sharded] {
            for spec in [SPECS[2], SPECS[3]] {
                let vocabulary = Vocabulary { algorithm, input };
                let (counted, predicted) = measure(case, spec, Recompute::None, Some(vocabulary));
                for rank in (0..case.cut.len()).map(Rank) {
                    let what = format!("{:?}, {spec}, {vocabulary:?}, rank {rank}", case.cut);
                    let close = |found: u64, wanted: u64, tolerance: f64, of: &str| {
                        let difference = (wanted as f64 / found as f64 - 1.0).abs();
                        assert!(difference < tolerance, "{what}: {found} bytes, predicted {wanted}, {of}");
                    };
                    close(counted.peak_bytes(rank), predicted.peak_bytes(rank), SHARDS_TOLERANCE, "in all");
                    let [found, wanted] = [&counted, &predicted].map(|timeline| timeline.peak_by_category(rank));
                    for category in [Category::Weights, Category::Gradients] {
                        let i = category as usize;
                        close(found[i], wanted[i], RESIDENT_TOLERANCE, &format!("{category:?}"));
                    }
                }
            }
        }
    }
}

/// One test, since the ranks' accounts are the process's.
#[test]
fn counted_memory_is_as_predicted() {
    CASES.iter().for_each(check);
    CASES.iter().filter(|case| case.cut.len() > 1).for_each(check_shards);
}
