//! Parameters against transformers' and published ones; operations against closed forms; bad files.

use plan::Description;
use serde_json::{Value, json};

/// `models.json` beside `make.py`, which made it: 30 real configurations with transformers' counts.
#[test]
fn parameters_equal_transformers() {
    let models: Value = serde_json::from_str(include_str!("fixtures/models.json")).expect("a fixture");
    let models = models.as_object().expect("an object");
    assert!(models.len() >= 20);
    for (name, model) in models {
        let description = Description::from_config_json(&model["config"].to_string()).expect(name);
        assert_eq!(Some(description.n_parameters()), model["parameters"].as_u64(), "{name}");
    }
}

/// Table 1 of Megatron-LM (Narayanan et al., 2021) prints billions of parameters of GPTs with 51200 tokens and 2048
/// positions.
#[test]
fn published_parameters() {
    for (billions, heads, hidden, layers) in [
        (1.7, 24, 2304, 24),
        (3.6, 32, 3072, 30),
        (7.5, 32, 4096, 36),
        (18.4, 48, 6144, 40),
        (39.1, 64, 8192, 48),
        (76.1, 80, 10240, 60),
        (145.6, 96, 12288, 80),
        (310.1, 128, 16384, 96),
        (529.6, 128, 20480, 105),
        (1008.0, 160, 25600, 128),
    ] {
        let config = json!({"model_type": "gpt2", "n_embd": hidden, "n_head": heads, "n_layer": layers,
            "vocab_size": 51200, "n_positions": 2048});
        let description = Description::from_config_json(&config.to_string()).expect("a GPT");
        let found = description.n_parameters() as f64 / 1e9;
        // The table has one digit after the point; 18.45 is printed as 18.4.
        assert!((found - billions).abs() <= 0.0501, "{found} is not {billions}");
        // F = 96 B s l h^2 (1 + s/6h + V/16lh) is with recomputation: 4 forwards. Its s^2 term has no mask.
        let (h, l, s, v) = (f64::from(hidden), f64::from(layers), 2048.0, 51200.0);
        let closed = 24.0 * l * h * h * (1.0 + s / (12.0 * h) + v / (12.0 * l * h));
        let counted = description.forward_flops_per_token(2048);
        // The mask leaves s + 1 of 2 s pairs: beside h, one.
        assert!((counted / closed - 1.0).abs() < 1e-4, "{counted} {closed}");
    }
}

/// Published: 2.8 B of 16 B, 21 B of 236 B (DeepSeek-V2, table 1), 12.9 B of 46.7 B (Mixtral), 22 B of 235 B (Qwen 3).
#[test]
fn active_parameters() {
    let models: Value = serde_json::from_str(include_str!("fixtures/models.json")).expect("a fixture");
    for (name, billions) in [("DeepSeek-V2", 21.0), ("Mixtral-8x7B", 12.9), ("Qwen3-235B-A22B", 22.0)] {
        let description = Description::from_config_json(&models[name]["config"].to_string()).expect(name);
        let found = description.n_active_parameters() as f64 / 1e9;
        assert!((found / billions - 1.0).abs() < 0.03, "{name}: {found}");
    }
}

/// DeepSeek-V2 caches 576 elements a token and layer instead of 2 x 128 x 128; Llama-3-8B 2 x 8 x 128.
#[test]
fn caches() {
    let models: Value = serde_json::from_str(include_str!("fixtures/models.json")).expect("a fixture");
    for (name, bytes) in [("DeepSeek-V2", 60 * 576 * 2), ("Llama-3-8B", 32 * 2 * 8 * 128 * 2)] {
        let description = Description::from_config_json(&models[name]["config"].to_string()).expect(name);
        assert_eq!(description.cache_bytes_per_token(2), bytes);
    }
}

#[test]
fn windows_cut_pairs() {
    let core =
        |window| plan::Core { heads: 1, key_value_heads: 1, key_width: 1, value_width: 1, window, cache_elements: 2 };
    for (window, tokens, pairs) in [(None, 5, 15), (Some(2), 5, 9), (Some(1), 5, 5), (Some(7), 5, 15)] {
        let by_hand: usize = (1..=tokens).map(|seen: usize| seen.min(window.unwrap_or(tokens))).sum();
        assert_eq!(core(window).causal_pairs(tokens), pairs);
        assert_eq!(by_hand as u64, pairs);
    }
}

#[test]
fn bad_configurations_are_explained() {
    let llama = |more: Value| {
        let mut config = json!({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
            "num_attention_heads": 4, "intermediate_size": 96});
        config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        config.to_string()
    };
    for (text, wanted) in [
        ("{".to_owned(), "cannot be read"),
        ("[]".to_owned(), "not an object"),
        ("{}".to_owned(), "`model_type`: found nothing"),
        (llama(json!({"model_type": "mamba"})), "`model_type`: found \"mamba\""),
        (llama(json!({"hidden_size": 0})), "`hidden_size`: found 0"),
        (llama(json!({"num_hidden_layers": 60_000})), "at most 10000 layers"),
        (llama(json!({"hidden_size": -5})), "`hidden_size`: found -5"),
        (llama(json!({"hidden_size": 1e30})), "`hidden_size`: found 1e+30"),
        (llama(json!({"num_attention_heads": 5})), "must divide `hidden_size`"),
        (llama(json!({"num_key_value_heads": 3})), "must divide `num_attention_heads`"),
        (llama(json!({"vocab_size": null})), "`vocab_size`: found nothing"),
        (llama(json!({"tie_word_embeddings": "no"})), "true or false"),
        (llama(json!({"model_type": "mixtral"})), "`num_local_experts`: found nothing"),
    ] {
        let error = Description::from_config_json(&text).expect_err(&text).to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

/// Every byte of a valid file changed, left out or doubled: read or refused, never a panic, and what is read can be counted.
#[test]
fn damaged_configurations() {
    let text = r#"{"model_type": "deepseek_v3", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 96, "vocab_size": 100, "q_lora_rank": null, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16, "v_head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "n_shared_experts": 1, "first_k_dense_replace": 1}"#;
    Description::from_config_json(text).expect("a model");
    let mut n_read = 0;
    for at in 0..text.len() {
        for put in ["", "0", "-", "]", "\"", "9999999", ":", "null"] {
            let mut damaged = text.to_owned();
            damaged.replace_range(at..=at, put);
            if let Ok(description) = Description::from_config_json(&damaged) {
                n_read += usize::from(description.n_parameters() > 0);
            }
        }
    }
    assert!(n_read > 0);
}
