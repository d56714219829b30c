//! A folder with a small text and a small run file, and the program run in it.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Python with a package, if there is one: `MILLSTREAM_PYTHON` or `python3`. Without, it says on the test's own standard error,
/// which is not captured, what is not checked and how it would be.
pub fn python(package: &str, checks: &str) -> Option<String> {
    let python = std::env::var("MILLSTREAM_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", &format!("import {package}")]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let line = format!(
        "not checked: {checks}. `{python}` has no {package}: python3 -m venv venv && venv/bin/pip install {package}, then \
         MILLSTREAM_PYTHON=$PWD/venv/bin/python cargo test\n"
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// Takes milliseconds a step; the learning rate does not depend on the number of steps.
const RUN_FILE: &str = r#"
seed = 3
steps = 4
[data]
paths = ["text.txt"]
sequence_length = 16
validation_fraction = 0.2
[tokenizer]
vocab_size = 281
[model]
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
intermediate_size = 24
[batch]
rows = 4
microbatches = 2
[pipeline]
stages = 2
[optimizer]
learning_rate = 1e-2
minimum_learning_rate = 1e-2
[checkpoint]
every = 2
keep = 2
[sample]
prompt = "The "
tokens = 5
"#;

pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// With `text.txt` and `tiny.toml`.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        let place = Self { folder };
        place.write("text.txt", text(60_000));
        place.write("tiny.toml", RUN_FILE);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("work").join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn read_text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    pub fn read_json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The program with caches of its own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.current_dir(self.path("")).env("XDG_CACHE_HOME", self.folder.path().join("cache")).args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs what has to succeed and yields its standard output.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every file and folder below `name`, files with their content.
    pub fn files(&self, name: &str) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut found = BTreeMap::new();
        collect(&self.path(name), &mut found);
        found
    }
}

fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.insert(path.clone(), None);
            collect(&path, found);
        } else {
            found.insert(path.clone(), Some(fs::read(&path).unwrap()));
        }
    }
}

/// Words drawn by a linear congruential generator, in paragraphs.
fn text(bytes: usize) -> String {
    const WORDS: [&str; 11] = ["The", "mill", "turns", "when", "water", "runs", "over", "a", "wheel", "of", "oak"];
    let mut state = 1u64;
    let mut text = String::new();
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let draw = (state >> 33) as usize;
        text += WORDS[draw % WORDS.len()];
        text += if draw.is_multiple_of(53) { ".\n\n" } else { " " };
    }
    text
}
