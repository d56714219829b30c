//! Defaults for writing text, from `generation_config.json`.

use crate::CheckpointError;
use architecture::Architecture;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// Its file name.
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";

/// When to stop, as the model's makers recommend. How they would sample is not read: that is the caller's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Token ids that end a text; those of `config.json` where the file has none.
    pub eos_token_id: Vec<u32>,
}

/// The field read; there are dozens of others, which concern how texts are drawn.
#[derive(Default, Deserialize)]
struct Fields {
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Several(Vec<u32>),
}

impl Generation {
    /// From a folder's file, if it has one.
    pub(crate) fn read(folder: &Path, architecture: &Architecture) -> Result<Self, CheckpointError> {
        let path = folder.join(GENERATION_CONFIG);
        let fields = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(CheckpointError::json(&path))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Fields::default(),
            Err(error) => return Err(CheckpointError::io("read", &path)(error)),
        };
        let eos_token_id = match fields.eos_token_id {
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Several(ids)) => ids,
            None => architecture.eos_token_id.clone(),
        };
        Ok(Self { eos_token_id })
    }
}

/// `generation_config.json` of a model without recommendations of its own.
pub(crate) fn generation_config(architecture: &Architecture) -> Value {
    let mut fields = Map::new();
    fields.insert("_from_model_config".into(), true.into());
    if let Some(id) = architecture.bos_token_id {
        fields.insert("bos_token_id".into(), id.into());
    }
    match architecture.eos_token_id.as_slice() {
        [] => {}
        [id] => drop(fields.insert("eos_token_id".into(), (*id).into())),
        ids => drop(fields.insert("eos_token_id".into(), ids.into())),
    }
    if let Some(id) = architecture.pad_token_id {
        fields.insert("pad_token_id".into(), id.into());
    }
    Value::Object(fields)
}
