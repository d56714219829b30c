//! Plans for `millstream train` on this machine, and plan files.

use super::{Args, TrainerName};
use crate::commands::table;
use crate::fault::{UserFault, users};
use crate::units;
use architecture::Architecture;
use plan::{Checkpointing, Degrees, LocalPlan, LocalRates, LocalTask, Machine, Recompute, local_plans};
use schedule::{Backward, Kind, Placement, Spec};
use std::path::Path;

/// Tokens of a row, and of a step: more than a machine computes in a day, and few enough to count operations in 64 bits.
const TOKENS_MAX: usize = 1 << 17;
const STEP_TOKENS_MAX: usize = 1 << 24;

/// The best plans as a page, and the best as a plan file.
pub fn answer(args: &Args, machine: &Machine, model: &Path) -> Result<(String, String), UserFault> {
    check_machine(machine)?;
    let text = std::fs::read_to_string(model).map_err(users)?;
    let architecture = architecture::from_config_json(&text).map_err(users)?;
    for (name, found, most) in [
        ("--sequence", args.sequence, TOKENS_MAX),
        ("--batch times --sequence", args.batch * args.sequence, STEP_TOKENS_MAX),
    ] {
        if found > most {
            let message = format!("{name} is {found} tokens, but for --trainer millstream may be at most {most}");
            return Err(UserFault::new(message));
        }
    }
    let task = task(args, machine, &architecture);
    let kinds = super::kinds(&args.schedule, Kind::ALL.to_vec())?;
    let plans = local_plans(&task, &kinds);
    let wanted = |plan: &&LocalPlan| {
        args.pipeline.is_none_or(|n| plan.n_ranks == n)
            && args.microbatch.is_none_or(|rows| args.batch / plan.microbatches == rows)
    };
    let plans: Vec<&LocalPlan> = plans.iter().filter(wanted).collect();
    let Some(best) = plans.first() else {
        return Err(UserFault::new("no plan has what was fixed").hint("fix less"));
    };
    if best.peak_bytes() > task.memory_bytes {
        let missing = units::bytes(best.peak_bytes() - task.memory_bytes);
        let fault =
            UserFault::new(format!("nothing fits: the leanest of the fastest needs {missing} more than there are"));
        return Err(fault.hint("use fewer rows or shorter ones, or a smaller model"));
    }
    let shown = &plans[..plans.len().min(args.best)];
    let answer = if args.json { json(shown, args)? } else { page(shown, args) };
    let degrees = Degrees { pipeline: best.n_ranks, ..Degrees::ONE };
    Ok((answer, plan_file(degrees, &best.sizes, best.spec, best.microbatches, best.recompute, args)))
}

/// Whether it is one that `train` runs on.
pub fn check_machine(machine: &Machine) -> Result<(), UserFault> {
    if machine.n_devices() == 1 {
        return Ok(());
    }
    let found =
        format!("{} has {} devices, but `train` runs on one machine's cores", machine.name, machine.n_devices());
    Err(UserFault::new(found).hint("let `millstream doctor --machine here.toml` write the file"))
}

/// What is asked, on the machine's only device.
pub fn task<'a>(args: &Args, machine: &Machine, architecture: &'a Architecture) -> LocalTask<'a> {
    let device = &machine.nodes[0].device;
    let efficiency = &device.efficiency;
    LocalTask {
        architecture,
        rows: args.batch,
        tokens: args.sequence,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        rates: LocalRates {
            forward_flops_per_s: device.peak.f32 * efficiency.product,
            backward_flops_per_s: device.peak.f32 * efficiency.backward(),
            update_bytes_per_s: device.memory_bytes_per_s * efficiency.of_update(),
            memory_bytes_per_s: device.memory_bytes_per_s * efficiency.memory,
        },
        memory_bytes: device.usable_bytes(),
    }
}

