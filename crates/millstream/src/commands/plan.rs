//! `millstream plan`.

mod answer;
mod calibrate;
mod local;
mod seats;
mod space;

use crate::fault::{UserFault, users};
use crate::out_folder::write_whole;
use crate::{Outcome, machine_file};
use answer::Answer;
use clap::ValueEnum;
use plan::machine::Precision;
use plan::{Batch, Description, Granularity, Software, Task, Trainer, emit, search};
use schedule::Kind;
use std::path::{Path, PathBuf};

/// Rows of a step at most: each may be a microbatch that is played by itself. Published trainings have some 16,000.
const ROWS_MAX: u64 = 1 << 16;
/// Tokens of a row at most.
const TOKENS_MAX: u64 = 1 << 22;
/// Tokens of a microbatch at most: beyond, the bytes of its attention scores need more than 63 bits.
const MICROBATCH_TOKENS_MAX: usize = 1 << 25;
/// A degree at most: as many devices as any machine has.
const DEGREE_MAX: u64 = 1 << 20;

/// What to do, on what.
#[derive(clap::Args)]
pub struct Args {
    /// The model: a config.json, or a folder that has one.
    #[arg(long, value_name = "CONFIG|FOLDER")]
    model: PathBuf,
    /// The machines: a file (TOML, see docs/planner.md), or a preset with counts such as a100:4x8.
    #[arg(long, value_name = "FILE|PRESET")]
    machine: String,
    /// Rows (sequences) of a step over all replicas.
    #[arg(long, value_name = "ROWS", value_parser = super::size(0..=ROWS_MAX))]
    batch: usize,
    /// Tokens of a row.
    #[arg(long, value_name = "TOKENS", value_parser = super::size(0..=TOKENS_MAX))]
    sequence: usize,
    /// Whose schedules, axes and conventions; that of --emit, or megatron, when it is not said.
    #[arg(long, value_enum)]
    trainer: Option<TrainerName>,
    /// Only these schedules (names as `millstream schedules` lists them, separated by commas).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    schedule: Vec<String>,
    /// Only this pipeline degree.
    #[arg(long, value_name = "N", value_parser = super::size(1..=DEGREE_MAX))]
    pipeline: Option<usize>,
    /// Only so many replicas.
    #[arg(long, value_name = "N", value_parser = super::size(1..=DEGREE_MAX))]
    data: Option<usize>,
    /// Only so many pieces of a sequence.
    #[arg(long, value_name = "N", value_parser = super::size(1..=DEGREE_MAX))]
    context: Option<usize>,
    /// Only so many ranks that share the experts.
    #[arg(long, value_name = "N", value_parser = super::size(1..=DEGREE_MAX))]
    expert: Option<usize>,
    /// Only so many pieces of a weight.
    #[arg(long, value_name = "N", value_parser = super::size(1..=DEGREE_MAX))]
    tensor: Option<usize>,
    /// Only so many rows in a microbatch.
    #[arg(long, value_name = "ROWS", value_parser = super::size(1..=ROWS_MAX))]
    microbatch: Option<usize>,
    /// Only this recomputation.
    #[arg(long, value_enum)]
    recompute: Option<RecomputeName>,
    /// Between what stages may be cut; without it, layers.
    #[arg(long, value_enum)]
    cut: Option<CutName>,
    /// How many plans to show at most.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = super::size(0..=1000), conflicts_with = "emit")]
    best: usize,
    /// Print numbers as JSON instead of tables and a picture.
    #[arg(long)]
    json: bool,
    /// Print the best plan as another trainer's options instead.
    #[arg(long, value_enum, conflicts_with = "json")]
    emit: Option<EmitName>,
    /// Write the best plan for `millstream train --plan`.
    #[arg(long, value_name = "OUT.toml")]
    out: Option<PathBuf>,
    /// Fit the machine to a traced step of this model and batch instead of planning: a PyTorch profiler's trace (.json or
    /// .json.gz) of one device, or with --trainer millstream a run's timeline.json.
    #[arg(long, value_name = "TRACE", conflicts_with_all = [
        "json", "emit", "out", "svg", "schedule", "pipeline", "data", "context", "expert", "tensor", "recompute", "cut",
        "predictor", "best", "width",
    ])]
    calibrate: Option<PathBuf>,
    /// Write the fitted machine file here.
    #[arg(long, value_name = "OUT.toml", requires = "calibrate")]
    machine_out: Option<PathBuf>,
    /// Whose step times plans are compared by: the simulator's, or a formula for 1F1B on equal stages; without it, simulator.
    #[arg(long, value_enum)]
    predictor: Option<PredictorName>,
    /// The number format of products, instead of the trainer's.
    #[arg(long, value_enum)]
    precision: Option<PrecisionName>,
    /// Write a picture of the best plan's step.
    #[arg(long, value_name = "OUT.svg")]
    svg: Option<PathBuf>,
    /// Columns of the printed picture.
    #[arg(
        long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u16).range(1..=1000),
        conflicts_with_all = ["json", "emit"]
    )]
    width: u16,
}

