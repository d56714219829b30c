//! Text out of a trained model: sampling, generation through a cache, and what the model makes of given text.
//!
//! ```text
//! prompt ─▶ ids ─▶ Generator (prefill, then one token at a time) ─▶ Sampler ─▶ ids ─▶ text, up to a stop
//! texts ─▶ rows ─▶ Generator::evaluate ─▶ nats per token, perplexity, bits per byte, each with an interval
//! ```
//!
//! A [`Generator`] is a whole model on one device. What it yields is a function of weights, prompt and [`Sampling`].
//!
//! Does not know about training, schedules, stages or the run file.

mod error;
mod evaluation;
mod generator;
mod interval;
mod sampler;
mod score;
mod stop_strings;
mod writer;

pub use error::ServeError;
pub use evaluation::{DocumentLoss, Evaluation};
pub use generator::{Generated, GeneratedIds, Generator, Options, Stop};
pub use interval::Interval;
pub use sampler::{Sampler, Sampling};
pub use score::ScoredToken;

/// What this crate's functions yield.
pub type Result<T> = std::result::Result<T, ServeError>;
