//! A training checkpoint, written.

use crate::checkpoint::{OPTIMIZER, STATE};
use crate::export::{pretty, temporary_folder, write_model};
use crate::folder_writer::{FolderWriter, sync_folder};
use crate::manifest::{MANIFEST, Manifest};
use crate::series::{clean, folder_name, prune, put_aside};
use crate::{CheckpointError, Companion, Dtype, Export, Part};
use architecture::{Architecture, Weight};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What a training checkpoint is made of, weights and moments apart.
pub struct Save<'a> {
    /// Optimizer steps done.
    pub step: u64,
    /// How many of the newest checkpoints stay, this one included; at least 1.
    pub keep: usize,
    /// The model.
    pub architecture: &'a Architecture,
    /// Content of a `tokenizer.json`.
    pub tokenizer: Option<&'a [u8]>,
    /// Files of the model that the run started from; they stand for those that would be made up.
    pub companions: &'a [Companion],
    /// Whatever else resuming needs. Integers up to 64 bits and text come back exactly; floats may come back one unit
    /// in the last place off, so store their bits (`f64::to_bits`) where that matters.
    pub state: &'a Value,
}

/// Saves a training checkpoint as `series/step-00000100/` and yields that path; `series` is created where it is
/// missing. `read` yields the values of a part of a weight in row-major order; it is asked for all weights in file
/// order, then for both moments of each. Everything is stored as F32 under the parameter's name, so that any layout may
/// read it.
///
/// The checkpoint is written to a hidden folder, brought to disk, and renamed: whenever the process or the machine
/// stops, it exists completely or not at all, and older ones are removed only after that. A checkpoint of the same step
/// is replaced. Only one process may save to a series.
///
/// # Errors
/// [`CheckpointError::Io`] with path and cause when the disk is full or the folder cannot be written, and whatever
/// `read` returns; then nothing is left of the new checkpoint and the previous ones are as before. An error after the
/// renaming, while old checkpoints are removed, names the old one.
///
/// # Panics
/// When `keep` is 0, or `read` yields a number of values that is not the weight's.
pub fn save(
    series: &Path,
    save: &Save,
    mut read: impl FnMut(&Weight, Part) -> Result<Vec<f32>, CheckpointError>,
) -> Result<PathBuf, CheckpointError> {
    assert!(save.keep > 0, "at least the new checkpoint is kept");
    clean(series)?;
    let temporary = temporary_folder(series)?;
    write(temporary.path(), save, &mut read)?;
    let path = series.join(folder_name(save.step));
    let replaced = put_aside(&path)?;
    if let Err(error) = std::fs::rename(temporary.path(), &path) {
        // Brings back what was put aside.
        clean(series)?;
        return Err(CheckpointError::io("create", &path)(error));
    }
    // It has moved: there is nothing left to remove.
    drop(temporary.keep());
    sync_folder(series)?;
    if let Some(replaced) = replaced {
        std::fs::remove_dir_all(&replaced).map_err(CheckpointError::io("remove", &replaced))?;
    }
    prune(series, save.step, save.keep)?;
    Ok(path)
}

fn write(
    folder: &Path,
    save: &Save,
    read: &mut impl FnMut(&Weight, Part) -> Result<Vec<f32>, CheckpointError>,
) -> Result<(), CheckpointError> {
    let mut writer = FolderWriter::new(folder);
    let Save { architecture, tokenizer, companions, .. } = *save;
    let export = Export { architecture, tokenizer, companions, dtype: Dtype::F32, shard_bytes: None };
    write_model(&mut writer, &export, |weight| read(weight, Part::Value))?;

    let weights = architecture.all_weights();
    let moments: Vec<(&Weight, Part)> =
        weights.iter().flat_map(|weight| [(weight, Part::FirstMoment), (weight, Part::SecondMoment)]).collect();
    let tensors: Vec<_> =
        moments.iter().map(|(weight, part)| (part.name_in_file(&weight.name), weight.shape.clone())).collect();
    writer.write_tensors(OPTIMIZER, &tensors, Dtype::F32, |n| {
        let (weight, part) = moments[n];
        read(weight, part)
    })?;

    writer.write(STATE, &pretty(save.state))?;
    let manifest = Manifest::new(save.step, writer.files.clone());
    writer.write(MANIFEST, &manifest.to_bytes())?;
    sync_folder(folder)
}
