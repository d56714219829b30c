//! Tensor-parallel layouts from the names and shapes of a model's weights (Redco's two rules).
//!
//! Source: Tan et al., "RedCoast: A Lightweight Tool to Automate Distributed Training of LLMs on Any GPU/TPUs", 2024.
//! Consecutive products alternate the dim that is cut; queries, keys and values are cut by outputs and the output
//! projection by inputs. The published algorithm goes through names in alphabetical order; this goes through weights in the
//! order they are given, which is that of the model, so that plain names alternate as data flows.

use std::collections::BTreeMap;

/// A weight as files have it: `[outputs, inputs]` for products, `[rows, width]` for tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedWeight {
    /// Its full name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Which dim of a product is its input: 1 as PyTorch stores linear layers, 0 as GPT-2 does.
    pub input_dim: usize,
}

/// What a rank has of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// All of it.
    Replicated,
    /// An equal part along this dim.
    Shard(usize),
}

/// What a name says about a weight.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Table,
    Input,
    Output,
    Head,
    Plain,
}

/// How every weight lies on `n_shards` ranks, by the last part of its name that is not `weight`: all layers alike. A dim is
/// only cut where it divides in every layer that has the name; vectors and names whose shapes differ in rank are whole.
pub fn tensor_layout(weights: &[NamedWeight], n_shards: usize) -> BTreeMap<String, Placement> {
    let mut keys: Vec<(String, Vec<&NamedWeight>)> = Vec::new();
    for weight in weights {
        let key = key(&weight.name);
        match keys.iter_mut().find(|(known, _)| *known == key) {
            Some((_, of_key)) => of_key.push(weight),
            None => keys.push((key, vec![weight])),
        }
    }
    let mut layout = BTreeMap::new();
    // Whether the product before was cut by outputs.
    let mut was_by_output = false;
    for (key, of_key) in keys {
        let n_dims = of_key[0].shape.len();
        let is_product = weight_is_matrix(&of_key);
        if !is_product {
            layout.insert(key, Placement::Replicated);
            continue;
        }
        let divides = |dim: usize| of_key.iter().all(|weight| weight.shape[dim].is_multiple_of(n_shards));
        let valid: Vec<usize> = (0..n_dims).filter(|&dim| divides(dim)).collect();
        // The two last dims are those of the product; experts may be stacked before them.
        let base = n_dims - 2;
        let input = base + of_key[0].input_dim;
        let output = base + 1 - of_key[0].input_dim;
        let is_attention = of_key.iter().all(|weight| weight.name.to_lowercase().contains("att"));
        if key == "gate" {
            // A router has few outputs, and every rank needs all of them.
            layout.insert(key, Placement::Replicated);
            continue;
        }
        let part = part(&key, is_attention);
        let wanted = match part {
            Part::Table => vec![base, base + 1],
            Part::Input => vec![output, input],
            Part::Output => vec![input, output],
            Part::Head => vec![output, input],
            Part::Plain if was_by_output => vec![input, output],
            Part::Plain => vec![output, input],
        };
        let chosen = wanted.into_iter().find(|dim| valid.contains(dim));
        if part != Part::Table {
            was_by_output = chosen == Some(output);
        }
        layout.insert(key, chosen.map_or(Placement::Replicated, Placement::Shard));
    }
    layout
}

fn weight_is_matrix(of_key: &[&NamedWeight]) -> bool {
    let n_dims = of_key[0].shape.len();
    let name = of_key[0].name.to_lowercase();
    let is_bias =
        name.ends_with("bias") || name.contains("norm") || name.contains(".ln_") || name.contains("layer_norm");
    n_dims >= 2 && !is_bias && of_key.iter().all(|weight| weight.shape.len() == n_dims)
}

/// The name that all layers share.
pub(crate) fn key(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').filter(|part| *part != "weight").collect();
    let last = parts.last().copied().unwrap_or(name);
    if last == "bias" && parts.len() > 1 { format!("{}.bias", parts[parts.len() - 2]) } else { last.to_owned() }
}

fn part(key: &str, is_attention: bool) -> Part {
    let key = key.to_lowercase();
    let pieces: Vec<&str> = key.split(['_', '.']).collect();
    let has = |word: &str| pieces.contains(&word);
    let is_table =
        key.contains("embed") || matches!(key.as_str(), "wte" | "wpe" | "shared" | "relative_attention_bias");
    if is_table && !key.contains("head") {
        return Part::Table;
    }
    if key.contains("head") || key == "score" {
        return Part::Head;
    }
    if is_attention {
        let begins = |letters: &[char]| key.starts_with(letters) || key.ends_with(letters);
        if key == "c_attn" || begins(&['q', 'k', 'v']) || has("qkv") {
            return Part::Input;
        }
        // GPT-2's c_proj, OPT's and GPT-J's out_proj, LLaMA's o_proj, T5's o.
        if key == "c_proj" || has("out") || begins(&['o']) {
            return Part::Output;
        }
    }
    let is_input =
        ["up", "gate", "wi", "w1", "w3", "fc1"].iter().any(|word| key.starts_with(word)) || has("in") || key == "c_fc";
    let is_output =
        ["down", "wo", "w2", "fc2"].iter().any(|word| key.starts_with(word)) || has("out") || key == "c_proj";
    match (is_input, is_output) {
        (true, _) => Part::Input,
        (_, true) => Part::Output,
        _ => Part::Plain,
    }
}
