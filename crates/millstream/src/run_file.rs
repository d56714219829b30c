//! What the user wrote, as [`train::Settings`]: preset, run file and `--set` laid over each other, read once, every
//! problem reported together.

mod model;
mod pipeline;
mod presets;
mod sections;
#[cfg(test)]
mod tests;
mod write;

pub use pipeline::{BACKWARDS, SCHEDULES};
pub use presets::{PRESETS, Preset};
pub use write::write;

use crate::toml_file::{self, Entry, Place, Problem, Problems, Reader, Table, Value};
use std::cell::RefCell;
use std::path::PathBuf;
use train::Settings;

/// What the command line says about a run.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The run file; without one, the preset `default`.
    pub file: Option<PathBuf>,
    /// A plan file of `millstream plan`, laid over the file.
    pub plan: Option<PathBuf>,
    /// `key=value` each, laid over file and plan in order.
    pub sets: Vec<String>,
    /// A model folder to fine-tune, laid over all else.
    pub from: Option<PathBuf>,
}

/// The settings that a request means.
///
/// A key that is given nowhere has the default that `docs/run-file.md` names, or is reported as missing. Relative paths
/// count from the current folder. Where two keys exclude each other (`model.from` and the model's sizes, the two kinds
/// of tokenizer, `data.paths` and `data.sources`), the upper layer's choice takes the lower layer's out.
///
/// # Errors
/// Everything that is wrong, each with its place: text that is no TOML, unknown and missing keys, values of the wrong
/// kind or size, values that do not fit each other, files that do not exist.
pub fn resolve(request: &Request) -> Result<Settings, Problems> {
    let failed = |problems| Problems::new("the run file", problems);
    let mut problems = Vec::new();
    let (table, place) = layers(request, &mut problems).map_err(failed)?;
    let problems = RefCell::new(problems);
    let settings = sections::settings(&Reader::new(&table, place, &problems));
    match (settings, problems.into_inner()) {
        (Some(settings), problems) if problems.is_empty() => Ok(settings),
        (_, problems) => {
            assert!(!problems.is_empty(), "a setting that could not be read was reported");
            Err(failed(problems))
        }
    }
}

/// The preset that a request builds on, when it can be resolved and builds on one.
pub fn preset(request: &Request) -> Option<&'static Preset> {
    let named = |table: &Table| match &table.get("preset")?.node.value {
        Value::Text(name) => PRESETS.iter().find(|preset| preset.name == name),
        _ => None,
    };
    let sets = request.sets.iter().rev().filter_map(|set| toml_file::parse_option(Place::named("--set"), set).ok());
    let of_sets = sets.filter_map(|set| named(&set)).next();
    of_sets.or_else(|| match &request.file {
        None => Some(&PRESETS[0]),
        Some(path) => named(&toml_file::parse("run file", &std::fs::read_to_string(path).ok()?).0),
    })
}

/// Whether the run of a run file isolates documents, all else in the file aside: it may name texts that are gone.
///
/// # Errors
/// The file cannot be read, is no TOML, or says neither yes nor no.
pub fn isolates_documents(file: &std::path::Path) -> Result<bool, Problems> {
    let table = read(file)?;
    let entry = section(&table, "data").and_then(|data| data.get("isolate_documents"));
    match entry.map(|entry| (&entry.node.value, &entry.node.place)) {
        None => Ok(true),
        Some((Value::Flag(isolates), _)) => Ok(*isolates),
        Some((other, place)) => {
            let text = format!("`data.isolate_documents` is {other}, but must be true or false");
            Err(Problems::new("the run file", vec![Problem::new(place.clone(), text)]))
        }
    }
}

/// Whether some stage of a run file's run computes its forward again, all else in the file aside.
///
/// # Errors
/// The file cannot be read, or is no TOML.
pub fn recomputes(file: &std::path::Path) -> Result<bool, Problems> {
    let table = read(file)?;
    let is_full = |value: &Value| matches!(value, Value::Text(word) if word == "full");
    let entry = section(&table, "pipeline").and_then(|pipeline| pipeline.get("recompute"));
    Ok(match entry.map(|entry| &entry.node.value) {
        Some(Value::List(of_stages)) => of_stages.iter().any(|node| is_full(&node.value)),
        Some(value) => is_full(value),
        None => false,
    })
}

fn read(file: &std::path::Path) -> Result<Table, Problems> {
    let failed = |problems| Problems::new("the run file", problems);
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        failed(vec![Problem::new(Place::named(&name), format!("the file cannot be read: {error}"))])
    })?;
    let (table, problems) = toml_file::parse(&name, &text);
    if problems.is_empty() { Ok(table) } else { Err(failed(problems)) }
}

