//! Who sees whom in a part's attention.

use crate::Rows;
use burn::tensor::Tensor;
use kernels::AttentionSpec;

/// `softmax(scale q k^T) v` over the keys that each query sees: those up to itself in its own document, and all that a
/// cache held before; with a window, so many of them at most, the query's own included.
///
/// # Shapes
/// - q and result: `[rows, heads, queries, head_dim]`; k, v: `[rows, kv_heads, keys, head_dim]`, the last keys being the
///   queries' own
pub(crate) fn attention([q, k, v]: [Tensor<4>; 3], rows: &Rows, window: Option<usize>, scale: f64) -> Tensor<4> {
    let ([_, _, queries, _], [_, _, keys, _]) = (q.dims(), k.dims());
    let n_past = keys - queries;
    let is_one = |documents: &[i32]| documents.iter().all(|document| *document == documents[0]);
    let documents = if rows.documents.chunks(queries).all(is_one) {
        Vec::new()
    } else {
        let of_row = |own: &[i32]| [vec![own[0]; n_past].as_slice(), own].concat();
        rows.documents.chunks(queries).flat_map(of_row).collect()
    };
    kernels::attention(q, k, v, &AttentionSpec { scale, n_past, window, documents })
}
