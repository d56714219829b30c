//! Predicted times and memory against numbers worked out by hand and against what the papers say of the schedules.

use architecture::{Architecture, Partition, from_config_json};
use mesh::{Rank, StageMap};
use plan::{MicrobatchShape, Recompute, Shards, shard_costs, stage_costs};
use schedule::{Backward, InputLayer, Kind, Spec, Vocabulary, VocabularyAlgorithm, generate};
use simulate::{Category, Costs, ShardCost, StageCost, simulate};

const SHAPE: MicrobatchShape = MicrobatchShape { rows: 2, tokens: 5 };

/// Widths 6 (hidden), 8 (queries: 2 heads of 4), 4 (keys: 1 head), 11 (MLP), 13 (vocabulary).
fn model(layers: usize, tied: bool) -> Architecture {
    let text = format!(
        r#"{{"model_type": "llama", "hidden_size": 6, "num_hidden_layers": {layers}, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 11, "vocab_size": 13,
            "tie_word_embeddings": {tied}}}"#
    );
    from_config_json(&text).expect("a valid configuration")
}

fn costs(architecture: &Architecture, sizes: &[usize], recompute: Recompute) -> Vec<StageCost> {
    let partition = Partition::new(architecture, sizes).expect("a valid partition");
    stage_costs(architecture, &partition, SHAPE, &vec![recompute; sizes.len()], None, 1e3)
}

#[test]
fn times() {
    let model = model(1, false);
    let stages = costs(&model, &[1, 1, 1, 1], Recompute::Full);
    // 10 tokens. Attention: 2 x (6x8 + 2 x 6x4 + 8x6) per token, and two products of 2 x 2 rows x 2 heads x 4 x 15 pairs.
    // MLP: 2 x 3 x 6x11. Head: 2 x 6x13.
    let products = [0.0, 2880.0, 3960.0, 1560.0];
    let core = [0.0, 960.0, 0.0, 0.0];
    for (i, stage) in stages.iter().enumerate() {
        let (products, core) = (products[i] / 1e3, core[i] / 1e3);
        if i == 3 {
            // A head makes all three products in its input pass.
            assert_eq!([stage.forward_s, stage.recompute_s, stage.backward_weight_s], [0.0; 3]);
            assert_eq!([stage.backward_input_s, stage.backward_s], [3.0 * products; 2]);
            continue;
        }
        assert_eq!(stage.forward_s, products + core, "stage {i}");
        assert_eq!(stage.recompute_s, stage.forward_s, "stage {i}");
        assert_eq!(stage.backward_input_s, products + 2.0 * core, "stage {i}");
        assert_eq!(stage.backward_weight_s, products, "stage {i}");
        assert_eq!(stage.backward_s, 2.0 * (products + core), "stage {i}");
    }
    assert!(costs(&model, &[4], Recompute::None).iter().all(|stage| stage.recompute_s == 0.0));
}

