//! From corpus rows to microbatches.

use corpus::Batch;
use model::Rows;

/// The microbatches of a step, in order of rows.
pub(crate) fn microbatches(batch: &Batch, count: usize) -> Vec<Rows> {
    (0..count).map(|index| rows(batch.microbatch(index, count))).collect()
}

fn rows(batch: Batch) -> Rows {
    let Batch { rows, tokens, ids, targets, positions, documents, weights } = batch;
    Rows { n_rows: rows, n_tokens: tokens, ids, positions, documents, targets, weights }
}