/// The plans as `--json` prints them; times in seconds.
fn json(plans: &[&LocalPlan], args: &Args) -> Result<String, UserFault> {
    let tokens = (args.batch * args.sequence) as f64;
    let plans = plans.iter().map(|plan| {
        serde_json::json!({
            "ranks": plan.n_ranks,
            "schedule": plan.spec.kind.id(),
            "backward": backward(plan.spec.backward),
            "recompute": recompute_name(plan.recompute),
            "microbatches": plan.microbatches,
            "cut": plan.sizes,
            "step_s": plan.step_s,
            "tokens_per_s": tokens / plan.step_s,
            "bubble": plan.bubble,
            "peak_bytes": plan.memory,
        })
    });
    let answer = serde_json::json!({ "plans": plans.collect::<Vec<serde_json::Value>>() });
    Ok(serde_json::to_string_pretty(&answer).map_err(users)? + "\n")
}

fn backward(backward: Backward) -> &'static str {
    match backward {
        Backward::Fused => "fused",
        Backward::Split => "split",
    }
}

fn page(plans: &[&LocalPlan], args: &Args) -> String {
    let tokens = (args.batch * args.sequence) as f64;
    let head = ["", "ranks", "schedule", "recompute", "microbatches", "step", "tokens/s", "bubble", "memory"];
    let rows = plans.iter().enumerate().map(|(i, plan)| {
        vec![
            format!("{}", i + 1),
            plan.n_ranks.to_string(),
            plan.spec.kind.id().to_owned(),
            recompute_name(plan.recompute).to_owned(),
            plan.microbatches.to_string(),
            units::seconds(plan.step_s),
            units::count((tokens / plan.step_s) as u64),
            units::percent(plan.bubble),
            units::bytes(plan.peak_bytes()),
        ]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head.map(str::to_owned).to_vec()).chain(rows).collect();
    let picture = simulate::text(&plans[0].timeline, args.width.into());
    format!("{}\n\n{picture}", table::aligned(&rows, 4).join("\n"))
}

fn recompute_name(recompute: Recompute) -> &'static str {
    match recompute {
        Recompute::None => "none",
        Recompute::Full => "full",
    }
}

/// What `train --plan` lays over its run file, which refuses axes beside the pipeline's by their names. `sizes` are half-layer
/// blocks of every stage, `spec` and `recompute` those of all stages.
pub fn plan_file(
    degrees: Degrees,
    sizes: &[usize],
    spec: Spec,
    microbatches: usize,
    recompute: Recompute,
    args: &Args,
) -> String {
    let looped = match spec.kind.placement() {
        Placement::Looped => format!("stages_per_rank = {}\n", sizes.len() / degrees.pipeline),
        _ => String::new(),
    };
    let is_for_others = args.trainer != Some(TrainerName::Millstream);
    let note = if recompute == Recompute::Full && is_for_others { FULL_NOTE } else { "" };
    let recompute = recompute_name(recompute);
    let Degrees { pipeline, data, context, expert, tensor } = degrees;
    format!(
        "# Written by `millstream plan`; `millstream train RUN.toml --plan THIS` lays it over the run file.\n\n\
         [plan]\npipeline = {pipeline}\ndata = {data}\ncontext = {context}\nexpert = {expert}\ntensor = {tensor}\n\n\
         [data]\nsequence_length = {}\n\n[batch]\nrows = {}\nmicrobatches = {microbatches}\n\n[pipeline]\n\
         stages = {}\n{looped}cut = {sizes:?}\nranks = \"by schedule\"\nschedule = \"{}\"\nbackward = \"{}\"\n\
         {note}recompute = \"{recompute}\"\n",
        args.sequence,
        args.batch,
        sizes.len(),
        spec.kind.id(),
        backward(spec.backward),
    )
}

/// Stands above `recompute = "full"`.
const FULL_NOTE: &str = "# `train` keeps the input of a stage and makes its forward again as a whole; plans for other \
                         trainers keep the\n# input of every layer: as many operations, other bytes.\n";

/// What `train` does for what another trainer computes again: as many operations from `Layers` as from its own `Full`. What is
/// kept differs: `Layers` keeps every layer's input and one layer is widest in backward, `Full` keeps the stage's input alone
/// and in backward the whole stage.
pub fn recompute_of(checkpointing: Checkpointing) -> Result<Recompute, UserFault> {
    match checkpointing {
        Checkpointing::None => Ok(Recompute::None),
        Checkpointing::Layers => Ok(Recompute::Full),
        Checkpointing::Scores => {
            Err(UserFault::new("the best plan computes attention's scores again, which `train` cannot do alone")
                .hint("plan with --recompute none or layers, or leave --out out"))
        }
    }
}
