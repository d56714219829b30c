//! V-Min: two stages per rank in a V, the least memory: about a third of 1F1B's.
//!
//! Qi et al., *Pipeline Parallelism with Controllable Memory* (2024), V-shaped building blocks. A pattern that repeats
//! every 6 slots of one pass each ([`v_pattern`](crate::v_pattern)); microbatch 0 never waits, except at the turn where
//! two passes would fall into one slot.
//!
//! Closed forms for `p > 3` equal ranks and `m >= 2p`: at most `2 (floor((p + 1) / 3) + 1)` activations of one of a
//! rank's two stages when `W` keeps all of them, less when it does not, where 1F1B holds `2p`. With `F = I = W` and
//! messages that take no time a rank idles for `4 (p - 1) - 1` passes, where 1F1B with both stages in one idles for
//! `6 (p - 1)`. With unequal passes it idles in every period: its memory leaves nothing to wait with.

use crate::v_pattern::{Offsets, fitted};
use crate::{Action, PassTimes};

/// What the ranks play, by position.
pub(crate) fn lists(n_ranks: usize, n_microbatches: usize, times: &PassTimes) -> Vec<Vec<Action>> {
    fitted(n_ranks, n_microbatches, times, offsets)
}

/// `p` divisible by 3 needs two more slots at the turn, or two passes fall into one slot.
pub(crate) fn offsets(rank: usize, n_ranks: usize) -> Offsets {
    let (i, p) = (rank, n_ranks);
    let delay = if p.is_multiple_of(3) { 2 } else { 0 };
    [i, 2 * p - 1 - i, 2 * p + delay + i, 4 * p - 1 + delay - i]
}
