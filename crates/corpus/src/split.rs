//! Training and validation, split by document.

use crate::{CorpusError, Result};

/// Ranks are told apart by so many bits: a document's rank decides its side, and 2^20 steps hit a share within a
/// millionth of a large text, or a document of a small one, in 8 MB whatever the text's size.
const STEP_BITS: u32 = 20;

/// The first pass over a text: how its bytes are spread over the ranks of its documents.
#[derive(Clone, Debug)]
pub struct Survey {
    seed: u64,
    bytes: Vec<u64>,
    n_documents: u64,
}

/// Which documents validate: those whose rank lies below a border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    seed: u64,
    /// The first step that trains.
    border: u32,
}

/// A side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// To train on.
    Train,
    /// Held back.
    Validation,
}

impl Survey {
    /// Of no document.
    pub fn new(seed: u64) -> Survey {
        Survey { seed, bytes: vec![0; 1 << STEP_BITS], n_documents: 0 }
    }

    /// Counts a document by its content, text or token ids.
    pub fn add(&mut self, content: &[u8]) {
        // An empty one still has a side.
        self.bytes[step(self.seed, content) as usize] += content.len().max(1) as u64;
        self.n_documents += 1;
    }

    /// Documents counted.
    pub fn n_documents(&self) -> u64 {
        self.n_documents
    }

    /// The split by which about `validation_fraction` of all bytes validate.
    ///
    /// Documents are ranked by a hash of the seed and their content; from the lowest on they validate until the share is
    /// reached, so it is exceeded by less than the documents of one step of ranks, which is one document unless there
    /// are many thousands. A document's rank depends on nothing but its own content: adding text moves few others
    /// across, and equal documents stand on the same side.
    ///
    /// # Errors
    /// A fraction outside (0, 1), or fewer than two different documents.
    pub fn split(&self, validation_fraction: f64) -> Result<Split> {
        if !(validation_fraction > 0.0 && validation_fraction < 1.0) {
            return Err(CorpusError::ValidationFraction { found: validation_fraction });
        }
        let bytes: u64 = self.bytes.iter().sum();
        let held = |&step: &usize| self.bytes[step] > 0;
        let first = (0..self.bytes.len()).find(held);
        let last = (0..self.bytes.len()).rev().find(held);
        let (Some(first), Some(last)) = (first, last.filter(|&last| Some(last) != first)) else {
            return Err(CorpusError::OneDocument { bytes });
        };
        let wanted_bytes = validation_fraction * bytes as f64;
        let (mut border, mut validation_bytes) = (first, 0);
        // The last step that holds any is for training, whatever the share.
        while border < last && (validation_bytes as f64) < wanted_bytes {
            validation_bytes += self.bytes[border];
            border += 1;
        }
        Ok(Split { seed: self.seed, border: border as u32 })
    }
}

impl Split {
    /// The side of a document, by the same content that was surveyed.
    pub fn side(&self, content: &[u8]) -> Side {
        if step(self.seed, content) < self.border { Side::Validation } else { Side::Train }
    }

    /// As stored.
    pub(crate) fn to_bytes(self) -> [u8; 4] {
        self.border.to_le_bytes()
    }

    /// As stored under the same seed.
    pub(crate) fn from_bytes(seed: u64, bytes: &[u8]) -> Option<Split> {
        Some(Split { seed, border: u32::from_le_bytes(bytes.try_into().ok()?) })
    }
}

/// The leading bits of a document's rank.
fn step(seed: u64, content: &[u8]) -> u32 {
    let mut hasher = blake3::Hasher::new_derive_key("millstream corpus: training and validation split");
    hasher.update(&seed.to_le_bytes()).update(content);
    let rank = hasher.finalize();
    u32::from_be_bytes(*rank.as_bytes().first_chunk().expect("invariant: 32 bytes")) >> (32 - STEP_BITS)
}
