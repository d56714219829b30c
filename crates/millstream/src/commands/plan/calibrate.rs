//! `millstream plan --calibrate`: a machine file fitted to a step that was traced.

use super::{Args, local};
use crate::commands::table;
use crate::fault::{UserFault, users};
use crate::machine_file;
use crate::out_folder::write_whole;
use crate::report::timelines::Timelines;
use crate::run_file;
use crate::units;
use plan::{LocalRates, Machine, Task, TracedStep, calibrate};
use simulate::Timeline;
use std::io::Read;
use std::path::Path;

/// Largest trace that is read, unpacked: a step of a large model has some hundred thousand events of 300 bytes.
const TRACE_BYTES_MAX: u64 = 1 << 30;

/// A PyTorch profiler's trace of a step of `task` on one device.
pub fn of_device(trace: &Path, task: &Task, args: &Args) -> Result<String, UserFault> {
    let named = |problem: &dyn std::fmt::Display| UserFault::new(format!("{}: {problem}", trace.display()));
    let step = TracedStep::from_kineto(&read(trace)?).map_err(|error| named(&error))?;
    let rows = args.microbatch.unwrap_or(args.batch);
    let found = calibrate(task, rows, &step).map_err(users)?;
    let mut machine = task.machine.clone();
    let name = machine.nodes[0].device.name.clone();
    for group in machine.nodes.iter_mut().filter(|group| group.device.name == name) {
        group.device = found.device.clone();
    }
    let mut rows = vec![["of a step", "before", "measured", "after"].map(str::to_owned).to_vec()];
    let in_order =
        found.classes.iter().map(|class| (class.class.name(), class.before_s, class.measured_s, class.after_s));
    for (name, before_s, measured_s, after_s) in
        in_order.chain([("step", found.before_s, found.measured_s, found.after_s)])
    {
        rows.push(
            std::iter::once(name.to_owned()).chain([before_s, measured_s, after_s].map(units::seconds)).collect(),
        );
    }
    Ok(table::aligned(&rows, 1).join("\n") + "\n\n" + &written(&machine, trace, args)?)
}

/// A run's `timeline.json`, of a step on this machine's cores. A run that recomputed is refused where its run file lies beside
/// it: its backwards are longer than what they are divided by.
pub fn of_cores(trace: &Path, machine: &Machine, model: &Path, args: &Args) -> Result<String, UserFault> {
    let named = |problem: &dyn std::fmt::Display| UserFault::new(format!("{}: {problem}", trace.display()));
    let timelines: Timelines = serde_json::from_str(&read(trace)?).map_err(|error| {
        named(&error).hint("give the timeline.json of a run; a PyTorch trace is for another --trainer")
    })?;
    let measured = timelines.measured.as_ref().ok_or_else(|| named(&"it has no measured step"))?;
    let timeline = Timeline::try_from(measured).map_err(|error| named(&error))?;
    let run_file = trace.with_file_name("run.toml");
    if run_file.is_file() && run_file::recomputes(&run_file).map_err(users)? {
        let hint = "give the timeline of a run with pipeline.recompute = \"none\"";
        return Err(
            named(&"its run computes forwards again (run.toml beside it), and rates are fitted without").hint(hint)
        );
    }
    local::check_machine(machine)?;
    let text = std::fs::read_to_string(model).map_err(users)?;
    let architecture = architecture::from_config_json(&text).map_err(users)?;
    let task = local::task(args, machine, &architecture);
    let rates = LocalRates::of_step(&task, &timeline);
    let mut machine = machine.clone();
    let device = &mut machine.nodes[0].device;
    let fastest = rates.forward_flops_per_s.max(rates.backward_flops_per_s).max(device.peak.f32);
    device.peak.f32 = fastest;
    device.efficiency.product = rates.forward_flops_per_s / fastest;
    device.efficiency.product_backward = Some(rates.backward_flops_per_s / fastest);
    device.memory_bytes_per_s = device.memory_bytes_per_s.max(rates.update_bytes_per_s);
    device.efficiency.update = Some(rates.update_bytes_per_s / device.memory_bytes_per_s);
    let rows = [
        ["", "before", "fitted"].map(str::to_owned).to_vec(),
        rate("forward, GFLOP/s", task.rates.forward_flops_per_s, rates.forward_flops_per_s),
        rate("backward, GFLOP/s", task.rates.backward_flops_per_s, rates.backward_flops_per_s),
        rate("update, GB/s", task.rates.update_bytes_per_s, rates.update_bytes_per_s),
    ];
    let step = format!("the step took {}\n\n", units::seconds(timeline.makespan_s()));
    Ok(table::aligned(&rows, 1).join("\n") + "\n" + &step + &written(&machine, trace, args)?)
}

fn rate(name: &str, before: f64, fitted: f64) -> Vec<String> {
    vec![name.to_owned(), format!("{:.1}", before / 1e9), format!("{:.1}", fitted / 1e9)]
}

/// The machine file, or where it was written.
fn written(machine: &Machine, trace: &Path, args: &Args) -> Result<String, UserFault> {
    let file = trace.file_name().unwrap_or_default().to_string_lossy();
    let text = machine_file::text_of(machine, &format!("Fitted by `millstream plan --calibrate` to {file}."));
    match &args.machine_out {
        None => Ok(text),
        Some(path) => {
            write_whole(path, &text).map_err(users)?;
            Ok(format!("wrote {}; plan with --machine {}\n", path.display(), path.display()))
        }
    }
}

/// A text, packed with gzip or not.
fn read(path: &Path) -> Result<String, UserFault> {
    let named =
        |error: std::io::Error| UserFault::new(format!("{}: the trace cannot be read: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(named)?;
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let mut reader: Box<dyn Read> =
        if packed { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut text = String::new();
    let n = reader.by_ref().take(TRACE_BYTES_MAX).read_to_string(&mut text).map_err(named)?;
    if n as u64 == TRACE_BYTES_MAX {
        let fault = format!("{}: the trace is {} or more", path.display(), units::bytes(TRACE_BYTES_MAX));
        return Err(UserFault::new(fault).hint("trace one step"));
    }
    Ok(text)
}
