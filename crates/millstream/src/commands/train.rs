//! `millstream train`.

use crate::Outcome;
use crate::fault::UserFault;
use crate::out_folder::OutFolder;
use crate::run_file::{self, Request};
use crate::{model_folder, session};
use std::path::PathBuf;
use train::Resume;

/// What to train and where to put it.
#[derive(clap::Args)]
pub struct Args {
    /// The run file (TOML); without one, the preset `default`.
    run_file: Option<PathBuf>,
    /// Lay a value over the run file, such as `--set pipeline.stages=4`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Folder of the run; must be new or empty. Without it, the next free number under `runs`.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Continue the run in this folder from its newest checkpoint.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["run_file", "out", "from"])]
    resume: Option<PathBuf>,
    /// Fine-tune the model of a run, or of a folder with config.json, safetensors and tokenizer.json.
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
}

/// Trains as the arguments say.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let Args { run_file, sets, out, resume, from } = args;
    let file = match &resume {
        None => run_file,
        Some(folder) => Some(resumed(folder)?),
    };
    let from = from.map(|folder| model_folder::find(&folder)).transpose()?;
    let settings = run_file::resolve(&Request { file, sets, from }).map_err(crate::fault::users)?;
    let resuming = resume.is_some();
    let folder = match resume {
        Some(folder) => OutFolder::existing(folder)?,
        None => OutFolder::create(out)?,
    };
    session::train(settings, folder, if resuming { Resume::Latest } else { Resume::Fresh })
}

/// The run file of a run that is to be continued.
fn resumed(folder: &std::path::Path) -> Result<PathBuf, UserFault> {
    let file = folder.join("run.toml");
    if file.is_file() {
        Ok(file)
    } else {
        let message = format!("{} is not the folder of a run: it has no run.toml", folder.display());
        Err(UserFault::new(message).hint("give the folder that a run has written, such as runs/1"))
    }
}
