//! How well a model predicts given text.

use crate::{Generator, Result, ServeError};
use corpus::{Batch, Packing, Tokens, ValidationRows};
use model::{Output, Rows, Tape};
use std::sync::Arc;

/// Tokens evaluated at once, if a row is not longer: logits of a vocabulary of 128,000 then take 250 MiB.
const TOKENS_PER_BATCH: usize = 512;

/// Sums over the predicted tokens of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Negative log-likelihood of all counted tokens, in nats.
    pub nats: f64,
    /// Counted tokens, end-of-text tokens included.
    pub n_tokens: u64,
    /// Bytes of the texts.
    pub n_bytes: u64,
    /// The same of each document, in order; a document's end-of-text token is its last.
    pub documents: Vec<DocumentLoss>,
}

/// Sums over the tokens of one document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DocumentLoss {
    /// Negative log-likelihood, in nats.
    pub nats: f64,
    /// Tokens.
    pub n_tokens: u64,
    /// Bytes of the text.
    pub n_bytes: u64,
}

impl Evaluation {
    /// This and another's texts together.
    pub fn with(mut self, other: &Evaluation) -> Evaluation {
        self.nats += other.nats;
        self.n_tokens += other.n_tokens;
        self.n_bytes += other.n_bytes;
        self.documents.extend_from_slice(&other.documents);
        self
    }

    /// Mean negative log-likelihood of a token: the loss of training.
    pub fn nats_per_token(&self) -> f64 {
        self.nats / self.n_tokens as f64
    }

    /// As many equally likely tokens would be as hard to predict.
    pub fn perplexity(&self) -> f64 {
        self.nats_per_token().exp()
    }

    /// Bits in which the model would write a byte of the texts: comparable between tokenizers, and with compressors.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / std::f64::consts::LN_2 / self.n_bytes as f64
    }
}

impl Generator {
    /// Predicts every token of `texts` once, each text a document, in rows as the validation of training reads them.
    ///
    /// # Errors
    /// No text, no tokenizer, and as [`Generator::evaluate_tokens`].
    pub fn evaluate(&self, texts: &[&str], packing: Packing) -> Result<Evaluation> {
        if texts.is_empty() {
            return Err(ServeError::NoText);
        }
        let ids = self.tokenizer()?.encode_documents(texts)?;
        let documents: Vec<(Vec<u32>, u64)> =
            ids.into_iter().zip(texts).map(|(ids, text)| (ids, text.len() as u64)).collect();
        self.evaluate_tokens(Arc::new(Tokens::from_documents(&documents)), packing)
    }

    /// As [`Generator::evaluate`], of text that is tokens already.
    ///
    /// # Errors
    /// Rows of no token or of more than the model has positions for, and ids outside its vocabulary.
    pub fn evaluate_tokens(&self, tokens: Arc<Tokens>, packing: Packing) -> Result<Evaluation> {
        self.check_length(packing.sequence_length)?;
        tokens.iter().try_for_each(|id| self.check_id(id))?;
        let n_bytes = tokens.bytes();
        let mut documents: Vec<DocumentLoss> = (0..tokens.documents())
            .map(|n| DocumentLoss { nats: 0.0, n_tokens: 0, n_bytes: tokens.document_bytes(n) })
            .collect();
        let rows = ValidationRows::new(tokens.clone(), packing)?;
        let rows_per_batch = (TOKENS_PER_BATCH / packing.sequence_length).max(1);
        let (mut nats, mut n_tokens, mut current) = (0.0, 0, 0);
        for first in (0..rows.rows()).step_by(rows_per_batch) {
            let batch = to_rows(rows.batch(first, rows_per_batch.min(rows.rows() - first)));
            let output = self.part().forward(&batch, None, &mut Tape::Untracked);
            let Output::LogProbability(log_probability) = output else { unreachable!("invariant: a whole model") };
            let log_probability: Vec<f32> =
                log_probability.into_data().try_to_vec().expect("invariant: log-probabilities are f32");
            let counted = log_probability.iter().zip(&batch.weights).filter(|(_, weight)| **weight != 0.0);
            for (log_probability, _) in counted {
                // Rows come in the order of the text, and every token counts once.
                while n_tokens as usize == tokens.document(current).end {
                    current += 1;
                }
                let document = &mut documents[current];
                document.nats -= f64::from(*log_probability);
                document.n_tokens += 1;
                nats -= f64::from(*log_probability);
                n_tokens += 1;
            }
        }
        Ok(Evaluation { nats, n_tokens, n_bytes, documents })
    }
}

fn to_rows(batch: Batch) -> Rows {
    let Batch { rows, tokens, ids, targets, positions, documents, weights, sources: _ } = batch;
    Rows { n_rows: rows, n_tokens: tokens, ids, positions, documents, targets, weights }
}
