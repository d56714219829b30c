//! Our own formats. The bytes are a file and, after a NUL each, options laid over it.

use crate::{machine_file, run_file, simulation_file};
use std::fs;
use std::path::Path;

/// A run file: problems that can be printed, or settings that are written back as the same.
pub fn run_file(bytes: &[u8], place: &Path) {
    let Some((file, sets)) = written(bytes, place) else { return };
    let request = run_file::Request { file: Some(file.clone()), sets, ..Default::default() };
    match run_file::resolve(&request) {
        Err(problems) => assert!(problems.to_string().contains("problem")),
        Ok(settings) => {
            fs::write(&file, run_file::write(&settings)).expect("a file");
            let again = run_file::resolve(&run_file::Request { file: Some(file), ..Default::default() });
            assert_eq!(again.expect("what is written is read"), settings);
        }
    }
}

/// A simulation file: problems that can be printed, or a simulation.
pub fn simulation_file(bytes: &[u8], place: &Path) {
    let Some((file, sets)) = written(bytes, place) else { return };
    let options = sets.into_iter().map(|set| (format!("--set {set}"), set)).collect();
    let request = simulation_file::Request { file: Some(file), options };
    if let Err(problems) = simulation_file::simulation(&request) {
        assert!(problems.to_string().contains("problem"));
    }
}

/// A machine file: problems that can be printed, or a machine.
pub fn machine_file(bytes: &[u8], place: &Path) {
    let file = place.join("machine.toml");
    fs::write(&file, bytes).expect("a file");
    match machine_file::machine(file.to_str().expect("a name")) {
        Err(problems) => assert!(problems.to_string().contains("problem")),
        Ok(machine) => {
            machine.check().expect("what is read was checked");
            assert!(machine.n_devices() > 0);
        }
    }
}

/// A plan file laid over a preset: problems that can be printed, or settings that are written back as the same.
pub fn plan_file(bytes: &[u8], place: &Path) {
    let (plan, file) = (place.join("plan.toml"), place.join("settings.toml"));
    fs::write(&plan, bytes).expect("a file");
    match run_file::resolve(&run_file::Request { plan: Some(plan), ..Default::default() }) {
        Err(problems) => assert!(problems.to_string().contains("problem")),
        Ok(settings) => {
            fs::write(&file, run_file::write(&settings)).expect("a file");
            let again = run_file::resolve(&run_file::Request { file: Some(file), ..Default::default() });
            assert_eq!(again.expect("what is written is read"), settings);
        }
    }
}

/// The file, and the options.
fn written(bytes: &[u8], place: &Path) -> Option<(std::path::PathBuf, Vec<String>)> {
    let mut parts = bytes.split(|&byte| byte == 0);
    let file = place.join("settings.toml");
    fs::write(&file, parts.next()?).expect("a file");
    let sets: Option<Vec<String>> = parts.map(|set| String::from_utf8(set.to_vec()).ok()).collect();
    Some((file, sets?))
}
