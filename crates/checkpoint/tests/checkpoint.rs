//! Training checkpoints: exact round trips, damage, replacement, interruption.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use architecture::Weight;
use checkpoint::{CheckpointError, Part, Save, clean, latest, load, read_folder, save};
use common::{HeadMatrix, TOKENIZER, any_bits, bits, files, message, model, names};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::json;
use std::path::{Path, PathBuf};

const PARTS: [Part; 3] = [Part::Value, Part::FirstMoment, Part::SecondMoment];

/// A checkpoint whose every number follows from its step.
fn save_step(series: &Path, step: u64, keep: usize) -> Result<PathBuf, CheckpointError> {
    let architecture = model(HeadMatrix::Own);
    let state = json!({ "step": step, "cursor": u64::MAX - step, "settings": "a digest" });
    let tokenizer = Some(TOKENIZER.as_bytes());
    let contents = Save { step, keep, architecture: &architecture, tokenizer, companions: &[], state: &state };
    save(series, &contents, |weight, part| Ok(any_bits(step, weight, part)))
}

/// Loads, and everything in it belongs to one step, which is returned.
fn check_consistent(path: &Path) -> u64 {
    let checkpoint = load(path).unwrap();
    let step = checkpoint.step();
    assert_eq!(path.file_name().unwrap().to_str().unwrap(), format!("step-{step:08}"));
    assert_eq!(checkpoint.path(), path);
    assert_eq!(checkpoint.state()["step"], step);
    assert_eq!(checkpoint.state()["cursor"], u64::MAX - step);
    assert_eq!(checkpoint.folder().architecture(), &model(HeadMatrix::Own));
    for weight in model(HeadMatrix::Own).all_weights() {
        for part in PARTS {
            let (found, wanted) = (checkpoint.read(&weight, part).unwrap(), any_bits(step, &weight, part));
            assert_eq!(bits(&found), bits(&wanted), "{} {part:?}", weight.name);
        }
    }
    step
}

fn newest(series: &Path) -> PathBuf {
    latest(series).unwrap().checkpoint.unwrap().path().to_owned()
}

#[test]
fn what_is_saved_is_loaded() {
    let temporary = tempfile::tempdir().unwrap();
    let series = temporary.path().join("run/checkpoints");
    assert!(latest(&series).unwrap().checkpoint.is_none(), "no folder, no checkpoint, no error");
    let path = save_step(&series, 100, 1).unwrap();
    assert_eq!(path, series.join("step-00000100"));
    assert_eq!(check_consistent(&path), 100);
    let wanted = [
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&path), wanted);
    assert_eq!(names(&series), ["step-00000100"]);

    // It is also a Hugging Face folder.
    let folder = read_folder(&path).unwrap();
    for weight in folder.architecture().all_weights() {
        assert_eq!(bits(&folder.read(&weight).unwrap()), bits(&any_bits(100, &weight, Part::Value)));
    }
    let foreign = Weight { name: "model.extra".into(), ..folder.architecture().all_weights()[0].clone() };
    assert!(message(load(&path).unwrap().read(&foreign, Part::SecondMoment)).contains("model.extra.v"));

    // And without hashes it is only that.
    std::fs::remove_file(path.join("manifest.json")).unwrap();
    read_folder(&path).unwrap();
    assert!(message(load(&path)).contains("manifest.json"));
}

#[test]
fn equal_input_gives_equal_bytes() {
    let temporary = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| save_step(&temporary.path().join(name), 3, 1).unwrap());
    assert_eq!(files(&one), files(&other));
}

