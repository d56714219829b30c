//! Against transformers: parameter counts, weight names and shapes, rotary frequencies, files it can load.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

use architecture::{Architecture, Block, Positions, Rope, from_config_json, to_config_json};
use serde_json::Value;
use std::collections::BTreeMap;

fn cases() -> Vec<(String, Architecture, Value)> {
    let cases: Vec<Value> = serde_json::from_str(include_str!("fixtures/transformers.json")).unwrap();
    assert_eq!(cases.len(), 31);
    let parsed = cases.into_iter().map(|case| {
        let name = case["name"].as_str().unwrap().to_string();
        let architecture = from_config_json(&case["config"].to_string()).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, architecture, case)
    });
    parsed.collect()
}

#[test]
fn parameter_counts() {
    for (name, architecture, case) in cases() {
        assert_eq!(architecture.n_parameters() as u64, case["n_parameters"].as_u64().unwrap(), "{name}");
    }
}

#[test]
fn weight_names_and_shapes() {
    for (name, architecture, case) in cases() {
        let wanted: BTreeMap<String, Vec<usize>> = case["weights"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, shape)| {
                let shape = shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
                (name.clone(), shape)
            })
            .collect();
        let first = [Block::Embedding, Block::Attention(0), Block::Mlp(0), Block::Head];
        let ours: BTreeMap<String, Vec<usize>> = first
            .into_iter()
            .flat_map(|block| architecture.weights(block))
            .map(|weight| (weight.name, weight.shape))
            .collect();
        assert_eq!(ours, wanted, "{name}");
    }
}

fn check_frequencies(rope: Rope, head_dim: usize, wanted: &Value, name: &str) {
    let ours = rope.inverse_frequencies(head_dim);
    let wanted = wanted.as_array().unwrap();
    assert_eq!(ours.len(), wanted.len(), "{name}");
    for (i, (ours, wanted)) in ours.iter().zip(wanted).enumerate() {
        let wanted = wanted.as_f64().unwrap();
        // PyTorch computes in f32: exponent, power, reciprocal and smoothing each round, and the power magnifies
        // the exponent's rounding by ln(1000000) = 14. 16 units of 2^-23 cover them.
        let tolerance = 16.0 * f64::from(f32::EPSILON);
        assert!((ours / wanted - 1.0).abs() < tolerance, "{name}, pair {i}: {ours} is not {wanted}");
    }
}

#[test]
fn rotary_frequencies() {
    for (name, architecture, case) in cases() {
        match architecture.positions {
            Positions::Rotary { full, sliding } => {
                check_frequencies(full, architecture.head_dim, &case["inverse_frequencies"], &name);
                match case.get("sliding_inverse_frequencies") {
                    Some(wanted) => check_frequencies(sliding, architecture.head_dim, wanted, &name),
                    None => assert_eq!(sliding, full, "{name}"),
                }
            }
            Positions::Learned => assert_eq!(case["inverse_frequencies"], Value::Array(Vec::new()), "{name}"),
        }
    }
}

#[test]
fn round_trip() {
    for (name, architecture, _) in cases() {
        let again = from_config_json(&to_config_json(&architecture)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(again, architecture, "{name}");
    }
}

/// make.py checks that transformers loads these two files as the models they describe.
#[test]
fn written_files() {
    let cases: BTreeMap<String, Architecture> = cases().into_iter().map(|(name, a, _)| (name, a)).collect();
    let written = |name: &str| to_config_json(&cases[name]);
    assert_eq!(written("biases, wide heads, transformers 5 spelling"), include_str!("fixtures/plain.json"));
    assert_eq!(written("Llama-3.1-8B"), include_str!("fixtures/llama3.json"));
}
