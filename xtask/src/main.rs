//! `cargo xtask check`: every check in one command, the cheapest first. `cargo xtask prediction` and `cargo xtask plans`:
//! measurements.
//! `cargo xtask b200 FOLDER` and `cargo xtask figures`: the planner against other people's measurements.

mod b200;
mod figures;
mod plans;
mod prediction;

use anyhow::{Context, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Rings of the design, section 3: a crate may use crates of lower rings, and of its own ring those named before it.
const RINGS: [&[&str]; 5] = [
    &["mesh", "architecture", "packed", "schedule", "simulate", "plan"],
    &["ledger", "wire", "checkpoint", "corpus"],
    &["kernels", "model", "stage"],
    &["train", "serve"],
    &["millstream"],
];

/// What a ring and those below it must never reach, by package name.
const UNREACHABLE: [(usize, &[&str]); 2] = [
    (0, &["tempfile", "memmap2", "tokio", "rand", "rand_chacha", "getrandom", "burn-core", "burn-tensor", "clap"]),
    (1, &["burn-core", "burn-tensor", "clap"]),
];

/// Packages that only the binary may use.
const BINARY_ONLY: [&str; 2] = ["clap", "toml"];

/// Longest source file that needs no reason, in lines.
const LINES_MAX: usize = 900;

/// A check that passes or says why not.
type Task = fn() -> anyhow::Result<()>;

fn main() -> anyhow::Result<()> {
    let task = std::env::args().nth(1).unwrap_or_default();
    if task == "prediction" {
        return prediction::measure();
    }
    if task == "plans" {
        return plans::measure();
    }
    if task == "b200" {
        return b200::compare(std::env::args().nth(2).as_deref());
    }
    if task == "figures" {
        figures::sweep();
        return Ok(());
    }
    let tasks: &[(&str, Task)] = &[
        ("format", format),
        ("layering", layering),
        ("documents", documents),
        ("clippy", clippy),
        ("docs", docs),
        ("tests", tests),
    ];
    let chosen: Vec<_> = tasks.iter().filter(|(name, _)| task == "check" || task == *name).collect();
    let names: Vec<&str> = tasks.iter().map(|(name, _)| *name).collect();
    ensure!(
        !chosen.is_empty(),
        "usage: cargo xtask check | {} | prediction | b200 FOLDER | figures",
        names.join(" | ")
    );
    for (name, run) in chosen {
        let start = Instant::now();
        run().with_context(|| format!("{name} failed"))?;
        show(&format!("{name}: passed in {:.0} s", start.elapsed().as_secs_f64()));
    }
    Ok(())
}

fn format() -> anyhow::Result<()> {
    cargo(&["fmt", "--all", "--check"])
}

fn clippy() -> anyhow::Result<()> {
    cargo(&["clippy", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"])
}

fn tests() -> anyhow::Result<()> {
    cargo(&["test", "--release", "--workspace"])
}

fn docs() -> anyhow::Result<()> {
    let status = Command::new("cargo")
        .args(["doc", "--release", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links")
        .status()?;
    ensure!(status.success(), "rustdoc found something");
    Ok(())
}

/// Crates depend downwards only, and no ring reaches what it must not.
fn layering() -> anyhow::Result<()> {
    let order: Vec<&str> = RINGS.concat();
    let folders = crate_folders()?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    ensure!(sorted == folders, "crates/ holds {folders:?}, the rings name {sorted:?}");
    for (at, name) in order.iter().enumerate() {
        let below: Vec<&str> =
            output(&["tree", "--package", name, "--edges", "normal", "--prefix", "none", "--format", "{lib}"])?
                .lines()
                .map(|line| line.trim_end_matches(" (*)").to_owned())
                .filter_map(|line| order.iter().copied().find(|other| *other == line))
                .collect();
        if let Some(wrong) = below.iter().find(|other| order.iter().position(|o| o == *other) > Some(at)) {
            bail!("{name} depends on {wrong}, which lies above it");
        }
    }
    ensure!(!reaches("train", "serve")? && !reaches("serve", "train")?, "train and serve see each other");
    ensure!(!reaches("model", "wire")?, "model sees wire; it is to see collective only");
    for (ring, packages) in UNREACHABLE {
        for name in RINGS[ring] {
            for package in packages {
                ensure!(!reaches(name, package)?, "{name} (ring {ring}) reaches {package}");
            }
        }
    }
    for name in &order[..order.len() - 1] {
        let manifest = std::fs::read_to_string(root().join("crates").join(name).join("Cargo.toml"))?;
        for package in BINARY_ONLY {
            ensure!(
                !manifest.contains(&format!("\n{package}.workspace")),
                "{name} uses {package}; only the binary may"
            );
        }
        // The tensor library's routing of custom operations names every backend, and names one only in builds that have it.
        let needed = if *name == "kernels" { "cuda = []" } else { "" };
        let features =
            manifest.split("[features]").nth(1).and_then(|rest| rest.split("\n[").next()).unwrap_or_default();
        let declared: Vec<&str> = features.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        ensure!(
            declared.join("\n") == needed,
            "{name} has features {declared:?}; backends are chosen in the binary's manifest"
        );
    }
    Ok(())
}

/// Whether `package` is among the normal dependencies of `name`, asked as an inverse tree.
fn reaches(name: &str, package: &str) -> anyhow::Result<bool> {
    let args = ["tree", "--package", name, "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    Ok(output(&args)?.lines().any(|line| line.split(' ').next() == Some(package)))
}

/// ARCHITECTURE.md has a heading per crate, paths named in backticks exist, files keep to their length.
fn documents() -> anyhow::Result<()> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    let mut sorted = headings.clone();
    sorted.sort_unstable();
    let folders = crate_folders()?;
    ensure!(sorted == folders, "ARCHITECTURE.md describes {sorted:?}, crates/ holds {folders:?}");
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root().join(document)).context(document)?;
        for path in
            text.split('`').skip(1).step_by(2).filter(|path| path.starts_with("crates/") || path.starts_with("docs/"))
        {
            ensure!(root().join(path).exists(), "{document} names {path}, which does not exist");
        }
    }
    let mut long = BTreeMap::new();
    for file in rust_files(&root().join("crates"))? {
        let lines = std::fs::read_to_string(&file)?.lines().count();
        if lines > LINES_MAX {
            long.insert(file, lines);
        }
    }
    ensure!(long.is_empty(), "files over {LINES_MAX} lines: {long:?}");
    Ok(())
}

fn crate_folders() -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("crates"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("invariant: xtask lies in the workspace").to_owned()
}

fn cargo(args: &[&str]) -> anyhow::Result<()> {
    show(&format!("cargo {}", args.join(" ")));
    let status = Command::new("cargo").args(args).current_dir(root()).status()?;
    ensure!(status.success(), "cargo {} ended with {status}", args.join(" "));
    Ok(())
}

fn output(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("cargo").args(args).current_dir(root()).output()?;
    ensure!(output.status.success(), "cargo {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[expect(clippy::print_stdout, reason = "a command-line tool talks")]
pub(crate) fn show(line: &str) {
    println!("{line}");
}