/// Whose conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum TrainerName {
    /// Megatron-Core's conventions and schedules.
    Megatron,
    /// torchtitan's.
    Torchtitan,
    /// Megatron-Core's conventions, every schedule there is.
    Any,
    /// This program's own, on one machine's cores.
    Millstream,
}

/// Whose options to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum EmitName {
    Megatron,
    Torchtitan,
}

/// What is computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum RecomputeName {
    None,
    Layers,
}

/// Who says how long a step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PredictorName {
    /// The schedule, played.
    Simulator,
    /// Pipette's formula.
    Pipette,
    /// AMP's.
    Amp,
}

/// Formats of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PrecisionName {
    F32,
    Bf16,
    Fp8,
}

/// Between what stages are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum CutName {
    /// Between layers; embedding and head may be stages of their own.
    Layers,
    /// Between attention and MLP too.
    HalfLayers,
}

/// Plans and prints.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let file = if args.model.is_dir() { args.model.join("config.json") } else { args.model.clone() };
    let model = model(&file)?;
    let machine = machine_file::machine(&args.machine).map_err(users)?;
    for (name, value) in [("batch", args.batch), ("sequence", args.sequence), ("best", args.best)] {
        if value == 0 {
            return Err(UserFault::new(format!("--{name} is 0, but must be at least 1")).into());
        }
    }
    if let Some(rows) = args.microbatch.filter(|rows| rows * args.sequence > MICROBATCH_TOKENS_MAX) {
        let message = format!(
            "--microbatch {rows} rows of --sequence {} tokens are {} tokens, but may be at most {MICROBATCH_TOKENS_MAX}",
            args.sequence,
            rows * args.sequence
        );
        return Err(UserFault::new(message).into());
    }
    let (trainer, software) = match trainer(&args)? {
        TrainerName::Megatron => (Trainer::Megatron, Software::megatron()),
        TrainerName::Torchtitan => (Trainer::Torchtitan, Software::torchtitan()),
        TrainerName::Any => (Trainer::Any, Software::megatron()),
        TrainerName::Millstream => {
            args.check_local()?;
            if let Some(trace) = &args.calibrate {
                super::print(&calibrate::of_cores(trace, &machine, &file, &args)?)?;
                return Ok(Outcome::Done);
            }
            let (page, plan_file) = local::answer(&args, &machine, &file)?;
            if let Some(path) = &args.out {
                write_whole(path, &plan_file).map_err(users)?;
            }
            super::print(&page)?;
            return Ok(Outcome::Done);
        }
    };
    let precision = args.precision.map_or(software.precision, |precision| match precision {
        PrecisionName::F32 => Precision::F32,
        PrecisionName::Bf16 => Precision::Bf16,
        PrecisionName::Fp8 => Precision::Fp8,
    });
    let software = Software { precision, ..software };
    let granularity = match args.cut.unwrap_or(CutName::Layers) {
        CutName::Layers => Granularity::Layers,
        CutName::HalfLayers => Granularity::HalfLayers,
    };
    let space = space::of(trainer, &software, &args)?;
    let batch = Batch { rows: args.batch, tokens: args.sequence };
    let task = Task { model, machine, software, batch, granularity };
    if let Some(trace) = &args.calibrate {
        super::print(&calibrate::of_device(trace, &task, &args)?)?;
        return Ok(Outcome::Done);
    }
    let found = search(&task, &space, args.best).map_err(users)?;
    if let (Some(path), Some(best)) = (&args.svg, found.best.first()) {
        write_whole(path, simulate::svg(&best.prediction.timeline, &best.layout.spec.to_string())).map_err(users)?;
    }
    if let (Some(path), Some(best)) = (&args.out, found.best.first()) {
        let (layout, prediction) = (&best.layout, &best.prediction);
        let recompute = local::recompute_of(layout.recompute)?;
        let microbatches = prediction.microbatches;
        let text = local::plan_file(layout.degrees, &prediction.sizes, layout.spec, microbatches, recompute, &args);
        write_whole(path, &text).map_err(users)?;
    }
    if let (Some(emit), Some(best)) = (args.emit, found.best.first()) {
        let text = match emit {
            EmitName::Megatron => emit::megatron(&task, best),
            EmitName::Torchtitan => emit::torchtitan(&task, best),
        };
        super::print(&text.map_err(UserFault::new)?)?;
        return Ok(Outcome::Done);
    }
    let answer = Answer::new(&task, &space, &found).map_err(users)?;
    if args.json {
        super::print(&(serde_json::to_string_pretty(&answer)? + "\n"))?;
    }
    if found.best.is_empty() {
        let fault = UserFault::new(answer.what_is_missing());
        return Err(answer.ways_out().into_iter().fold(fault, UserFault::hint).into());
    }
    if !args.json {
        super::print(&answer.page(&found, args.width.into()))?;
    }
    Ok(Outcome::Done)
}

