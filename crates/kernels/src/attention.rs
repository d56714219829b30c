//! Causal attention with grouped-query heads, document borders, a window and earlier keys.

use crate::attention_tiles::{self as tiles, Heads, Inputs, Outcome, Seen, Sizes};
use crate::tile::Isa;
use crate::{Kernels, flex};
use burn::backend::{Dispatch, Flex, tensor::FloatTensor};
use burn::tensor::{Tensor, TensorData};
use std::ops::Range;
use std::sync::Arc;

/// Which keys each query sees, and the factor on scores. Query `i` of a row is its key `n_past + i`; it sees keys up to
/// itself.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Factor on `q . k`.
    pub scale: f64,
    /// Keys before the first query: a cache, or earlier segments of the sequence.
    pub n_past: usize,
    /// Keys a query sees at most, itself included; `None` for all. With 0 it sees nothing.
    pub window: Option<usize>,
    /// Number of the document of each key `[rows, keys]`; a query sees its own document. Empty when each row is one
    /// document.
    pub documents: Vec<i32>,
}

/// `softmax(scale q k^T) v` over the keys that a query sees; 0, with gradients of 0, for a query that sees none.
///
/// # Shapes
/// - q and result: `[rows, heads, queries, head_dim]`; k, v: `[rows, kv_heads, keys, head_dim]`, `kv_heads` a divisor of
///   `heads`: query head `h` reads key head `h / (heads / kv_heads)`
///
/// On the CPU in f32 no score matrix is built, and tiles of keys that nobody sees cost nothing. The result's vectors of
/// one token then lie side by side, so that merging heads copies nothing; inputs may lie so too. Gradients do not depend
/// on the number of threads. Elsewhere it is a composition that builds the scores.
///
/// # Panics
/// When shapes or the number of documents do not fit together, or a query lies past the last key.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, spec: &AttentionSpec) -> Tensor<4> {
    let ([rows, heads, queries, head_dim], [k_rows, kv_heads, keys, k_dim]) = (q.dims(), k.dims());
    assert_eq!(v.dims(), [k_rows, kv_heads, keys, k_dim], "values are shaped as keys");
    assert!(
        (rows, head_dim) == (k_rows, k_dim) && heads % kv_heads.max(1) == 0,
        "queries {:?} and keys {:?}",
        q.dims(),
        k.dims()
    );
    assert!(spec.n_past + queries <= keys, "{queries} queries after {} keys of {keys}", spec.n_past);
    let n_documents = spec.documents.len();
    assert!(n_documents == 0 || n_documents == rows * keys, "{n_documents} documents of {rows} x {keys} keys");
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Kernels>::attention(q, k, v, Arc::new(spec.clone())))
}

impl AttentionSpec {
    /// The keys that a query may see by its place alone.
    fn causal(&self, query: usize) -> Range<usize> {
        let end = self.n_past + query + 1;
        end - self.window.unwrap_or(end).min(end)..end
    }

    /// As ranges, narrowed to a query's document.
    fn seen(&self, s: Sizes) -> Seen {
        let mut ranges = Vec::with_capacity(s.rows * s.queries);
        let mut come_back = false;
        for row in 0..s.rows {
            let documents = self.documents.get(row * s.keys..(row + 1) * s.keys).unwrap_or(&[]);
            // First key of each document of this row.
            let mut firsts: Vec<(i32, usize)> = Vec::new();
            let mut first_of = vec![0; documents.len()];
            for (key, &document) in documents.iter().enumerate() {
                let known = firsts.iter().rev().find(|(known, _)| *known == document).copied();
                come_back |= known.is_some() && documents[key - 1] != document;
                first_of[key] = known.map_or(key, |(_, first)| first);
                if known.is_none() {
                    firsts.push((document, key));
                }
            }
            ranges.extend((0..s.queries).map(|query| {
                let causal = self.causal(query);
                let first = first_of.get(self.n_past + query).copied().unwrap_or(0);
                causal.start.max(first).min(causal.end)..causal.end
            }));
        }
        Seen { ranges, documents: come_back.then(|| (self.documents.clone(), self.n_past)) }
    }
}

/// The tensor with each vector's elements side by side.
fn by_vectors(t: FloatTensor<Flex>) -> FloatTensor<Flex> {
    let strides = t.layout().strides();
    if strides[3] == 1 && strides.iter().all(|stride| *stride >= 0) { t } else { t.to_contiguous() }
}

fn heads(t: &FloatTensor<Flex>) -> Heads<'_> {
    let stride = |dim: usize| t.layout().strides()[dim].unsigned_abs();
    let data = &t.storage::<f32>()[t.layout().start_offset()..];
    Heads { data, row: stride(0), head: stride(1), token: stride(2) }
}

fn dims4(t: &FloatTensor<Flex>) -> [usize; 4] {
    std::array::from_fn(|dim| t.layout().shape()[dim])
}

/// `[rows, tokens, heads, head_dim]` in memory, `[rows, heads, tokens, head_dim]` to the reader.
fn from_tokens(data: Vec<f32>, [rows, heads, tokens, head_dim]: [usize; 4]) -> FloatTensor<Flex> {
    let t = FloatTensor::<Flex>::from_data(TensorData::new(data, [rows, tokens, heads, head_dim]));
    <Flex as burn::backend::ops::FloatTensorOps<Flex>>::float_swap_dims(t, 1, 2)
}

fn sizes(q: &FloatTensor<Flex>, k: &FloatTensor<Flex>) -> Sizes {
    let ([rows, heads, queries, head_dim], [_, kv_heads, keys, _]) = (dims4(q), dims4(k));
    Sizes { rows, heads, kv_heads, queries, keys, head_dim }
}

/// The result and the statistics that backward wants.
pub(crate) fn forward_flex(
    [q, k, v]: [FloatTensor<Flex>; 3],
    spec: &AttentionSpec,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    let [q, k, v] = [q, k, v].map(by_vectors);
    let (sizes, shape) = (sizes(&q, &k), dims4(&q));
    let seen = spec.seen(sizes);
    let scale = spec.scale as f32;
    let inputs = Inputs { isa: Isa::detect(), sizes, q: heads(&q), k: heads(&k), v: heads(&v), scale, seen: &seen };
    let (y, statistics) = tiles::forward(&inputs);
    (from_tokens(y, shape), flex::vector(statistics))
}

/// Gradients of q, k and v.
pub(crate) fn backward_flex(
    [q, k, v]: [FloatTensor<Flex>; 3],
    [y, dy]: [FloatTensor<Flex>; 2],
    statistics: &FloatTensor<Flex>,
    spec: &AttentionSpec,
) -> [FloatTensor<Flex>; 3] {
    let [q, k, v, y, dy] = [q, k, v, y, dy].map(by_vectors);
    let sizes = sizes(&q, &k);
    let seen = spec.seen(sizes);
    let scale = spec.scale as f32;
    let inputs = Inputs { isa: Isa::detect(), sizes, q: heads(&q), k: heads(&k), v: heads(&v), scale, seen: &seen };
    let outcome = Outcome { y: heads(&y), dy: heads(&dy), statistics: flex::slice(statistics) };
    let [dq, dk, dv] = tiles::backward(&inputs, &outcome);
    [from_tokens(dq, dims4(&q)), from_tokens(dk, dims4(&k)), from_tokens(dv, dims4(&v))]
}
