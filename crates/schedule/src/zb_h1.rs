//! ZB-H1: zero-bubble scheduling with the memory of 1F1B.
//!
//! Qi et al., *Zero Bubble Pipeline Parallelism* (2023), as a direct construction for one stage per rank. Only the
//! gradient of the input travels, so `W` may wait: rank `i` of `p` plays 1F1B with a warm-up of `p - 1 - i` and plays
//! `W` of microbatch `k - i` after `I` of microbatch `k`. The later the rank, the fewer microbatches 1F1B keeps there
//! and the more `W` lag behind: the memory is that of the first rank everywhere.
//!
//! Closed forms for equal stages, `m >= 2 p`, `W <= min(F, I)`, messages that take no time: makespan
//! `m (F + I + W) + (p - 1)(F + I - W)`; activations of `p` microbatches on every rank. With other pass times and fewer
//! microbatches the order is valid, but the automatic scheduler does better.

use crate::{Action, Op};
use mesh::Key;

/// What each rank plays.
pub(crate) fn lists(n_ranks: usize, n_microbatches: usize) -> Vec<Vec<Action>> {
    let list = |rank| {
        let visits: Vec<Key> = (0..n_microbatches).map(|microbatch| Key::new(microbatch, rank)).collect();
        in_turn(&visits, &visits, n_ranks - 1 - rank, rank)
    };
    (0..n_ranks).map(list).collect()
}

/// The forwards of the warm-up, then a forward, an input and a weight pass in turn, as long as there are any; weight
/// passes lag `n_lag` turns behind.
pub(crate) fn in_turn(forwards: &[Key], backwards: &[Key], n_warm_up: usize, n_lag: usize) -> Vec<Action> {
    let (warm_up, forwards) = forwards.split_at(n_warm_up.min(forwards.len()));
    let mut list: Vec<Action> = warm_up.iter().map(|&key| Action::visit(Op::Forward, key)).collect();
    for turn in 0..backwards.len() + n_lag {
        list.extend(forwards.get(turn).map(|&key| Action::visit(Op::Forward, key)));
        list.extend(backwards.get(turn).map(|&key| Action::visit(Op::BackwardInput, key)));
        let weight = turn.checked_sub(n_lag).and_then(|turn| backwards.get(turn));
        list.extend(weight.map(|&key| Action::visit(Op::BackwardWeight, key)));
    }
    list
}
