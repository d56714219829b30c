//! What fuzzing found once in run files, plan files, machine files and simulation files.

#[path = "../../../fuzz/src/settings.rs"]
mod settings;

use std::fs;
use std::path::Path;

/// Reads a file's bytes in a folder of their own.
type Entry = fn(&[u8], &Path);

#[test]
fn damaged_files_are_no_panics() {
    let entries: [(&str, Entry); 4] = [
        ("machine_file", settings::machine_file),
        ("plan_file", settings::plan_file),
        ("run_file", settings::run_file),
        ("simulation_file", settings::simulation_file),
    ];
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for (name, entry) in entries {
        let place = tempfile::tempdir().unwrap();
        let folders = ["finds", "seeds"].map(|kind| fuzz.join(kind).join(name));
        let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty(), "no finds for {name}");
        files.iter().for_each(|file| entry(&fs::read(file).unwrap(), place.path()));
    }
}
