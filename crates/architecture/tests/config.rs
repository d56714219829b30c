//! What is read from `config.json`, and what is refused by name.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

use architecture::{Architecture, ArchitectureError, Block, Partition, Positions, Rope, RopeScaling, from_config_json};
use serde_json::{Value, json};

/// A small valid configuration with `changes` made to it.
fn config(changes: Value) -> String {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 31, "vocab_size": 101,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config.to_string()
}

fn llama3(changes: Value) -> Value {
    let mut rope = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    });
    rope.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    rope
}

fn problems(text: &str) -> Vec<String> {
    match from_config_json(text) {
        Ok(found) => panic!("{text} was accepted as {found:?}"),
        Err(ArchitectureError::Config(problems)) => problems.iter().map(|problem| problem.to_string()).collect(),
        Err(other) => panic!("{text}: {other}"),
    }
}

#[track_caller]
fn refused(changes: Value, wanted: &str) {
    assert_eq!(problems(&config(changes)), [wanted]);
}

const TYPES: &str = "the supported types are \"llama\", \"mistral\", \"qwen2\", \"qwen3\", \"gemma3_text\", \"phi3\", \
                     \"gpt2\", \"olmo2\"";

#[test]
fn unsupported_fields() {
    refused(json!({"model_type": "mixtral"}), &format!("`model_type`: found \"mixtral\", but {TYPES}"));
    refused(
        json!({"architectures": ["LlamaForSequenceClassification"]}),
        "`architectures`: found [\"LlamaForSequenceClassification\"], but of models of type \"llama\", only \
         [\"LlamaForCausalLM\"] is supported",
    );
    let table = [
        ("hidden_act", json!("gelu"), "\"silu\""),
        ("attention_dropout", json!(0.1), "0"),
        ("pretraining_tp", json!(2), "1"),
        ("partial_rotary_factor", json!(0.5), "1"),
        ("rope_interleaved", json!(true), "false"),
        ("use_sliding_window", json!(true), "false"),
        ("is_encoder_decoder", json!(true), "false"),
        ("add_cross_attention", json!(true), "false"),
        ("tie_encoder_decoder", json!(true), "false"),
        ("chunk_size_feed_forward", json!(128), "0"),
    ];
    for (field, found, supported) in table {
        refused(json!({field: found}), &format!("`{field}`: found {found}, but only {supported} is supported"));
    }
    let unknown = [
        ("quantization_config", json!({"bits": 4})),
        ("sliding_window", json!(4096)),
        ("layer_types", json!(["sliding_attention", "full_attention"])),
        ("original_max_position_embeddings", json!(8192)),
        ("auto_map", json!({"AutoModel": "x.y"})),
        ("num_experts", json!(8)),
        ("pruned_heads", json!({"0": [1]})),
        ("logit_scale", json!(0.5)),
        ("hiden_size", json!(24)),
    ];
    for (field, found) in unknown {
        refused(json!({field: found}), &format!("`{field}`: found {found}, but this field is not supported"));
    }
}

