//! Costs against published formulas and against products listed by hand.

use architecture::{Architecture, Block, Role, from_config_json};

fn model(sizes: [usize; 7], more: &str) -> Architecture {
    let [hidden, layers, heads, kv_heads, head_dim, ff, vocab] = sizes;
    let text = format!(
        r#"{{"model_type": "llama", "hidden_size": {hidden}, "num_hidden_layers": {layers},
            "num_attention_heads": {heads}, "num_key_value_heads": {kv_heads}, "head_dim": {head_dim},
            "intermediate_size": {ff}, "vocab_size": {vocab}{more}}}"#
    );
    from_config_json(&text).unwrap_or_else(|e| panic!("{e}"))
}

/// Narayanan et al. 2021 (Megatron-LM), equation 2 without recomputation: `72 B s l h^2 (1 + s/6h + V/12lh)` for a model
/// whose MLP has `8 h^2` elements a layer, as SwiGLU has with `ff = 8 h / 3`. It counts attention without a mask.
#[test]
fn megatron_formula() {
    for (b, s, l, h, v) in [(1, 7, 1, 12, 31), (3, 64, 5, 96, 211), (4, 2048, 32, 3072, 50304)] {
        let model = model([h, l, h / 6, h / 6, 6, 8 * h / 3, v], "");
        let total: u64 = model
            .blocks()
            .into_iter()
            .map(|block| {
                let c = model.cost(block, b, s);
                c.forward_flops
                    + c.backward_input_flops
                    + c.backward_weight_flops
                    + c.attention_forward.full
                    + c.attention_backward.full
            })
            .sum();
        let [b, s, l, h, v] = [b, s, l, h, v].map(|n| n as u64);
        assert_eq!(total, 72 * b * s * l * h * h + 12 * b * s * s * l * h + 6 * b * s * h * v);
    }
}

/// Chowdhery et al. 2022 (PaLM), appendix B: `6 N + 12 L H Q T` per token, halved up to the diagonal by the mask; N of
/// Llama-2-7b from its published count less the embedding and 65 norms.
#[test]
fn palm_formula() {
    let llama = model([4096, 32, 32, 32, 128, 11008, 32000], "");
    let n: u64 = 6_738_415_616 - 32000 * 4096 - 65 * 4096;
    for t in [1, 5, 4096] {
        let wanted = 6 * n + 6 * 32 * 32 * 128 * (t + 1);
        assert_eq!(llama.training_flops_per_token(t as usize), wanted as f64);
    }
}

#[test]
fn products_and_queues_listed_by_hand() {
    let (rows, tokens) = (2, 5);
    let n = (rows * tokens) as u64;
    let (d, heads, kv_heads, head_dim, ff, v) = (7, 6, 3, 4, 11, 13);
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let model = model([7, 1, 6, 3, 4, 11, 13], r#", "attention_bias": true, "tie_word_embeddings": true"#);
    // [in, out] of every product; inputs that are kept, each once.
    let cases = [
        (Block::Embedding, vec![], vec![]),
        (Block::Attention(0), vec![(d, q), (d, kv), (d, kv), (q, d)], vec![d, q]),
        (Block::Mlp(0), vec![(d, ff), (d, ff), (ff, d)], vec![d, ff]),
        (Block::Head, vec![(d, v)], vec![d]),
    ];
    for (block, products, inputs) in cases {
        let cost = model.cost(block, rows, tokens);
        let flops: u64 = products.iter().map(|(input, output)| 2 * n * input * output).sum();
        assert_eq!([cost.forward_flops, cost.backward_input_flops, cost.backward_weight_flops], [flops; 3], "{block}");
        let outputs: u64 = products.iter().map(|(_, output)| output).sum();
        // The logits' gradient lies in the logits' place.
        let logits = if block == Block::Head { v } else { 0 };
        assert_eq!(cost.logit_elements, n * logits, "{block}");
        let queued = n * (outputs - logits + inputs.iter().sum::<u64>());
        assert_eq!(cost.weight_gradient_elements, queued, "{block}");
        let elements: u64 = model.weights(block).iter().map(|w| w.n_elements() as u64).sum();
        assert_eq!(cost.weight_elements, elements, "{block}");
    }
    assert!(model.weights(Block::Attention(0)).iter().any(|weight| weight.role == Role::Bias));

    let core = model.cost(Block::Attention(0), rows, tokens);
    let pairs = (0..tokens).flat_map(|query| (0..tokens).map(move |key| (query, key)));
    let causal = pairs.clone().filter(|(query, key)| key <= query).count() as u64;
    let product = 2 * rows as u64 * heads * head_dim;
    assert_eq!((core.attention_forward.full, core.attention_forward.causal), (2 * product * 25, 2 * product * causal));
    assert_eq!(
        (core.attention_backward.full, core.attention_backward.causal),
        (4 * product * 25, 4 * product * causal)
    );
    assert_eq!(pairs.count(), 25);
}

#[test]
fn carries_and_states() {
    let model = model([7, 2, 6, 3, 4, 11, 13], "");
    let names = |carry: architecture::Carry| -> Vec<&str> { carry.0.iter().map(|tensor| tensor.name).collect() };
    assert_eq!(names(model.carry_in()), ["ids", "positions", "documents", "targets", "weights"]);
    assert_eq!(names(model.carry_after(Block::Mlp(0))), ["hidden", "positions", "documents", "targets", "weights"]);
    assert_eq!(names(model.carry_after(Block::Head)), [""; 0]);
    // 7 hidden numbers and 4 companions for each of 3 x 5 tokens.
    assert_eq!(model.cost(Block::Attention(1), 3, 5).carry_elements, 15 * (7 + 4));
    let differentiable: Vec<&str> = model
        .carry_after(Block::Embedding)
        .0
        .iter()
        .filter(|tensor| tensor.differentiable)
        .map(|tensor| tensor.name)
        .collect();
    assert_eq!(differentiable, ["hidden"]);

    let state = model.state(Block::Attention(1));
    let tensors: Vec<(&str, &[usize])> = state.0.iter().map(|t| (t.name.as_str(), t.inner.as_slice())).collect();
    assert_eq!(tensors, [("keys 1", [3, 4].as_slice()), ("values 1", &[3, 4])]);
    assert!([Block::Embedding, Block::Mlp(1), Block::Head].iter().all(|&block| model.state(block).0.is_empty()));
}