#[test]
fn keeps_the_newest() {
    // Steps saved in this order, how many are kept, and what is left.
    let cases: [(&[u64], usize, &[u64]); 6] = [
        (&[5], 1, &[5]),
        (&[5, 7, 11], 1, &[11]),
        (&[5, 7, 11, 13], 3, &[7, 11, 13]),
        (&[5, 7, 7, 7], 2, &[5, 7]),
        // Started again from an older one: what was just saved stays in any case.
        (&[100, 200, 150], 1, &[150]),
        (&[99_999_999, 100_000_000], 2, &[99_999_999, 100_000_000]),
    ];
    for (saved, keep, left) in cases {
        let temporary = tempfile::tempdir().unwrap();
        for &step in saved {
            let path = save_step(temporary.path(), step, keep).unwrap();
            assert_eq!(check_consistent(&path), step);
        }
        assert_eq!(names(temporary.path()).len(), left.len(), "{saved:?}");
        for &step in left {
            assert_eq!(check_consistent(&temporary.path().join(format!("step-{step:08}"))), step);
        }
        assert_eq!(check_consistent(&newest(temporary.path())), *left.iter().max().unwrap());
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let temporary = tempfile::tempdir().unwrap();
    let path = save_step(temporary.path(), 42, 1).unwrap();
    let originals: Vec<_> = files(&path).into_iter().collect();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    // Every file equally often, so that small ones are not spared.
    for n in 0..800 {
        let (name, bytes) = &originals[n % originals.len()];
        let bit = random.next_u64() as usize % (8 * bytes.len());
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(path.join(name), damaged).unwrap();
        for message in [message(load(&path)), message(read_folder(&path))] {
            // A flip in a name inside the manifest is noticed as a missing file.
            assert!(message.contains(name) || name == "manifest.json", "bit {bit} of {name}: {message}");
            assert!(message.contains(path.to_str().unwrap()), "bit {bit} of {name}: {message}");
        }
        std::fs::write(path.join(name), bytes).unwrap();
    }
    check_consistent(&path);
}

#[test]
fn no_cut_goes_unnoticed() {
    let temporary = tempfile::tempdir().unwrap();
    let path = save_step(temporary.path(), 42, 1).unwrap();
    for (name, bytes) in files(&path) {
        for length in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
            std::fs::write(path.join(&name), &bytes[..length]).unwrap();
            let message = message(load(&path));
            assert!(message.contains(&name), "{name} cut to {length} bytes: {message}");
        }
        std::fs::remove_file(path.join(&name)).unwrap();
        assert!(message(load(&path)).contains(&name), "{name} is gone");
        std::fs::write(path.join(&name), bytes).unwrap();
    }
    check_consistent(&path);
}

#[test]
fn a_damaged_newest_one_is_skipped() {
    let temporary = tempfile::tempdir().unwrap();
    let series = temporary.path();
    for step in [10, 20, 30, 40] {
        save_step(series, step, 4).unwrap();
    }
    std::fs::write(series.join("step-00000040/state.json"), "{}").unwrap();
    std::fs::remove_file(series.join("step-00000030/optimizer.safetensors")).unwrap();
    std::fs::create_dir(series.join("step-00000050")).unwrap();
    std::fs::create_dir(series.join("step-by-step")).unwrap();
    let found = latest(series).unwrap();
    assert_eq!(found.checkpoint.unwrap().step(), 20);
    let skipped: Vec<(PathBuf, String)> =
        found.skipped.into_iter().map(|skipped| (skipped.path, skipped.reason.to_string())).collect();
    let wanted = [("step-00000050", "manifest.json"), ("step-00000040", "state.json"), ("step-00000030", "optimizer")];
    assert_eq!(skipped.len(), wanted.len());
    for ((path, reason), (folder, piece)) in skipped.iter().zip(wanted) {
        assert_eq!(path, &series.join(folder));
        assert!(reason.contains(piece), "{reason}");
    }
    // Saving that step again replaces the damaged one.
    save_step(series, 40, 4).unwrap();
    assert_eq!(check_consistent(&series.join("step-00000040")), 40);
}

#[test]
fn leftovers_are_cleaned_and_a_lost_replacement_is_undone() {
    let temporary = tempfile::tempdir().unwrap();
    let series = temporary.path();
    for step in [1, 2] {
        save_step(series, step, 9).unwrap();
    }
    std::fs::create_dir_all(series.join(".tmp-abc/inner")).unwrap();
    // As if killed between putting step 2 aside and renaming its replacement.
    std::fs::rename(series.join("step-00000002"), series.join(".replaced-step-00000002")).unwrap();
    // As if killed just after the renaming.
    std::fs::create_dir(series.join(".replaced-step-00000001")).unwrap();
    clean(series).unwrap();
    assert_eq!(names(series), ["step-00000001", "step-00000002"]);
    assert_eq!(check_consistent(&newest(series)), 2);
}

#[test]
fn a_failed_save_leaves_everything_as_it_was() {
    let temporary = tempfile::tempdir().unwrap();
    let series = temporary.path().join("checkpoints");
    save_step(&series, 1, 1).unwrap();
    let architecture = model(HeadMatrix::Own);
    let state = json!({});
    for (step, failing) in [(2, Part::Value), (2, Part::SecondMoment), (1, Part::FirstMoment)] {
        let contents =
            Save { step, keep: 1, architecture: &architecture, tokenizer: None, companions: &[], state: &state };
        let result = save(&series, &contents, |weight, part| match part == failing {
            true => Err(CheckpointError::NoWeights { folder: "the machine that left".into() }),
            false => Ok(vec![0.0; weight.n_elements()]),
        });
        assert!(message(result).contains("the machine that left"));
        assert_eq!(names(&series), ["step-00000001"]);
        assert_eq!(check_consistent(&newest(&series)), 1);
    }
    // Tests may run as root, whom permissions do not stop: a file where a folder should be does.
    std::fs::write(temporary.path().join("file"), "").unwrap();
    let message = message(save_step(&temporary.path().join("file/checkpoints"), 1, 1));
    assert!(message.contains("file") && message.contains("directory"), "{message}");
}

