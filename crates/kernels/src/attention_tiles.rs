//! Attention tile by tile (Dao et al., *FlashAttention*, 2022): scores live for as long as a tile does.
//!
//! A task is a head of a row. Its operands are copied to rows padded to whole vectors, so that products consist of full
//! vectors, and results are written back without the padding. A tile is [`ROWS`] queries by [`KEYS`] keys; tiles that no
//! query sees are skipped, and those that are seen in part are cut to whole vectors.

use crate::matrix_vector::{Dots, VECTORS, f32_table};
use crate::product::{Matrix, Scratch, Shared, dot, pack_columns, unwritten};
use crate::tile::{Isa, ROWS, Tile, cover};
use crate::vector::{exp, max, mul_add, sum, vectorised};
use rayon::prelude::*;
use std::ops::Range;

/// Where vectors of heads lie: element `e` of token `t` of head `h` of row `r` at `r * row + h * head + t * token + e`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub head: usize,
    pub token: usize,
}

impl<'a> Heads<'a> {
    fn of(self, row: usize, head: usize) -> Matrix<'a> {
        Matrix { data: &self.data[row * self.row + head * self.head..], row: self.token, column: 1 }
    }
}

/// Sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub rows: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head_dim: usize,
}

/// Which keys each query sees.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Per row and query; keys outside are hidden.
    pub ranges: Vec<Range<usize>>,
    /// Document of each row's keys, and the key that the first query is, where ranges do not tell all: documents that go on after
    /// another one.
    pub documents: Option<(Vec<i32>, usize)>,
}

/// What forward and backward read.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub isa: Isa,
    pub sizes: Sizes,
    pub q: Heads<'a>,
    pub k: Heads<'a>,
    pub v: Heads<'a>,
    pub scale: f32,
    pub seen: &'a Seen,
}

/// What backward reads beside.
#[derive(Clone, Copy)]
pub(crate) struct Outcome<'a> {
    /// As [`forward`] gave it.
    pub y: Heads<'a>,
    pub dy: Heads<'a>,
    /// As [`forward`] gave it.
    pub statistics: &'a [f32],
}

/// Keys of a tile.
const KEYS: usize = 64;
/// Queries of a backward tile: sums over queries should be long.
const QUERIES: usize = 96;
/// Queries of a forward task: for each, keys and values are copied again.
const TASK_QUERIES: usize = 768;
/// Queries up to which keys and values are read as they lie.
const FEW: usize = 6;

/// The result `[rows, queries, heads, head_dim]`, and of each `[row, head, query]` the largest score and one over the sum
/// of exponentials above it, one after the other.
pub(crate) fn forward(x: &Inputs) -> (Vec<f32>, Vec<f32>) {
    let s = x.sizes;
    let mut y = unwritten(s.rows * s.queries * s.heads * s.head_dim);
    let mut statistics = unwritten(2 * s.rows * s.heads * s.queries);
    let places = [Shared::new(&mut y), Shared::new(&mut statistics)];
    if s.queries <= FEW {
        // Of each group as many heads at a time as share a reading of the keys.
        let group = s.heads / s.kv_heads.max(1);
        let parts = group.div_ceil(VECTORS);
        (0..s.rows * s.kv_heads * parts).into_par_iter().for_each(|task| {
            let (group_of, part) = (task / parts, task % parts);
            let head = group_of % s.kv_heads * group + part * VECTORS;
            let n_heads = VECTORS.min(group - part * VECTORS);
            Head { x: *x, row: group_of / s.kv_heads, head }.forward_few(n_heads, places);
        });
        return (y, statistics);
    }
    let blocks = s.queries.div_ceil(TASK_QUERIES);
    (0..s.rows * s.heads * blocks).into_par_iter().for_each(|task| {
        let (head, block) = (task / blocks, task % blocks);
        let queries = block * TASK_QUERIES..s.queries.min((block + 1) * TASK_QUERIES);
        Head { x: *x, row: head / s.heads, head: head % s.heads }.forward(queries, places);
    });
    (y, statistics)
}

