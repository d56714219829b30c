//! ZB-H2: zero-bubble scheduling with twice the memory of 1F1B.
//!
//! Qi et al., *Zero Bubble Pipeline Parallelism* (2023), as a direct construction for one stage per rank: as ZB-H1,
//! with a warm-up of `2 (p - 1 - i)` forwards on rank `i` of `p`, and `W` of microbatch `k - 2 i` after `I` of
//! microbatch `k`.
//!
//! Closed forms for equal stages, `m >= 2 p`, `W <= min(F, I)`, messages that take no time: between its first and its
//! last pass, rank `i` is idle for `(p - 1 - i)(F + I - 2 W)`, on the first rank the paper's bubble and nothing when
//! all passes take the same time; activations of `2 p - 1` microbatches on every rank. Ranks begin and end one after
//! the other: a step that ends for all at once gives the time back.

use crate::Action;
use crate::zb_h1::in_turn;
use mesh::Key;

/// What each rank plays.
pub(crate) fn lists(n_ranks: usize, n_microbatches: usize) -> Vec<Vec<Action>> {
    let list = |rank| {
        let visits: Vec<Key> = (0..n_microbatches).map(|microbatch| Key::new(microbatch, rank)).collect();
        in_turn(&visits, &visits, 2 * (n_ranks - 1 - rank), 2 * rank)
    };
    (0..n_ranks).map(list).collect()
}
