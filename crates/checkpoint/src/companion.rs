//! Files beside a model's weights that say how it is to be used.

use crate::generation::GENERATION_CONFIG;
use crate::{CheckpointError, Folder};

pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Files that are carried along as they are, where a folder has them; `tokenizer.json` apart, which is read.
const COMPANIONS: [&str; 10] = [
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
];

/// A file that a model's makers have put beside its weights: the chat template, the tokenizer's special tokens, end tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Companion {
    /// Its name.
    pub(crate) name: &'static str,
    /// What is in it.
    pub(crate) content: Vec<u8>,
}

impl Folder {
    /// The folder's companions, for a model that is made from this one and keeps its tokenizer.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] for one that cannot be read.
    pub fn companions(&self) -> Result<Vec<Companion>, CheckpointError> {
        let mut companions = Vec::new();
        for name in COMPANIONS {
            let path = self.path().join(name);
            if path.is_file() {
                let content = std::fs::read(&path).map_err(CheckpointError::io("read", &path))?;
                companions.push(Companion { name, content });
            }
        }
        Ok(companions)
    }
}
