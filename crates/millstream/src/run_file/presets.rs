//! Run files that come with the program.

use super::Request;
use crate::toml_file::{self, Table};

/// A run file under a name.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// What `preset = "..."` calls it.
    pub name: &'static str,
    /// Its TOML; the first line says what it is for.
    pub text: &'static str,
}

/// All presets; the first is what runs without a run file.
pub const PRESETS: [Preset; 3] = [
    Preset { name: "default", text: include_str!("../../presets/default.toml") },
    Preset { name: "small", text: include_str!("../../presets/small.toml") },
    Preset { name: "split-backward-4-stages", text: include_str!("../../presets/split-backward-4-stages.toml") },
];

impl Preset {
    /// What places in it are called.
    pub fn source(&self) -> String {
        format!("preset `{}`", self.name)
    }

    /// The run file that it resolves to.
    pub fn resolved(&self) -> String {
        let request = Request { sets: vec![format!("preset={}", self.name)], ..Request::default() };
        let settings = super::resolve(&request);
        super::write(&settings.unwrap_or_else(|problems| panic!("preset {} resolves: {problems}", self.name)))
    }

    /// What it is for, in a line.
    pub fn purpose(&self) -> &'static str {
        self.text.lines().next().map_or("", |line| line.trim_start_matches(['#', ' ']))
    }
}

pub(super) fn table(preset: &Preset) -> Table {
    let (table, problems) = toml_file::parse(&preset.source(), preset.text);
    assert!(problems.is_empty(), "preset {} is TOML: {problems:?}", preset.name);
    table
}
