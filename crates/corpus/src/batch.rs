//! What a step reads.

/// Rows of equal length as flat row-major buffers, each of `rows * tokens` entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Rows.
    pub rows: usize,
    /// Tokens per row: the sequence length.
    pub tokens: usize,
    /// Input token ids.
    pub ids: Vec<i32>,
    /// The token that follows each input.
    pub targets: Vec<i32>,
    /// Place of each input, from 0 at the row's start and, with isolated documents, at each document's start.
    pub positions: Vec<i32>,
    /// With isolated documents, how many borders precede the input in its row; else 0.
    pub documents: Vec<i32>,
    /// 1 where the target counts, 0 where it does not.
    pub weights: Vec<f32>,
    /// The source that each row comes from, by its index.
    pub sources: Vec<usize>,
}

impl Batch {
    pub(crate) fn with_capacity(rows: usize, tokens: usize) -> Batch {
        let entries = rows * tokens;
        Batch {
            rows: 0,
            tokens,
            ids: Vec::with_capacity(entries),
            targets: Vec::with_capacity(entries),
            positions: Vec::with_capacity(entries),
            documents: Vec::with_capacity(entries),
            weights: Vec::with_capacity(entries),
            sources: Vec::with_capacity(rows),
        }
    }

    /// How many targets count.
    pub fn weight(&self) -> f64 {
        self.weights.iter().map(|&weight| f64::from(weight)).sum()
    }

    /// The `index`-th of `count` equal slices by rows.
    ///
    /// # Panics
    /// If `count` does not divide the rows, or `index` is not below `count`.
    pub fn microbatch(&self, index: usize, count: usize) -> Batch {
        assert!(count > 0 && self.rows.is_multiple_of(count), "{} rows in {count} microbatches", self.rows);
        assert!(index < count, "microbatch {index} of {count}");
        let rows = self.rows / count;
        let entries = index * rows * self.tokens..(index + 1) * rows * self.tokens;
        Batch {
            rows,
            tokens: self.tokens,
            ids: self.ids[entries.clone()].to_vec(),
            targets: self.targets[entries.clone()].to_vec(),
            positions: self.positions[entries.clone()].to_vec(),
            documents: self.documents[entries.clone()].to_vec(),
            weights: self.weights[entries].to_vec(),
            sources: self.sources[index * rows..(index + 1) * rows].to_vec(),
        }
    }
}
