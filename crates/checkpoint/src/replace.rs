//! A model folder in the place of an older one.

use crate::export::{TEMPORARY, write_model};
use crate::folder_writer::{FolderWriter, sync_folder};
use crate::series::{aside, entries, put_aside};
use crate::{CheckpointError, Export};
use architecture::Weight;
use std::path::Path;

/// As [`write_folder`](crate::write_folder), also where a folder is already: it gives way when the new one is complete.
/// What it has and the new one does not, a person's notes for example, stays. Between two renamings the path is free; a
/// process killed there, or later, leaves the old folder aside under a hidden name, and the next call makes up for it. Only
/// one process may write.
///
/// # Errors
/// [`CheckpointError::Exists`] when the path is taken by a file; otherwise as [`write_folder`](crate::write_folder), and
/// then the old folder is as before.
///
/// # Panics
/// When the path has no last name, or `read` yields a number of values that is not the weight's.
pub fn replace_folder(
    path: &Path,
    export: &Export,
    read: impl FnMut(&Weight) -> Result<Vec<f32>, CheckpointError>,
) -> Result<(), CheckpointError> {
    if path.exists() && !path.is_dir() {
        return Err(CheckpointError::Exists { path: path.to_owned() });
    }
    let name = path.file_name().expect("a model folder has a name").to_string_lossy();
    let fresh = path.with_file_name(format!("{TEMPORARY}{name}"));
    settle(path)?;
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).map_err(CheckpointError::io("remove", &fresh))?;
    }
    std::fs::create_dir_all(&fresh).map_err(CheckpointError::io("create", &fresh))?;
    let written = write_model(&mut FolderWriter::new(&fresh), export, read).and_then(|()| sync_folder(&fresh));
    if let Err(error) = written.and_then(|()| put_aside(path)) {
        // The first error tells more than that its remains could not be removed.
        drop(std::fs::remove_dir_all(&fresh));
        return Err(error);
    }
    if let Err(error) = std::fs::rename(&fresh, path) {
        settle(path)?;
        return Err(CheckpointError::io("create", path)(error));
    }
    sync_folder(path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")))?;
    settle(path)
}

/// Ends a replacement: what was put aside comes back when nothing came in its place; otherwise what only it has moves over,
/// and the rest is removed.
fn settle(path: &Path) -> Result<(), CheckpointError> {
    let aside = aside(path);
    if !aside.is_dir() {
        return Ok(());
    }
    if !path.exists() {
        return std::fs::rename(&aside, path).map_err(CheckpointError::io("rename", &aside));
    }
    for (_, old) in entries(&aside)? {
        let new = path.join(old.file_name().expect("invariant: entries have names"));
        if !new.exists() {
            std::fs::rename(&old, &new).map_err(CheckpointError::io("rename", &old))?;
        }
    }
    std::fs::remove_dir_all(&aside).map_err(CheckpointError::io("remove", &aside))
}