#[test]
fn unsupported_rope() {
    let rope_types = "only \"default\", \"linear\" and \"llama3\" are supported";
    for kind in ["dynamic", "yarn", "longrope", "su"] {
        for (object, key) in [("rope_scaling", "type"), ("rope_scaling", "rope_type"), ("rope_parameters", "rope_type")]
        {
            refused(
                json!({object: {key: kind, "factor": 2.0}}),
                &format!("`{object}.rope_type`: found \"{kind}\", but {rope_types}"),
            );
        }
    }
    let unused = "this field is not supported with `rope_type`";
    let table = [
        (json!({"rope_scaling": 2.0}), "`rope_scaling`: found 2.0, but it must be an object or null".to_string()),
        (
            json!({"rope_scaling": {"factor": 2.0}}),
            format!("`rope_scaling.factor`: found 2.0, but {unused} \"default\""),
        ),
        (
            json!({"rope_parameters": llama3(json!({"attention_factor": 2.0}))}),
            format!("`rope_parameters.attention_factor`: found 2.0, but {unused} \"llama3\""),
        ),
        (
            json!({"rope_parameters": {"partial_rotary_factor": 0.5}}),
            "`rope_parameters.partial_rotary_factor`: found 0.5, but only 1 is supported".into(),
        ),
        (
            json!({"rope_scaling": {"rope_type": "default", "type": "linear"}}),
            "`rope_scaling.type`: found \"linear\", but `rope_type` beside it is \"default\"; keep one of them".into(),
        ),
        (
            json!({"rope_scaling": llama3(json!({})), "rope_parameters": {"rope_type": "default"}}),
            format!(
                "`rope_scaling`: found {}, but `rope_parameters` beside it says {{\"rope_type\":\"default\"}}; keep one \
                 of them",
                llama3(json!({}))
            ),
        ),
        (
            json!({"rope_theta": 500.0, "rope_parameters": {"rope_theta": 700.0}}),
            "`rope_theta`: found 700.0, but the base is also given as 500; keep one of them".into(),
        ),
        (
            json!({"rope_scaling": llama3(json!({"factor": null}))}),
            "`rope_scaling.factor`: found null, but it must be a number".into(),
        ),
        (
            json!({"rope_scaling": llama3(json!({"factor": 0.5}))}),
            "`rope_scaling.factor`: found 0.5, but it must be at least 1 and finite".into(),
        ),
        (
            json!({"rope_parameters": llama3(json!({"low_freq_factor": -1.0}))}),
            "`rope_parameters.low_freq_factor`: found -1, but it must be positive and finite".into(),
        ),
        (
            json!({"rope_parameters": llama3(json!({"low_freq_factor": 4.0}))}),
            "`rope_parameters.high_freq_factor`: found 4, but it must be finite and above `low_freq_factor`, which is 4"
                .into(),
        ),
        (
            json!({"rope_parameters": llama3(json!({"original_max_position_embeddings": 0}))}),
            "`rope_parameters.original_max_position_embeddings`: found 0, but it must be at least 1".into(),
        ),
    ];
    for (changes, wanted) in table {
        refused(changes, &wanted);
    }
}

#[test]
fn malformed_and_inconsistent() {
    let size = "it must be a whole number of at least 1";
    for field in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    ] {
        for found in [json!(-3), json!(2.5), json!("24")] {
            refused(json!({field: found}), &format!("`{field}`: found {found}, but {size}"));
        }
        let zero = match field {
            "head_dim" => "rotary embedding turns pairs, so it must be even and at least 2",
            _ => "it must be at least 1",
        };
        let found = problems(&config(json!({field: 0})));
        assert!(found.contains(&format!("`{field}`: found 0, but {zero}")), "{found:?}");
    }
    let table = [
        (json!({"hidden_size": null}), "`hidden_size`: found null, but it must be a whole number of at least 1"),
        (json!({"rms_norm_eps": "small"}), "`rms_norm_eps`: found \"small\", but it must be a number"),
        (json!({"rms_norm_eps": 0}), "`rms_norm_eps`: found 0, but it must be positive and finite"),
        (json!({"rope_theta": null}), "`rope_theta`: found null, but it must be a number"),
        (json!({"rope_theta": -1.0}), "`rope_theta`: found -1, but it must be positive and finite"),
        (json!({"initializer_range": 1.5}), "`initializer_range`: found 1.5, but it must lie between 0 and 1"),
        (json!({"attention_bias": 1}), "`attention_bias`: found 1, but it must be true or false"),
        (json!({"mlp_bias": null}), "`mlp_bias`: found null, but it must be true or false"),
        (json!({"tie_word_embeddings": "no"}), "`tie_word_embeddings`: found \"no\", but it must be true or false"),
        (json!({"pad_token_id": -1}), "`pad_token_id`: found -1, but it must be a token id or null"),
        (
            json!({"eos_token_id": [2, 0.5]}),
            "`eos_token_id`: found [2,0.5], but it must be a token id, a list of token ids or null",
        ),
        (
            json!({"eos_token_id": [2, 101]}),
            "`eos_token_id`: found 101, but a token id must be below `vocab_size`, which is 101",
        ),
        (
            json!({"bos_token_id": 101}),
            "`bos_token_id`: found 101, but a token id must be below `vocab_size`, which is 101",
        ),
        (
            json!({"num_key_value_heads": 4}),
            "`num_key_value_heads`: found 4, but it must divide `num_attention_heads`, which is 6",
        ),
        (
            json!({"hidden_size": 25}),
            "`hidden_size`: found 25, but without `head_dim` it must be a multiple of `num_attention_heads`, which is 6",
        ),
        (
            json!({"hidden_size": 18}),
            "`head_dim`: found 3, but rotary embedding turns pairs, so it must be even and at least 2",
        ),
    ];
    for (changes, wanted) in table {
        refused(changes, wanted);
    }
}

