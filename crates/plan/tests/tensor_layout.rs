//! Layouts by names and shapes against layouts by hand.

use architecture::{Block, from_config_json};
use plan::{Along, NamedWeight, Placement, tensor_layout};

/// One layer of a family: names, shapes and which dim is the input; then where each lies on two ranks.
fn check(family: &str, input_dim: usize, weights: &[(&str, &[usize], Placement)]) {
    let named: Vec<NamedWeight> = weights
        .iter()
        .map(|(name, shape, _)| NamedWeight { name: (*name).to_owned(), shape: shape.to_vec(), input_dim })
        .collect();
    for ((name, _, wanted), found) in weights.iter().zip(tensor_layout(&named, 2)) {
        assert_eq!(found, *wanted, "{family}: {name}");
    }
}

const WHOLE: Placement = Placement::Replicated;
/// Of PyTorch's `[outputs, inputs]`.
const OUTPUTS: Placement = Placement::Shard { dim: 0, along: Along::Outputs };
const INPUTS: Placement = Placement::Shard { dim: 1, along: Along::Inputs };
const ROWS: Placement = Placement::Shard { dim: 0, along: Along::Rows };

#[test]
fn llama_qwen_mixtral() {
    check(
        "LLaMA",
        1,
        &[
            ("model.embed_tokens.weight", &[32000, 64], ROWS),
            ("model.layers.0.input_layernorm.weight", &[64], WHOLE),
            ("model.layers.0.self_attn.q_proj.weight", &[64, 64], OUTPUTS),
            ("model.layers.0.self_attn.k_proj.weight", &[32, 64], OUTPUTS),
            ("model.layers.0.self_attn.v_proj.weight", &[32, 64], OUTPUTS),
            ("model.layers.0.self_attn.o_proj.weight", &[64, 64], INPUTS),
            ("model.layers.0.mlp.gate_proj.weight", &[172, 64], OUTPUTS),
            ("model.layers.0.mlp.up_proj.weight", &[172, 64], OUTPUTS),
            ("model.layers.0.mlp.down_proj.weight", &[64, 172], INPUTS),
            ("lm_head.weight", &[32000, 64], OUTPUTS),
        ],
    );
    check(
        "Qwen2",
        1,
        &[
            ("model.embed_tokens.weight", &[151936, 896], ROWS),
            ("model.layers.0.self_attn.q_proj.weight", &[896, 896], OUTPUTS),
            ("model.layers.0.self_attn.q_proj.bias", &[896], WHOLE),
            ("model.layers.0.self_attn.k_proj.weight", &[128, 896], OUTPUTS),
            ("model.layers.0.self_attn.v_proj.weight", &[128, 896], OUTPUTS),
            ("model.layers.0.self_attn.o_proj.weight", &[896, 896], INPUTS),
            ("model.layers.0.mlp.gate_proj.weight", &[4864, 896], OUTPUTS),
            ("model.layers.0.mlp.down_proj.weight", &[896, 4864], INPUTS),
        ],
    );
    check(
        "Mixtral",
        1,
        &[
            ("model.layers.0.self_attn.q_proj.weight", &[4096, 4096], OUTPUTS),
            ("model.layers.0.self_attn.o_proj.weight", &[4096, 4096], INPUTS),
            ("model.layers.0.block_sparse_moe.gate.weight", &[8, 4096], WHOLE),
            ("model.layers.0.block_sparse_moe.experts.0.w1.weight", &[14336, 4096], OUTPUTS),
            ("model.layers.0.block_sparse_moe.experts.0.w2.weight", &[4096, 14336], INPUTS),
            ("model.layers.0.block_sparse_moe.experts.0.w3.weight", &[14336, 4096], OUTPUTS),
        ],
    );
}

