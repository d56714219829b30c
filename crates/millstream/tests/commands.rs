//! The built program as a user meets it: what it prints, and with which code it ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn millstream(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millstream")).current_dir(folder).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)).unwrap()
}

/// The first code block of a document in a language.
fn block<'a>(document: &'a str, language: &str) -> &'a str {
    let (_, after) = document.split_once(&format!("```{language}\n")).unwrap();
    after.split_once("```").unwrap().0
}

#[test]
fn what_you_may_not_ask() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("full")).unwrap();
    fs::write(folder.path().join("full/thing"), "x").unwrap();
    let cases: &[(&[&str], &str)] = &[
        (
            &["train", "--set", "batch.rows=10"],
            "error: the run file cannot be used: 1 problem\n  --set batch.rows=10: `batch.rows` is 10, but must be a multiple of \
             `batch.microbatches`, which is 4; use 8 or 12 rows, or a number of microbatches that divides 10\n",
        ),
        (
            &["train", "--out", "full"],
            "error: the output folder full has something in it\n  hint: choose another with --out\n",
        ),
        (
            &["train", "--resume", "full"],
            "error: full is not the folder of a run: it has no run.toml\n  hint: give the folder that a run has written, \
             such as runs/1\n",
        ),
        (
            &["presets", "big"],
            "error: there is no preset `big`\n  hint: the presets are default, small, split-backward-4-stages\n",
        ),
        (&["report", "full"], "error: full is not the folder of a run: it has no run.toml\n"),
    ];
    for (arguments, expected) in cases {
        let output = millstream(folder.path(), arguments);
        assert_eq!(text(&output.stderr), *expected, "{arguments:?}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
    }
    assert!(!folder.path().join("runs").exists(), "a run that did not start left something");
}

#[test]
fn presets_print_as_run_files() {
    let folder = tempfile::tempdir().unwrap();
    let list = text(&millstream(folder.path(), &["presets"]).stdout);
    assert_eq!(list.lines().count(), 3, "{list}");
    for name in list.lines().map(|line| line.split_whitespace().next().unwrap()) {
        let output = millstream(folder.path(), &["presets", name]);
        assert!(output.status.success() && text(&output.stdout).contains("[model]"), "{name}");
    }
}

/// The document's example prints what the document says.
#[test]
fn the_documented_simulation() {
    let document = document("simulate.md");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("example.toml"), block(&document, "toml")).unwrap();
    let output = millstream(folder.path(), &["simulate", "example.toml", "--width", "100"]);
    let (_, after_file) = document.split_once("# example.toml").unwrap();
    assert_eq!(text(&output.stdout), block(after_file, "text"), "{}", text(&output.stderr));

    let arguments = ["simulate", "example.toml", "--json", "--svg", "out.svg", "--perfetto", "out.json"];
    let output = millstream(folder.path(), &arguments);
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // Closed form for split 1F1B with F = I = W and p ranks: a rank idles (p - 1)(F + I).
    let idle_s = 3.0 * 2e-3;
    let close = |found: &serde_json::Value, wanted: f64| (found.as_f64().unwrap() - wanted).abs() < 1e-9;
    assert!(close(&figures["makespan_s"], 8.0 * 3e-3 + idle_s), "{figures}");
    for rank in figures["ranks"].as_array().unwrap() {
        assert!(close(&rank["compute_s"], 24e-3) && close(&rank["idle_s"], idle_s), "{rank}");
    }
    assert!(fs::read_to_string(folder.path().join("out.svg")).unwrap().starts_with("<svg"));
    let trace: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("out.json")).unwrap()).unwrap();
    assert!(!trace["traceEvents"].as_array().unwrap().is_empty());
}

#[test]
fn doctor_measures() {
    let folder = tempfile::tempdir().unwrap();
    let output = millstream(folder.path(), &["doctor", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["machine"]["available_cores"].as_u64().unwrap() >= 1, "{found}");
    let peak = &found["matmul_peak"];
    // Some tenths of a GFLOP/s is what one scalar core without SIMD does.
    for number in [&peak["one_thread_gflops"], &peak["all_cores_gflops"], &found["memory_gbytes_per_s"]] {
        assert!(number.as_f64().unwrap() > 0.1, "{found}");
    }
}
