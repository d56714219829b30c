//! GPipe: all forwards, then all backwards.
//!
//! Huang et al., *GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism* (2019), section 2.3.
//! A rank plays `F0 .. F(m-1)`, then `B(m-1) .. B0`: the last microbatch turns round first, so its activations are the
//! first to be freed.
//!
//! Closed forms for `p` equal stages on `p` ranks, `m` microbatches, messages that take no time: makespan
//! `(m + p - 1)(F + B)`, bubble fraction `(p - 1) / (m + p - 1)`, activations of `m` microbatches on every rank. With
//! recomputation, `B` includes another `F`.

use crate::generate::Turn;

/// What one hop plays, in order.
pub(crate) fn turns(n_microbatches: usize) -> Vec<Turn> {
    let forward = (0..n_microbatches).map(Turn::Forward);
    forward.chain((0..n_microbatches).rev().map(Turn::Backward)).collect()
}
