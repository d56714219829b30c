//! From paths to token streams in one call.

use crate::files::no_text;
use crate::material::{Material, train_tokenizer};
use crate::{Cached, CorpusError, Result, TokenWidth, Tokenizer, Tokens, Yardsticks};
use std::path::PathBuf;
use std::sync::Arc;

/// What a corpus is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct CorpusOptions {
    /// Where text comes from; empty for the embedded text.
    pub sources: Vec<SourceOptions>,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerChoice,
    /// Share of each source's documents, by size, that validates; in (0, 1).
    pub validation_fraction: f64,
    /// Decides which documents validate.
    pub seed: u64,
    /// Where tokens and trained tokenizers are kept between runs; created when missing.
    pub cache_folder: PathBuf,
}

/// Files that belong together: a share of the training rows, and a loss of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceOptions {
    /// What it is called in metrics.
    pub name: String,
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// What is in them.
    pub content: Content,
    /// Its share of the training rows, in relation to the other sources' weights. Where no source has one, rows are
    /// drawn as the training tokens are spread.
    pub weight: Option<f64>,
}

/// What the files of a source hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Plain text, JSON Lines, Parquet; see [`read_documents`](crate::read_documents).
    Text {
        /// The field of a JSON Lines object, or the Parquet column, that holds the text.
        field: String,
    },
    /// Token ids, every document ended by the tokenizer's end of text.
    Tokens(TokenWidth),
}

/// Tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// Byte-level BPE trained on the training documents.
    Train {
        /// Entries wanted, special tokens and bytes included.
        vocab_size: usize,
    },
    /// A `tokenizer.json` or a SentencePiece model.
    File(PathBuf),
}

/// A text, split and tokenized.
#[derive(Debug)]
pub struct Corpus {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// At least one, in the order given.
    pub sources: Vec<Source>,
}

/// One source, split and tokenized.
#[derive(Debug)]
pub struct Source {
    /// What it is called in metrics.
    pub name: String,
    /// Its share of the training rows; all shares add up to 1.
    pub weight: f64,
    /// Tokens to train on.
    pub train: Arc<Tokens>,
    /// Tokens held back.
    pub validation: Arc<Tokens>,
    /// What became of the cache of both.
    pub cached: [Cached; 2],
}

/// Name of a source that has none.
pub const ONLY_SOURCE: &str = "text";

impl Corpus {
    /// Reads the sources, splits each by document, trains or loads the tokenizer, and encodes both sides or finds them
    /// cached. Reads a text up to three times (split, tokenizer, tokens) in memory that does not grow with it; of a text
    /// that was read before, only the files' hashes are checked.
    ///
    /// # Errors
    /// Every [`CorpusError`] but those of rows ([`TooShort`](CorpusError::TooShort), [`EmptyRow`](CorpusError::EmptyRow))
    /// and of yardsticks.
    pub fn open(options: &CorpusOptions) -> Result<Corpus> {
        check(&options.sources)?;
        let n_sources = options.sources.len();
        let materials = match options.sources.as_slice() {
            [] => vec![Material::embedded(options)?],
            sources => {
                let material =
                    |source: &SourceOptions| CorpusError::told(Material::new(source, options), &source.name, n_sources);
                sources.iter().map(material).collect::<Result<_>>()?
            }
        };
        let tokenizer = match &options.tokenizer {
            TokenizerChoice::File(path) => Tokenizer::from_file(path)?,
            TokenizerChoice::Train { vocab_size } => train_tokenizer(&materials, *vocab_size, options)?,
        };
        let mut sources = Vec::with_capacity(materials.len());
        for material in materials {
            let sides = material.tokens(&tokenizer, &options.cache_folder);
            let [(train, train_cached), (validation, validation_cached)] =
                CorpusError::told(sides, &material.name, n_sources)?;
            sources.push(Source {
                name: material.name,
                weight: material.weight.unwrap_or(train.len() as f64),
                train: Arc::new(train),
                validation: Arc::new(validation),
                cached: [train_cached, validation_cached],
            });
        }
        let total: f64 = sources.iter().map(|source| source.weight).sum();
        if total.is_infinite() {
            // Each is finite, and of this size their sum is too.
            sources.iter_mut().for_each(|source| source.weight /= n_sources as f64);
        }
        let total: f64 = sources.iter().map(|source| source.weight).sum();
        sources.iter_mut().for_each(|source| source.weight /= total);
        Ok(Corpus { tokenizer, sources })
    }

    /// What a model must beat on the validation text.
    ///
    /// # Errors
    /// As [`Yardsticks::measure`].
    pub fn yardsticks(&self) -> Result<Yardsticks> {
        let sources: Vec<(f64, &Tokens)> =
            self.sources.iter().map(|source| (source.weight, &*source.validation)).collect();
        Yardsticks::measure(&sources, &self.tokenizer)
    }
}

/// Names and weights.
fn check(sources: &[SourceOptions]) -> Result<()> {
    for (index, source) in sources.iter().enumerate() {
        let name = || source.name.clone();
        if sources[..index].iter().any(|earlier| earlier.name == source.name) {
            return Err(CorpusError::SameName { name: name() });
        }
        if let Some(found) = source.weight.filter(|weight| !(weight.is_finite() && *weight > 0.0)) {
            return Err(CorpusError::Weight { name: name(), found });
        }
        if source.weight.is_some() != sources[0].weight.is_some() {
            let without = sources.iter().find(|source| source.weight.is_none());
            return Err(CorpusError::SomeWeights { name: without.unwrap_or(source).name.clone() });
        }
        if source.paths.is_empty() {
            return Err(no_text(&source.paths));
        }
    }
    Ok(())
}
