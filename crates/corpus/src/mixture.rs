//! Training rows from several sources, drawn by weight.

use crate::{Batch, Corpus, CorpusError, Cursor, Packing, Result, TrainingRows};
use serde::{Deserialize, Serialize};

/// Training rows from all sources of a corpus, for ever.
///
/// Each row's source is drawn, with the sources' weights as probabilities, by a hash of (seed, number of the row); it is
/// the next row of that source. So of `n` rows a source of share `w` has `n w`, within the spread of a binomial draw:
/// `sqrt(n w (1 - w))`.
#[derive(Debug)]
pub struct Mixture {
    sources: Vec<TrainingRows>,
    /// Upper ends of the sources' intervals in [0, 1).
    ends: Vec<f64>,
    packing: Packing,
    seed: u64,
}

/// Where training is: how many rows were drawn, and the next row of each source. Serialisable; resuming from it is exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MixtureCursor {
    /// Rows drawn so far.
    pub rows: u64,
    /// By source.
    pub sources: Vec<Cursor>,
}

impl MixtureCursor {
    /// The start of `sources` sources.
    pub fn start(sources: usize) -> MixtureCursor {
        MixtureCursor { rows: 0, sources: vec![Cursor::default(); sources] }
    }
}

impl Mixture {
    /// Rows of the training sides of `corpus`.
    ///
    /// # Errors
    /// As [`TrainingRows::new`], of any source.
    pub fn new(corpus: &Corpus, packing: Packing, seed: u64) -> Result<Mixture> {
        let n = corpus.sources.len();
        let mut sources = Vec::with_capacity(n);
        let (mut ends, mut end) = (Vec::with_capacity(n), 0.0);
        for source in &corpus.sources {
            // Sources of equal size are not to be read in the same order.
            let own_seed = if n == 1 { seed } else { derived(seed, source.name.as_bytes()) };
            let rows = TrainingRows::new(source.train.clone(), packing, own_seed);
            sources.push(CorpusError::told(rows, &source.name, n)?);
            end += source.weight;
            ends.push(end);
        }
        Ok(Mixture { sources, ends, packing, seed })
    }

    /// The `rows` rows at `cursor` and the cursor after them: a function of (corpus, packing, seed, cursor) alone.
    ///
    /// # Panics
    /// If the cursor has not one entry for each source, or as [`TrainingRows::batch`].
    pub fn batch(&mut self, cursor: &MixtureCursor, rows: usize) -> (Batch, MixtureCursor) {
        assert_eq!(cursor.sources.len(), self.sources.len(), "a cursor has an entry for each source");
        let mut batch = Batch::with_capacity(rows, self.packing.sequence_length);
        let mut cursor = cursor.clone();
        for _ in 0..rows {
            let source = self.draw(cursor.rows);
            cursor.sources[source] = self.sources[source].push(&mut batch, cursor.sources[source]);
            *batch.sources.last_mut().expect("invariant: a row was pushed") = source;
            cursor.rows += 1;
        }
        (batch, cursor)
    }

    /// The source of a row.
    fn draw(&self, row: u64) -> usize {
        // 53 bits: every value is a float of its own.
        let draw = (derived(self.seed, &row.to_le_bytes()) >> 11) as f64 / (1u64 << 53) as f64;
        // The shares' sum may lie a rounding below 1.
        self.ends.iter().position(|&end| draw < end).unwrap_or(self.ends.len() - 1)
    }
}

fn derived(seed: u64, purpose: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("millstream corpus: sources of training rows");
    let hash = hasher.update(&seed.to_le_bytes()).update(purpose).finalize();
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("invariant: 32 bytes"))
}
