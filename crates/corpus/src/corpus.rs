//! From paths to token streams in one call.

use crate::cache::{self, Found};
use crate::{
    Cached, CorpusError, Document, Result, Split, Tokenizer, Tokens, Yardsticks, embedded_documents, read_documents,
    split,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a corpus is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct CorpusOptions {
    /// Files and folders; empty for the embedded text.
    pub paths: Vec<PathBuf>,
    /// The field of a JSON Lines object that holds the text.
    pub field: String,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerChoice,
    /// Share of documents, by size, that validates; in (0, 1).
    pub validation_fraction: f64,
    /// Decides which documents validate.
    pub seed: u64,
    /// Where tokens and trained tokenizers are kept between runs; created when missing.
    pub cache_folder: PathBuf,
}

/// Tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// Byte-level BPE trained on the training documents.
    Train {
        /// Entries wanted, special tokens and bytes included.
        vocab_size: usize,
    },
    /// A `tokenizer.json`.
    File(PathBuf),
}

/// A text, split and tokenized.
#[derive(Debug)]
pub struct Corpus {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Tokens to train on.
    pub train: Arc<Tokens>,
    /// Tokens held back.
    pub validation: Arc<Tokens>,
    /// The validation documents' texts, joined without separator.
    pub validation_text: String,
    /// Sizes of both sides.
    pub statistics: Statistics,
}

/// Sizes of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// What is trained on.
    pub train: SplitStatistics,
    /// What is held back.
    pub validation: SplitStatistics,
}

/// Sizes of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitStatistics {
    /// Documents.
    pub documents: usize,
    /// Bytes of their texts.
    pub bytes: u64,
    /// Tokens, end-of-text tokens included.
    pub tokens: usize,
    /// Whether the tokens were found in the cache.
    pub cached: Cached,
}

impl Corpus {
    /// Reads the text, splits it by document, trains or loads the tokenizer, and encodes both sides or finds them cached.
    ///
    /// # Errors
    /// Every [`CorpusError`] but those of rows ([`TooShort`](CorpusError::TooShort), [`EmptyRow`](CorpusError::EmptyRow))
    /// and of yardsticks.
    pub fn open(options: &CorpusOptions) -> Result<Corpus> {
        let documents = match options.paths.as_slice() {
            [] => embedded_documents(),
            paths => read_documents(paths, &options.field)?,
        };
        let Split { train, validation } = split(documents, options.validation_fraction, options.seed)?;
        let tokenizer = match &options.tokenizer {
            TokenizerChoice::Train { vocab_size } => trained(&train, *vocab_size, &options.cache_folder)?,
            TokenizerChoice::File(path) => Tokenizer::from_file(path)?,
        };
        let (train, train_statistics) = side(&train, &tokenizer, &options.cache_folder)?;
        let validation_text = validation.iter().map(|document| document.text.as_str()).collect();
        let (validation, validation_statistics) = side(&validation, &tokenizer, &options.cache_folder)?;
        let statistics = Statistics { train: train_statistics, validation: validation_statistics };
        Ok(Corpus { tokenizer, train, validation, validation_text, statistics })
    }

    /// What a model must beat on the validation text.
    ///
    /// # Errors
    /// As [`Yardsticks::measure`].
    pub fn yardsticks(&self) -> Result<Yardsticks> {
        Yardsticks::measure(&self.validation_text, &self.validation)
    }
}

fn side(documents: &[Document], tokenizer: &Tokenizer, folder: &Path) -> Result<(Arc<Tokens>, SplitStatistics)> {
    let (tokens, cached) = Tokens::open(documents, tokenizer, folder)?;
    let statistics =
        SplitStatistics { documents: tokens.documents(), bytes: tokens.bytes(), tokens: tokens.len(), cached };
    Ok((Arc::new(tokens), statistics))
}

/// The tokenizer trained on `documents`, from the cache when it was trained before.
fn trained(documents: &[Document], vocab_size: usize, folder: &Path) -> Result<Tokenizer> {
    let mut hasher = blake3::Hasher::new_derive_key("millstream corpus: byte-level BPE tokenizer 1");
    hasher.update(&(vocab_size as u64).to_le_bytes());
    for document in documents {
        hasher.update(&(document.text.len() as u64).to_le_bytes()).update(document.text.as_bytes());
    }
    let key = hasher.finalize();
    let path = folder.join(format!("tokenizer-{}.bin", &key.to_hex()[..16]));
    let unusable = |source| CorpusError::Cache { path: path.clone(), source };
    if let Found::Valid(sealed) = cache::open(&path, &key).map_err(unusable)? {
        let json = std::str::from_utf8(sealed.payload()).expect("invariant: sealed as text");
        return Tokenizer::from_json(json, "the cache");
    }
    let tokenizer = Tokenizer::train(documents, vocab_size)?;
    cache::write(&path, &key, tokenizer.to_json().as_bytes()).map_err(unusable)?;
    Ok(tokenizer)
}
