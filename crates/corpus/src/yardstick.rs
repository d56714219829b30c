//! What a model must beat on the validation text: knowing only how often tokens occur, and a general compressor.

use crate::{CorpusError, Result, Tokenizer, Tokens};
use std::collections::HashMap;
use std::io::Read;

/// Text of a source that is compressed: `xz -9` takes 2 MB a second.
const XZ_TEXT_BYTES_MAX: u64 = 8 << 20;

/// Yardsticks of a validation text. Of several sources, of their mixture: as if tokens were drawn from each by its
/// share of the rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yardsticks {
    /// Loss of the best model without context, see [`unigram_entropy_nats`].
    pub unigram_nats_per_token: f64,
    /// The same over the text's bytes.
    pub unigram_bits_per_byte: f64,
    /// Bytes of the text: its documents joined without separator.
    pub text_bytes: u64,
    /// The text under `xz -9`, in bits per byte; of each source's text, its first documents, up to 8 MiB, are measured.
    pub xz_bits_per_byte: f64,
}

impl Yardsticks {
    /// Measures the tokens of each source with its share. The compressed text is what the tokens decode to, which is the
    /// text itself for every tokenizer that loses nothing. See [`xz_bytes`] for the memory.
    ///
    /// # Errors
    /// The compressor fails, or ids are not of this tokenizer.
    ///
    /// # Panics
    /// If there is no source.
    pub fn measure(sources: &[(f64, &Tokens)], tokenizer: &Tokenizer) -> Result<Yardsticks> {
        assert!(!sources.is_empty(), "a validation text has at least one source");
        let mut shares: HashMap<u32, f64> = HashMap::new();
        let (mut bytes_per_token, mut xz_bits_per_token, mut text_bytes) = (0.0, 0.0, 0);
        for &(weight, tokens) in sources {
            // Counts are whole numbers, so that their order, which a hash map does not keep, changes no bit.
            for (id, count) in counts(tokens.iter()) {
                *shares.entry(id).or_default() += weight * count as f64 / tokens.len() as f64;
            }
            let (read_bytes, xz_bytes) = compressed(tokens, tokenizer)?;
            let token_bytes = tokens.bytes() as f64 / tokens.len() as f64;
            bytes_per_token += weight * token_bytes;
            xz_bits_per_token += weight * token_bytes * 8.0 * xz_bytes as f64 / read_bytes as f64;
            text_bytes += tokens.bytes();
        }
        let unigram_nats_per_token = entropy(shares.into_values().collect());
        Ok(Yardsticks {
            unigram_nats_per_token,
            unigram_bits_per_byte: unigram_nats_per_token / std::f64::consts::LN_2 / bytes_per_token,
            text_bytes,
            xz_bits_per_byte: xz_bits_per_token / bytes_per_token,
        })
    }
}

/// Bytes of the first documents, and of their `xz -9`.
fn compressed(tokens: &Tokens, tokenizer: &Tokenizer) -> Result<(u64, u64)> {
    let mut text = String::new();
    for document in 0..tokens.documents() {
        if text.len() as u64 >= XZ_TEXT_BYTES_MAX {
            break;
        }
        let ids: Vec<u32> = tokens.ids(document).collect();
        text += &tokenizer.decode(&ids)?;
    }
    // A document of special tokens alone has no text; nothing then needs a byte.
    Ok((text.len().max(1) as u64, xz_bytes(text.as_bytes())?))
}

/// Entropy of `tokens` under their own frequencies, in nats per token: the sum over distinct tokens of `-p ln p`, with `p` the
/// token's share of all tokens, end-of-text tokens included. 0 for no tokens.
///
/// It is the least mean loss of any model that gives every token one fixed probability, even one fitted to this very text.
pub fn unigram_entropy_nats(tokens: impl IntoIterator<Item = u32>) -> f64 {
    let counts = counts(tokens);
    let total = counts.values().sum::<u64>() as f64;
    entropy(counts.into_values().map(|count| count as f64 / total).collect())
}

fn counts(tokens: impl IntoIterator<Item = u32>) -> HashMap<u32, u64> {
    let mut counts = HashMap::new();
    for token in tokens {
        *counts.entry(token).or_default() += 1;
    }
    counts
}

fn entropy(mut shares: Vec<f64>) -> f64 {
    // A hash map's order differs between runs, and the sum's last bits with it.
    shares.sort_unstable_by(f64::total_cmp);
    shares.into_iter().map(|share| -share * share.ln()).sum()
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
