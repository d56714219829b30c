//! What fuzzing found once: damaged files of every format. Errors or values, no panics; `fuzz/` says how they were found.
//! The finds in run files are in `src/finds.rs`, beside the parser.

#[path = "../../../fuzz/src/formats.rs"]
mod formats;

use std::fs;
use std::path::Path;

/// An entry point, alone or with a folder for its files.
enum Entry {
    Bytes(fn(&[u8])),
    Files(fn(&[u8], &Path)),
}

#[test]
fn damaged_files_are_no_panics() {
    let entries = [
        ("chat_template", Entry::Bytes(formats::chat_template)),
        ("config", Entry::Bytes(formats::config)),
        ("folder", Entry::Files(formats::folder)),
        ("safetensors", Entry::Files(formats::safetensors)),
        ("schedule_csv", Entry::Bytes(formats::schedule_csv)),
        ("sentencepiece", Entry::Bytes(formats::sentencepiece)),
        ("text", Entry::Files(formats::text)),
        ("token_ids", Entry::Files(formats::token_ids)),
        ("tokenizer", Entry::Bytes(formats::tokenizer)),
    ];
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for (name, entry) in entries {
        let place = tempfile::tempdir().expect("a folder");
        let folders = ["finds", "seeds"].map(|kind| fuzz.join(kind).join(name));
        let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        let mut n_files = 0;
        for file in files {
            let bytes = fs::read(file.expect("a file").path()).expect("a file");
            match entry {
                Entry::Bytes(entry) => entry(&bytes),
                Entry::Files(entry) => entry(&bytes, place.path()),
            }
            n_files += 1;
        }
        assert!(n_files > 0, "no finds for {name}");
    }
}
