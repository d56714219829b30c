//! What a model must beat on the validation text: knowing only how often tokens occur, and a general compressor.

use crate::{CorpusError, Result, Tokens};
use std::collections::HashMap;
use std::io::Read;

/// Yardsticks of one text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yardsticks {
    /// Loss of the best model without context, see [`unigram_entropy_nats`].
    pub unigram_nats_per_token: f64,
    /// The same over the text's bytes.
    pub unigram_bits_per_byte: f64,
    /// Bytes of the text: its documents joined without separator.
    pub text_bytes: u64,
    /// Bytes of it under `xz -9`.
    pub xz_bytes: u64,
    /// Eight times their quotient.
    pub xz_bits_per_byte: f64,
}

impl Yardsticks {
    /// Measures `text` and its `tokens`. About 2 MB/s; see [`xz_bytes`] for the memory.
    ///
    /// # Errors
    /// The compressor fails.
    ///
    /// # Panics
    /// If the text is empty.
    pub fn measure(text: &str, tokens: &Tokens) -> Result<Yardsticks> {
        assert!(!text.is_empty(), "a validation text has at least one document");
        let unigram_nats_per_token = unigram_entropy_nats(tokens.iter());
        let xz_bytes = xz_bytes(text.as_bytes())?;
        let text_bytes = text.len() as u64;
        let unigram_bits = unigram_nats_per_token * tokens.len() as f64 / std::f64::consts::LN_2;
        Ok(Yardsticks {
            unigram_nats_per_token,
            unigram_bits_per_byte: unigram_bits / text_bytes as f64,
            text_bytes,
            xz_bytes,
            xz_bits_per_byte: 8.0 * xz_bytes as f64 / text_bytes as f64,
        })
    }
}

/// Entropy of `tokens` under their own frequencies, in nats per token: the sum over distinct tokens of `-p ln p`, with `p` the
/// token's share of all tokens, end-of-text tokens included. 0 for no tokens.
///
/// It is the least mean loss of any model that gives every token one fixed probability, even one fitted to this very text.
pub fn unigram_entropy_nats(tokens: impl IntoIterator<Item = u32>) -> f64 {
    let mut counts: HashMap<u32, u64> = HashMap::new();
    for token in tokens {
        *counts.entry(token).or_default() += 1;
    }
    let mut counts: Vec<u64> = counts.into_values().collect();
    // A hash map's order differs between runs, and the sum's last bits with it.
    counts.sort_unstable();
    let total = counts.iter().sum::<u64>() as f64;
    counts.into_iter().map(|count| count as f64 / total).map(|share| -share * share.ln()).sum()
}

/// Bytes of `data` as `xz -9` writes it: .xz container, one block, CRC64.
///
/// The preset's 64 MiB dictionary reserves 674 MiB of address space; memory is touched as far as the data reaches.
///
/// # Errors
/// The compressor cannot get that memory.
pub fn xz_bytes(data: &[u8]) -> Result<u64> {
    let mut encoder = liblzma::bufread::XzEncoder::new(data, 9);
    let mut compressed_bytes = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match encoder.read(&mut buffer).map_err(|source| CorpusError::Xz { source })? {
            0 => return Ok(compressed_bytes),
            bytes => compressed_bytes += bytes as u64,
        }
    }
}
