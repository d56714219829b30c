//! V-Half: two stages per rank in a V, half the memory of 1F1B.
//!
//! Qi et al., *Pipeline Parallelism with Controllable Memory* (2024), V-shaped building blocks. A pattern that repeats
//! every 6 slots of one pass each ([`v_pattern`](crate::v_pattern)); going down, microbatch 0 takes 2 slots a rank,
//! coming back up 1.
//!
//! Closed forms for `p > 2` equal ranks and `m >= 2p`: at most `p + 2` activations of one of a rank's two stages for
//! even `p`, `p + 1` for odd, where 1F1B holds `2p`. With `F = I = W` and messages that take no time a rank idles for
//! `6 ceil(p / 2) - 7` passes, where 1F1B with both stages in one idles for `6 (p - 1)`; the pattern as it repeats,
//! before it is squeezed, idles for `7 (p - 1) / 2` when `p` is odd, more when it is even.

use crate::v_pattern::{Offsets, fitted};
use crate::{Action, PassTimes};

/// What the ranks play, by position.
pub(crate) fn lists(n_ranks: usize, n_microbatches: usize, times: &PassTimes) -> Vec<Vec<Action>> {
    fitted(n_ranks, n_microbatches, times, offsets)
}

/// Even `p` needs three more slots at the turn, or two passes fall into one slot.
pub(crate) fn offsets(rank: usize, n_ranks: usize) -> Offsets {
    let (i, p) = (rank, n_ranks);
    let delay = if p.is_multiple_of(2) { 3 } else { 0 };
    [2 * i, 3 * p - 2 - i, 3 * p - 1 + delay + 2 * i, 6 * p - 2 + delay - i]
}
