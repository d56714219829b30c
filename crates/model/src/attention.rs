//! Causal attention with grouped-query heads.

use crate::Rows;
use burn::tensor::{Bool, Device, Tensor, TensorData};

/// Which keys a query may not see: `[rows, 1, queries, keys]`, true where hidden. Query `i` of a row is its key
/// `n_past + i`; it sees keys up to itself, in its own document, and with a window so many of them at most, its own
/// included. One mask serves all blocks of a visit with the same window.
pub(crate) fn hidden_keys(rows: &Rows, n_past: usize, window: Option<usize>, device: &Device) -> Tensor<4, Bool> {
    let (n_rows, n_queries) = (rows.n_rows, rows.n_tokens);
    let n_keys = n_past + n_queries;
    let mut hidden = vec![false; n_rows * n_queries * n_keys];
    for (mask, documents) in hidden.chunks_mut(n_queries * n_keys).zip(rows.documents.chunks(n_queries)) {
        for (query, keys) in mask.chunks_mut(n_keys).enumerate() {
            let own = n_past + query;
            keys[own + 1..].fill(true);
            for (key, hidden) in keys[n_past..own].iter_mut().enumerate() {
                *hidden = documents[key] != documents[query];
            }
            let n_left_behind = window.map_or(0, |window| (own + 1).saturating_sub(window));
            keys[..n_left_behind].fill(true);
        }
    }
    Tensor::from_data(TensorData::new(hidden, [n_rows, 1, n_queries, n_keys]), device)
}

/// `softmax(scale q k^T) v`, hidden keys at minus infinity.
///
/// # Shapes
/// - q: `[rows, heads, queries, head_dim]`; k, v: `[rows, kv_heads, keys, head_dim]`
/// - hidden: `[rows, 1, queries, keys]`
/// - result: `[rows, heads, queries, head_dim]`
///
/// Query heads that share a key head are stacked along the queries, so that keys and values are not repeated.
pub(crate) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, hidden: Tensor<4, Bool>, scale: f64) -> Tensor<4> {
    let [rows, heads, queries, head_dim] = q.dims();
    let [_, kv_heads, keys, _] = k.dims();
    let group = heads / kv_heads;
    let stacked = q.reshape([rows, kv_heads, group * queries, head_dim]);
    let scores = stacked.matmul(k.transpose()).reshape([rows, heads, queries, keys]);
    let weights = kernels::masked_softmax(scores, hidden, scale);
    weights.reshape([rows, kv_heads, group * queries, keys]).matmul(v).reshape([rows, heads, queries, head_dim])
}
