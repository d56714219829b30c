//! `config.json` of the families beside Llama: what is read, and what is refused by name.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

use architecture::{Architecture, ArchitectureError, Family, Positions, Rope, RopeScaling, Sliding, from_config_json};
use serde_json::{Value, json};

/// A small valid configuration of a family with `changes` made to it.
fn config(family: Family, changes: Value) -> String {
    let mut config = match family {
        Family::Gpt2 => json!({"n_embd": 24, "n_layer": 4, "n_head": 6, "vocab_size": 101, "n_positions": 64}),
        _ => json!({
            "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 3,
            "head_dim": 4, "intermediate_size": 31, "vocab_size": 101, "max_position_embeddings": 64,
        }),
    };
    config["model_type"] = json!(family.model_type());
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config.to_string()
}

#[track_caller]
fn read(family: Family, changes: Value) -> Architecture {
    from_config_json(&config(family, changes)).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn refused(family: Family, changes: Value, wanted: &str) {
    match from_config_json(&config(family, changes)) {
        Ok(found) => panic!("accepted as {found:?}"),
        Err(ArchitectureError::Config(problems)) => {
            let problems: Vec<String> = problems.iter().map(|problem| problem.to_string()).collect();
            assert_eq!(problems, [wanted]);
        }
        Err(other) => panic!("{other}"),
    }
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

#[test]
fn refusals() {
    use Family::*;
    let unknown = "but this field is not supported";
    let alternating = json!([SLIDING, FULL, SLIDING, FULL]);
    let table = [
        (Mistral, json!({"hidden_act": "gelu"}), r#"`hidden_act`: found "gelu", but only "silu" is supported"#.to_owned()),
        (Mistral, json!({"attention_bias": true}), "`attention_bias`: found true, but only false is supported".into()),
        (Mistral, json!({"attention_dropout": 0.1}), "`attention_dropout`: found 0.1, but only 0 is supported".into()),
        (Mistral, json!({"sliding_window": 0}), "`sliding_window`: found 0, but it must be at least 1".into()),
        (
            Mistral,
            json!({"sliding_window": -4}),
            "`sliding_window`: found -4, but it must be a whole number of at least 1".into(),
        ),
        (Mistral, json!({"layer_types": alternating}), format!("`layer_types`: found {alternating}, {unknown}")),
        (Mistral, json!({"use_sliding_window": true}), "`use_sliding_window`: found true, but only false is supported".into()),
        (Mistral, json!({"num_local_experts": 8}), format!("`num_local_experts`: found 8, {unknown}")),
        (Qwen2, json!({"attention_bias": false}), "`attention_bias`: found false, but only true is supported".into()),
        (Qwen2, json!({"mlp_bias": true}), "`mlp_bias`: found true, but only false is supported".into()),
        (Qwen2, json!({"use_sliding_window": 1}), "`use_sliding_window`: found 1, but it must be true or false".into()),
        (
            Qwen2,
            json!({"layer_types": alternating}),
            format!(
                "`layer_types`: found \"{SLIDING}\", but layers of type \"{SLIDING}\" need `sliding_window`, switched on \
                 where it has a switch"
            ),
        ),
        (
            Qwen2,
            json!({"use_sliding_window": true, "layer_types": [SLIDING, FULL]}),
            "`layer_types`: found 2, but there must be one for each of the 4 layers".into(),
        ),
        (
            Qwen3,
            json!({"use_sliding_window": true, "layer_types": ["linear_attention", FULL, FULL, FULL]}),
            format!(
                "`layer_types`: found [\"linear_attention\",\"{FULL}\",\"{FULL}\",\"{FULL}\"], but it must be a list of \
                 \"{FULL}\" and \"{SLIDING}\""
            ),
        ),
        (Qwen3, json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}),
            r#"`rope_scaling.rope_type`: found "yarn", but only "default", "linear" and "llama3" are supported"#.into()),
        (Qwen3, json!({"head_dim": 5}),
            "`head_dim`: found 5, but rotary embedding turns pairs, so it must be even and at least 2".into()),
        (Qwen3, json!({"num_experts": 8}), format!("`num_experts`: found 8, {unknown}")),
        (Gemma3, json!({"hidden_activation": "gelu"}),
            r#"`hidden_activation`: found "gelu", but only "gelu_pytorch_tanh" is supported"#.into()),
        (Gemma3, json!({"final_logit_softcapping": 30.0}), format!("`final_logit_softcapping`: found 30.0, {unknown}")),
        (Gemma3, json!({"attn_logit_softcapping": 50.0}), format!("`attn_logit_softcapping`: found 50.0, {unknown}")),
        (Gemma3, json!({"use_bidirectional_attention": true}),
            "`use_bidirectional_attention`: found true, but only false is supported".into()),
        (Gemma3, json!({"query_pre_attn_scalar": 0}),
            "`query_pre_attn_scalar`: found 0, but it must be positive and finite".into()),
        (Gemma3, json!({"rope_local_base_freq": -1}),
            "`rope_local_base_freq`: found -1, but it must be positive and finite".into()),
        (Gemma3, json!({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}),
            "`rope_scaling.factor`: found 0.5, but it must be at least 1 and finite".into()),
        (Gemma3, json!({"rope_parameters": {FULL: {"rope_type": "linear", "factor": 0.5}}}),
            "`rope_parameters.full_attention.factor`: found 0.5, but it must be at least 1 and finite".into()),
        (Gemma3, json!({"rope_parameters": {SLIDING: {"rope_type": "linear", "factor": 2.0}}}),
            "`rope_parameters.sliding_attention.rope_type`: found \"linear\", but only \"default\" is supported in layers \
             with a window".into()),
        (Gemma3, json!({"rope_parameters": {"rope_theta": 5.0}}),
            "`rope_parameters.rope_theta`: found 5.0, but only \"full_attention\" and \"sliding_attention\" may stand here"
                .into()),
        (Gemma3, json!({"rope_theta": 7.0, "rope_parameters": {FULL: {"rope_theta": 5.0}}}),
            "`rope_theta`: found 5.0, but the base is also given as 7; keep one of them".into()),
        (Gemma3, json!({"rope_local_base_freq": 7.0, "rope_parameters": {SLIDING: {"rope_theta": 5.0}}}),
            "`rope_local_base_freq`: found 5.0, but the base is also given as 7; keep one of them".into()),
        (Gemma3, json!({"sliding_window": null}),
            format!(
                "`layer_types`: found \"{SLIDING}\", but layers of type \"{SLIDING}\" need `sliding_window`, switched on \
                 where it has a switch"
            )),
        (Phi3, json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0]}}),
            r#"`rope_scaling.rope_type`: found "longrope", but only "default", "linear" and "llama3" are supported"#.into()),
        (Phi3, json!({"partial_rotary_factor": 0.75}), "`partial_rotary_factor`: found 0.75, but only 1 is supported".into()),
        (Phi3, json!({"resid_pdrop": 0.1}), "`resid_pdrop`: found 0.1, but only 0 is supported".into()),
        (Phi3, json!({"auto_map": {"AutoModelForCausalLM": "other.Model"}}),
            format!("`auto_map`: found {{\"AutoModelForCausalLM\":\"other.Model\"}}, {unknown}")),
        (Gpt2, json!({"activation_function": "relu"}),
            r#"`activation_function`: found "relu", but only "gelu_new" is supported"#.into()),
        (Gpt2, json!({"n_head": 5}), "`n_embd`: found 24, but it must be a multiple of `n_head`, which is 5".into()),
        (Gpt2, json!({"n_embd": "24"}), "`n_embd`: found \"24\", but it must be a whole number of at least 1".into()),
        (Gpt2, json!({"n_inner": 0}), "`n_inner`: found 0, but it must be at least 1".into()),
        (Gpt2, json!({"layer_norm_epsilon": 0}), "`layer_norm_epsilon`: found 0, but it must be positive and finite".into()),
        (Gpt2, json!({"scale_attn_weights": false}), "`scale_attn_weights`: found false, but only true is supported".into()),
        (Gpt2, json!({"scale_attn_by_inverse_layer_idx": true}),
            "`scale_attn_by_inverse_layer_idx`: found true, but only false is supported".into()),
        (Gpt2, json!({"reorder_and_upcast_attn": true}),
            "`reorder_and_upcast_attn`: found true, but only false is supported".into()),
        (Gpt2, json!({"add_cross_attention": true}), "`add_cross_attention`: found true, but only false is supported".into()),
        (Gpt2, json!({"resid_pdrop": 1.5}), format!("`resid_pdrop`: found 1.5, {unknown}")),
        (Gpt2, json!({"rope_theta": 1e4}), format!("`rope_theta`: found 10000.0, {unknown}")),
        (Gpt2, json!({"num_key_value_heads": 2}), format!("`num_key_value_heads`: found 2, {unknown}")),
        (Gpt2, json!({"hidden_size": 24}), format!("`hidden_size`: found 24, {unknown}")),
        (Olmo2, json!({"sliding_window": 5}), format!("`sliding_window`: found 5, {unknown}")),
        (Olmo2, json!({"clip_qkv": 8.0}), format!("`clip_qkv`: found 8.0, {unknown}")),
        (Olmo2, json!({"attention_bias": null}), "`attention_bias`: found null, but it must be true or false".into()),
        (Olmo2, json!({"num_key_value_heads": 4}),
            "`num_key_value_heads`: found 4, but it must divide `num_attention_heads`, which is 6".into()),
        (Olmo2, json!({"architectures": ["OlmoForCausalLM"]}),
            "`architectures`: found [\"OlmoForCausalLM\"], but of models of type \"olmo2\", only [\"Olmo2ForCausalLM\"] is \
             supported".into()),
    ];
    for (family, changes, wanted) in table {
        refused(family, changes, &wanted);
    }
}

#[test]
fn windows() {
    let windows =
        |architecture: &Architecture| -> Vec<Option<usize>> { (0..4).map(|n| architecture.window(n)).collect() };
    let table = [
        (Family::Llama, json!({}), [None; 4]),
        (Family::Mistral, json!({}), [Some(4096); 4]),
        (Family::Mistral, json!({"sliding_window": 5}), [Some(5); 4]),
        (Family::Mistral, json!({"sliding_window": null}), [None; 4]),
        (Family::Phi3, json!({}), [None; 4]),
        (Family::Phi3, json!({"sliding_window": 5}), [Some(5); 4]),
        (Family::Qwen2, json!({"sliding_window": 5}), [None; 4]),
        (Family::Qwen2, json!({"sliding_window": 5, "use_sliding_window": true}), [None; 4]),
        (
            Family::Qwen2,
            json!({"sliding_window": 5, "use_sliding_window": true, "max_window_layers": 3}),
            [None, None, None, Some(5)],
        ),
        (
            Family::Qwen3,
            json!({"sliding_window": 5, "use_sliding_window": true, "max_window_layers": 1,
                "layer_types": [SLIDING, FULL, FULL, SLIDING]}),
            [Some(5), None, None, Some(5)],
        ),
        (Family::Gemma3, json!({}), [Some(4096); 4]),
        (Family::Gemma3, json!({"sliding_window": 5, "sliding_window_pattern": 2}), [Some(5), None, Some(5), None]),
        (
            Family::Gemma3,
            json!({"sliding_window": 5, "layer_types": [FULL, FULL, SLIDING, FULL]}),
            [None, None, Some(5), None],
        ),
        (Family::Gemma3, json!({"layer_types": [FULL, FULL, FULL, FULL]}), [None; 4]),
        (Family::Gpt2, json!({}), [None; 4]),
        (Family::Olmo2, json!({"sliding_window": null}), [None; 4]),
    ];
    for (family, changes, wanted) in table {
        assert_eq!(windows(&read(family, changes.clone())), wanted, "{family}, {changes}");
    }
}

/// Both spellings of Gemma 3's two bases and of the scaling of one.
#[test]
fn gemma_angles() {
    let scaling = RopeScaling::Linear { factor: 8.0 };
    let wanted = Positions::Rotary {
        full: Rope { theta: 5e5, scaling },
        sliding: Rope { theta: 300.0, scaling: RopeScaling::None },
    };
    let linear = json!({"rope_type": "linear", "factor": 8});
    let with_theta = json!({"rope_type": "linear", "factor": 8, "rope_theta": 500000});
    let spellings = [
        json!({"rope_theta": 500000, "rope_local_base_freq": 300, "rope_scaling": linear}),
        json!({"rope_parameters": {FULL: with_theta, SLIDING: {"rope_theta": 300}}}),
        json!({"rope_theta": 500000, "rope_local_base_freq": 300, "rope_scaling": linear,
            "rope_parameters": {FULL: with_theta, SLIDING: {"rope_type": "default", "rope_theta": 300}}}),
    ];
    for changes in spellings {
        assert_eq!(read(Family::Gemma3, changes.clone()).positions, wanted, "{changes}");
    }
    let Positions::Rotary { full, sliding } = read(Family::Gemma3, json!({})).positions else { panic!("rotary") };
    assert_eq!((full.theta, sliding.theta), (1e6, 1e4));
}

/// A family is also known by its class alone; what says nothing about the function passes.
#[test]
fn accepted() {
    for family in Family::ALL {
        assert_eq!(read(family, json!({})).family, family);
    }
    let named = json!({"model_type": null, "architectures": ["Olmo2ForCausalLM"]});
    assert_eq!(read(Family::Olmo2, named).family, Family::Olmo2);
    let gpt2 = read(Family::Gpt2, json!({}));
    assert_eq!((gpt2.head_dim, gpt2.intermediate_size, gpt2.num_key_value_heads), (4, 96, 6));
    let same = json!({"n_ctx": 64, "attn_pdrop": 0.1, "resid_pdrop": 0.0, "summary_type": "cls_index",
        "task_specific_params": {}, "n_inner": null, "scale_attn_weights": true});
    assert_eq!(read(Family::Gpt2, same), gpt2);
    // Token ids of the published vocabularies mean nothing in a smaller one.
    assert_eq!((gpt2.bos_token_id, gpt2.eos_token_id), (None, Vec::new()));
}

/// What a family fixes is checked of values from elsewhere too.
#[test]
fn rules_of_families() {
    let sliding = |layers: Vec<bool>| Some(Sliding { window: 5, layers });
    let of = |family: Family, change: &dyn Fn(&mut Architecture)| -> Vec<String> {
        let mut architecture = read(family, json!({}));
        change(&mut architecture);
        match architecture.check() {
            Ok(()) => Vec::new(),
            Err(ArchitectureError::Config(problems)) => problems.into_iter().map(|problem| problem.field).collect(),
            Err(other) => panic!("{other}"),
        }
    };
    type Change<'a> = &'a dyn Fn(&mut Architecture);
    let table: [(Family, Change, &[&str]); 10] = [
        (Family::Llama, &|a| a.sliding = sliding(vec![true; 4]), &["sliding_window"]),
        (Family::Mistral, &|a| a.sliding = sliding(vec![true, false, true, true]), &["sliding_window"]),
        (Family::Mistral, &|a| a.attention_bias = true, &["attention_bias"]),
        (Family::Qwen2, &|a| a.attention_bias = false, &["attention_bias"]),
        (Family::Qwen3, &|a| a.mlp_bias = true, &["mlp_bias"]),
        (Family::Qwen3, &|a| a.query_pre_attn_scalar = 5.0, &["query_pre_attn_scalar"]),
        (Family::Gemma3, &|a| a.query_pre_attn_scalar = 5.0, &[]),
        (Family::Gemma3, &|a| a.sliding = sliding(vec![true; 3]), &["layer_types"]),
        (Family::Gpt2, &|a| a.num_key_value_heads = 3, &["num_key_value_heads"]),
        (Family::Gpt2, &|a| a.hidden_size = 25, &["head_dim"]),
    ];
    for (family, change, wanted) in table {
        assert_eq!(of(family, change), wanted, "{family}");
    }
}
