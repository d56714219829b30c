//! Interleaved zero-bubble: ZB-H1 over several stages per rank.
//!
//! The construction of torch.distributed.pipelining's `ScheduleInterleavedZeroBubble`, after Qi et al., *Zero Bubble
//! Pipeline Parallelism* (2023). Rank `i` of `p` holds the `v` hops `c * p + i` and plays interleaved 1F1B with split
//! backward and a shorter warm-up of `(v - 1) n + p - 1 - i` forwards; each `W` comes `i` turns after its `I`, so that
//! the last ones fill the gaps of the cool-down. With one hop per rank it is ZB-H1.
//!
//! Microbatches go in `max(1, m / p)` groups as equal as can be, `n` in the first. Where all are equal, the lists are
//! PyTorch's, which refuses other `m`.
//!
//! Closed forms for `p v` equal stages, of which a rank's `v` take `F`, `I` and `W` together, when `m >= 2 p`,
//! `W <= min(F, I)` and messages take no time: makespan `m (F + I + W) + (p - 1)(F + I - W) / v`; activations of
//! `((v - 1) n + p) / v` microbatches on every rank.

use crate::Action;
use crate::interleaved::{equal_groups, visits};
use crate::zb_h1::in_turn;

/// What each rank plays.
pub(crate) fn lists(n_ranks: usize, n_chunks: usize, n_microbatches: usize) -> Vec<Vec<Action>> {
    let groups = equal_groups(n_ranks, n_microbatches);
    let list = |rank| {
        let (forwards, backwards) = visits(&groups, n_ranks, n_chunks, rank);
        let n_warm_up = (n_chunks - 1) * groups[0].len() + n_ranks - 1 - rank;
        in_turn(&forwards, &backwards, n_warm_up, rank)
    };
    (0..n_ranks).map(list).collect()
}