/// Gradients of q `[rows, queries, heads, head_dim]`, k and v `[rows, keys, kv_heads, head_dim]`.
pub(crate) fn backward(x: &Inputs, outcome: &Outcome) -> [Vec<f32>; 3] {
    let s = x.sizes;
    let group = s.heads / s.kv_heads;
    let mut dq = unwritten(s.rows * s.queries * s.heads * s.head_dim);
    // Heads that share keys add to these, each in a place of its own, and are summed in order: no result depends on
    // which thread was first.
    let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; s.rows * s.keys * s.heads * s.head_dim]);
    let places = [Shared::new(&mut dq), Shared::new(&mut dk), Shared::new(&mut dv)];
    (0..s.rows * s.heads).into_par_iter().for_each(|task| {
        Head { x: *x, row: task / s.heads, head: task % s.heads }.backward(outcome, places);
    });
    let summed = |of_heads: Vec<f32>| {
        if group == 1 {
            return of_heads;
        }
        let mut sums = vec![0.0; of_heads.len() / group];
        let pairs = sums.par_chunks_mut(s.head_dim).zip(of_heads.par_chunks(group * s.head_dim));
        pairs.for_each(|(sum, heads)| {
            for head in heads.chunks(s.head_dim) {
                sum.iter_mut().zip(head).for_each(|(sum, x)| *sum += x);
            }
        });
        sums
    };
    [dq, summed(dk), summed(dv)]
}

/// One head of one row.
struct Head<'a> {
    x: Inputs<'a>,
    row: usize,
    head: usize,
}

