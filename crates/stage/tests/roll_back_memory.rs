//! What the two ways of taking an update back hold, counted at the allocator.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use architecture::{Architecture, Family, Partition, Positions, Rope, RopeScaling};
use burn::tensor::Device;
use kernels::AdamW;
use ledger::{COUNTED_BYTES_MIN, Ledger};
use mesh::{Cores, Rank, StageMap};
use model::Rows;
use schedule::{
    Backward, InputLayer, Kind, PassTimes, Spec, Vocabulary, VocabularyAlgorithm, generate, with_post_validation,
    with_transfers, with_vocabulary,
};
use simulate::{Category, Timeline};
use stage::{NotFinite, Objective, Pipeline, PipelineSpec, Recompute, RollBack, Step, Update};
use std::time::Duration;

#[global_allocator]
static LEDGER: Ledger = Ledger;

const N_RANKS: usize = 2;
const CUT: [usize; N_RANKS] = [3, 5];
const TOKENS: usize = 8;
const SHARDS: Option<Vocabulary> =
    Some(Vocabulary { algorithm: VocabularyAlgorithm::OneBarrier, input: InputLayer::Sharded });

fn architecture() -> Architecture {
    Architecture {
        family: Family::Llama,
        hidden_size: 128,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        intermediate_size: 341,
        vocab_size: 1021,
        max_position_embeddings: TOKENS,
        norm_eps: 1e-6,
        positions: Positions::rotary(Rope { theta: 10_000.0, scaling: RopeScaling::None }),
        sliding: None,
        query_pre_attn_scalar: 32.0,
        attention_bias: false,
        mlp_bias: false,
        tie_word_embeddings: false,
        initializer_range: 0.02,
        bos_token_id: None,
        eos_token_id: Vec::new(),
        pad_token_id: None,
    }
}

/// Two steps that clip, so that all ranks but the last roll back; the timeline of the second.
fn measure(vocabulary: Option<Vocabulary>, roll_back: RollBack) -> Timeline {
    let architecture = architecture();
    let stage_map = StageMap::one_per_rank(N_RANKS);
    let spec = PipelineSpec {
        architecture: architecture.clone(),
        partition: Partition::new(&architecture, &CUT).unwrap(),
        stage_map: stage_map.clone(),
        vocabulary,
        recompute: vec![Recompute::None; N_RANKS],
        devices: vec![Device::flex(); N_RANKS],
        precision: stage::Precision::F32,
        cores: vec![Cores { ranks: (0..N_RANKS).map(Rank).collect(), permits: 2, threads: 1 }],
        deadline: Duration::from_secs(60),
    };
    let mut pipeline = Pipeline::start(&spec, stage::drawn(&architecture, 3)).unwrap();
    let spec = Spec { kind: Kind::ZbH1, backward: Backward::Split };
    let plain = generate(spec, &stage_map.route(), 2, pipeline.tied()).unwrap();
    let plain = match vocabulary {
        Some(vocabulary) => with_vocabulary(&plain, vocabulary, &PassTimes::equal(N_RANKS)).unwrap(),
        None => plain,
    };
    let schedule = with_transfers(&with_post_validation(&plain));
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
        let rows = |i: usize| {
            let ids = (0..TOKENS).map(|token| ((token + i) * 31 % architecture.vocab_size) as i32).collect();
            Rows { weights: vec![1.0; TOKENS], ..Rows::to_read(ids, TOKENS) }
        };
        let report = pipeline.play(Step {
            number,
            schedule: schedule.clone(),
            microbatches: (0..2).map(rows).collect(),
            objective: Objective::NextToken { total_weight: 2.0 * TOKENS as f64 },
            update: Some(Update { adamw, clip_norm: Some(1e-3), not_finite: NotFinite::Stop, roll_back }),
        });
        let report = report.unwrap();
        assert!(report.gradient_norm.unwrap() > 1e-3, "the step clips");
        report.timeline
    };
    play(1);
    play(2)
}

fn samples(timeline: &Timeline, rank: usize, category: Category) -> Vec<u64> {
    let of_rank = timeline.memory.iter().filter(|sample| sample.rank == Rank(rank));
    of_rank.map(|sample| sample.bytes[category as usize]).collect()
}

/// Bytes of the weights on a rank as the first sample has them: what is counted of them.
fn weights(timeline: &Timeline, rank: usize) -> u64 {
    samples(timeline, rank, Category::Weights)[0]
}

/// A copy is as large as the weights and their two moments, lives from `TRY_OPT` to `VALIDATE`, and moves nothing to
/// another account; inverting takes nothing. One test, since the ranks' accounts are the process's.
#[test]
fn inverting_saves_weights_and_moments() {
    for vocabulary in [None, SHARDS] {
        let [copied, inverted] = [RollBack::Copy, RollBack::Invert].map(|way| measure(vocabulary, way));
        for rank in 0..N_RANKS {
            let [held, idle] = [&copied, &inverted].map(|timeline| samples(timeline, rank, Category::Optimizer));
            let what = format!("rank {rank}, {vocabulary:?}");
            let bytes = weights(&inverted, rank);
            assert!(bytes > 100 * COUNTED_BYTES_MIN as u64, "{what}: {bytes} bytes of weights are counted");
            assert!(idle.iter().all(|&idle| idle == 2 * bytes), "{what}: moments alone");
            assert_eq!(held.iter().max(), Some(&(5 * bytes)), "{what}: moments and the copy");
            assert_eq!([held[0], held[held.len() - 1]], [2 * bytes; 2], "{what}: the copy is gone");
            for timeline in [&copied, &inverted] {
                assert!(samples(timeline, rank, Category::Weights).iter().all(|&now| now == bytes), "{what}: weights");
            }
            let peaks = [&copied, &inverted].map(|timeline| timeline.peak_bytes(Rank(rank)));
            // Without the copy the peak lies in the backward pass, a little above what is resident.
            let saved = peaks[0] - peaks[1];
            assert!(5 * saved > 4 * 3 * bytes, "{what}: peaks {peaks:?}, {saved} bytes saved of {}", 3 * bytes);
        }
    }
}
