//! `tokenizer_config.json`: what a model folder says of its tokenizer beside `tokenizer.json`.

use crate::{CorpusError, Result};
use serde_json::Value;
use std::io;
use std::path::Path;

/// Its name.
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The one of a folder; `null` where there is none.
pub(crate) fn tokenizer_config(folder: &Path) -> Result<Value> {
    let path = folder.join(TOKENIZER_CONFIG);
    let unusable = |error: serde_json::Error| CorpusError::TokenizerConfig {
        place: path.display().to_string(),
        problem: error.to_string(),
    };
    read(&path)?.map_or(Ok(Value::Null), |bytes| serde_json::from_slice(&bytes).map_err(unusable))
}

/// A special token, written as its text or as an object with its `content`.
pub(crate) fn spelled(token: &Value) -> Option<String> {
    token.as_str().or(token["content"].as_str()).map(str::to_owned)
}

/// What a file holds, if there is one.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CorpusError::Read { path: path.to_owned(), source }),
    }
}