impl Head<'_> {
    fn range(&self, query: usize) -> Range<usize> {
        self.x.seen.ranges[self.row * self.x.sizes.queries + query].clone()
    }

    /// From the first to the last key that some query sees.
    fn union(&self, queries: Range<usize>) -> Range<usize> {
        let seen = queries.map(|query| self.range(query)).filter(|range| !range.is_empty());
        seen.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
    }

    /// Sets to `value` the scores of keys, from `first` on, that lie in another document than the query.
    fn hide(&self, query: usize, first: usize, scores: &mut [f32], value: f32) {
        if let Some((documents, n_past)) = &self.x.seen.documents {
            let documents = &documents[self.row * self.x.sizes.keys..][..self.x.sizes.keys];
            let own = documents[n_past + query];
            let hidden = scores.iter_mut().zip(&documents[first..]).filter(|(_, document)| **document != own);
            hidden.for_each(|(score, _)| *score = value);
        }
    }

    fn kv_head(&self) -> usize {
        self.head / (self.x.sizes.heads / self.x.sizes.kv_heads)
    }

    fn padded(&self) -> usize {
        self.x.sizes.head_dim.next_multiple_of(self.x.isa.lanes())
    }

    /// Place of a query's statistics; those of the sums begin at half.
    fn statistic(&self, query: usize) -> usize {
        (self.row * self.x.sizes.heads + self.head) * self.x.sizes.queries + query
    }

    fn half(&self) -> usize {
        self.x.sizes.rows * self.x.sizes.heads * self.x.sizes.queries
    }

    /// Place of a token's vector in a result of `[rows, tokens, heads, head_dim]`.
    fn place(&self, token: usize, n_tokens: usize) -> usize {
        let s = self.x.sizes;
        ((self.row * n_tokens + token) * s.heads + self.head) * s.head_dim
    }

    /// Writes rows of a padded matrix to tokens of a result.
    fn write(&self, to: Shared, from: &[f32], tokens: Range<usize>, n_tokens: usize) {
        let e = self.x.sizes.head_dim;
        for (token, from) in tokens.zip(from.chunks_exact(self.padded())) {
            // SAFETY: this token's vector of this head, which no other task writes.
            let to = unsafe { std::slice::from_raw_parts_mut(to.at(self.place(token, n_tokens)), e) };
            to.copy_from_slice(&from[..e]);
        }
    }

    /// Tokens as padded rows.
    fn rows(&self, tokens: Matrix, range: Range<usize>) -> Scratch {
        let (e, padded) = (self.x.sizes.head_dim, self.padded());
        let mut rows = Scratch::new(range.len() * padded);
        for (token, to) in range.zip(rows.chunks_exact_mut(padded)) {
            to[..e].copy_from_slice(&tokens.data[token * tokens.row..][..e]);
            to[e..].fill(0.0);
        }
        rows
    }

    /// Tokens as padded columns, `[tile][element][KEYS]`; the last tile's missing columns are 0.
    fn columns(&self, tokens: Matrix, range: Range<usize>) -> Scratch {
        let (e, padded) = (self.x.sizes.head_dim, self.padded());
        let mut columns = Scratch::new(range.len().div_ceil(KEYS) * KEYS * padded);
        for (first, to) in range.clone().step_by(KEYS).zip(columns.chunks_exact_mut(KEYS * padded)) {
            let matrix = Matrix { data: &tokens.data[first * tokens.row..], row: 1, column: tokens.row };
            pack_columns(&mut to[..e * KEYS], KEYS, matrix, e, KEYS.min(range.end - first));
            to[e * KEYS..].fill(0.0);
        }
        columns
    }

    /// Rows of zeros.
    fn zeros(&self, n: usize) -> Scratch {
        let mut rows = Scratch::new(n * self.padded());
        rows.fill(0.0);
        rows
    }

    fn forward(&self, queries: Range<usize>, [y, statistics]: [Shared; 2]) {
        let (isa, padded) = (self.x.isa, self.padded());
        let union = self.union(queries.clone());
        let q = self.rows(self.x.q.of(self.row, self.head), queries.clone());
        let k = self.columns(self.x.k.of(self.row, self.kv_head()), union.clone());
        let v = self.rows(self.x.v.of(self.row, self.kv_head()), union.clone());
        let mut out = self.zeros(queries.len());
        let (mut largest, mut total) = (vec![f32::NEG_INFINITY; queries.len()], vec![0.0f32; queries.len()]);
        let mut scores = [0.0f32; ROWS * KEYS];
        for (tile, key) in union.clone().step_by(KEYS).enumerate() {
            for i in (0..queries.len()).step_by(ROWS) {
                let rows = ROWS.min(queries.len() - i);
                let query = queries.start + i;
                let seen = cut(self.union(query..query + rows), key);
                if seen.is_empty() {
                    continue;
                }
                let first = Tile {
                    depth: padded,
                    a: q[i * padded..].as_ptr(),
                    a_row: padded,
                    a_step: 1,
                    b: k[tile * KEYS * padded..].as_ptr(),
                    b_step: KEYS,
                    c: scores.as_mut_ptr(),
                    c_row: KEYS,
                    add: false,
                };
                // SAFETY: rows of q, a tile of k, and room for the scores of both.
                unsafe { cover(isa, rows, seen.end.next_multiple_of(isa.lanes()), first) };
                for row in 0..rows {
                    let before = largest[i + row];
                    let own = cut(self.range(query + row), key);
                    let scores = &mut scores[row * KEYS..][..seen.end];
                    self.weigh(query + row, key, own, scores, &mut largest[i + row], &mut total[i + row]);
                    if largest[i + row] > before {
                        let shrink = exp::<false>(before - largest[i + row]);
                        out[(i + row) * padded..][..padded].iter_mut().for_each(|x| *x *= shrink);
                    }
                }
                let first = Tile {
                    depth: seen.end,
                    a: scores.as_ptr(),
                    a_row: KEYS,
                    b: v[tile * KEYS * padded..].as_ptr(),
                    b_step: padded,
                    c: out[i * padded..].as_mut_ptr(),
                    c_row: padded,
                    add: true,
                    ..first
                };
                // SAFETY: the scores, the tile's seen values, and rows of the result.
                unsafe { cover(isa, rows, padded, first) };
            }
        }
        for (i, query) in queries.clone().enumerate() {
            let share = if total[i] > 0.0 { 1.0 / total[i] } else { 0.0 };
            out[i * padded..][..padded].iter_mut().for_each(|x| *x *= share);
            self.keep(statistics, query, largest[i], share);
        }
        self.write(y, &out, queries, self.x.sizes.queries);
    }

    /// A query's scores of a tile as exponentials above the largest so far, hidden keys 0.
    fn weigh(
        &self,
        query: usize,
        key: usize,
        own: Range<usize>,
        scores: &mut [f32],
        largest: &mut f32,
        total: &mut f32,
    ) {
        let own = own.start.min(scores.len())..own.end.min(scores.len());
        scores[..own.start].fill(0.0);
        scores[own.end..].fill(0.0);
        let seen = &mut scores[own.clone()];
        self.hide(query, key + own.start, seen, f32::NEG_INFINITY);
        let (new, sum) = exponentials(seen, self.x.scale, *largest);
        self.hide(query, key + own.start, seen, 0.0);
        if new > f32::NEG_INFINITY {
            *total = *total * exp::<false>(*largest - new) + sum;
            *largest = new;
        }
    }

    fn keep(&self, statistics: Shared, query: usize, largest: f32, share: f32) {
        // SAFETY: both are this head's and query's, which no other task writes.
        unsafe {
            *statistics.at(self.statistic(query)) = largest;
            *statistics.at(self.half() + self.statistic(query)) = share;
        }
    }

    /// For a few queries of this head and the next ones of its group: a pass over the keys for all of them and one over the
    /// values for each, as they lie.
    fn forward_few(&self, n_heads: usize, [y, statistics]: [Shared; 2]) {
        let (s, table) = (self.x.sizes, f32_table(self.x.isa));
        let [k, v] = [self.x.k, self.x.v].map(|x| x.of(self.row, self.kv_head()));
        let heads: Vec<Head> = (0..n_heads).map(|i| Head { head: self.head + i, ..*self }).collect();
        let (mut q, mut scores) = (Vec::new(), Vec::new());
        for query in 0..s.queries {
            let own = self.range(query);
            q.clear();
            heads.iter().for_each(|head| q.extend(vector(&self.x.q.of(self.row, head.head), query, s.head_dim)));
            scores.resize(n_heads * own.len(), 0.0);
            for (i, key) in own.clone().enumerate() {
                let dots = Dots {
                    w: vector(&k, key, s.head_dim).as_ptr(),
                    x: q.as_ptr(),
                    columns: s.head_dim,
                    out: scores[i..].as_mut_ptr(),
                    out_row: own.len(),
                };
                // SAFETY: a key, `n_heads` queries of its width and the place of their scores; the table is of
                // instructions that this processor has.
                unsafe { table[n_heads - 1](dots) };
            }
            for (i, head) in heads.iter().enumerate() {
                let scores = &mut scores[i * own.len()..][..own.len()];
                let (mut largest, mut total) = (f32::NEG_INFINITY, 0.0);
                head.weigh(query, own.start, 0..own.len(), scores, &mut largest, &mut total);
                let share = if total > 0.0 { 1.0 / total } else { 0.0 };
                // SAFETY: this query's vector of this head, which no other task writes.
                let out = unsafe { std::slice::from_raw_parts_mut(y.at(head.place(query, s.queries)), s.head_dim) };
                out.fill(0.0);
                for (key, weight) in own.clone().zip(&*scores) {
                    add_scaled(out, vector(&v, key, s.head_dim), weight * share);
                }
                head.keep(statistics, query, largest, share);
            }
        }
    }

    fn backward(&self, outcome: &Outcome, [dq, dk, dv]: [Shared; 3]) {
        let (s, padded) = (self.x.sizes, self.padded());
        let union = self.union(0..s.queries);
        let [k, v] = [self.x.k, self.x.v].map(|x| x.of(self.row, self.kv_head()));
        let k_rows = self.rows(k, union.clone());
        let (k_columns, v_columns) = (self.columns(k, union.clone()), self.columns(v, union.clone()));
        let (mut dk_rows, mut dv_rows) = (self.zeros(union.len()), self.zeros(union.len()));
        for first in (0..s.queries).step_by(QUERIES) {
            let queries = first..s.queries.min(first + QUERIES);
            let mut block = Block::new(self, outcome, queries.clone());
            for key in block.keys(union.start) {
                let at = key - union.start;
                let (from, to) = (at * padded, (at + KEYS).min(union.len()) * padded);
                let columns = from..(at + KEYS) * padded;
                block.tile(
                    key,
                    [&k_columns[columns.clone()], &v_columns[columns], &k_rows[from..to]],
                    [&mut dk_rows[from..to], &mut dv_rows[from..to]],
                );
            }
            self.write(dq, &block.dq, queries, s.queries);
        }
        self.write(dk, &dk_rows, union.clone(), s.keys);
        self.write(dv, &dv_rows, union, s.keys);
    }
}

