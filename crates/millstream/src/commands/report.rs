//! `millstream report`.

use crate::fault::{UserFault, users};
use crate::{Outcome, report};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Which runs.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a run; several are compared on one page.
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// Where the page that compares several runs goes; without it, to comparison.html. The page of one is in its folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Show the page in the browser afterwards.
    #[arg(long)]
    open: bool,
}

/// Runs that a comparison shows at most: twice as many as there are colours, the second half with dashes.
const RUNS_MAX: usize = 16;

/// Writes report.html and trace.json of a run from its files, or a page that compares several.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    if let Some(folder) = args.folders.iter().find(|folder| !folder.join("run.toml").is_file()) {
        let message = format!("{} is not the folder of a run: it has no run.toml", folder.display());
        return Err(UserFault::new(message).into());
    }
    if args.folders.len() > RUNS_MAX {
        let message = format!("{} runs are more than one page can tell apart", args.folders.len());
        return Err(UserFault::new(message).hint(format!("compare at most {RUNS_MAX} at a time")).into());
    }
    let page = match (args.folders.as_slice(), args.out) {
        ([folder], None) => report::write_report(folder).map_err(users)?,
        ([folder], Some(_)) => {
            let message = "--out is for the page that compares several runs, and there is one";
            let hint = format!("leave it out: the page goes to {}", folder.join("report.html").display());
            return Err(UserFault::new(message).hint(hint).into());
        }
        (folders, out) => {
            let page = out.unwrap_or_else(|| PathBuf::from("comparison.html"));
            report::write_comparison(folders, &page).map_err(users)?;
            page
        }
    };
    super::print(&format!("{}\n", page.display()))?;
    if args.open {
        let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
        let child = Command::new(opener).arg(&page).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        child.map_err(|error| anyhow::anyhow!("the page is written, but `{opener}` does not start: {error}"))?;
    }
    Ok(Outcome::Done)
}
