//! Interleaved 1F1B: one forward, one backward over several stages per rank.
//!
//! Narayanan et al., *Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM* (2021), section
//! 2.2.2, in the order of Megatron-LM today. Rank `i` of `p` holds the `v` hops `c * p + i`. Microbatches go in groups
//! of `p`, the last group may be smaller; a group passes hop `i`, then hop `p + i` and so on, and backwards in reverse.
//! After a warm-up of `min(m v, 2 (p - 1 - i) + (v - 1) p)` forwards the rank plays forward and backward in turn, then
//! the backwards that are left. A rank with one hop warms up twice as long as in 1F1B.
//!
//! A smaller last group stalls the ranks a little (Megatron-LM refuses it), and with less than `p - 2` microbatches
//! in it they can come to wait for each other in a circle. Such an `m` is cut into `m / p` groups as equal as can be
//! instead, the first with `n >= p` microbatches, and the warm-up is `2 (p - 1 - i) + (v - 1) n`: no stall, more
//! activations.
//!
//! torch.distributed.pipelining plays the same lists when `m` is a multiple of `p`. It always cuts `m` into equal
//! groups of at least `p`, refuses an `m` that cannot be cut so, and for `m < p` warms up
//! `2 (p - 1 - i) + (v - 1) m` forwards.
//!
//! Closed forms for `p v` equal stages, of which a rank's `v` take `F` and `B` together, when messages take no time and
//! `m` is a multiple of `p` or cut into equal groups: makespan `(m + (p - 1) / v)(F + B)`; with `n` microbatches in the
//! first group, activations of `min(m v, 2 (p - 1 - i) + (v - 1) n + 1) / v` microbatches on rank `i`, which for
//! `n = p` is `p (1 + (p - 1) / (p v))` on the first.

use crate::{Action, Op};
use mesh::Key;
use std::ops::Range;

/// What each rank plays.
pub(crate) fn lists(n_ranks: usize, n_chunks: usize, n_microbatches: usize) -> Vec<Vec<Action>> {
    let n_tail = n_microbatches % n_ranks;
    let groups: Vec<Range<usize>> = if n_tail + 2 >= n_ranks {
        (0..n_microbatches).step_by(n_ranks).map(|first| first..n_microbatches.min(first + n_ranks)).collect()
    } else {
        equal_groups(n_ranks, n_microbatches)
    };
    let n_in_group = groups[0].len().max(n_ranks);
    let list = |rank| {
        let (forwards, backwards) = visits(&groups, n_ranks, n_chunks, rank);
        let n_warm_up = forwards.len().min(2 * (n_ranks - 1 - rank) + (n_chunks - 1) * n_in_group);
        let (warm_up, forwards) = forwards.split_at(n_warm_up);
        let mut forwards = forwards.iter();
        let mut list: Vec<Action> = warm_up.iter().map(|&key| Action::visit(Op::Forward, key)).collect();
        for backward in backwards {
            list.extend(forwards.next().map(|&key| Action::visit(Op::Forward, key)));
            list.push(Action::visit(Op::Backward, backward));
        }
        list
    };
    (0..n_ranks).map(list).collect()
}

/// The visits of a rank in the order of their forwards, and in that of their backwards: group by group of microbatches,
/// within a group hop by hop.
pub(crate) fn visits(groups: &[Range<usize>], n_ranks: usize, n_chunks: usize, rank: usize) -> (Vec<Key>, Vec<Key>) {
    let at = |chunk: usize, group: &Range<usize>| group.clone().map(move |m| Key::new(m, chunk * n_ranks + rank));
    let forwards = groups.iter().flat_map(|group| (0..n_chunks).flat_map(move |chunk| at(chunk, group)));
    let backwards = groups.iter().flat_map(|group| (0..n_chunks).rev().flat_map(move |chunk| at(chunk, group)));
    (forwards.collect(), backwards.collect())
}

/// The microbatches in as many groups of at least `n_ranks` as there can be, as equal as can be, the
/// first of them a largest one.
pub(crate) fn equal_groups(n_ranks: usize, n_microbatches: usize) -> Vec<Range<usize>> {
    let n_groups = (n_microbatches / n_ranks).max(1);
    let first = |group: usize| (group * n_microbatches).div_ceil(n_groups);
    (0..n_groups).map(|group| first(group)..first(group + 1)).collect()
}
