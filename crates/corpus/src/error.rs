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
        /// First offending byte, counted from 0; of a compressed file, in its text.
        offset: u64,
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
    /// A line too long to be held in memory.
    #[error("{}:{line}: the line is longer than {most} bytes; a JSON Lines file has one object per line", path.display())]
    LineTooLong {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Bytes allowed.
        most: u64,
    },
    /// Compressed data that cannot be read to their end.
    #[error(
        "{}: the {format} data are damaged or cut off after {n_good} bytes of text; compress or download the file again",
        path.display()
    )]
    Compressed {
        /// Which file.
        path: PathBuf,
        /// Of the compression.
        format: &'static str,
        /// Text bytes before.
        n_good: u64,
        /// What the decompressor says.
        source: io::Error,
    },
    /// A Parquet file inside another compression.
    #[error("{}: a Parquet file compressed as a whole cannot be read; decompress it (its pages are compressed already)", path.display())]
    CompressedParquet {
        /// Which file.
        path: PathBuf,
    },
    /// Not a sound Parquet file, or one written as we do not read it.
    #[error("{place} cannot be read as a Parquet file: {problem}")]
    Parquet {
        /// Which file.
        place: String,
        /// What is wrong, and where.
        problem: String,
    },
    /// A Parquet file without the chosen column.
    #[error("{place}: no column `{column}`; this file has {}: choose one of them as the text field", list(columns))]
    MissingColumn {
        /// Which file.
        place: String,
        /// The column wanted.
        column: String,
        /// The columns present.
        columns: Vec<String>,
    },
    /// A Parquet column that holds no text.
    #[error("{place}: column `{column}` holds {found}, but the text must be strings; choose another field")]
    ColumnNotText {
        /// Which file.
        place: String,
        /// The column wanted.
        column: String,
        /// What it holds.
        found: &'static str,
    },
    /// A string of a Parquet column that is not UTF-8.
    #[error("{place}: the text of row {row} is not UTF-8; write the column again as strings")]
    RowNotUtf8 {
        /// Which file.
        place: String,
        /// Counted from 1.
        row: u64,
    },
    /// A file of token ids that does not divide into them.
    #[error(
        "{}: {n_bytes} bytes do not divide into token ids of {width} bytes; the file is cut off, has a header, or its ids \
         have another width (`tokens` of the source)",
        path.display()
    )]
    TokenFileLength {
        /// Which file.
        path: PathBuf,
        /// Its size.
        n_bytes: u64,
        /// Bytes of an id.
        width: usize,
    },
    /// A file of token ids with one that the tokenizer does not know.
    #[error(
        "{}: token {index}, at byte {offset}, is {id}, but the vocabulary has {vocab_size} entries; the ids come from \
         another tokenizer, have another width (`tokens` of the source), or follow a header",
        path.display()
    )]
    TokenOutOfVocabulary {
        /// Which file.
        path: PathBuf,
        /// Counted from 0.
        index: u64,
        /// The byte it starts at.
        offset: u64,
        /// The id.
        id: u32,
        /// Ids run from 0 to this, excluded.
        vocab_size: usize,
    },
    /// A file of token ids that ends within a document.
    #[error(
        "{}: its last token is {last}, but a document ends with {end_of_text} (`{name}`); append that token, or name the \
         tokenizer that the file was made with",
        path.display()
    )]
    NoDocumentEnd {
        /// Which file.
        path: PathBuf,
        /// The last id.
        last: u32,
        /// The id that ends a document.
        end_of_text: u32,
        /// Its spelling.
        name: String,
    },
    /// A tokenizer to be trained where the text is tokens already.
    #[error("source `{name}` holds token ids, so the tokenizer that made them must be named; set tokenizer.file")]
    TokensNeedTokenizer {
        /// Of the source.
        name: String,
    },
    /// Two sources of one name.
    #[error("two sources are called `{name}`; give each its own name")]
    SameName {
        /// Theirs.
        name: String,
    },
    /// A weight that is no share.
    #[error(
        "the weight of source `{name}` is {found}, but it must be a finite number above 0; leave a source out to give it none"
    )]
    Weight {
        /// Of the source.
        name: String,
        /// As given.
        found: f64,
    },
    /// Weights for some sources only.
    #[error("source `{name}` has no weight but others have; give all sources one or none")]
    SomeWeights {
        /// Of the source.
        name: String,
    },
    /// A text that was changed between two passes.
    #[error("the text changed while it was read; start again")]
    Changed,
    /// Any of these, in one source of several.
    #[error("source `{name}`: {source}")]
    InSource {
        /// Of the source.
        name: String,
        /// What is wrong with it.
        source: Box<CorpusError>,
    },
    /// A validation fraction outside (0, 1).
    #[error("the validation fraction is {found}, but it must lie between 0 and 1, both excluded; 0.05 is common")]
    ValidationFraction {
        /// As given.
        found: f64,
    },
    /// A text that cannot be split.
    #[error(
        "the text is a single document ({bytes} bytes, repetitions included), but training and validation need at least \
         one each; add text (plain files are cut into documents of about {} KiB at blank lines)",
        crate::document::DOCUMENT_BYTES / 1024
    )]
    OneDocument {
        /// Its size.
        bytes: u64,
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
    /// A vocabulary larger than there is text for.
    #[error("a vocabulary of {found} entries is too large: at most {most} are trained")]
    VocabularyTooLarge {
        /// As given.
        found: usize,
        /// The most possible.
        most: usize,
    },
    /// A tokenizer that cannot be used.
    #[error("{place} is not a usable tokenizer.json: {problem}; export it with `tokenizer.save(\"tokenizer.json\")`")]
    TokenizerFile {
        /// File or other origin.
        place: String,
        /// What the parser says.
        problem: String,
    },
    /// A SentencePiece model that cannot be used.
    #[error("{place} cannot be used as a SentencePiece model: {problem}")]
    SentencePiece {
        /// File or other origin.
        place: String,
        /// What is wrong.
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
    /// A `tokenizer_config.json` that cannot be used.
    #[error("{place}: {problem}; mend the file or take it away")]
    TokenizerConfig {
        /// The file, and where in it.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// A chat template that is none, or that fails on a conversation.
    #[error("{place}:{line}: the chat template cannot be used: {problem}")]
    ChatTemplate {
        /// Its origin.
        place: String,
        /// Of the template, counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A conversation that the chat template does not allow.
    #[error("the chat template refuses this conversation: {message} ({place})")]
    ChatRefused {
        /// Its origin.
        place: String,
        /// What it says.
        message: String,
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

impl CorpusError {
    /// The result with the name of its source, where there are several.
    pub(crate) fn told<T>(result: crate::Result<T>, name: &str, n_sources: usize) -> crate::Result<T> {
        match n_sources {
            0 | 1 => result,
            _ => result.map_err(|source| CorpusError::InSource { name: name.to_owned(), source: Box::new(source) }),
        }
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "no fields".to_owned(),
        names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}
