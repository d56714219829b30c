//! What fuzzing found once in run files and simulation files.

#[path = "../../../fuzz/src/settings.rs"]
mod settings;

use std::fs;
use std::path::Path;

/// Reads a file's bytes in a folder of their own.
type Entry = fn(&[u8], &Path);

#[test]
fn damaged_files_are_no_panics() {
    let entries: [(&str, Entry); 2] =
        [("run_file", settings::run_file), ("simulation_file", settings::simulation_file)];
    for (name, entry) in entries {
        let finds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/finds").join(name);
        let place = tempfile::tempdir().unwrap();
        let files: Vec<_> = fs::read_dir(finds).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty());
        files.iter().for_each(|file| entry(&fs::read(file).unwrap(), place.path()));
    }
}
