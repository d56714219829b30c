//! What can be wrong with a request or with the model that is to answer it.

use checkpoint::CheckpointError;
use corpus::CorpusError;

/// Why nothing could be generated or evaluated. Messages are meant for the person at the terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A temperature that divides into nothing sensible.
    #[error(
        "the temperature is {found}, but it must be a finite number of at least 0; 0 always takes the likeliest token"
    )]
    Temperature {
        /// As given.
        found: f64,
    },
    /// No token to draw from.
    #[error("top_k is 0, but at least 1 token must be left to draw from; leave top_k out to draw from all")]
    TopK,
    /// No probability, or one that is none.
    #[error("top_p is {found}, but it must be above 0 and at most 1; leave top_p out to draw from all tokens")]
    TopP {
        /// As given.
        found: f64,
    },
    /// No share.
    #[error("min_p is {found}, but it must lie between 0 and 1; leave min_p out to draw from all tokens")]
    MinP {
        /// As given.
        found: f64,
    },
    /// A factor that turns logits into nothing sensible.
    #[error("the repetition penalty is {found}, but it must be a finite number above 0; 1 changes nothing")]
    RepetitionPenalty {
        /// As given.
        found: f64,
    },
    /// A stop string that is found everywhere.
    #[error("a stop string is empty and would stop before the first character; leave it out")]
    EmptyStopString,
    /// Text is asked of a model that only knows ids.
    #[error(
        "the model has no tokenizer, so it cannot read or write text; put its tokenizer.json beside its config.json"
    )]
    NoTokenizer,
    /// Nothing to start from.
    #[error("there are no token ids; give at least 1")]
    NoIds,
    /// No text to evaluate.
    #[error("there is no text; give at least 1")]
    NoText,
    /// An id without a row in the embedding.
    #[error(
        "token id {id} is not below the model's vocabulary size of {vocab_size}; the ids come from another tokenizer"
    )]
    UnknownToken {
        /// The id.
        id: u32,
        /// Ids run from 0 to this, excluded.
        vocab_size: usize,
    },
    /// More tokens than the model has positions for.
    #[error(
        "{found} tokens are too many: the model reads at most {most} at a time (`max_position_embeddings` of its \
         configuration); shorten the text"
    )]
    TooLong {
        /// Tokens in a row.
        found: usize,
        /// Positions of the model.
        most: usize,
    },
    /// A model whose output is no number.
    #[error(
        "after {n_tokens} tokens the model's output is infinite or not a number; its weights are damaged or come from \
         a training run that diverged"
    )]
    NotFinite {
        /// Tokens read.
        n_tokens: usize,
    },
    /// A weight that does not fit the number format asked for.
    #[error(transparent)]
    Packing(#[from] packed::PackError),
    /// The model's folder.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer, or rows of tokens.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
}
