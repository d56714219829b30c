//! What can be wrong with a text, a tokenizer or a cache.

use std::io;
use std::path::PathBuf;

/// A problem with the text, the tokenizer or their files. Messages are meant for the person at the terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// A path that does not exist.
    #[error("there is no file or folder {}; check the spelling, paths are relative to the current folder", path.display())]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// A file or folder that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither a file nor a folder.
    #[error("{} is neither a regular file nor a folder; give text files, .jsonl files or folders of them", path.display())]
    NotFileOrFolder {
        /// As given.
        path: PathBuf,
    },
    /// A folder in which no file was found.
    #[error(
        "the folder {} holds no text: no regular file in it or below it (names starting with a dot and symbolic links \
         are left out); put .txt, .md or .jsonl files there or name another folder",
        path.display()
    )]
    FolderWithoutText {
        /// As given.
        path: PathBuf,
    },
    /// Bytes that are not UTF-8.
    #[error(
        "{}:{line}: the byte at offset {offset} is not UTF-8 text; convert the file (`iconv -t UTF-8`) or move it away",
        path.display()
    )]
    NotUtf8 {
        /// Which file.
        path: PathBuf,
        /// First offending byte, counted from 0.
        offset: usize,
        /// Its line, counted from 1.
        line: usize,
    },
    /// Sources without a character that is not white space.
    #[error("no text found in {place}: every file is empty or white space; name files with text in them")]
    NoText {
        /// The paths given.
        place: String,
    },
    /// A line of a JSON Lines file that is not a JSON object.
    #[error("{}:{line}: {found}; every line of a JSON Lines file must be one JSON object", path.display())]
    JsonLine {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is there instead.
        found: String,
    },
    /// An object without the chosen field.
    #[error("{}:{line}: no field `{field}`; this object has {}: choose one of them as the text field", path.display(), list(fields))]
    MissingField {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The field wanted.
        field: String,
        /// The fields present.
        fields: Vec<String>,
    },
    /// A chosen field that does not hold a string.
    #[error("{}:{line}: field `{field}` holds {found}, but the text must be a string; choose another field", path.display())]
    FieldNotText {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The field wanted.
        field: String,
        /// What it holds.
        found: &'static str,
    },
    /// A validation fraction outside (0, 1).
    #[error("the validation fraction is {found}, but it must lie between 0 and 1, both excluded; 0.05 is common")]
    ValidationFraction {
        /// As given.
        found: f64,
    },
    /// A text that cannot be split.
    #[error(
        "the text is a single document of {bytes} bytes, but training and validation need at least one each; add text \
         (plain files are cut into documents of about {} KiB at blank lines)",
        crate::document::DOCUMENT_BYTES / 1024
    )]
    OneDocument {
        /// Its size.
        bytes: usize,
    },
    /// Fewer tokens than one training row needs.
    #[error(
        "the sequence is longer than the text: a row of {sequence_length} tokens needs {} tokens of training text, and \
         there are {tokens}; add text or shorten the sequence to at most {}",
        sequence_length + 1, tokens.saturating_sub(1)
    )]
    TooShort {
        /// Tokens of the training text.
        tokens: usize,
        /// Tokens per row.
        sequence_length: usize,
    },
    /// Rows of no tokens.
    #[error("the sequence length is 0; give at least 1 token per row")]
    EmptyRow,
    /// A vocabulary too small for the 256 bytes and the document separator.
    #[error("a byte-level vocabulary of {found} entries is too small: the 256 bytes and `<|endoftext|>` need {least}")]
    VocabularySize {
        /// As given.
        found: usize,
        /// The least possible.
        least: usize,
    },
    /// A tokenizer that cannot be used.
    #[error("{place} is not a usable tokenizer.json: {problem}; export it with `tokenizer.save(\"tokenizer.json\")`")]
    TokenizerFile {
        /// File or other origin.
        place: String,
        /// What the parser says.
        problem: String,
    },
    /// A tokenizer without a known end of document.
    #[error(
        "the tokenizer of {place} names no end-of-text token: there is no `eos_token` of its vocabulary in a \
         tokenizer_config.json beside it, and none of {} is in its vocabulary; add one of the two",
        list(wanted)
    )]
    NoEndOfText {
        /// File or other origin.
        place: String,
        /// Names looked for.
        wanted: Vec<String>,
    },
    /// An id that the vocabulary does not hold.
    #[error("token {id} is outside the vocabulary of {vocab_size} entries; the ids come from another tokenizer")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Ids run from 0 to this, excluded.
        vocab_size: usize,
    },
    /// The tokenizer failed on a text or on ids.
    #[error("the tokenizer failed while {doing}")]
    Tokenizer {
        /// What it was asked.
        doing: &'static str,
        /// What it says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A cache file that cannot be written or read.
    #[error("cannot use the token cache {}; free space there or name another cache folder", path.display())]
    Cache {
        /// File or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The compressor of the yardstick failed.
    #[error("xz compression of the validation text failed (it needs up to 674 MiB of memory)")]
    Xz {
        /// Why.
        source: io::Error,
    },
}

fn list(names: &[String]) -> String {
    match names {
        [] => "no fields".to_owned(),
        names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}
