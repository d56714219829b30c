//! `millstream layout`.

use super::table;
use crate::fault::{UserFault, users};
use crate::{Outcome, model_folder, units};
use plan::{Along, NamedWeight, Placement, tensor_layout};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Ranks at most: as many as any dim of a weight has rows.
const RANKS_MAX: u64 = 1 << 20;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Of what, on how many ranks.
#[derive(clap::Args)]
pub struct Args {
    /// A folder in Hugging Face's form or a run's, a safetensors file, or a config.json of a family that this program trains.
    #[arg(value_name = "FOLDER|FILE")]
    model: std::path::PathBuf,
    /// Ranks that share every layer.
    #[arg(long, value_name = "N", value_parser = super::size(1..=RANKS_MAX))]
    tensor: usize,
    /// Print every weight as JSON instead of a table of those that are alike.
    #[arg(long)]
    json: bool,
}

/// A weight as `--json` prints it.
#[derive(Serialize)]
struct Row {
    name: String,
    shape: Vec<usize>,
    /// `outputs`, `inputs`, `rows`, `width`, or `whole`.
    cut: &'static str,
    /// Which dim is cut; `null` for none.
    dim: Option<usize>,
    /// What every rank has.
    on_rank: Vec<usize>,
}

/// Prints how every weight lies.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let has = |name: &str| args.model.join(name).exists();
    let is_run = args.model.is_dir() && ![CONFIG, WEIGHTS, INDEX].into_iter().any(has);
    let model = if is_run { model_folder::find(&args.model)? } else { args.model.clone() };
    let (weights, config) = weights(&model)?;
    let placements = tensor_layout(&weights, args.tensor);
    let rows: Vec<Row> =
        weights.into_iter().zip(placements).map(|(weight, of)| Row::new(weight, of, args.tensor)).collect();
    let notes = notes(&config, args.tensor);
    if args.json {
        let answer = serde_json::json!({ "tensor": args.tensor, "weights": rows, "notes": notes });
        super::print(&(serde_json::to_string_pretty(&answer)? + "\n"))?;
    } else {
        super::print(&page(&rows, &notes, args.tensor))?;
    }
    Ok(Outcome::Done)
}

impl Row {
    fn new(weight: NamedWeight, placement: Placement, n_ranks: usize) -> Self {
        let NamedWeight { name, shape, .. } = weight;
        let (cut, dim) = match placement {
            Placement::Replicated => ("whole", None),
            Placement::Shard { dim, along } => (name_of(along), Some(dim)),
        };
        let of_dim = |(i, &n): (usize, &usize)| if Some(i) == dim { n / n_ranks } else { n };
        let on_rank = shape.iter().enumerate().map(of_dim).collect();
        Self { name, shape, cut, dim, on_rank }
    }
}

fn name_of(along: Along) -> &'static str {
    match along {
        Along::Outputs => "outputs",
        Along::Inputs => "inputs",
        Along::Rows => "rows",
        Along::Width => "width",
    }
}

