//! Text in, rows of token ids out: sources, tokenizer, split, token cache, packing, mixing, resumable order, yardsticks;
//! and the chat template, which belongs to the tokenizer.
//!
//! ```text
//! paths ─▶ documents ─▶ split ─▶ Tokenizer ─▶ Tokens (cached, memory-mapped), for each source
//!                                               ├─ Mixture::batch(MixtureCursor) ─▶ Batch, next cursor
//!                                               └─ ValidationRows::batch(row)    ─▶ Batch
//! ```
//!
//! [`Corpus::open`] does everything up to the tokens; [`Mixture`] and [`ValidationRows`] cut them into [`Batch`]es
//! of plain integers. Text is streamed: neither it nor its tokens need fit into memory. Everything is a function of the
//! text, the options and the seed: same bits on every machine and with any number of threads.
//!
//! Does not know about tensors, models or the run file.

mod batch;
mod cache;
mod chat_template;
mod corpus;
mod document;
mod encoder;
mod error;
mod files;
mod input;
mod json_lines;
mod material;
mod mixture;
mod parquet;
mod rows;
mod sentencepiece;
mod split;
mod stream;
mod text;
mod token_files;
mod tokenizer;
mod tokenizer_config;
mod tokens;
mod upstream;
mod varint;
mod yardstick;

pub use batch::Batch;
pub use chat_template::{ChatTemplate, GenerationPrompt, Message};
pub use corpus::{Content, Corpus, CorpusOptions, ONLY_SOURCE, Source, SourceOptions, TokenizerChoice};
pub use document::Document;
pub use encoder::DocumentEncoder;
pub use error::CorpusError;
pub use files::{Documents, read_documents};
pub use mixture::{Mixture, MixtureCursor};
pub use parquet::TextColumn;
pub use rows::{Borders, Cursor, Packing, TrainingRows, ValidationRows};
pub use split::{Side, Split, Survey};
pub use stream::TextStream;
pub use text::embedded_documents;
pub use tokenizer::{Tokenizer, VOCAB_SIZE_MAX};
pub use tokens::{Cached, TokenWidth, Tokens};
pub use yardstick::{Yardsticks, unigram_entropy_nats, xz_bytes};

/// What this crate's functions yield.
pub type Result<T> = std::result::Result<T, CorpusError>;