/// All layers as one table, and the place to name when something is missing. Fails where the file has no layer to give:
/// what is no TOML would only be misunderstood.
fn layers(request: &Request, problems: &mut Vec<Problem>) -> Result<(Table, Place), Vec<Problem>> {
    let sets: Vec<_> =
        request.sets.iter().map(|set| toml_file::parse_option(Place::named(&format!("--set {set}")), set)).collect();
    // A preset lies under everything: the last one named on the command line, else the file's.
    let asked = sets.iter().rev().flatten().find(|set| set.get("preset").is_some());
    let (mut table, place) = match &request.file {
        None => {
            let preset = asked.map_or_else(|| presets::table(&PRESETS[0]), |set| inherited(set, problems));
            (preset, Place::named(&PRESETS[0].source()))
        }
        Some(path) => {
            let name = path.display().to_string();
            let place = Place::named(&name);
            let text = std::fs::read_to_string(path)
                .map_err(|error| vec![Problem::new(place.clone(), format!("the file cannot be read: {error}"))])?;
            let (upper, not_toml) = toml_file::parse(&name, &text);
            if !not_toml.is_empty() {
                return Err(not_toml);
            }
            let mut table = inherited(asked.unwrap_or(&upper), problems);
            put_over(&mut table, upper);
            (table, place)
        }
    };
    if let Some(path) = &request.plan {
        put_over(&mut table, plan_file(path)?);
    }
    let from = request.from.as_ref().map(|folder| {
        let place = Place::named(&format!("--from {}", folder.display()));
        toml_file::parse_option(place, &format!("model.from={}", quoted(folder)))
    });
    for layer in sets.into_iter().chain(from) {
        match layer {
            Ok(layer) => put_over(&mut table, layer),
            Err(problem) => problems.push(problem),
        }
    }
    Ok((table, place))
}

/// A plan file as a layer: its section `[plan]` says which axes it needs, of which training has the pipeline only.
fn plan_file(path: &std::path::Path) -> Result<Table, Vec<Problem>> {
    let name = path.display().to_string();
    let place = Place::named(&name);
    let text = std::fs::read_to_string(path)
        .map_err(|error| vec![Problem::new(place.clone(), format!("the plan cannot be read: {error}"))])?;
    let (mut table, mut problems) = toml_file::parse(&name, &text);
    let Some(Entry { node, .. }) = table.remove("plan") else {
        problems.push(Problem::new(
            place,
            "this is no plan: it has no section [plan]; let `millstream plan --out` write it".into(),
        ));
        return Err(problems);
    };
    for axis in ["data", "context", "expert", "tensor"] {
        let Value::Table(axes) = &node.value else { continue };
        if let Some(Entry { node, .. }) = axes.get(axis).filter(|entry| !matches!(entry.node.value, Value::Whole(1))) {
            let text = format!(
                "the plan divides over the {axis} axis ({}), which `train` does not have; plan with --trainer millstream",
                node.value
            );
            problems.push(Problem::new(node.place.clone(), text));
        }
    }
    if problems.is_empty() { Ok(table) } else { Err(problems) }
}

/// The preset that a file builds on, empty when it names none.
fn inherited(file: &Table, problems: &mut Vec<Problem>) -> Table {
    let Some(Entry { node, .. }) = file.get("preset") else { return Table::new() };
    let named = match &node.value {
        Value::Text(name) => PRESETS.iter().find(|preset| preset.name == name),
        _ => None,
    };
    match named {
        Some(preset) => presets::table(preset),
        None => {
            let names: Vec<String> = PRESETS.iter().map(|preset| format!("{:?}", preset.name)).collect();
            let text = format!("`preset` is {}, but must be {}", node.value, names.join(" or "));
            problems.push(Problem::new(node.place.clone(), text));
            // In its place, so that not everything else is missing, too.
            presets::table(&PRESETS[0])
        }
    }
}

/// Lays `upper` over `lower` and takes out of `lower` what `upper` has chosen against.
fn put_over(lower: &mut Table, upper: Table) {
    let (from, sizes) = match section(&upper, "model") {
        Some(model) => (model.contains_key("from"), model.keys().any(|key| key != "from")),
        None => (false, false),
    };
    if from {
        lower.remove("model");
        // The folder brings its own, unless the upper layer says otherwise.
        lower.remove("tokenizer");
    } else if sizes && let Some(model) = section_mut(lower, "model") {
        model.remove("from");
    }
    let exclusive = [
        ("tokenizer", "file", "vocab_size"),
        ("tokenizer", "vocab_size", "file"),
        ("data", "paths", "sources"),
        ("data", "sources", "paths"),
        ("data", "sources", "field"),
        ("data", "sources", "tokens"),
    ];
    for (name, chosen, other) in exclusive {
        if section(&upper, name).is_some_and(|table| table.contains_key(chosen))
            && let Some(table) = section_mut(lower, name)
        {
            table.remove(other);
        }
    }
    toml_file::lay_over(lower, upper);
}

fn section<'a>(table: &'a Table, key: &str) -> Option<&'a Table> {
    match &table.get(key)?.node.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

fn section_mut<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Table> {
    match &mut table.get_mut(key)?.node.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

/// A path as a TOML string.
fn quoted(path: &std::path::Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}
