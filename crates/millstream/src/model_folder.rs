//! Where the model is that a person means by a folder.

use crate::fault::{UserFault, users};
use crate::session::MODEL;
use std::path::{Path, PathBuf};
use train::CHECKPOINTS;

/// The model's own folder: `folder` itself when it has a config.json, a finished run's exported model, or the newest
/// sound checkpoint of a run that goes on or was stopped.
///
/// # Errors
/// There is no such folder, or it holds no model.
pub fn find(folder: &Path) -> Result<PathBuf, UserFault> {
    if folder.join("config.json").is_file() {
        return Ok(folder.to_owned());
    }
    let exported = folder.join(MODEL);
    if exported.join("config.json").is_file() {
        return Ok(exported);
    }
    if !folder.is_dir() {
        return Err(UserFault::new(format!("there is no folder {}", folder.display())));
    }
    let series = folder.join(CHECKPOINTS);
    let newest = if series.is_dir() { checkpoint::latest(&series).map_err(users)?.checkpoint } else { None };
    let fault = || {
        UserFault::new(format!(
            "{} holds no model: it has neither config.json, nor {MODEL}/, nor a sound checkpoint",
            folder.display()
        ))
        .hint("give the folder of a run, such as runs/1, or of a model in Hugging Face's form")
    };
    newest.map(|checkpoint| checkpoint.path().to_owned()).ok_or_else(fault)
}
