//! The list of a folder's files with their sizes and hashes, which makes damage visible.

use crate::CheckpointError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Its file name.
pub(crate) const MANIFEST: &str = "manifest.json";

/// Of one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Version of this form.
    format: Format,
    /// The training step after which the checkpoint was taken.
    pub(crate) step: u64,
    /// By file name; every file of the folder but this one.
    pub(crate) files: BTreeMap<String, Entry>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Length in bytes.
    pub(crate) size: u64,
    /// BLAKE3 of the content, in hexadecimal.
    pub(crate) blake3: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Format {
    #[serde(rename = "millstream checkpoint 1")]
    One,
}

impl Manifest {
    pub(crate) fn new(step: u64, files: BTreeMap<String, Entry>) -> Self {
        Self { format: Format::One, step, files }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("invariant: a manifest is JSON");
        bytes.push(b'\n');
        bytes
    }

    /// The manifest of a folder, `None` when it has none. Other programs also have files of this name; those are
    /// treated as damage, because telling them from a damaged one of ours is impossible.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, CheckpointError> {
        let path = folder.join(MANIFEST);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CheckpointError::io("read", &path)(error)),
        };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| CheckpointError::Changed {
            path: path.clone(),
            difference: format!("it is not a list of hashes of ours ({error})"),
        })?;
        // Catches damage that leaves the meaning intact, such as a changed letter case.
        if manifest.to_bytes() != bytes {
            let difference = "it is not byte for byte what its content asks for".to_owned();
            return Err(CheckpointError::Changed { path, difference });
        }
        Ok(Some(manifest))
    }

    /// Every listed file is in the folder with its size and hash. Reads all of them.
    pub(crate) fn verify(&self, folder: &Path) -> Result<(), CheckpointError> {
        for (name, entry) in &self.files {
            let path = folder.join(name);
            let file = File::open(&path).map_err(CheckpointError::io("open", &path))?;
            let changed = |difference| CheckpointError::Changed { path: path.clone(), difference };
            let size = file.metadata().map_err(CheckpointError::io("read", &path))?.len();
            if size != entry.size {
                return Err(changed(format!("it has {size} bytes and had {}", entry.size)));
            }
            // Read and not mapped: the pages of a map would count as the process's memory.
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file).map_err(CheckpointError::io("read", &path))?;
            let found = hasher.finalize().to_hex();
            if found.as_str() != entry.blake3 {
                return Err(changed(format!("its hash is {found} and was {}", entry.blake3)));
            }
        }
        Ok(())
    }
}