/// The vector of a token.
fn vector<'a>(x: &Matrix<'a>, token: usize, head_dim: usize) -> &'a [f32] {
    &x.data[token * x.row..][..head_dim]
}

/// Some queries of a head in backward.
struct Block<'a> {
    head: &'a Head<'a>,
    queries: Range<usize>,
    /// Padded rows.
    q: Scratch,
    dy: Scratch,
    dq: Scratch,
    /// Of each query: largest score, one over the sum of exponentials, and `dy . y`.
    statistics: Vec<[f32; 3]>,
    /// Weights and score gradients of a tile, [`KEYS`] a row.
    weights: Scratch,
    slopes: Scratch,
}

impl<'a> Block<'a> {
    fn new(head: &'a Head<'a>, outcome: &Outcome, queries: Range<usize>) -> Self {
        let (padded, e) = (head.padded(), head.x.sizes.head_dim);
        let q = head.rows(head.x.q.of(head.row, head.head), queries.clone());
        let dy = head.rows(outcome.dy.of(head.row, head.head), queries.clone());
        let dq = head.zeros(queries.len());
        let y = outcome.y.of(head.row, head.head);
        let of_query = |(i, query): (usize, usize)| {
            let [largest, share] = [0, head.half()].map(|half| outcome.statistics[half + head.statistic(query)]);
            [largest, share, dot(&y.data[query * y.row..][..e], &dy[i * padded..][..e])]
        };
        let statistics = queries.clone().enumerate().map(of_query).collect();
        let [weights, slopes] = [(); 2].map(|()| Scratch::new(QUERIES * KEYS));
        Self { head, queries, q, dy, dq, statistics, weights, slopes }
    }

