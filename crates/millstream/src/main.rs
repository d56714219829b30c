//! The command line: run files, commands, progress and the report around the library crates.
//!
//! Exit codes: 0 done, 1 we failed, 2 you asked for something impossible, 130 interrupted after saving.

mod allocator;
mod commands;
#[cfg(unix)]
mod dashboard;
mod device;
mod exporter;
mod fault;
#[cfg(test)]
mod finds;
mod header;
mod interrupt;
mod machine_file;
mod model_folder;
mod out_folder;
mod progress;
mod report;
mod run_file;
mod session;
mod simulation_file;
mod speed;
mod tensorboard;
mod toml_file;
mod units;
mod watchers;

use clap::{Parser, ValueEnum};
use commands::Command;
use fault::UserFault;
use std::process::ExitCode;

/// Counts memory by rank and category.
#[global_allocator]
static LEDGER: ledger::Ledger = ledger::Ledger;

/// Plans, trains and serves transformer language models as pipelines of stages.
#[derive(Parser)]
#[command(name = "millstream", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// How the processor computes all operations on activations: by our own loops, or, for comparison, by compositions of
    /// the tensor library's operations
    #[arg(long, global = true, value_enum, value_name = "PATH", default_value_t = Kernels::Fused)]
    kernels: Kernels,
}

/// As [`kernels::Path`].
#[derive(Clone, Copy, ValueEnum)]
enum Kernels {
    Fused,
    Composed,
}

/// How a command ended when it did not fail.
enum Outcome {
    /// All of it.
    Done,
    /// Stopped by the user, state saved.
    Interrupted,
}

#[expect(clippy::print_stderr, reason = "the one place where errors are shown")]
fn main() -> ExitCode {
    allocator::keep_large_blocks();
    fault::keep_caught_panics_quiet();
    let cli = Cli::parse();
    match cli.kernels {
        Kernels::Fused => kernels::Path::Fused.choose(),
        Kernels::Composed => kernels::Path::Composed.choose(),
    }
    let outcome = match cli.command {
        Command::Train(args) => commands::train::run(args),
        Command::Convert(args) => commands::convert::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Plan(args) => commands::plan::run(*args),
        Command::Layout(args) => commands::layout::run(args),
        Command::Schedules(args) => commands::schedules::run(args),
        Command::Simulate(args) => commands::simulate::run(args),
        Command::Tokenizer(args) => commands::tokenizer::run(args),
        Command::Report(args) => commands::report::run(args),
        Command::Presets(args) => commands::presets::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Completions(args) => commands::completions::run(args),
        Command::Man(args) => commands::man::run(args),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {}", commands::visible(&fault::in_full(&error)));
            let Some(fault) = error.downcast_ref::<UserFault>() else { return ExitCode::from(1) };
            for hint in &fault.hints {
                eprintln!("  hint: {}", commands::visible(hint));
            }
            ExitCode::from(2)
        }
    }
}