#[test]
fn gpt2_gptj_opt_t5() {
    // GPT-2 stores [inputs, outputs]; 50257 rows do not divide by two.
    check(
        "GPT-2",
        0,
        &[
            ("wte.weight", &[50257, 768], Placement::Shard { dim: 1, along: Along::Width }),
            ("wpe.weight", &[1024, 768], ROWS),
            ("h.0.ln_1.weight", &[768], WHOLE),
            ("h.0.attn.c_attn.weight", &[768, 2304], Placement::Shard { dim: 1, along: Along::Outputs }),
            ("h.0.attn.c_proj.weight", &[768, 768], Placement::Shard { dim: 0, along: Along::Inputs }),
            ("h.0.mlp.c_fc.weight", &[768, 3072], Placement::Shard { dim: 1, along: Along::Outputs }),
            ("h.0.mlp.c_proj.weight", &[3072, 768], Placement::Shard { dim: 0, along: Along::Inputs }),
        ],
    );
    check(
        "GPT-J",
        1,
        &[
            ("transformer.wte.weight", &[50400, 4096], ROWS),
            ("transformer.h.0.attn.q_proj.weight", &[4096, 4096], OUTPUTS),
            ("transformer.h.0.attn.k_proj.weight", &[4096, 4096], OUTPUTS),
            ("transformer.h.0.attn.v_proj.weight", &[4096, 4096], OUTPUTS),
            ("transformer.h.0.attn.out_proj.weight", &[4096, 4096], INPUTS),
            ("transformer.h.0.mlp.fc_in.weight", &[16384, 4096], OUTPUTS),
            ("transformer.h.0.mlp.fc_out.weight", &[4096, 16384], INPUTS),
            ("lm_head.weight", &[50400, 4096], OUTPUTS),
            ("lm_head.bias", &[50400], WHOLE),
        ],
    );
    check(
        "OPT",
        1,
        &[
            ("model.decoder.embed_tokens.weight", &[50272, 768], ROWS),
            ("model.decoder.embed_positions.weight", &[2050, 768], ROWS),
            ("model.decoder.layers.0.self_attn.k_proj.weight", &[768, 768], OUTPUTS),
            ("model.decoder.layers.0.self_attn.v_proj.weight", &[768, 768], OUTPUTS),
            ("model.decoder.layers.0.self_attn.q_proj.weight", &[768, 768], OUTPUTS),
            ("model.decoder.layers.0.self_attn.out_proj.weight", &[768, 768], INPUTS),
            ("model.decoder.layers.0.fc1.weight", &[3072, 768], OUTPUTS),
            ("model.decoder.layers.0.fc2.weight", &[768, 3072], INPUTS),
        ],
    );
    check(
        "T5",
        1,
        &[
            ("shared.weight", &[32128, 512], ROWS),
            ("encoder.block.0.layer.0.SelfAttention.q.weight", &[512, 512], OUTPUTS),
            ("encoder.block.0.layer.0.SelfAttention.k.weight", &[512, 512], OUTPUTS),
            ("encoder.block.0.layer.0.SelfAttention.v.weight", &[512, 512], OUTPUTS),
            ("encoder.block.0.layer.0.SelfAttention.o.weight", &[512, 512], INPUTS),
            ("encoder.block.0.layer.1.DenseReluDense.wi.weight", &[2048, 512], OUTPUTS),
            ("encoder.block.0.layer.1.DenseReluDense.wo.weight", &[512, 2048], INPUTS),
        ],
    );
}

/// Names that say nothing alternate as data flows: GPT-NeoX's are dense, dense_h_to_4h, dense_4h_to_h.
#[test]
fn unknown_names_alternate() {
    check(
        "GPT-NeoX",
        1,
        &[
            ("gpt_neox.layers.0.attention.query_key_value.weight", &[192, 64], OUTPUTS),
            ("gpt_neox.layers.0.attention.dense.weight", &[64, 64], INPUTS),
            ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", &[256, 64], OUTPUTS),
            ("gpt_neox.layers.0.mlp.dense_4h_to_h.weight", &[64, 256], INPUTS),
        ],
    );
}