/// Bytes of one MLP and of one head, element by element for 10 tokens.
#[test]
fn bytes_by_hand() {
    let model = model(1, false);
    let kept = costs(&model, &[2, 1, 1], Recompute::None);
    let [mlp, head] = [&kept[1], &kept[2]];
    let mlp_parameters = 6 + 3 * 6 * 11;
    // Norm input 6 and scale 1, projections' input 6, gate, up and product 11 each.
    assert_eq!(mlp.activation_bytes, 4 * 10 * (6 + 1 + 6 + 33));
    // Inputs 6 and 11, output gradients 11, 11 and 6.
    assert_eq!(mlp.weight_grad_bytes, 4 * 10 * (6 + 11 + 11 + 11 + 6));
    // Gradients of the residual, product, gate and up.
    assert_eq!(mlp.backward_scratch, [(Category::Buffers, 4 * 10 * (6 + 33))]);
    assert_eq!(
        mlp.resident,
        [
            (Category::Weights, 4 * mlp_parameters),
            (Category::Gradients, 4 * mlp_parameters),
            (Category::Optimizer, 8 * mlp_parameters)
        ]
    );
    // Hidden states, positions, documents, targets, weights.
    assert_eq!(mlp.carry_bytes, 4 * 10 * (6 + 4));
    // Norm input 6 and scale 1, product's input 6.
    assert_eq!((head.activation_bytes, head.logit_bytes), (4 * 10 * (6 + 1 + 6), 0));
    // Logits 13, and the gradient of the product's input.
    assert_eq!(head.backward_scratch, [(Category::Logits, 4 * 10 * (13 + 6))]);
    assert_eq!(head.carry_bytes, 0);
    // Beside what is kept lies the last product's result of 6, to which the residual is added.
    assert_eq!(mlp.forward_scratch, [(Category::Activations, 4 * 10 * 6)]);
    assert_eq!(head.forward_scratch, []);
    assert_eq!(kept[0].forward_scratch, [(Category::Activations, 4 * 10 * 6)]);
    // Twice the hidden 6, the core's 8, the keys' 4, the norm's scale, 2 heads' 2 sums, and the angles' 2 x 2 cosines and
    // sines.
    assert_eq!(kept[0].activation_bytes, 4 * 10 * (2 * (6 + 8 + 4) + 1 + 4 + 4));

    let again = costs(&model, &[2, 1, 1], Recompute::Full);
    assert_eq!(again[0].activation_bytes, 4 * 10 * 5, "ids and their companions");
    assert_eq!(again[2].activation_bytes, 4 * 10 * (6 + 4));
    let scratch = [(Category::Activations, 4 * 10 * (1 + 6)), (Category::Logits, 4 * 10 * (13 + 6))];
    assert_eq!(again[2].backward_scratch, scratch);
}

/// A tied matrix is held once where both ends are on one stage, and twice otherwise.
#[test]
fn tied_weights() {
    let parameters = |tied, sizes: &[usize]| -> u64 {
        costs(&model(1, tied), sizes, Recompute::None).iter().map(|stage| stage.resident[0].1 / 4).sum()
    };
    let n = model(1, true).n_parameters() as u64;
    assert_eq!(parameters(true, &[4]), n);
    assert_eq!(parameters(true, &[2, 2]), n + 13 * 6);
    assert_eq!(parameters(false, &[2, 2]), n + 13 * 6);
}

/// Peak activations in microbatches: GPipe keeps all of them (Huang et al. 2019), 1F1B at most as many as there are
/// stages from this one on (Narayanan et al. 2021); recomputation keeps inputs and one microbatch's inside.
#[test]
fn peaks_of_schedules() {
    let (n_stages, n_microbatches) = (4, 7);
    let model = model(5, false);
    for kind in [Kind::Gpipe, Kind::OneFOneB] {
        for recompute in [Recompute::None, Recompute::Full] {
            let stages = costs(&model, &[3; 4], recompute);
            let spec = Spec { kind, backward: Backward::Fused };
            let route = StageMap::one_per_rank(n_stages).route();
            let schedule = generate(spec, &route, n_microbatches, &[]).expect("a schedule");
            let costs = Costs { stages: stages.clone(), ..Costs::default() };
            let timeline = simulate(&schedule, &costs).expect("a timeline");
            for (rank, stage) in stages.iter().enumerate() {
                let in_flight = match kind {
                    Kind::Gpipe => n_microbatches,
                    _ => n_microbatches.min(n_stages - rank),
                };
                // What a forward or a backward holds while it runs, beside what it keeps.
                let most = |wanted| {
                    let of = |list: &[(Category, u64)]| -> u64 {
                        list.iter().filter(|(category, _)| *category == wanted).map(|(_, bytes)| bytes).sum()
                    };
                    of(&stage.forward_scratch).max(of(&stage.backward_scratch))
                };
                let peak = timeline.peak_by_category(Rank(rank));
                let wanted = in_flight as u64 * stage.activation_bytes + most(Category::Activations);
                assert_eq!(peak[Category::Activations as usize], wanted, "{kind:?} {recompute:?} rank {rank}");
                assert_eq!(peak[Category::Weights as usize], stage.resident[0].1);
                let logits = in_flight as u64 * stage.logit_bytes + most(Category::Logits);
                assert_eq!(peak[Category::Logits as usize], logits);
            }
        }
    }
}

