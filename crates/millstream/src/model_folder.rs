//! Where the model is that a person means by a folder.

use crate::fault::{UserFault, users};
use crate::report::Summary;
use crate::session::MODEL;
use std::path::{Path, PathBuf};
use train::CHECKPOINTS;

/// The model's own folder: `folder` itself when it has a config.json; of a run's, the exported model or the newest sound
/// checkpoint, whichever has done more steps, and the exported model of equals.
///
/// # Errors
/// There is no such folder, or it holds no model.
pub fn find(folder: &Path) -> Result<PathBuf, UserFault> {
    if folder.join("config.json").is_file() {
        return Ok(folder.to_owned());
    }
    let exported = folder.join(MODEL);
    let series = folder.join(CHECKPOINTS);
    if exported.join("config.json").is_file() {
        // A run that has finished, was trained on and then stopped has newer weights in its checkpoints.
        let newer = match Summary::earlier(folder).and_then(|summary| summary.exported_step) {
            Some(step) => checkpoint::latest_after(&series, step).map_err(users)?.checkpoint,
            None => None,
        };
        return Ok(newer.map_or(exported, |checkpoint| checkpoint.path().to_owned()));
    }
    if !folder.is_dir() {
        return Err(UserFault::new(format!("there is no folder {}", folder.display())));
    }
    let newest = checkpoint::latest(&series).map_err(users)?.checkpoint;
    let fault = || {
        UserFault::new(format!(
            "{} holds no model: it has neither config.json, nor {MODEL}/, nor a sound checkpoint",
            folder.display()
        ))
        .hint("give the folder of a run, such as runs/1, or of a model in Hugging Face's form")
    };
    newest.map(|checkpoint| checkpoint.path().to_owned()).ok_or_else(fault)
}