/// Files list weights by the alphabet: which product is the last of its half-layer then follows from shapes, from other names in its
/// module, and from its path. BERT calls three products `dense`; stacked experts have their inputs first in some families.
#[test]
fn any_order_of_names() {
    check(
        "GPT-NeoX",
        1,
        &[
            ("gpt_neox.embed_in.weight", &[50432, 64], ROWS),
            ("gpt_neox.layers.0.attention.dense.weight", &[64, 64], INPUTS),
            ("gpt_neox.layers.0.attention.query_key_value.weight", &[192, 64], OUTPUTS),
            ("gpt_neox.layers.0.mlp.dense_4h_to_h.weight", &[64, 256], INPUTS),
            ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", &[256, 64], OUTPUTS),
        ],
    );
    check(
        "BERT",
        1,
        &[
            ("bert.embeddings.position_embeddings.weight", &[512, 64], ROWS),
            ("bert.embeddings.word_embeddings.weight", &[30522, 64], ROWS),
            ("bert.encoder.layer.0.attention.output.dense.weight", &[64, 64], INPUTS),
            ("bert.encoder.layer.0.attention.self.key.weight", &[64, 64], OUTPUTS),
            ("bert.encoder.layer.0.attention.self.query.weight", &[64, 64], OUTPUTS),
            ("bert.encoder.layer.0.intermediate.dense.weight", &[256, 64], OUTPUTS),
            ("bert.encoder.layer.0.output.dense.weight", &[64, 256], INPUTS),
        ],
    );
    check(
        "stacked experts",
        1,
        &[
            ("model.embed_tokens.weight", &[32000, 64], ROWS),
            ("model.layers.0.mlp.experts.down_proj", &[8, 96, 64], Placement::Shard { dim: 1, along: Along::Inputs }),
            (
                "model.layers.0.mlp.experts.gate_up_proj",
                &[8, 64, 192],
                Placement::Shard { dim: 2, along: Along::Outputs },
            ),
            ("model.layers.0.mlp.router.weight", &[8, 64], WHOLE),
            ("model.layers.0.conv1d.weight", &[64, 1, 4], WHOLE),
        ],
    );
}

/// On a Llama that this program trains: columns for all inputs of a half-layer, rows for its output (Shoeybi et al., 2019).
#[test]
fn megatron_on_llama() {
    let config = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 128, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64}"#;
    let llama = from_config_json(config).expect("a Llama");
    let weights: Vec<NamedWeight> = llama
        .all_weights()
        .into_iter()
        .map(|weight| NamedWeight { name: weight.name, shape: weight.shape, input_dim: 1 })
        .collect();
    let of = |n_shards: usize, part: &str| {
        let layout = tensor_layout(&weights, n_shards);
        let named = weights.iter().zip(layout).filter(|(weight, _)| weight.name.split('.').any(|of| of == part));
        let found: Vec<Placement> = named.map(|(_, placement)| placement).collect();
        assert!(!found.is_empty() && found.iter().all(|one| *one == found[0]), "{part}: {found:?}");
        found[0]
    };
    for (key, wanted) in [
        ("embed_tokens", ROWS),
        ("q_proj", OUTPUTS),
        ("k_proj", OUTPUTS),
        ("v_proj", OUTPUTS),
        ("o_proj", INPUTS),
        ("gate_proj", OUTPUTS),
        ("up_proj", OUTPUTS),
        ("down_proj", INPUTS),
        ("lm_head", OUTPUTS),
        ("norm", WHOLE),
    ] {
        assert_eq!(of(2, key), wanted, "{key}");
    }
    assert_eq!(llama.blocks().len(), 2 + 2 * 2, "{:?}", Block::Head);
    // More shards than key and value rows divide into: whole, not cut wrongly.
    assert_eq!(of(3, "k_proj"), WHOLE);
}