#[test]
fn not_a_configuration() {
    assert!(matches!(from_config_json("{\"hidden_size\": "), Err(ArchitectureError::Json(_))));
    assert_eq!(problems("[1]"), ["`(whole file)`: found [1], but a model's configuration is a JSON object"]);
    assert_eq!(problems("{}"), [format!("`model_type`: found nothing, but {TYPES}")]);
}

#[test]
fn all_problems_at_once() {
    let changes = json!({"hidden_act": "relu", "vocab_size": "many", "num_key_value_heads": 5, "mystery": 1,
        "rope_scaling": {"type": "yarn"}});
    let error = from_config_json(&config(changes)).unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().map(str::trim).collect();
    let fields = ["vocab_size", "rope_scaling.rope_type", "hidden_act", "mystery", "num_key_value_heads"];
    assert_eq!(lines[0], "the model's configuration cannot be used:");
    assert_eq!(lines.len(), 1 + fields.len(), "{error}");
    for (line, field) in lines[1..].iter().zip(fields) {
        assert!(line.starts_with(&format!("`{field}`: ")), "{line}");
    }
}

#[test]
fn accepted_spellings() {
    let read = |changes: Value| from_config_json(&config(changes)).unwrap_or_else(|e| panic!("{e}"));
    let plain = read(json!({}));
    let rope = Rope { theta: 10_000.0, scaling: RopeScaling::None };
    assert_eq!((plain.head_dim, plain.positions), (4, Positions::rotary(rope)));
    assert_eq!(
        (plain.bos_token_id, plain.eos_token_id.as_slice(), plain.pad_token_id),
        (Some(1), [2].as_slice(), None)
    );

    let same_as_plain = [
        json!({"rope_theta": 10000, "rope_scaling": null}),
        json!({"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
        json!({"rope_parameters": null, "rope_scaling": {}}),
        json!({"head_dim": 4, "attention_dropout": 0.0, "pretraining_tp": null, "sliding_window": null}),
        json!({"torch_dtype": "bfloat16", "dtype": "float32", "use_cache": false, "transformers_version": "4.40.0"}),
        json!({"architectures": null}),
    ];
    for changes in same_as_plain {
        assert_eq!(read(changes.clone()), plain, "{changes}");
    }

    let scaled = Rope {
        theta: 700.0,
        scaling: RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 16,
        },
    };
    let same_as_scaled = [
        json!({"rope_theta": 700.0, "rope_scaling": llama3(json!({}))}),
        json!({"rope_theta": 700, "rope_scaling": llama3(json!({"type": "llama3"}))}),
        json!({"rope_parameters": llama3(json!({"rope_theta": 700.0}))}),
        json!({"rope_theta": 700.0, "rope_parameters": llama3(json!({}))}),
    ];
    for changes in same_as_scaled {
        assert_eq!(read(changes.clone()).positions, Positions::rotary(scaled), "{changes}");
    }

    let divided = read(json!({"rope_scaling": {"type": "linear", "factor": 2}})).positions;
    let scaling = RopeScaling::Linear { factor: 2.0 };
    assert_eq!(divided, Positions::rotary(Rope { theta: 10_000.0, scaling }));

    let ids = read(json!({"bos_token_id": null, "eos_token_id": [7, 11], "pad_token_id": 0}));
    assert_eq!((ids.bos_token_id, ids.eos_token_id, ids.pad_token_id), (None, vec![7, 11], Some(0)));
    assert_eq!(read(json!({"eos_token_id": null})).eos_token_id, Vec::<u32>::new());
}

#[test]
fn check_of_values_from_elsewhere() {
    let good = from_config_json(&config(json!({}))).unwrap();
    good.check().unwrap();
    let wrong =
        Architecture { head_dim: 5, query_pre_attn_scalar: 5.0, num_key_value_heads: 4, norm_eps: f64::NAN, ..good };
    let Err(ArchitectureError::Config(problems)) = wrong.check() else { panic!("accepted") };
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["rms_norm_eps", "num_key_value_heads", "head_dim"]);
}

#[test]
fn partitions() {
    let model = from_config_json(&config(json!({}))).unwrap();
    let cut = Partition::new(&model, &[2, 1, 3]).unwrap();
    assert_eq!(
        cut.stages(),
        [
            vec![Block::Embedding, Block::Attention(0)],
            vec![Block::Mlp(0)],
            vec![Block::Attention(1), Block::Mlp(1), Block::Head]
        ]
    );
    for sizes in [&[][..], &[6, 0], &[5], &[3, 4]] {
        let error = Partition::new(&model, sizes).unwrap_err().to_string();
        assert!(error.contains(&format!("stages of {sizes:?} blocks do not fit the model's 6")), "{error}");
    }
}
