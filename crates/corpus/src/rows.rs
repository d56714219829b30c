//! Fixed-length rows from a stream of tokens, in training order and in validation order.
//!
//! The stream is read as a ring: after its last token, an end of text, comes its first. So every token has a predecessor,
//! and a row may start anywhere. A row of `sequence_length` inputs at `start` covers tokens `start..=start + sequence_length` of
//! the ring; the targets are the inputs shifted by one.

use crate::{Batch, CorpusError, Result, Tokens};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How tokens become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Inputs per row.
    pub sequence_length: usize,
    /// What a document border means.
    pub borders: Borders,
}

/// What a document border inside a row means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Borders {
    /// Nothing but an end-of-text token: positions run on and every target counts.
    Joined,
    /// The end of attention: positions restart and documents are numbered. As an input, the end of text belongs to the
    /// document that it opens: at position 0, it predicts the first token from nothing but itself, which is also how
    /// generation starts.
    Isolated,
}

/// Where training is: the next row to read. Serialisable; resuming from it is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    /// Passes over the text that are done.
    pub epoch: u64,
    /// Rows of this pass that are done.
    pub row: u64,
}

/// Training rows in random order, for ever.
///
/// An epoch cuts the ring into `tokens / sequence_length` rows from an offset drawn for it, and reads them in an order drawn
/// for it; both are functions of (seed, epoch). Fewer than `sequence_length` tokens are left out, others each time.
#[derive(Debug)]
pub struct TrainingRows {
    tokens: Arc<Tokens>,
    packing: Packing,
    seed: u64,
    epoch: Epoch,
}

#[derive(Debug)]
struct Epoch {
    epoch: u64,
    offset: usize,
    order: Vec<u32>,
}

impl TrainingRows {
    /// Rows of `tokens`.
    ///
    /// # Errors
    /// A sequence length of 0, or fewer than `sequence_length + 1` tokens.
    pub fn new(tokens: Arc<Tokens>, packing: Packing, seed: u64) -> Result<TrainingRows> {
        let sequence_length = packing.sequence_length;
        if sequence_length == 0 {
            return Err(CorpusError::EmptyRow);
        }
        if tokens.len() <= sequence_length {
            return Err(CorpusError::TooShort { tokens: tokens.len(), sequence_length });
        }
        let epoch = Epoch::draw(seed, 0, &tokens, sequence_length);
        Ok(TrainingRows { tokens, packing, seed, epoch })
    }

    /// Rows of one pass over the text; at least 1.
    pub fn rows_per_epoch(&self) -> u64 {
        self.epoch.order.len() as u64
    }

    /// The `rows` rows at `cursor` and the cursor after them: a function of (tokens, packing, seed, cursor) alone.
    ///
    /// The tail of one epoch and the head of the next may share a batch. Calls in order are cheap; a change of epoch
    /// draws its order anew.
    ///
    /// # Panics
    /// If the cursor's row is not below [`rows_per_epoch`](Self::rows_per_epoch): it belongs to another text or sequence length.
    pub fn batch(&mut self, cursor: Cursor, rows: usize) -> (Batch, Cursor) {
        let mut batch = Batch::with_capacity(rows, self.packing.sequence_length);
        let mut cursor = cursor;
        for _ in 0..rows {
            cursor = self.push(&mut batch, cursor);
        }
        (batch, cursor)
    }

    /// Appends the row at `cursor` and yields the cursor after it.
    pub(crate) fn push(&mut self, batch: &mut Batch, cursor: Cursor) -> Cursor {
        let rows_per_epoch = self.rows_per_epoch();
        assert!(cursor.row < rows_per_epoch, "cursor at row {} of {rows_per_epoch}", cursor.row);
        let sequence_length = self.packing.sequence_length;
        if self.epoch.epoch != cursor.epoch {
            self.epoch = Epoch::draw(self.seed, cursor.epoch, &self.tokens, sequence_length);
        }
        let row = self.epoch.order[cursor.row as usize] as usize;
        let start = (self.epoch.offset + row * sequence_length) % self.tokens.len();
        push_row(batch, &self.tokens, self.packing, start, sequence_length);
        match cursor.row + 1 == rows_per_epoch {
            true => Cursor { epoch: cursor.epoch + 1, row: 0 },
            false => Cursor { epoch: cursor.epoch, row: cursor.row + 1 },
        }
    }
}

