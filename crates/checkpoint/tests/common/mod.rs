//! A small model and values for it.
#![allow(dead_code, reason = "each test file uses its part")]

use architecture::{Architecture, Family, Positions, Rope, RopeScaling, Weight};
use checkpoint::{CheckpointError, Dtype, Export, Part, write_folder};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Clone, Copy, PartialEq)]
pub enum HeadMatrix {
    Tied,
    Own,
}

/// One layer, all sizes different, all biases.
pub fn model(head: HeadMatrix) -> Architecture {
    Architecture {
        family: Family::Llama,
        hidden_size: 9,
        num_hidden_layers: 1,
        num_attention_heads: 3,
        num_key_value_heads: 1,
        head_dim: 4,
        intermediate_size: 7,
        vocab_size: 11,
        max_position_embeddings: 64,
        norm_eps: 1e-6,
        positions: Positions::rotary(Rope { theta: 10_000.0, scaling: RopeScaling::None }),
        sliding: None,
        query_pre_attn_scalar: 4.0,
        attention_bias: true,
        mlp_bias: true,
        tie_word_embeddings: head == HeadMatrix::Tied,
        initializer_range: 0.02,
        bos_token_id: Some(1),
        eos_token_id: vec![2, 5],
        pad_token_id: Some(0),
    }
}

/// A word-level tokenizer of the model's vocabulary.
pub const TOKENIZER: &str = r#"{
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [
    { "id": 0, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true },
    { "id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true },
    { "id": 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }
  ],
  "normalizer": null,
  "pre_tokenizer": { "type": "Whitespace" },
  "post_processor": null,
  "decoder": null,
  "model": {
    "type": "WordLevel",
    "vocab": { "<pad>": 0, "<s>": 1, "</s>": 2, "the": 3, "stream": 4, "mill": 5, "drives": 6, "a": 7, "b": 8, "c": 9, "d": 10 },
    "unk_token": "<pad>"
  }
}
"#;

/// Any bits, infinities and not-a-numbers included: files have no opinion on values.
pub fn any_bits(seed: u64, weight: &Weight, part: Part) -> Vec<f32> {
    let name = format!("{seed} {part:?} {}", weight.name);
    let mut random = ChaCha8Rng::from_seed(*blake3::hash(name.as_bytes()).as_bytes());
    (0..weight.n_elements()).map(|_| f32::from_bits(random.next_u32())).collect()
}

/// Integers from -128 to 128: exact in every format.
pub fn integers(weight: &Weight) -> Result<Vec<f32>, CheckpointError> {
    let start = weight.name.len();
    Ok((0..weight.n_elements()).map(|n| ((start + 17 * n) % 257) as f32 - 128.0).collect())
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Name and content of every file.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

/// Names of everything in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}

/// The message of an error; there has to be one.
pub fn message<T>(result: Result<T, CheckpointError>) -> String {
    match result {
        Ok(_) => panic!("loads although it should not"),
        Err(error) => error.to_string(),
    }
}

/// Writes a folder of [`model`] with the tokenizer, whole numbers as weights.
pub fn export(path: &Path, head: HeadMatrix, dtype: Dtype, shard_bytes: Option<u64>) {
    let export = Export {
        architecture: &model(head),
        tokenizer: Some(TOKENIZER.as_bytes()),
        companions: &[],
        dtype,
        shard_bytes,
    };
    write_folder(path, &export, integers).unwrap();
}