impl Args {
    /// What only other trainers' plans have.
    fn check_local(&self) -> Result<(), UserFault> {
        let given = [
            ("--svg", self.svg.is_some()),
            ("--recompute", self.recompute.is_some()),
            ("--cut", self.cut.is_some()),
            ("--data", self.data.is_some()),
            ("--context", self.context.is_some()),
            ("--expert", self.expert.is_some()),
            ("--tensor", self.tensor.is_some()),
            ("--precision", self.precision.is_some()),
            ("--predictor", self.predictor.is_some()),
            ("--microbatch with --calibrate", self.microbatch.is_some() && self.calibrate.is_some()),
        ];
        let given: Vec<&str> = given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect();
        match given.is_empty() {
            true => Ok(()),
            false => Err(UserFault::new(format!("--trainer millstream does not take {}", given.join(", "))).hint(
                "leave it out: its plans have the pipeline axis only and are simulated in f32; --out writes the best",
            )),
        }
    }
}

/// The trainer that is planned for. Options of one trainer say nothing about a plan with the conventions of another.
fn trainer(args: &Args) -> Result<TrainerName, UserFault> {
    let emitted = args.emit.map(|emit| match emit {
        EmitName::Megatron => TrainerName::Megatron,
        EmitName::Torchtitan => TrainerName::Torchtitan,
    });
    match (args.trainer, emitted) {
        (Some(trainer), Some(emitted)) if trainer != emitted => {
            let name = |trainer: TrainerName| {
                trainer.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
            };
            let fault = format!("--emit {} needs a plan for it, not --trainer {}", name(emitted), name(trainer));
            Err(UserFault::new(fault).hint("leave --trainer out, or --emit"))
        }
        (trainer, emitted) => Ok(trainer.or(emitted).unwrap_or(TrainerName::Megatron)),
    }
}

/// The description in a file.
fn model(file: &Path) -> Result<Description, UserFault> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        UserFault::new(format!("{}: the model cannot be read: {error}", file.display()))
            .hint("give a config.json in Hugging Face's form, or a folder that has one")
    })?;
    let named = |error: plan::PlanError| UserFault::new(format!("{}: {error}", file.display()));
    Description::from_config_json(&text).map_err(named)
}

/// The schedules that are named, or all of `kinds`.
fn kinds(named: &[String], kinds: Vec<Kind>) -> Result<Vec<Kind>, UserFault> {
    if named.is_empty() {
        return Ok(kinds);
    }
    let find = |name: &String| {
        let known: Vec<&str> = kinds.iter().map(|kind| kind.id()).collect();
        let found = kinds.iter().copied().find(|kind| kind.id() == name);
        let wanted = format!("--schedule {name}: this trainer has {}", known.join(", "));
        found.ok_or_else(|| UserFault::new(wanted).hint("or plan for another with --trainer any"))
    };
    named.iter().map(find).collect()
}