impl Epoch {
    fn draw(seed: u64, epoch: u64, tokens: &Tokens, sequence_length: usize) -> Epoch {
        let mut hasher = blake3::Hasher::new_derive_key("millstream corpus: order of training rows");
        hasher.update(&seed.to_le_bytes()).update(&epoch.to_le_bytes());
        let mut random = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
        // Below 2^32 by multiplication: the bias is under 2^-32, and unlike a library's range the result is fixed here.
        let mut below = |bound: usize| ((u128::from(random.next_u64()) * bound as u128) >> 64) as usize;
        let offset = below(tokens.len());
        let rows = u32::try_from(tokens.len() / sequence_length).expect("invariant: under 2^32 rows fit into memory");
        let mut order: Vec<u32> = (0..rows).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, below(last + 1));
        }
        Epoch { epoch, offset, order }
    }
}

/// Validation rows in the order of the text; every token is a target once.
///
/// The first row starts at the ring's last token, an end of text, from which the first token is predicted.
#[derive(Clone, Debug)]
pub struct ValidationRows {
    tokens: Arc<Tokens>,
    packing: Packing,
}

impl ValidationRows {
    /// Rows of `tokens`.
    ///
    /// # Errors
    /// A sequence length of 0.
    pub fn new(tokens: Arc<Tokens>, packing: Packing) -> Result<ValidationRows> {
        match packing.sequence_length {
            0 => Err(CorpusError::EmptyRow),
            _ => Ok(ValidationRows { tokens, packing }),
        }
    }

    /// Rows that cover every token, the last one padded.
    pub fn rows(&self) -> usize {
        self.tokens.len().div_ceil(self.packing.sequence_length)
    }

    /// `rows` rows from row `first` on. What lies beyond the text is padding of weight 0, so that batches keep one shape.
    ///
    /// Padding repeats the end-of-text token; with isolated documents it is a document of its own.
    pub fn batch(&self, first: usize, rows: usize) -> Batch {
        let sequence_length = self.packing.sequence_length;
        let mut batch = Batch::with_capacity(rows, sequence_length);
        for row in first..first + rows {
            let covered = row * sequence_length;
            let inputs = self.tokens.len().saturating_sub(covered).min(sequence_length);
            let start = (self.tokens.len() - 1 + covered) % self.tokens.len();
            push_row(&mut batch, &self.tokens, self.packing, start, inputs);
        }
        batch
    }
}

/// Appends the row of `inputs` inputs at `start` of the ring, padded to the sequence length.
fn push_row(batch: &mut Batch, tokens: &Tokens, packing: Packing, start: usize, inputs: usize) {
    let isolated = packing.borders == Borders::Isolated;
    let mut walk = tokens.walk(start);
    let (mut id, _) = walk.next();
    let (mut position, mut border_count) = (0, 0);
    for place in 0..inputs {
        let (target, opens_document) = walk.next();
        if opens_document && isolated && place > 0 {
            position = 0;
            border_count += 1;
        }
        batch.ids.push(id as i32);
        batch.targets.push(target as i32);
        batch.positions.push(position);
        batch.documents.push(border_count);
        batch.weights.push(1.0);
        position += 1;
        id = target;
    }
    let end_of_text = tokens.get(tokens.len() - 1) as i32;
    if isolated && inputs > 0 {
        position = 0;
        border_count += 1;
    }
    for _ in inputs..packing.sequence_length {
        batch.ids.push(end_of_text);
        batch.targets.push(end_of_text);
        batch.positions.push(position);
        batch.documents.push(border_count);
        batch.weights.push(0.0);
        position += 1;
    }
    batch.rows += 1;
    batch.sources.push(0);
}