#[cfg(unix)]
mod interrupted {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    /// Tells a test that it is the process under test, and where to work.
    const FOLDER: &str = "MILLSTREAM_TEST_FOLDER";

    /// This executable again, running one test only.
    fn again(test: &str, folder: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&format!("interrupted::{test}"), "--exact", "--nocapture"]).env(FOLDER, folder);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn announced(folder: &Path) -> u64 {
        let lines = std::fs::read_to_string(folder.join("announced")).unwrap_or_default();
        lines.lines().last().map_or(0, |step| step.parse().unwrap())
    }

    /// Not a test of its own: resumes and saves until it is killed.
    #[test]
    fn saves_until_killed() {
        let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
        let series = folder.join("checkpoints");
        let mut step = latest(&series).unwrap().checkpoint.map_or(0, |checkpoint| checkpoint.step());
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("announced")).unwrap();
        loop {
            step += 1;
            save_step(&series, step, 2).unwrap();
            // One write call, so that a kill cannot cut it.
            log.write_all(format!("{step}\n").as_bytes()).unwrap();
        }
    }

    #[test]
    fn killed_at_any_moment_nothing_announced_is_lost() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let series = folder.join("checkpoints");
        let mut random = ChaCha8Rng::seed_from_u64(9);
        // Kills fall within the first few saves, however fast the disk is.
        let start = Instant::now();
        for step in [1, 2, 3] {
            save_step(&folder.join("timing"), step, 2).unwrap();
        }
        let span = start.elapsed() + Duration::from_millis(20);
        let mut in_the_middle = 0;
        for _ in 0..50 {
            let mut child = again("saves_until_killed", folder).spawn().unwrap();
            std::thread::sleep(span.mul_f64(random.next_u64() as f64 / u64::MAX as f64));
            assert!(child.try_wait().unwrap().is_none(), "the saving process ended by itself");
            child.kill().unwrap();
            child.wait().unwrap();
            if series.exists() && names(&series).iter().any(|name| name.starts_with('.')) {
                in_the_middle += 1;
            }
            let last = announced(folder);
            let found = latest(&series).unwrap();
            assert!(found.skipped.is_empty(), "{}", found.skipped[0].reason);
            match found.checkpoint {
                Some(checkpoint) => assert!(check_consistent(checkpoint.path()) >= last),
                None => assert_eq!(last, 0),
            }
        }
        assert!(announced(folder) > 10, "{} saves are too few to mean anything", announced(folder));
        assert!(in_the_middle > 10, "{in_the_middle} kills in the middle of a save are too few to mean anything");
        clean(&series).unwrap();
        assert!(names(&series).iter().all(|name| name.starts_with("step-")));
    }

    /// Not a test of its own: files may not grow beyond a limit from some point on, as on a full disk.
    #[test]
    fn saves_on_a_full_disk() {
        let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
        let series = folder.join("checkpoints");
        save_step(&series, 1, 1).unwrap();
        let whole = files(&series.join("step-00000001"));
        // Too small for each of the files in turn; the limits only go down.
        let mut sizes: Vec<(usize, &String)> = whole.iter().map(|(name, bytes)| (bytes.len(), name)).collect();
        sizes.sort();
        for (size, name) in sizes.into_iter().rev() {
            let limit = libc::rlimit { rlim_cur: size as u64 - 1, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: both calls only set limits of this process, which exists for this test alone.
            unsafe {
                // Without it the process is killed instead of told.
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
            }
            for step in [1, 2] {
                let message = message(save_step(&series, step, 1));
                assert!(message.contains("Cannot write") && message.contains("large"), "{name}: {message}");
                assert_eq!(names(&series), ["step-00000001"]);
                assert_eq!(check_consistent(&newest(&series)), 1);
            }
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_costs_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let output = again("saves_on_a_full_disk", temporary.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        assert_eq!(check_consistent(&newest(&temporary.path().join("checkpoints"))), 1);
    }
}