    /// Firsts of the key tiles, which begin at `start` for all blocks, that these queries see.
    fn keys(&self, start: usize) -> impl Iterator<Item = usize> + use<> {
        let union = self.head.union(self.queries.clone());
        let tile = |key: usize| start + (key - start) / KEYS * KEYS;
        let first = if union.is_empty() { union.end } else { tile(union.start) };
        (first..union.end).step_by(KEYS)
    }

    /// All five products of a tile of keys: its scores and their gradients, and from these what it adds to `dq`, `dk` and
    /// `dv`.
    fn tile(&mut self, key: usize, [k_columns, v_columns, k]: [&[f32]; 3], [dk, dv]: [&mut [f32]; 2]) {
        let (isa, padded) = (self.head.x.isa, self.head.padded());
        let n_keys = k.len() / padded;
        let mut seen_rows = 0..0;
        for i in (0..self.queries.len()).step_by(ROWS) {
            let rows = ROWS.min(self.queries.len() - i);
            let query = self.queries.start + i;
            let seen = cut(self.head.union(query..query + rows), key);
            let [weights, slopes] = [&mut self.weights, &mut self.slopes].map(|x| &mut x[i * KEYS..][..rows * KEYS]);
            if seen.is_empty() {
                weights.fill(0.0);
                slopes.fill(0.0);
                continue;
            }
            seen_rows = if seen_rows.is_empty() { i..i + rows } else { seen_rows.start..i + rows };
            let columns = seen.end.next_multiple_of(isa.lanes());
            for (a, b, c) in [(&self.q, k_columns, &mut *weights), (&self.dy, v_columns, &mut *slopes)] {
                let (a, b, c) = (a[i * padded..].as_ptr(), b.as_ptr(), c.as_mut_ptr());
                let (a_row, c_row) = (padded, KEYS);
                // SAFETY: rows of queries, a tile of columns, and room for the products of both.
                unsafe {
                    let tile = Tile { depth: padded, a, a_row, a_step: 1, b, b_step: KEYS, c, c_row, add: false };
                    cover(isa, rows, columns, tile);
                }
            }
            for row in 0..rows {
                let own = cut(self.head.range(query + row), key);
                let [weights, slopes] = [&mut *weights, &mut *slopes].map(|x| &mut x[row * KEYS..][..KEYS]);
                for x in [&mut *weights, &mut *slopes] {
                    x[..own.start].fill(0.0);
                    x[own.end..].fill(0.0);
                }
                let (weights, slopes) = (&mut weights[own.clone()], &mut slopes[own.clone()]);
                gradients(weights, slopes, self.head.x.scale, self.statistics[i + row]);
                self.head.hide(query + row, key + own.start, weights, 0.0);
                self.head.hide(query + row, key + own.start, slopes, 0.0);
            }
            let (a, b, c) = (slopes.as_ptr(), k.as_ptr(), self.dq[i * padded..].as_mut_ptr());
            let (b_step, c_row) = (padded, padded);
            // SAFETY: the scores' gradients, the keys that are seen, and rows of the result.
            unsafe {
                let tile = Tile { depth: seen.end, a, a_row: KEYS, a_step: 1, b, b_step, c, c_row, add: true };
                cover(isa, rows, padded, tile);
            }
        }
        for (a, b, c) in [(&self.weights, &self.dy, dv), (&self.slopes, &self.q, dk)] {
            let (a, b) = (a[seen_rows.start * KEYS..].as_ptr(), b[seen_rows.start * padded..].as_ptr());
            let (depth, c, c_row) = (seen_rows.len(), c.as_mut_ptr(), padded);
            // SAFETY: the transposed scores of the rows seen, these queries' rows, and the tile's rows of the result.
            unsafe {
                let tile = Tile { depth, a, a_row: 1, a_step: KEYS, b, b_step: padded, c, c_row, add: true };
                cover(isa, n_keys, padded, tile);
            }
        }
    }
}

