//! The machine of a run.

use serde::{Deserialize, Serialize};
use sysinfo::System;

/// A machine in a few words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Operating system and its version.
    pub system: String,
    /// Processor.
    pub cpu: String,
    /// Cores; absent when the system does not tell.
    pub physical_cores: Option<usize>,
    /// Cores as the system counts them, with hyperthreads.
    pub logical_cores: usize,
    /// Of these, cores that this process may use.
    pub available_cores: usize,
    /// Main memory, in bytes.
    pub memory_bytes: u64,
}

impl Machine {
    /// The machine this runs on.
    pub fn here() -> Self {
        let available_cores = std::thread::available_parallelism().map_or(1, usize::from);
        // What the system does not tell is left out; a run does not fail for it.
        let mut system = System::new().ok();
        if let Some(system) = &mut system {
            system.refresh_memory();
            system.refresh_cpu_all();
        }
        let cpus = system.as_ref().map(System::cpus).unwrap_or_default();
        let cpu = cpus.first().map(|cpu| cpu.brand().trim().to_owned()).filter(|brand| !brand.is_empty());
        Self {
            system: System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned()),
            cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            physical_cores: System::physical_core_count().ok(),
            logical_cores: cpus.len().max(available_cores),
            available_cores,
            memory_bytes: system.as_ref().map_or(0, System::total_memory),
        }
    }
}
