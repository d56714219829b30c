//! A run file as resolved, against the preset it was laid over or against another's.

use crate::run_file::PRESETS;
use crate::toml_file::{self, Table, Value};
use serde::Serialize;
use std::collections::BTreeMap;

/// A run file, line by line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MarkedFile {
    /// The preset that it is compared with.
    pub preset: &'static str,
    /// Its lines.
    pub lines: Vec<MarkedLine>,
    /// How many of them differ.
    pub n_marked: usize,
}

/// A line of a run file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MarkedLine {
    /// As it stands.
    pub text: String,
    /// What stands for it in the preset, where that is something else.
    pub was: Option<String>,
}

impl MarkedFile {
    /// The file against the preset of that name, or against the first one, which runs without a run file. What the
    /// preset leaves open has its default there, and is marked only where the preset names it.
    pub fn new(run_file: &str, preset: Option<&str>) -> Self {
        let preset = PRESETS.iter().find(|known| Some(known.name) == preset).unwrap_or(&PRESETS[0]);
        let (resolved, of_preset) = (keys(run_file), keys(&preset.resolved()));
        let mut section = String::new();
        let lines = run_file.lines().map(|line| {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = format!("{name}.");
            }
            let key = line.split_once(" = ").map(|(key, _)| format!("{section}{key}"));
            let was = key.filter(|key| resolved.contains_key(key)).and_then(|key| {
                let was = of_preset.get(&key).map_or("not there", String::as_str);
                (resolved[&key] != was).then(|| was.to_owned())
            });
            MarkedLine { text: line.to_owned(), was }
        });
        let lines: Vec<MarkedLine> = lines.collect();
        Self { preset: preset.name, n_marked: lines.iter().filter(|line| line.was.is_some()).count(), lines }
    }
}

/// The keys in which run files differ, each with its value in every file, empty where a file lacks it.
pub fn differing(run_files: &[&str]) -> Vec<(String, Vec<String>)> {
    let all: Vec<BTreeMap<String, String>> = run_files.iter().map(|file| keys(file)).collect();
    let mut names: Vec<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    names.sort();
    names.dedup();
    let values =
        |name: &String| -> Vec<String> { all.iter().map(|keys| keys.get(name).cloned().unwrap_or_default()).collect() };
    let differ = |values: &[String]| values.windows(2).any(|pair| pair[0] != pair[1]);
    names.into_iter().map(|name| (name.clone(), values(name))).filter(|(_, values)| differ(values)).collect()
}

/// Every key with its section and its value as text. What is no TOML has none.
fn keys(text: &str) -> BTreeMap<String, String> {
    fn add(found: &mut BTreeMap<String, String>, path: &str, table: &Table) {
        for (key, entry) in table {
            let name = format!("{path}{key}");
            match &entry.node.value {
                Value::Table(section) => add(found, &format!("{name}."), section),
                value => drop(found.insert(name, value.to_string())),
            }
        }
    }
    let (table, _not_toml) = toml_file::parse("run.toml", text);
    let mut found = BTreeMap::new();
    add(&mut found, "", &table);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_a_preset() {
        for preset in PRESETS {
            let file = preset.resolved();
            assert_eq!(MarkedFile::new(&file, Some(preset.name)).n_marked, 0, "{}", preset.name);
        }
        let file = PRESETS[0].resolved().replace("steps = 700\n", "steps = 9\n").replace("\"1f1b\"", "\"a < b\"");
        let marked = MarkedFile::new(&file, None);
        let found: Vec<_> = marked.lines.iter().filter(|line| line.was.is_some()).collect();
        assert_eq!(marked.n_marked, 2);
        assert_eq!((found[0].text.as_str(), found[0].was.as_deref()), ("steps = 9", Some("700")));
        assert_eq!((found[1].text.as_str(), found[1].was.as_deref()), ("schedule = \"a < b\"", Some("\"1f1b\"")));
        assert_eq!(marked.lines.len(), file.lines().count());
    }

    #[test]
    fn what_differs_between_runs() {
        let files =
            ["a = 1\n[b]\nc = 2\nd = \"x\"", "a = 1\n[b]\nc = 3\nd = \"x\"\ne = []", "a = 1\n[b]\nc = 2\nd = \"x\""];
        let row = |name: &str, values: [&str; 3]| (name.to_owned(), values.map(str::to_owned).to_vec());
        assert_eq!(differing(&files), [row("b.c", ["2", "3", "2"]), row("b.e", ["", "[]", ""])]);
        assert_eq!(differing(&files[..1]), []);
        assert_eq!(differing(&["no toml ["]), []);
    }
}
