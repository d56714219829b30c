//! `millstream report`.

use crate::fault::UserFault;
use crate::{Outcome, report};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Which run.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a run.
    folder: PathBuf,
    /// Whether to show the page in the browser afterwards.
    #[arg(long, default_value = "no")]
    open: Open,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Open {
    Yes,
    No,
}

/// Writes report.html and trace.json of a run from its files.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    if !args.folder.join("run.toml").is_file() {
        let message = format!("{} is not the folder of a run: it has no run.toml", args.folder.display());
        return Err(UserFault::new(message).into());
    }
    let page = report::write_report(&args.folder)?;
    super::print(&format!("{}\n", page.display()))?;
    match args.open {
        Open::No => {}
        Open::Yes => {
            let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
            let child = Command::new(opener).arg(&page).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            child.map_err(|error| anyhow::anyhow!("the page is written, but `{opener}` does not start: {error}"))?;
        }
    }
    Ok(Outcome::Done)
}
