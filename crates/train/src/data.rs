//! From corpus rows to microbatches.

use corpus::{Batch, Source};
use model::Rows;
use std::collections::BTreeMap;

/// The microbatches of a step, in order of rows.
pub(crate) fn microbatches(batch: &Batch, count: usize) -> Vec<Rows> {
    (0..count).map(|index| rows(batch.microbatch(index, count))).collect()
}

/// The mean loss of each source that has counted tokens in the batch, by its name, from the shares of the step's loss of
/// each row of each microbatch; `total_weight` is what they are shares of.
pub(crate) fn loss_by_source(
    batch: &Batch,
    losses: &[Vec<f64>],
    total_weight: f64,
    sources: &[Source],
) -> BTreeMap<String, f64> {
    let mut sums = vec![(0.0, 0.0); sources.len()];
    let rows = losses.iter().flatten().zip(batch.weights.chunks(batch.tokens)).zip(&batch.sources);
    for ((loss, weights), &source) in rows {
        sums[source].0 += loss * total_weight;
        sums[source].1 += weights.iter().copied().map(f64::from).sum::<f64>();
    }
    let present = sources.iter().zip(sums).filter(|(_, (_, weight))| *weight > 0.0);
    present.map(|(source, (nats, weight))| (source.name.clone(), nats / weight)).collect()
}

fn rows(batch: Batch) -> Rows {
    let Batch { rows, tokens, ids, targets, positions, documents, weights, sources: _ } = batch;
    Rows { n_rows: rows, n_tokens: tokens, ids, positions, documents, targets, weights }
}
