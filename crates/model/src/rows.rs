//! The undifferentiated part of a carry: what the source read, on the host.

/// Rows of tokens with what belongs to each token. All vectors are `[n_rows, n_tokens]` in row-major order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Number of rows.
    pub n_rows: usize,
    /// Tokens per row.
    pub n_tokens: usize,
    /// Token ids; empty once the embedding has read them.
    pub ids: Vec<i32>,
    /// Position of each token in its document (or row).
    pub positions: Vec<i32>,
    /// Number of the token's document within its row; attention stays within it.
    pub documents: Vec<i32>,
    /// The id to be predicted at each token.
    pub targets: Vec<i32>,
    /// Weight of each token's loss.
    pub weights: Vec<f32>,
}

impl Rows {
    /// Rows that are only to be read: consecutive positions, one document per row, nothing to predict.
    ///
    /// # Panics
    /// If `ids` does not divide into rows of `n_tokens`.
    pub fn to_read(ids: Vec<i32>, n_tokens: usize) -> Self {
        assert!(n_tokens > 0 && ids.len().is_multiple_of(n_tokens), "{} ids in rows of {n_tokens}", ids.len());
        let (n, n_rows) = (ids.len(), ids.len() / n_tokens);
        let positions = (0..n).map(|i| (i % n_tokens) as i32).collect();
        Self { n_rows, n_tokens, positions, documents: vec![0; n], targets: vec![0; n], weights: vec![0.0; n], ids }
    }

    /// Tokens in all.
    pub fn n(&self) -> usize {
        self.n_rows * self.n_tokens
    }
}