/// Names and shapes from weight files where there are some, else from the configuration; and the configuration, where there is one.
fn weights(model: &Path) -> Result<(Vec<NamedWeight>, Value), UserFault> {
    if !model.exists() {
        let hint = "give a folder in Hugging Face's form, a .safetensors file, or a config.json";
        return Err(UserFault::new(format!("{}: there is no such file or folder", model.display())).hint(hint));
    }
    let is_json = |path: &Path| path.extension().is_some_and(|extension| extension == "json");
    let config_path = match (model.is_dir(), is_json(model)) {
        (true, _) => model.join(CONFIG),
        (false, true) => model.to_owned(),
        (false, false) => model.with_file_name(CONFIG),
    };
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| UserFault::new(format!("{}: {error}", path.display())))
    };
    let text = if config_path.is_file() { Some(read(&config_path)?) } else { None };
    let config = match &text {
        None => Value::Null,
        Some(text) => serde_json::from_str(text).map_err(|error| {
            UserFault::new(format!("{}: the configuration cannot be read: {error}", config_path.display()))
        })?,
    };
    let has_weights = model.is_dir() && [WEIGHTS, INDEX].into_iter().any(|name| model.join(name).exists());
    if has_weights || model.is_file() && !is_json(model) {
        let stored = checkpoint::stored_shapes(model).map_err(users)?;
        if stored.is_empty() {
            return Err(UserFault::new(format!("{}: the weight file holds no tensor", model.display()))
                .hint("give a file or folder that has the model's weights"));
        }
        // transformers' Conv1D has inputs first; everything else is as PyTorch has it.
        let has_conv1d = matches!(config["model_type"].as_str(), Some("gpt2" | "openai-gpt" | "imagegpt"));
        let input_dim = if has_conv1d { 0 } else { 1 };
        let named = |(name, shape): (String, Vec<usize>)| {
            let input_dim = if name.contains("head") { 1 } else { input_dim };
            NamedWeight { name, shape, input_dim }
        };
        return Ok((stored.into_iter().map(named).collect(), config));
    }
    let Some(text) = text else {
        return Err(UserFault::new(format!("{}: it is neither a folder nor a file", model.display()))
            .hint("give a folder in Hugging Face's form, a .safetensors file, or a config.json"));
    };
    let architecture = architecture::from_config_json(&text).map_err(|error| {
        UserFault::new(format!("{}: {error}", config_path.display()))
            .hint("for other families give a folder with weight files: names and shapes are read from their headers")
    })?;
    let is_gpt2 = config["model_type"] == "gpt2";
    let named = |weight: architecture::Weight| {
        let is_conv1d = is_gpt2 && !weight.name.contains("head");
        NamedWeight { name: weight.name, shape: weight.shape, input_dim: usize::from(!is_conv1d) }
    };
    Ok((architecture.all_weights().into_iter().map(named).collect(), config))
}

/// What names and shapes do not tell and the configuration does.
fn notes(config: &Value, n_ranks: usize) -> Vec<String> {
    let heads = [
        ("num_attention_heads", "query heads"),
        ("n_head", "heads"),
        ("num_key_value_heads", "heads of keys and values"),
    ];
    let of = |(field, what): (&str, &str)| {
        let n = config[field].as_u64()? as usize;
        (!n.is_multiple_of(n_ranks)).then(|| {
            format!("{n} {what} do not divide over {n_ranks} ranks: what is cut by outputs there is cut inside heads")
        })
    };
    heads.into_iter().filter_map(of).collect()
}

fn page(rows: &[Row], notes: &[String], n_ranks: usize) -> String {
    // Names that differ in numbers alone, in the order of their first.
    let mut kinds: Vec<(String, usize, &Row)> = Vec::new();
    let mut places: BTreeMap<(String, &[usize]), usize> = BTreeMap::new();
    for row in rows {
        let name = starred(&row.name);
        let place = *places.entry((name.clone(), &row.shape)).or_insert_with(|| {
            kinds.push((name, 0, row));
            kinds.len() - 1
        });
        kinds[place].1 += 1;
    }
    let shape = |shape: &[usize]| match shape {
        [] => "1".to_owned(),
        _ => shape.iter().map(usize::to_string).collect::<Vec<String>>().join(" x "),
    };
    let head = ["weight", "cut by", "dim", "weights", "shape", "on a rank"];
    let lines = kinds.iter().map(|(name, n, row)| {
        // A single weight has its own name.
        let name = if *n == 1 { &row.name } else { name };
        let dim = row.dim.map_or("-".to_owned(), |dim| dim.to_string());
        vec![super::visible(name), row.cut.to_owned(), dim, n.to_string(), shape(&row.shape), shape(&row.on_rank)]
    });
    let lines: Vec<Vec<String>> = std::iter::once(head.map(str::to_owned).to_vec()).chain(lines).collect();
    let elements = |of: &dyn Fn(&Row) -> &[usize]| -> u64 {
        rows.iter().map(|row| of(row).iter().map(|&n| n as u64).product::<u64>()).sum()
    };
    let (all, here) = (elements(&|row| &row.shape), elements(&|row| &row.on_rank));
    let mut page = table::aligned(&lines, 3).join("\n") + "\n";
    page += &format!(
        "\n{} parameters in {} weights; on each of {n_ranks} ranks {}\n",
        units::count(all),
        rows.len(),
        units::count(here)
    );
    for note in notes {
        page += &format!("note: {note}\n");
    }
    page
}

/// A name with a star for every number in it.
fn starred(name: &str) -> String {
    let part = |part: &str| match part.parse::<u64>() {
        Ok(_) => "*".to_owned(),
        Err(_) => part.to_owned(),
    };
    name.split('.').map(part).collect::<Vec<String>>().join(".")
}
