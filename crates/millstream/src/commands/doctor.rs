//! `millstream doctor`.

use crate::fault::users;
use crate::out_folder::write_whole;
use crate::report::Machine;
use crate::{Outcome, machine_file, units};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
use sysinfo::Disks;

/// How to answer.
#[derive(clap::Args)]
pub struct Args {
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
    /// Write this machine as a machine file for `millstream plan`.
    #[arg(long, value_name = "OUT.toml")]
    machine: Option<PathBuf>,
}

/// What this machine and this build offer.
#[derive(Serialize)]
struct Diagnosis {
    version: &'static str,
    machine: Machine,
    free_memory_bytes: u64,
    simd: Vec<&'static str>,
    backends: Vec<Backend>,
    /// Of the disk that holds the current folder; absent when no disk is known to.
    free_disk_bytes: Option<u64>,
    matmul_peak: Peak,
    memory_gbytes_per_s: f64,
}

/// Of [`kernels::MatmulPeak`], in GFLOP/s.
#[derive(Serialize)]
struct Peak {
    one_thread_gflops: f64,
    all_cores_gflops: f64,
}

#[derive(Serialize)]
struct Backend {
    device: String,
    available: bool,
    why: String,
}

/// Measures for about three seconds and prints.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let diagnosis = diagnose()?;
    if let Some(path) = &args.machine {
        let Diagnosis { machine, matmul_peak, memory_gbytes_per_s, .. } = &diagnosis;
        let measured = machine_file::Measured {
            name: machine.cpu.clone(),
            cores: machine.available_cores,
            gflops: matmul_peak.all_cores_gflops,
            memory_gbytes_per_s: *memory_gbytes_per_s,
            memory_bytes: machine.memory_bytes,
        };
        write_whole(path, machine_file::write(&measured)).map_err(users)?;
    }
    let text = if args.json { serde_json::to_string_pretty(&diagnosis)? + "\n" } else { page(&diagnosis) };
    super::print(&text)?;
    Ok(Outcome::Done)
}

fn diagnose() -> anyhow::Result<Diagnosis> {
    let mut system = sysinfo::System::new()?;
    system.refresh_memory();
    let here = std::env::current_dir()?;
    let disks = Disks::new_with_refreshed_list()?;
    let peak = kernels::matmul_peak(Duration::from_secs(2));
    let disk = disks.iter().filter(|disk| here.starts_with(disk.mount_point()));
    let disk = disk.max_by_key(|disk| disk.mount_point().components().count());
    Ok(Diagnosis {
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine::here(),
        free_memory_bytes: system.available_memory(),
        simd: simd(),
        backends: backends(),
        free_disk_bytes: disk.map(sysinfo::Disk::available_space),
        matmul_peak: Peak { one_thread_gflops: peak.one_thread_gflops, all_cores_gflops: peak.all_cores_gflops },
        memory_gbytes_per_s: kernels::memory_gbytes_per_s(Duration::from_secs(1)),
    })
}

/// The devices that run files may name, each tried.
fn backends() -> Vec<Backend> {
    let is_there = |device: &str, why: String| Backend { device: device.to_owned(), available: true, why };
    let mut found = vec![is_there("cpu", "burn's flex backend with our kernels".to_owned())];
    let missing = |device: String, why: String| Backend { device, available: false, why };
    match kernels::cuda_names() {
        Ok(names) if names.is_empty() => {
            found.push(missing("cuda".to_owned(), "the driver lists no device".to_owned()))
        }
        Ok(names) => found.extend(names.into_iter().enumerate().map(|(index, name)| {
            let device = format!("cuda:{index}");
            match kernels::cuda(index) {
                Ok(_) => is_there(&device, name),
                Err(error) => missing(device, error.to_string()),
            }
        })),
        Err(error) => found.push(missing("cuda".to_owned(), error.to_string())),
    }
    found
}

fn page(diagnosis: &Diagnosis) -> String {
    let Diagnosis { machine, matmul_peak, .. } = diagnosis;
    let cores = match machine.physical_cores {
        Some(physical) => format!("{physical} physical, {} logical", machine.logical_cores),
        None => format!("{} logical", machine.logical_cores),
    };
    let available = match machine.available_cores == machine.logical_cores {
        true => String::new(),
        false => format!(", {} available to this process", machine.available_cores),
    };
    let memory = format!("{}, {} free", units::bytes(machine.memory_bytes), units::bytes(diagnosis.free_memory_bytes));
    let disk =
        diagnosis.free_disk_bytes.map_or("unknown".to_owned(), |free| format!("{} free here", units::bytes(free)));
    let backends: Vec<String> = diagnosis
        .backends
        .iter()
        .map(|backend| format!("{} {} ({})", backend.device, if backend.available { "yes" } else { "no" }, backend.why))
        .collect();
    let product = format!(
        "{:.0} GFLOP/s on 1 thread, {:.0} on {} (f32, 2048 cubed)",
        matmul_peak.one_thread_gflops, matmul_peak.all_cores_gflops, machine.available_cores
    );
    let rows = [
        ("millstream", diagnosis.version.to_owned()),
        ("system", machine.system.clone()),
        ("processor", machine.cpu.clone()),
        ("cores", cores + &available),
        ("SIMD", diagnosis.simd.join(" ")),
        ("memory", memory),
        ("bandwidth", format!("{:.1} GB/s", diagnosis.memory_gbytes_per_s)),
        ("product", product),
        ("disk", disk),
        ("devices", backends.join(", ")),
    ];
    rows.into_iter().map(|(name, value)| format!("{name:<12}{value}\n")).collect()
}

/// Instruction sets our kernels know, where this machine has them.
fn simd() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ];
        found.extend(all.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)));
    }
    #[cfg(target_arch = "aarch64")]
    found.extend(std::arch::is_aarch64_feature_detected!("neon").then_some("neon"));
    found
}
