//! `millstream completions`.

use crate::{Cli, Outcome};
use clap::CommandFactory;
use clap_complete::Shell;

/// For which shell.
#[derive(clap::Args)]
pub struct Args {
    /// The shell.
    shell: Shell,
}

/// Prints the script that makes the shell complete commands and options.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "millstream", &mut script);
    super::print(&String::from_utf8(script)?)?;
    Ok(Outcome::Done)
}
