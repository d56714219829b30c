//! The section on the model: sizes of a fresh one, or the folder of a trained one.

use crate::toml_file::{Node, NumberRange, Parsed, Reader, Wrong, choice, flag, number, text, whole};
use architecture::{Architecture, ArchitectureError, Family, Rope, RopeScaling};
use std::path::PathBuf;
use train::{ModelSource, TokenizerSource};

/// The keys of a fresh model.
pub(super) const SIZES: [&str; 14] = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
    "initializer_range",
];

/// Where the model comes from, and what it is.
pub(super) struct Model {
    pub source: ModelSource,
    pub architecture: Architecture,
}

pub(super) fn model(
    section: &Reader,
    tokenizer: Option<&TokenizerSource>,
    tokens_per_row: Option<usize>,
) -> Option<Model> {
    if !section.has("from") {
        return fresh(section, tokenizer, tokens_per_row);
    }
    for key in SIZES.into_iter().filter(|key| section.has(key)) {
        let why =
            format!("`model.{key}` is given beside `model.from`, whose config.json says it; take one of them out");
        section.complain(key, why);
    }
    let (folder, architecture) = section.required("from", "a model's folder", trained)?;
    Some(Model { source: ModelSource::Folder(folder), architecture })
}

fn trained(node: &Node) -> Parsed<(PathBuf, Architecture)> {
    let folder = PathBuf::from(text(node)?);
    let config = std::fs::read_to_string(folder.join("config.json"))
        .map_err(|error| Wrong::new(node, format!("a folder with a readable config.json ({error})")))?;
    let architecture = architecture::from_config_json(&config)
        .map_err(|error| Wrong::new(node, format!("a folder with a usable config.json: {error}")))?;
    Ok((folder, architecture))
}

fn fresh(section: &Reader, tokenizer: Option<&TokenizerSource>, tokens_per_row: Option<usize>) -> Option<Model> {
    let hidden_size = section.required("hidden_size", "the width of the residual stream", whole(1));
    let layers = section.required("num_hidden_layers", "the number of layers", whole(1));
    let heads = section.required("num_attention_heads", "the number of query heads", whole(1));
    let kv_heads = section.optional("num_key_value_heads", whole(1));
    let head_dim = section.optional("head_dim", whole(1));
    let intermediate_size = section.required("intermediate_size", "the width inside the MLP", whole(1));
    let longest = section.optional("max_position_embeddings", whole(1));
    let rms_norm_eps = section.or("rms_norm_eps", 1e-5, number(NumberRange::Positive));
    let theta = section.or("rope_theta", 10_000.0, number(NumberRange::Positive));
    let scaling_section = section.section("rope_scaling");
    let scaling = rope_scaling(&scaling_section);
    let attention_bias = section.or("attention_bias", false, flag);
    let mlp_bias = section.or("mlp_bias", false, flag);
    let tie_word_embeddings = section.or("tie_word_embeddings", false, flag);
    let initializer_range = section.or("initializer_range", 0.02, number(NumberRange::NotNegative));

    let (hidden_size, heads): (usize, usize) = (hidden_size?, heads?);
    let head_dim: usize = match head_dim? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let wanted =
                format!("without `model.head_dim` it must be a multiple of num_attention_heads, which is {heads}");
            section.refuse("hidden_size", "", &wanted, "give head_dim");
            return None;
        }
    };
    let vocab_size = match tokenizer {
        Some(TokenizerSource::Train { vocab_size }) => *vocab_size,
        // The file says it when it is loaded.
        Some(TokenizerSource::File(_)) | None => 0,
    };
    let architecture = Architecture {
        family: Family::Llama,
        hidden_size,
        num_hidden_layers: layers?,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads?.unwrap_or(heads),
        head_dim,
        intermediate_size: intermediate_size?,
        vocab_size,
        max_position_embeddings: longest?.or(tokens_per_row)?,
        rms_norm_eps: rms_norm_eps?,
        rope: Rope { theta: theta?, scaling: scaling? },
        attention_bias: attention_bias?,
        mlp_bias: mlp_bias?,
        tie_word_embeddings: tie_word_embeddings?,
        initializer_range: initializer_range?,
        bos_token_id: None,
        eos_token_id: Vec::new(),
        pad_token_id: None,
    };
    check(section, &scaling_section, &architecture)?;
    Some(Model { source: ModelSource::Fresh(architecture.clone()), architecture })
}

/// The rules between the sizes are the architecture's own; here they get their places.
fn check(section: &Reader, scaling: &Reader, architecture: &Architecture) -> Option<()> {
    let vocab_size = architecture.vocab_size.max(1);
    let Err(error) = (Architecture { vocab_size, ..architecture.clone() }).check() else { return Some(()) };
    let ArchitectureError::Config(problems) = error else {
        unreachable!("invariant: checking sizes yields problems of fields, not {error}")
    };
    for problem in problems {
        let (reader, key, name) = match problem.field.strip_prefix("rope_parameters.") {
            Some(key) => (scaling, key, format!("model.rope_scaling.{key}")),
            None => (section, problem.field.as_str(), format!("model.{}", problem.field)),
        };
        reader.complain(key, format!("`{name}` is {}, but {}", problem.found, problem.wanted));
    }
    None
}

#[derive(Clone, Copy)]
enum Scaling {
    Default,
    Llama3,
}

fn rope_scaling(section: &Reader) -> Option<RopeScaling> {
    let kind = section.or(
        "rope_type",
        Scaling::Default,
        choice(&[("default", Scaling::Default), ("llama3", Scaling::Llama3)]),
    );
    match kind? {
        Scaling::Default => {
            let keys: Vec<&str> = section.keys().filter(|key| *key != "rope_type").collect();
            for key in ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"] {
                if section.has(key) {
                    let why = format!("`model.rope_scaling.{key}` needs `rope_type = \"llama3\"`");
                    section.complain(key, why);
                }
            }
            keys.is_empty().then_some(RopeScaling::None)
        }
        Scaling::Llama3 => {
            let positive = || number(NumberRange::Positive);
            let factor = section.required("factor", "the divisor of low frequencies", positive());
            let low_freq_factor =
                section.required("low_freq_factor", "where wavelengths are divided in full", positive());
            let high_freq_factor = section.required("high_freq_factor", "where wavelengths are kept", positive());
            let original =
                section.required("original_max_position_embeddings", "the context of the first training", whole(1));
            Some(RopeScaling::Llama3 {
                factor: factor?,
                low_freq_factor: low_freq_factor?,
                high_freq_factor: high_freq_factor?,
                original_max_position_embeddings: original?,
            })
        }
    }
}
