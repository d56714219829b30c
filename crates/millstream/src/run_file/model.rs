//! The section on the model: sizes of a fresh one, or the folder of a trained one.

use crate::toml_file::{Node, NumberRange, Parsed, Reader, Wrong, choice, flag, list, number, text, whole};
use architecture::{Architecture, ArchitectureError, Biases, Family, Positions, Rope, RopeScaling, Sliding, Windows};
use std::path::PathBuf;
use train::{ModelSource, TokenizerSource};

/// The keys of a fresh model.
pub(super) const SIZES: [&str; 19] = [
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_local_base_freq",
    "rope_scaling",
    "sliding_window",
    "layer_types",
    "query_pre_attn_scalar",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
    "initializer_range",
];

/// Words of `model_type`.
pub(super) const FAMILIES: &[(&str, Family)] = &[
    ("llama", Family::Llama),
    ("mistral", Family::Mistral),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma3_text", Family::Gemma3),
    ("phi3", Family::Phi3),
    ("gpt2", Family::Gpt2),
    ("olmo2", Family::Olmo2),
];

/// Words of `layer_types`: whether a layer has a window.
pub(super) const LAYER_TYPES: &[(&str, bool)] = &[("full_attention", false), ("sliding_attention", true)];

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
    let family = section.or("model_type", Family::Llama, choice(FAMILIES));
    let hidden_size = section.required("hidden_size", "the width of the residual stream", whole(1));
    let layers = section.required("num_hidden_layers", "the number of layers", whole(1));
    let heads = section.required("num_attention_heads", "the number of query heads", whole(1));
    let kv_heads = section.optional("num_key_value_heads", whole(1));
    let head_dim = section.optional("head_dim", whole(1));
    let intermediate_size = section.required("intermediate_size", "the width inside the MLP", whole(1));
    let longest = section.optional("max_position_embeddings", whole(1));
    let norm_eps = section.or("rms_norm_eps", 1e-5, number(NumberRange::Positive));
    let scaling_section = section.section("rope_scaling");
    let positions = positions(section, &scaling_section, family);
    let sliding = sliding(section, family, layers);
    let scalar = section.optional("query_pre_attn_scalar", number(NumberRange::Positive));
    let attention_bias = bias(section, "attention_bias", family.map(Family::attention_bias));
    let mlp_bias = bias(section, "mlp_bias", family.map(Family::mlp_bias));
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
        family: family?,
        hidden_size,
        num_hidden_layers: layers?,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads?.unwrap_or(heads),
        head_dim,
        intermediate_size: intermediate_size?,
        vocab_size,
        max_position_embeddings: longest?.or(tokens_per_row)?,
        norm_eps: norm_eps?,
        positions: positions?,
        sliding: sliding?,
        query_pre_attn_scalar: scalar?.unwrap_or(head_dim as f64),
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

/// Biases that the family fixes need not be given, and must be as it has them.
fn bias(section: &Reader, key: &'static str, biases: Option<Biases>) -> Option<bool> {
    section.or(key, biases? == Biases::Always, flag)
}

fn positions(section: &Reader, scaling_section: &Reader, family: Option<Family>) -> Option<Positions> {
    let theta = section.optional("rope_theta", number(NumberRange::Positive));
    let local = section.optional("rope_local_base_freq", number(NumberRange::Positive));
    let scaling = rope_scaling(scaling_section);
    let family = family?;
    for key in ["rope_theta", "rope_local_base_freq", "rope_scaling"] {
        let belongs = if key == "rope_local_base_freq" { family == Family::Gemma3 } else { family.is_rotary() };
        if section.has(key) && !belongs {
            section.complain(key, format!("`model.{key}` means nothing in {family} models; take it out"));
            return None;
        }
    }
    if !family.is_rotary() {
        return Some(Positions::Learned);
    }
    let full = Rope { theta: theta?.unwrap_or(10_000.0), scaling: scaling? };
    match family {
        Family::Gemma3 => {
            let sliding = Rope { theta: local?.unwrap_or(10_000.0), scaling: RopeScaling::None };
            Some(Positions::Rotary { full, sliding })
        }
        _ => Some(Positions::rotary(full)),
    }
}

/// `Some(None)` where no layer has a window.
fn sliding(section: &Reader, family: Option<Family>, n_layers: Option<usize>) -> Option<Option<Sliding>> {
    let window = section.optional("sliding_window", whole(1));
    let types = section.optional("layer_types", list(choice(LAYER_TYPES)));
    let (family, n_layers) = (family?, n_layers?);
    let (window, types): (Option<usize>, Option<Vec<bool>>) = (window?, types?);
    if types.is_some() && family.windows() != Windows::ByLayer {
        section.complain("layer_types", format!("`model.layer_types` means nothing in {family} models; take it out"));
        return None;
    }
    match (window, types) {
        (Some(window), types) => {
            let layers = types.unwrap_or_else(|| vec![true; n_layers.min(architecture::LAYERS_MOST)]);
            Some(layers.contains(&true).then_some(Sliding { window, layers }))
        }
        (None, Some(types)) if types.contains(&true) => {
            section.missing("sliding_window", "how many tokens layers of type \"sliding_attention\" see");
            None
        }
        (None, _) => Some(None),
    }
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
    Linear,
    Llama3,
}

fn rope_scaling(section: &Reader) -> Option<RopeScaling> {
    const SCALINGS: &[(&str, Scaling)] =
        &[("default", Scaling::Default), ("linear", Scaling::Linear), ("llama3", Scaling::Llama3)];
    let positive = || number(NumberRange::Positive);
    let kind = section.or("rope_type", Scaling::Default, choice(SCALINGS))?;
    let (unused, needs): (&[&'static str], _) = match kind {
        Scaling::Default => {
            (&["factor", "low_freq_factor", "high_freq_factor", ORIGINAL], "a `rope_type` that uses it")
        }
        Scaling::Linear => (&["low_freq_factor", "high_freq_factor", ORIGINAL], "`rope_type = \"llama3\"`"),
        Scaling::Llama3 => (&[], ""),
    };
    let given: Vec<&'static str> = unused.iter().copied().filter(|key| section.has(key)).collect();
    for key in &given {
        section.complain(key, format!("`model.rope_scaling.{key}` needs {needs}"));
    }
    match kind {
        Scaling::Default => given.is_empty().then_some(RopeScaling::None),
        Scaling::Linear => {
            let factor = section.required("factor", "the divisor of frequencies", positive());
            given.is_empty().then_some(RopeScaling::Linear { factor: factor? })
        }
        Scaling::Llama3 => {
            let factor = section.required("factor", "the divisor of low frequencies", positive());
            let low_freq_factor =
                section.required("low_freq_factor", "where wavelengths are divided in full", positive());
            let high_freq_factor = section.required("high_freq_factor", "where wavelengths are kept", positive());
            let original = section.required(ORIGINAL, "the context of the first training", whole(1));
            Some(RopeScaling::Llama3 {
                factor: factor?,
                low_freq_factor: low_freq_factor?,
                high_freq_factor: high_freq_factor?,
                original_max_position_embeddings: original?,
            })
        }
    }
}

const ORIGINAL: &str = "original_max_position_embeddings";
