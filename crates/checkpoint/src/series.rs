//! The checkpoints of one run, side by side in one folder.

use crate::export::TEMPORARY;
use crate::folder_writer::sync_folder;
use crate::{Checkpoint, CheckpointError, load};
use std::cmp::Reverse;
use std::path::{Path, PathBuf};

const PREFIX: &str = "step-";
/// Before the name of a folder that a new one is about to replace.
const ASIDE: &str = ".replaced-";

/// The newest usable checkpoint of a run.
pub struct Latest {
    /// `None` when there is none, or all are damaged.
    pub checkpoint: Option<Checkpoint>,
    /// Newer ones that cannot be used, newest first.
    pub skipped: Vec<Skipped>,
}

/// A checkpoint that cannot be used.
pub struct Skipped {
    /// Its folder.
    pub path: PathBuf,
    /// Why.
    pub reason: CheckpointError,
}

/// The checkpoint with the highest step that is complete and undamaged; checks hashes from the newest down until one is
/// good. A folder that does not exist has no checkpoints. Changes nothing, so it may be called while a run saves.
///
/// # Errors
/// [`CheckpointError::Io`] when the folder exists and cannot be listed.
pub fn latest(series: &Path) -> Result<Latest, CheckpointError> {
    Ok(newest(steps(series)?))
}

/// As [`latest`], of the checkpoints after `step`; others are not looked at, which takes no time where there are none newer.
///
/// # Errors
/// As [`latest`].
pub fn latest_after(series: &Path, step: u64) -> Result<Latest, CheckpointError> {
    let mut steps = steps(series)?;
    steps.retain(|(other, _)| *other > step);
    Ok(newest(steps))
}

fn newest(mut steps: Vec<(u64, PathBuf)>) -> Latest {
    steps.sort_by_key(|(step, _)| Reverse(*step));
    let mut skipped = Vec::new();
    for (_, path) in steps {
        match load(&path) {
            Ok(checkpoint) => return Latest { checkpoint: Some(checkpoint), skipped },
            Err(reason) => skipped.push(Skipped { path, reason }),
        }
    }
    Latest { checkpoint: None, skipped }
}

/// Removes what interrupted saves have left, and brings back a checkpoint whose replacement never came. Every
/// [`save`](crate::save()) does this first. Only for the process that saves: it would remove what another is writing.
///
/// # Errors
/// [`CheckpointError::Io`] naming what cannot be listed, renamed or removed.
pub fn clean(series: &Path) -> Result<(), CheckpointError> {
    for (name, path) in entries(series)? {
        if let Some(original) = name.strip_prefix(ASIDE).map(|original| series.join(original)) {
            if original.exists() {
                std::fs::remove_dir_all(&path).map_err(CheckpointError::io("remove", &path))?;
            } else {
                std::fs::rename(&path, &original).map_err(CheckpointError::io("rename", &path))?;
            }
        } else if name.starts_with(TEMPORARY) {
            std::fs::remove_dir_all(&path).map_err(CheckpointError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// `step-00000100`; as many digits as it takes beyond 8.
pub(crate) fn folder_name(step: u64) -> String {
    format!("{PREFIX}{step:08}")
}

/// Where a folder is put while its replacement comes.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().expect("invariant: checkpoints and models have names").to_string_lossy();
    path.with_file_name(format!("{ASIDE}{name}"))
}

/// Moves a folder out of the way of its replacement and yields where it is now, `None` if there is none.
pub(crate) fn put_aside(path: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    if !path.exists() {
        return Ok(None);
    }
    let aside = aside(path);
    std::fs::rename(path, &aside).map_err(CheckpointError::io("rename", path))?;
    Ok(Some(aside))
}

/// Keeps the checkpoint of `step` and the `keep - 1` newest others.
pub(crate) fn prune(series: &Path, step: u64, keep: usize) -> Result<(), CheckpointError> {
    let mut others = steps(series)?;
    others.retain(|(other, _)| *other != step);
    others.sort_by_key(|(other, _)| Reverse(*other));
    for (_, path) in others.into_iter().skip(keep - 1) {
        // Renamed first: half removed under its own name it would look like a damaged checkpoint.
        let name = path.file_name().expect("invariant: checkpoints have names").to_string_lossy();
        let hidden = series.join(format!("{TEMPORARY}{name}"));
        std::fs::rename(&path, &hidden).map_err(CheckpointError::io("rename", &path))?;
        std::fs::remove_dir_all(&hidden).map_err(CheckpointError::io("remove", &path))?;
    }
    sync_folder(series)
}

/// Step and folder of every checkpoint, damaged or not, in no order.
fn steps(series: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let step = |name: &str| name.strip_prefix(PREFIX)?.parse().ok();
    Ok(entries(series)?.into_iter().filter_map(|(name, path)| Some((step(&name)?, path))).collect())
}

/// Name and path of everything in a folder; nothing when the folder does not exist.
pub(crate) fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, CheckpointError> {
    let listing = match std::fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CheckpointError::io("list", folder)(error)),
    };
    listing
        .map(|entry| {
            let entry = entry.map_err(CheckpointError::io("list", folder))?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
        })
        .collect()
}