/// The part of a range of keys within the tile that begins at `key`, counted from there.
fn cut(range: Range<usize>, key: usize) -> Range<usize> {
    let within = |at: usize| at.clamp(key, key + KEYS) - key;
    let (start, end) = (within(range.start), within(range.end));
    if start < end { start..end } else { 0..0 }
}

/// Scales scores and replaces them by exponentials above the larger of their largest and `before`; gives that and their
/// sum.
#[inline(always)]
fn exponentials_row<const FMA: bool>(scores: &mut [f32], scale: f32, before: f32) -> (f32, f32) {
    scores.iter_mut().for_each(|x| *x *= scale);
    let largest = max(scores).max(before);
    for x in scores.iter_mut() {
        *x = exp::<FMA>(*x - largest);
    }
    (largest, sum(scores.len(), |i| scores[i]))
}
vectorised!(fn exponentials(scores: &mut [f32], scale: f32, before: f32) -> (f32, f32) = exponentials_row);

/// From scores and the gradients of their weights: the weights, and the gradients of the scores before scaling.
#[inline(always)]
fn gradients_row<const FMA: bool>(scores: &mut [f32], slopes: &mut [f32], scale: f32, statistics: [f32; 3]) {
    let [largest, share, mean] = statistics;
    for (score, slope) in scores.iter_mut().zip(slopes) {
        *score = exp::<FMA>(*score * scale - largest) * share;
        *slope = *score * (*slope - mean) * scale;
    }
}
vectorised!(fn gradients(scores: &mut [f32], slopes: &mut [f32], scale: f32, statistics: [f32; 3]) = gradients_row);

#[inline(always)]
fn add_scaled_row<const FMA: bool>(sum: &mut [f32], x: &[f32], weight: f32) {
    for (sum, &x) in sum.iter_mut().zip(x) {
        *sum = mul_add::<FMA>(x, weight, *sum);
    }
}
vectorised!(fn add_scaled(sum: &mut [f32], x: &[f32], weight: f32) = add_scaled_row);

#[cfg(test)]
mod tests {
    use super::*;

    /// Every instruction set of this processor against the first, through every kind of tile. Sums of 130 terms in another
    /// order differ by some units of 6e-8.
    #[test]
    fn instruction_sets_agree() {
        let sizes = Sizes { rows: 1, heads: 2, kv_heads: 1, queries: 101, keys: 130, head_dim: 20 };
        let noise =
            |n: usize, seed: f32| -> Vec<f32> { (0..n).map(|i| ((i * i) as f32 * 0.37 + seed).sin()).collect() };
        let (q, k, v) = (noise(101 * 2 * 20, 0.0), noise(130 * 20, 1.0), noise(130 * 20, 2.0));
        let dy = noise(q.len(), 3.0);
        fn queries(data: &[f32]) -> Heads<'_> {
            Heads { data, row: 0, head: 20, token: 40 }
        }
        let keys = |data| Heads { data, row: 0, head: 0, token: 20 };
        let ranges = (0..101).map(|query| query / 3..query + 29).collect();
        let seen = Seen { ranges, documents: None };
        let of = |isa| {
            let inputs = Inputs { isa, sizes, q: queries(&q), k: keys(&k), v: keys(&v), scale: 0.2, seen: &seen };
            let (y, statistics) = forward(&inputs);
            let [dq, dk, dv] =
                backward(&inputs, &Outcome { y: queries(&y), dy: queries(&dy), statistics: &statistics });
            [y, dq, dk, dv]
        };
        let all = Isa::available();
        let wanted = of(all[0]);
        for isa in &all[1..] {
            for (found, wanted) in of(*isa).iter().zip(&wanted) {
                let largest = wanted.iter().fold(0.0f32, |max, x| max.max(x.abs()));
                let close = found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 2e-6 * largest);
                assert!(close && largest > 0.1, "{isa:?}");
            }
        }
    }
}
