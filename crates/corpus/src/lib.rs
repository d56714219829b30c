//! Text in, rows of token ids out: sources, tokenizer, split, token cache, packing, resumable order, yardsticks.
//!
//! ```text
//! paths ─▶ documents ─▶ split ─▶ Tokenizer ─▶ Tokens (cached, memory-mapped)
//!                                               ├─ TrainingRows::batch(Cursor)  ─▶ Batch, next Cursor
//!                                               └─ ValidationRows::batch(row)   ─▶ Batch
//! ```
//!
//! [`Corpus::open`] does everything up to the tokens; [`TrainingRows`] and [`ValidationRows`] cut them into [`Batch`]es
//! of plain integers. The text must fit into memory; its tokens need not. Everything is a function of the text, the
//! options and the seed: same bits on every machine and with any number of threads.
//!
//! Does not know about tensors, models or the run file.

mod batch;
mod cache;
mod corpus;
mod document;
mod error;
mod rows;
mod source;
mod split;
mod stream;
mod text;
mod tokenizer;
mod tokens;
mod yardstick;

pub use batch::Batch;
pub use corpus::{Corpus, CorpusOptions, SplitStatistics, Statistics, TokenizerChoice};
pub use document::Document;
pub use error::CorpusError;
pub use rows::{Borders, Cursor, Packing, TrainingRows, ValidationRows};
pub use source::read_documents;
pub use split::{Split, split};
pub use stream::TextStream;
pub use text::embedded_documents;
pub use tokenizer::Tokenizer;
pub use tokens::{Cached, Tokens};
pub use yardstick::{Yardsticks, unigram_entropy_nats, xz_bytes};

/// What this crate's functions yield.
pub type Result<T> = std::result::Result<T, CorpusError>;
