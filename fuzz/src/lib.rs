//! What the fuzz targets do with their bytes. Regression tests of the main workspace do the same with the finds of
//! earlier runs (`crates/millstream/tests/finds.rs` and `crates/millstream/src/finds.rs`).
//!
//! The parsers of run files, plan files, machine files and simulation files lie in the program's crate, and the settings that they yield in a crate
//! that needs the tensor library. Here these files are compiled as they are, from where they are: a library of their own
//! would exist for fuzzing only, and a build through the program would instrument the tensor library, for many minutes.

extern crate self as stage;
extern crate self as train;

pub mod formats;
pub mod settings;

#[path = "../../crates/millstream/src"]
#[allow(dead_code, reason = "the program uses the rest")]
mod millstream {
    pub mod machine_file;
    pub mod run_file;
    pub mod simulation_file;
    pub mod toml_file;
    pub mod units;
}
#[path = "../../crates/train/src"]
mod train_settings {
    pub mod settings;
}
#[path = "../../crates/stage/src"]
mod stage_choices {
    pub mod not_finite;
    pub mod precision;
    pub mod roll_back;
}

use millstream::{machine_file, run_file, simulation_file, toml_file, units};
use std::path::Path;
use std::sync::LazyLock;
pub use stage_choices::{not_finite::NotFinite, precision::Precision, roll_back::RollBack};
pub use train_settings::settings::*;

/// The process's own folder for the files that entry points read; `TMPDIR` says where.
pub fn place() -> &'static Path {
    static PLACE: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder for files"));
    PLACE.path()
}

/// The fuzzing engine's hook ends the process at every panic. Those of the `tokenizers` library are caught, by `corpus`;
/// the engine notices by itself what nobody catches.
pub fn let_panics_be_caught() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|_| ())));
}