/// Thirteen rows over four ranks: 4, 3, 3, 3. Whatever is cut, all ranks together do the head's three products and hold
/// every parameter once, and the stages the rest.
#[test]
fn shards_by_hand() {
    for tied in [false, true] {
        for input in [InputLayer::FirstStage, InputLayer::Sharded] {
            for algorithm in [VocabularyAlgorithm::OneBarrier, VocabularyAlgorithm::TwoBarriers] {
                let model = model(1, tied);
                let shards = Shards { vocabulary: Vocabulary { algorithm, input }, n_ranks: 4 };
                let of_ranks = shard_costs(&model, SHAPE, shards, 1e3);
                let forward_products = if algorithm == VocabularyAlgorithm::OneBarrier { 2.0 } else { 1.0 };
                for (cost, rows) in of_ranks.iter().zip([4, 3, 3, 3]) {
                    let product_s = (2 * 10 * 6 * rows) as f64 / 1e3;
                    assert_eq!(cost.forward_s, forward_products * product_s);
                    assert_eq!(cost.forward_s + cost.backward_s, 3.0 * product_s);
                    assert_eq!(cost.logit_bytes, 4 * 10 * (6 + rows));
                    // Of 10 tokens, the thirteenth parts that lie here.
                    let looked_up = 4 * (10 * 6 * rows / 13);
                    assert_eq!((cost.hidden_bytes, cost.statistics_bytes), (4 * 10 * (6 + 2), 4 * 10 * 3));
                    let (part, scratch) = match algorithm {
                        VocabularyAlgorithm::OneBarrier => (4 * 10 * 6 + looked_up, [4 * 10 * 6, 0]),
                        VocabularyAlgorithm::TwoBarriers => (4 * 10 * 6, [0, 4 * 10 * 6]),
                    };
                    assert_eq!(cost.hidden_gradient_bytes, part);
                    assert_eq!([cost.forward_scratch_bytes, cost.backward_scratch_bytes], scratch);
                    assert_eq!(cost.embedded_bytes, if input == InputLayer::Sharded { looked_up } else { 0 });
                }

                let partition = Partition::new(&model, &[1, 1, 1, 1]).expect("a valid partition");
                let stages = stage_costs(&model, &partition, SHAPE, &[Recompute::None; 4], Some(shards), 1e3);
                let whole = costs(&model, &[1, 1, 1, 1], Recompute::None);
                assert_eq!(stages[1..3], whole[1..3], "the blocks between");
                assert_eq!([stages[3].forward_s, stages[3].backward_s], [0.0; 2]);
                // The norm's input and one number per token.
                assert_eq!((stages[3].activation_bytes, stages[3].logit_bytes), (4 * 10 * 7, 0));
                assert_eq!(stages[3].weight_grad_bytes, 0);
                let held = |resident: &[(Category, u64)]| resident.first().map_or(0, |(_, bytes)| bytes / 4);
                let of_stages: u64 = stages.iter().map(|stage| held(&stage.resident)).sum();
                let of_shards: u64 = of_ranks.iter().map(|cost: &ShardCost| held(&cost.resident)).sum();
                // Where the head alone is cut, a tied matrix is whole on the first stage too.
                let twice = if tied && input == InputLayer::FirstStage { 13 * 6 } else { 0 };
                assert_eq!(of_stages + of_shards, model.n_parameters() as u64 + twice, "{tied} {input:?}");
            }
        }
    }
    let vocabulary = Vocabulary { algorithm: VocabularyAlgorithm::OneBarrier, input: InputLayer::Sharded };
    let empty = shard_costs(&model(1, false), SHAPE, Shards { vocabulary, n_ranks: 14 }, 1e3).swap_remove(13);
    let told = ShardCost { hidden_bytes: 4 * 10 * (6 + 2), statistics_bytes: 4 * 10 * 3, ..ShardCost::default() };
    assert_eq!(empty, told);
}
