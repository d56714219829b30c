//! A disk that is full when a checkpoint is due: the limit on file sizes of the child process stands in for it.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

mod common;

use common::Place;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Runs the program with no file allowed to grow beyond `bytes`; writing more fails as on a full disk.
fn run_within(place: &Place, bytes: u64, arguments: &[&str]) -> Output {
    let mut command = place.command(arguments);
    // SAFETY: between fork and exec, only these two calls are made, both safe in signal handlers.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    command.output().unwrap()
}

#[test]
fn a_checkpoint_that_does_not_fit() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "whole", "--set", "steps=7"]);
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    let weights_bytes = place.read("run/model/model.safetensors").len() as u64;
    let checkpoints = place.files("run/checkpoints");
    let before = place.files("run");

    // The moments are twice as large as the weights; with half of the weights, the report does not fit either.
    for (limit, file) in [(weights_bytes + 9_000, "optimizer.safetensors"), (weights_bytes / 2, "model.safetensors")] {
        let output = run_within(&place, limit, &["train", "--resume", "run", "--set", "steps=7"]);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with("error: Cannot write `"), "{stderr}");
        assert!(stderr.contains("run/checkpoints/") && stderr.contains(file), "{stderr}");
        assert_eq!(stderr.matches("File too large").count(), 1, "{stderr}");
        assert!(stdout.contains("go on from the last checkpoint with: millstream train --resume run\n"), "{stdout}");

        assert_eq!(place.files("run/checkpoints"), checkpoints, "{file}");
        for name in ["run/timeline.json", "run/summary.json", "run/trace.json"] {
            place.read_json(name);
        }
        let page = place.read_text("run/report.html");
        assert!(page.trim_end().ends_with("</html>"), "{file}: the page is cut");
        // Every session has an event file of its own.
        let is_event_file = |path: &Path| path.parent().is_some_and(|folder| folder.ends_with("tensorboard"));
        let names = |files: &BTreeMap<PathBuf, Option<Vec<u8>>>| -> Vec<PathBuf> {
            files.keys().filter(|path| !is_event_file(path)).cloned().collect()
        };
        assert_eq!(names(&place.files("run")), names(&before), "{file}: something was left");
    }

    place.succeed(&["train", "--resume", "run"]);
    assert_eq!(place.read("run/model/model.safetensors"), place.read("whole/model/model.safetensors"));
}

#[test]
fn a_run_that_cannot_begin_to_write() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    let before = place.files("");
    for arguments in [["train", "tiny.toml", "--out", "new"], ["train", "--resume", "run", "--set=steps=7"]] {
        let output = run_within(&place, 100, &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("run.toml cannot be written: File too large"), "{stderr}");
        assert!(place.files("") == before, "{arguments:?} left something");
    }
}
