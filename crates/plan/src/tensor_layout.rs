//! Tensor-parallel layouts from the names and shapes of a model's weights (Redco's two rules).
//!
//! Source: Tan et al., "RedCoast: A Lightweight Tool to Automate Distributed Training of LLMs on Any GPU/TPUs", 2024.
//! Consecutive products alternate the dim that is cut; queries, keys and values are cut by outputs and the output
//! projection by inputs. The published algorithm goes by the last parts of names, in alphabetical order. This goes by whole
//! names less the layers' numbers, takes from shapes what names do not say (a product that leaves the model's width is cut by
//! outputs, one that comes back to it by inputs), and alternates the rest in the order that is given.

use std::collections::BTreeMap;

/// A weight as files have it: `[outputs, inputs]` for products, `[rows, width]` for tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedWeight {
    /// Its full name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Which dim of a product is its input: 1 as PyTorch stores linear layers, 0 as GPT-2 does. Where exactly one of the two dims
    /// is as wide as the tables, that is believed instead.
    pub input_dim: usize,
}

/// What a rank has of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// All of it.
    Replicated,
    /// An equal part along a dim.
    Shard {
        /// Which.
        dim: usize,
        /// What it is.
        along: Along,
    },
}

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Along {
    /// Outputs of a product (Megatron's column parallelism): ranks have parts of the result.
    Outputs,
    /// Inputs of a product (row parallelism): ranks' results are summed.
    Inputs,
    /// Rows of a table.
    Rows,
    /// The width of a table.
    Width,
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

/// How every weight lies on `n_shards` ranks, in the order of `weights`. Those whose names differ in numbers alone lie alike:
/// a dim is only cut where it divides in all of them. Vectors, norms, routers, convolutions and weights whose like have other numbers of dims are
/// whole.
///
/// # Panics
/// If `n_shards` is 0.
pub fn tensor_layout(weights: &[NamedWeight], n_shards: usize) -> Vec<Placement> {
    assert!(n_shards > 0, "a layout on no rank");
    let keys: Vec<String> = weights.iter().map(|weight| key(&weight.name)).collect();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut alike: Vec<(&str, Vec<&NamedWeight>)> = Vec::new();
    for (key, weight) in keys.iter().zip(weights) {
        let kind = *kinds.entry(key).or_insert_with(|| {
            alike.push((key, Vec::new()));
            alike.len() - 1
        });
        alike[kind].1.push(weight);
    }
    let width = width(&alike);
    // Attention modules with a product that says of itself that it makes queries, keys or values: where those are is what is left.
    let has_inputs: Vec<&str> = alike
        .iter()
        .filter(|(key, of)| is_matrix(of) && is_attention(key) && part(key) == Part::Input)
        .map(|(key, _)| module(key))
        .collect();
    let mut placements: Vec<Placement> = Vec::with_capacity(alike.len());
    // Whether the product before was cut by outputs.
    let mut was_by_output = false;
    for (key, of_key) in &alike {
        if !is_matrix(of_key) || is_router(key) {
            placements.push(Placement::Replicated);
            continue;
        }
        let shape = &of_key[0].shape;
        // The two last dims are those of the product; experts may be stacked before them.
        let base = shape.len() - 2;
        let wide = |dim: usize| Some(shape[base + dim]) == width;
        let said = part(key);
        let input = match (said, wide(0), wide(1)) {
            (Part::Input, true, false) | (Part::Output, false, true) => 0,
            (Part::Input, false, true) | (Part::Output, true, false) => 1,
            _ => of_key[0].input_dim.min(1),
        };
        let (input, output) = (base + input, base + 1 - input);
        let is_wide = |dim: usize| Some(shape[dim]) == width;
        let is_last = is_attention(key) && (has_inputs.contains(&module(key)) || key.contains("output"));
        let (by_outputs, by_inputs) = ((output, Along::Outputs), (input, Along::Inputs));
        let wanted = match said {
            Part::Table => [(base, Along::Rows), (base + 1, Along::Width)],
            Part::Input | Part::Head => [by_outputs, by_inputs],
            Part::Output => [by_inputs, by_outputs],
            Part::Plain => match (is_wide(input), is_wide(output)) {
                (true, false) => [by_outputs, by_inputs],
                (false, true) => [by_inputs, by_outputs],
                _ if is_last || was_by_output => [by_inputs, by_outputs],
                _ => [by_outputs, by_inputs],
            },
        };
        let divides = |dim: usize| of_key.iter().all(|weight| weight.shape[dim].is_multiple_of(n_shards));
        let chosen = wanted.into_iter().find(|(dim, _)| divides(*dim));
        if said != Part::Table {
            was_by_output = chosen.is_some_and(|(_, along)| along == Along::Outputs);
        }
        placements.push(chosen.map_or(Placement::Replicated, |(dim, along)| Placement::Shard { dim, along }));
    }
    keys.iter().map(|key| placements[kinds[key.as_str()]]).collect()
}

/// The model's width: that of most tables.
fn width(alike: &[(&str, Vec<&NamedWeight>)]) -> Option<usize> {
    let tables = alike.iter().filter(|(key, of)| is_matrix(of) && part(key) == Part::Table);
    let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
    tables.for_each(|(_, of)| *widths.entry(of[0].shape[of[0].shape.len() - 1]).or_default() += 1);
    widths.into_iter().max_by_key(|(_, n)| *n).map(|(width, _)| width)
}

/// Two dims, or three where experts are stacked; and no norm, bias or convolution.
fn is_matrix(of_key: &[&NamedWeight]) -> bool {
    let n_dims = of_key[0].shape.len();
    let name = of_key[0].name.to_lowercase();
    let is_other = name.ends_with("bias")
        || ["norm", ".ln_", "conv"].iter().any(|word| name.contains(word))
        || of_key[0].shape.contains(&1);
    (2..=3).contains(&n_dims) && !is_other && of_key.iter().all(|weight| weight.shape.len() == n_dims)
}

/// A router has few outputs, and every rank needs all of them.
fn is_router(key: &str) -> bool {
    matches!(last(key), "gate" | "router" | "shared_expert_gate") || key.ends_with("router.classifier")
}

/// A name without the numbers of layers and experts and without `weight`.
fn key(name: &str) -> String {
    let is_said = |part: &&str| *part != "weight" && !part.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.').filter(is_said).collect::<Vec<&str>>().join(".")
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn module(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(module, _)| module)
}

fn is_attention(key: &str) -> bool {
    key.to_lowercase().contains("att")
}

fn part(key: &str) -> Part {
    let is_attention = is_attention(key);
    let key = last(key).to_lowercase();
    let pieces: Vec<&str> = key.split('_').collect();
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
