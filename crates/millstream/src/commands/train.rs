//! `millstream train`.

use crate::Outcome;
use crate::fault::{UserFault, users};
use crate::model_folder;
use crate::out_folder::OutFolder;
use crate::run_file::{self, Request};
use crate::session::{self, Manner, View};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use train::{ModelSource, Resume, Settings, TokenizerSource};

/// What to train and where to put it.
#[derive(clap::Args)]
pub struct Args {
    /// The run file (TOML); without one, the preset `default`.
    run_file: Option<PathBuf>,
    /// Lay a value over the run file, such as `--set pipeline.stages=4`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Lay a plan of `millstream plan --out` over the run file.
    #[arg(long, value_name = "PLAN.toml", conflicts_with = "resume")]
    plan: Option<PathBuf>,
    /// Folder of the run; must be new or empty. Without it, the next free number under `runs`.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Continue the run in this folder from its newest checkpoint.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["run_file", "out", "from"])]
    resume: Option<PathBuf>,
    /// Fine-tune the model of a run, or of a folder with config.json, safetensors and tokenizer.json.
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
    /// Show the run live on the whole terminal: curves, ranks, samples.
    #[arg(long)]
    tui: bool,
    /// Serve the latest metrics for Prometheus at this address while the run goes on, such as `127.0.0.1:9464`; a port
    /// alone is not reached from other machines. The same as `--set metrics.prometheus=ADDRESS`.
    #[arg(long, value_name = "ADDRESS")]
    prometheus: Option<String>,
}

/// Trains as the arguments say.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let Args { run_file, mut sets, plan, out, resume, from, tui, prometheus } = args;
    if tui && !std::io::stdout().is_terminal() {
        let fault = UserFault::new("--tui needs a terminal, and the standard output is none");
        return Err(fault.hint("leave --tui out; progress is shown as lines then").into());
    }
    sets.extend(prometheus.map(|address| format!("metrics.prometheus={address}")));
    let file = match &resume {
        None => run_file,
        Some(folder) => Some(resumed(folder)?),
    };
    let from = from.map(|folder| model_folder::find(&folder)).transpose()?;
    let request = Request { file: file.clone(), plan, sets, from };
    let settings = run_file::resolve(&request).map_err(users)?;
    let preset = run_file::preset(&request).map(|preset| preset.name);
    let manner = Manner { preset, view: if tui { View::Dashboard } else { View::Progress } };
    if let Some(folder) = &resume {
        let saved = run_file::resolve(&Request { file, ..Request::default() }).map_err(users)?;
        check_resumable(folder, &saved, &settings)?;
    }
    let settings = from_anywhere(settings)?;
    let resuming = resume.is_some();
    let folder = match resume {
        Some(folder) => OutFolder::existing(folder)?,
        None => OutFolder::create(out)?,
    };
    session::train(settings, folder, if resuming { Resume::Latest } else { Resume::Fresh }, manner)
}

/// The settings with absolute paths, so that the run can be continued from any folder.
fn from_anywhere(mut settings: Settings) -> std::io::Result<Settings> {
    let paths = settings.data.sources.iter_mut().flat_map(|source| &mut source.paths);
    let tokenizer = match &mut settings.tokenizer {
        TokenizerSource::File(file) => Some(file),
        TokenizerSource::Train { .. } => None,
    };
    let model = match &mut settings.model {
        ModelSource::Folder(folder) => Some(folder),
        ModelSource::Fresh(_) => None,
    };
    for path in paths.chain(tokenizer).chain(model) {
        *path = std::path::absolute(&*path)?;
    }
    Ok(settings)
}

/// What the checkpoint holds cannot be set to something else.
fn check_resumable(folder: &Path, saved: &Settings, wanted: &Settings) -> Result<(), UserFault> {
    if saved.model == wanted.model && saved.tokenizer == wanted.tokenizer {
        return Ok(());
    }
    let way_out = format!("to train its weights in another run, use --from {}", folder.display());
    Err(UserFault::new("a run that is resumed keeps its model and tokenizer").hint(way_out))
}

/// The run file of a run that is to be continued.
fn resumed(folder: &Path) -> Result<PathBuf, UserFault> {
    let file = folder.join("run.toml");
    if file.is_file() {
        Ok(file)
    } else {
        let message = format!("{} is not the folder of a run: it has no run.toml", folder.display());
        Err(UserFault::new(message).hint("give the folder that a run has written, such as runs/1"))
    }
}
