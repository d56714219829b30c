//! A training checkpoint, read.

use crate::manifest::{MANIFEST, Manifest};
use crate::tensor_file::TensorFile;
use crate::{CheckpointError, Folder};
use architecture::{Architecture, Weight};
use serde_json::Value;
use std::path::Path;

pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
pub(crate) const STATE: &str = "state.json";

/// What is stored of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The weight itself.
    Value,
    /// AdamW's running mean of the gradient.
    FirstMoment,
    /// AdamW's running mean of the squared gradient.
    SecondMoment,
}

impl Part {
    /// Name of a weight's moment in `optimizer.safetensors`.
    pub(crate) fn name_in_file(self, weight: &str) -> String {
        match self {
            Part::Value => weight.to_owned(),
            Part::FirstMoment => format!("{weight}.m"),
            Part::SecondMoment => format!("{weight}.v"),
        }
    }
}

/// A complete and undamaged training checkpoint. Tensors are mapped and read one at a time.
pub struct Checkpoint {
    folder: Folder,
    optimizer: TensorFile,
    step: u64,
    state: Value,
}

/// Opens a training checkpoint after checking the hash of every file, which reads them all once.
///
/// # Errors
/// [`CheckpointError::NotACheckpoint`] for a folder without hashes, moments or state (a plain Hugging Face folder is
/// for [`read_folder`](crate::read_folder)); [`CheckpointError::Changed`] or [`CheckpointError::Io`] naming the file
/// that differs from its hash or is gone; otherwise those of [`read_folder`](crate::read_folder).
pub fn load(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let incomplete = |missing| CheckpointError::NotACheckpoint { folder: path.to_owned(), missing };
    let manifest = Manifest::read(path)?.ok_or_else(|| incomplete(MANIFEST))?;
    if let Some(missing) = [OPTIMIZER, STATE].into_iter().find(|name| !manifest.files.contains_key(*name)) {
        return Err(incomplete(missing));
    }
    manifest.verify(path)?;
    let folder = Folder::open(path)?;
    let optimizer = TensorFile::open(&path.join(OPTIMIZER))?;
    check_moments(folder.architecture(), &optimizer)?;
    let state_path = path.join(STATE);
    let state = std::fs::read(&state_path).map_err(CheckpointError::io("read", &state_path))?;
    let state = serde_json::from_slice(&state).map_err(CheckpointError::json(&state_path))?;
    Ok(Checkpoint { folder, optimizer, step: manifest.step, state })
}

/// Two moments per weight, of its shape.
fn check_moments(architecture: &Architecture, optimizer: &TensorFile) -> Result<(), CheckpointError> {
    let mut missing = Vec::new();
    for weight in architecture.all_weights() {
        for part in [Part::FirstMoment, Part::SecondMoment] {
            let name = part.name_in_file(&weight.name);
            if optimizer.contains(&name) {
                optimizer.check(&name, &weight.shape)?;
            } else {
                missing.push(name);
            }
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(CheckpointError::MissingTensors { path: optimizer.path().to_owned(), names: missing })
    }
}

impl Checkpoint {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Optimizer steps done when it was taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What the caller stored beside the weights.
    pub fn state(&self) -> &Value {
        &self.state
    }

    /// The Hugging Face folder that it also is: model, tokenizer and weights.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A part of one parameter as `f32` in row-major order: exactly the bits saved.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensors`] and [`CheckpointError::Shape`] for a weight that is not of the model; none
    /// otherwise.
    pub fn read(&self, weight: &Weight, part: Part) -> Result<Vec<f32>, CheckpointError> {
        if part == Part::Value {
            return self.folder.read(weight);
        }
        let name = part.name_in_file(&weight.name);
        if !self.optimizer.contains(&name) {
            let path = self.optimizer.path().to_owned();
            return Err(CheckpointError::MissingTensors { path, names: vec![name] });
        }
        self.optimizer.check(&name, &weight.shape)?;
        self.optimizer.read(&name)
    }
}
