//! What the head and its loss hold in a training step, counted at the allocator: logits of a chunk of tokens, however many
//! tokens there are.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use architecture::{Partition, from_config_json};
use burn::tensor::Device;
use kernels::{AdamW, HEAD_CHUNK};
use ledger::Ledger;
use mesh::{Cores, Rank, StageMap};
use model::Rows;
use schedule::{Backward, Kind, Spec, generate, with_transfers};
use simulate::Category;
use stage::{Objective, Pipeline, PipelineSpec, Recompute, Step, Update};
use std::time::Duration;

#[global_allocator]
static LEDGER: Ledger = Ledger;

const WIDTH: usize = 16;
const TOKENS: usize = 256;

/// Most bytes of logits in the second of two steps on `n` tokens, counted at the moment with the most bytes in all: the
/// head's, since everything else here is small.
fn logit_bytes(vocabulary: usize, n: usize) -> u64 {
    let config = format!(
        r#"{{"model_type": "llama", "hidden_size": {WIDTH}, "num_hidden_layers": 1, "num_attention_heads": 1,
            "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": {vocabulary},
            "max_position_embeddings": {TOKENS}}}"#
    );
    let architecture = from_config_json(&config).unwrap();
    let stage_map = StageMap::one_per_rank(1);
    let route = stage_map.route();
    let spec = PipelineSpec {
        partition: Partition::new(&architecture, &[architecture.blocks().len()]).unwrap(),
        architecture: architecture.clone(),
        stage_map,
        vocabulary: None,
        recompute: vec![Recompute::None],
        devices: vec![Device::flex()],
        precision: stage::Precision::F32,
        cores: vec![Cores { ranks: vec![Rank(0)], permits: 1, threads: 2 }],
        deadline: Duration::from_secs(60),
    };
    let mut pipeline = Pipeline::start(&spec, stage::drawn(&architecture, 0)).unwrap();
    let spec = Spec { kind: Kind::OneFOneB, backward: Backward::Fused };
    let schedule = with_transfers(&generate(spec, &route, 1, pipeline.tied()).unwrap());
    let ids: Vec<i32> = (0..n).map(|i| (i * 31 % vocabulary) as i32).collect();
    let rows = Rows { weights: vec![1.0; n], targets: ids.clone(), ..Rows::to_read(ids, TOKENS) };
    let mut most = 0;
    for number in 1..=2 {
        let adamw = AdamW {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_scale: 1.0,
            step: number,
        };
        let step = Step {
            number,
            schedule: schedule.clone(),
            microbatches: vec![rows.clone()],
            objective: Objective::NextToken { total_weight: n as f64 },
            update: Some(Update { clip_norm: Some(1.0), ..Update::new(adamw) }),
        };
        let report = pipeline.play(step).unwrap();
        assert!(report.loss().is_finite());
        let logits = report.timeline.memory.iter().map(|sample| sample.bytes[Category::Logits as usize]);
        most = logits.max().unwrap();
    }
    most
}

/// Beside the chunk's logits, each token has the gradient of its hidden state and a few numbers; nothing is as large as
/// tokens times vocabulary. One test, since a rank's account is the process's.
#[test]
fn logits_are_those_of_a_chunk() {
    for vocabulary in [4099, 16411] {
        for n in [HEAD_CHUNK / 2, HEAD_CHUNK, 3 * HEAD_CHUNK, 8 * HEAD_CHUNK] {
            let chunk = (HEAD_CHUNK.min(n) * vocabulary * 4) as u64;
            let per_token = (n * (4 * WIDTH + 32)) as u64;
            let found = logit_bytes(vocabulary, n);
            assert!(
                (chunk..=chunk + per_token).contains(&found),
                "{found} bytes for {n} tokens of {vocabulary}, a chunk's logits are {chunk}"
            );
        }
    }
}
