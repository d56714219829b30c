//! Looped breadth-first: all forwards stage by stage, then all backwards.
//!
//! Lamy-Poirier, *Breadth-First Pipeline Parallelism* (2022), in the order of torch.distributed.pipelining. Rank `i` of
//! `p` holds the `v` hops `c * p + i`. It plays the forwards of all microbatches at hop `i`, then at `p + i` and so on,
//! then everything backwards in reverse order. A stage's weights are needed in one stretch of forwards and one of
//! backwards, so sharded weights are gathered twice a step, and a stage's gradients are complete long before the end.
//!
//! Closed forms for `p v` equal stages, of which a rank's `v` take `F` and `B` together, with messages that take no
//! time: makespan `(m + (p - 1) / v)(F + B)` for `m >= p`, otherwise `(p + (m - 1) / v)(F + B)`; activations of `m`
//! microbatches on every rank.

use crate::interleaved::visits;
use crate::{Action, Op};
use std::slice;

/// What each rank plays.
pub(crate) fn lists(n_ranks: usize, n_chunks: usize, n_microbatches: usize) -> Vec<Vec<Action>> {
    let all = 0..n_microbatches;
    let list = |rank| {
        let (visits, _) = visits(slice::from_ref(&all), n_ranks, n_chunks, rank);
        let backwards = visits.iter().rev().map(|&key| Action::visit(Op::Backward, key));
        visits.iter().map(|&key| Action::visit(Op::Forward, key)).chain(backwards).collect()
    };
    (0..n_ranks).map(list).collect()
}
