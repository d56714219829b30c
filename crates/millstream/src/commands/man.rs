//! `millstream man`.

use crate::fault::users;
use crate::out_folder::write_whole;
use crate::{Cli, Outcome};
use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::path::PathBuf;

/// Where the pages go.
#[derive(clap::Args)]
pub struct Args {
    /// Write millstream.1 and a page for every command to this folder, such as ~/.local/share/man/man1.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Prints the manual page, or writes all of them.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let Some(folder) = args.out else {
        super::print(&String::from_utf8(page(&program)?)?)?;
        return Ok(Outcome::Done);
    };
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("the folder {} cannot be made", folder.display()))
        .map_err(users)?;
    let mut pages = Vec::new();
    collect("millstream".to_owned(), &program, &mut pages);
    for (name, command) in &pages {
        write_whole(&folder.join(format!("{name}.1")), page(command)?).map_err(users)?;
    }
    super::print(&format!("{}: {} pages\n", folder.display(), pages.len()))?;
    Ok(Outcome::Done)
}

/// A command and, named after it, those within it.
fn collect(name: String, command: &Command, pages: &mut Vec<(String, Command)>) {
    let page = command.clone().display_name(name.clone()).version(env!("CARGO_PKG_VERSION"));
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        collect(format!("{name}-{}", inner.get_name()), inner, pages);
    }
    pages.push((name, page));
}

/// In the language of manual pages.
fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}
