//! Vocabulary passes in 1F1B: the reference's placement.
//!
//! Section 5 of the paper and its public implementation. After the warm-up each rank repeats `B`, `F` and one pair of
//! `VT` and `VS`; `VS` of a microbatch runs everywhere at about the same time, within the `B` that the last rank plays
//! after the microbatch's last forward. The last rank plays `B S F`. From one rank to the one before it the repetition
//! begins `T_F` earlier, so `S` does too. Where it would come before the hidden states are there (an offset below
//! `-T_B`), the rank plays `B F S` and the one before it `B S F` again, `T_B - T_F` later.
//!
//! Closed forms: rank `i` of `p` plays `p - i + 1` forwards before its first backward with one barrier, `p - i + 2` with
//! two, which is the number of microbatches whose activations it holds; `VS` of microbatch 0 after `p - i` of them.

use super::pair;
use crate::{Action, Op, PassTimes, Schedule, Vocabulary, fuse_backward, one_f_one_b, split_backward};
use mesh::Key;

/// What a rank plays after each `B`, and how far its `VS` run ahead before the first.
#[derive(Clone, Copy)]
struct Pattern {
    order: Order,
    /// Pairs of `VT` and `VS` between that of microbatch 0 and the first `B`, with one barrier.
    n_pairs_ahead: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    ShardFirst,
    ForwardFirst,
}

/// The visits with `VS` and `VT`; `None` when they are not those of plain 1F1B, or backwards are shorter than forwards.
pub(super) fn place(visits: &Schedule, vocabulary: Vocabulary, times: &PassTimes) -> Option<Schedule> {
    let plain = Plain::of(visits)?;
    let n_ranks = visits.n_ranks();
    let mean = |of: &dyn Fn(usize) -> f64| (0..n_ranks).map(of).sum::<f64>() / n_ranks as f64;
    let forward = mean(&|hop| times.forward[hop]);
    let backward = mean(&|hop| times.backward_input[hop] + times.backward_weight[hop]);
    if backward < forward {
        return None;
    }
    let n_barriers = vocabulary.algorithm.n_barriers();
    let mut ranks = vec![Vec::new(); n_ranks];
    for (n_behind, pattern) in patterns(n_ranks, forward, backward).into_iter().enumerate() {
        let hop = n_ranks - 1 - n_behind;
        ranks[plain.rank_of_hop[hop]] = list(hop, n_ranks, visits.n_microbatches(), n_barriers, pattern);
    }
    let placed = Schedule { vocabulary: Some(vocabulary), ranks, ..visits.clone() };
    Some(plain.as_before(placed))
}

/// The ranks' patterns, from the last rank to the first.
fn patterns(n_ranks: usize, forward: f64, backward: f64) -> Vec<Pattern> {
    let mut patterns = vec![Pattern { order: Order::ShardFirst, n_pairs_ahead: 0 }];
    let mut offset = 0.0;
    while patterns.len() < n_ranks {
        let after = patterns[patterns.len() - 1];
        let (order, n_more) = match after.order {
            Order::ForwardFirst => {
                offset += backward - forward;
                (Order::ShardFirst, 0)
            }
            Order::ShardFirst if offset - forward >= -backward => {
                offset -= forward;
                (Order::ShardFirst, 1)
            }
            Order::ShardFirst => (Order::ForwardFirst, 1),
        };
        patterns.push(Pattern { order, n_pairs_ahead: after.n_pairs_ahead + n_more });
    }
    patterns
}

fn list(hop: usize, n_ranks: usize, n_microbatches: usize, n_barriers: usize, pattern: Pattern) -> Vec<Action> {
    let forward = |i: usize| (i < n_microbatches).then(|| Action::visit(Op::Forward, Key::new(i, hop))).into_iter();
    let pairs = |i: usize| pair(i, n_microbatches);
    let n_ahead = n_ranks - hop;
    let n_pairs_ahead = pattern.n_pairs_ahead + n_barriers - 1;

    let mut list: Vec<Action> = (0..n_ahead).flat_map(forward).chain(pairs(0)).collect();
    for i in 1..=n_pairs_ahead.max(n_barriers) {
        list.extend((i <= n_barriers).then(|| forward(n_ahead + i - 1)).into_iter().flatten());
        list.extend((i <= n_pairs_ahead).then(|| pairs(i)).into_iter().flatten());
    }
    for i in 0..n_microbatches {
        list.push(Action::visit(Op::Backward, Key::new(i, hop)));
        let (forward, pairs) = (forward(n_ahead + n_barriers + i), pairs(n_pairs_ahead + 1 + i));
        match pattern.order {
            Order::ShardFirst => list.extend(pairs.chain(forward)),
            Order::ForwardFirst => list.extend(forward.chain(pairs)),
        }
    }
    list
}

/// Visits that are those of 1F1B with one hop on every rank.
pub(super) struct Plain {
    pub rank_of_hop: Vec<usize>,
    is_split: bool,
}

impl Plain {
    /// `None` when they are not.
    pub fn of(visits: &Schedule) -> Option<Self> {
        let (route, n_ranks) = (&visits.routes[0], visits.n_ranks());
        let rank_of_hop: Vec<usize> = route.visits().iter().map(|visit| visit.rank.0).collect();
        let is_everywhere = (0..n_ranks).all(|rank| rank_of_hop.contains(&rank));
        if rank_of_hop.len() != n_ranks || !is_everywhere || visits.n_segments > 1 {
            return None;
        }
        let fused = fuse_backward(visits);
        let is_split = split_backward(&fused) == *visits;
        let is_1f1b = rank_of_hop.iter().enumerate().all(|(hop, &rank)| {
            let turns = one_f_one_b::turns(visits.n_microbatches(), n_ranks - 1 - hop);
            fused.ranks[rank].iter().copied().eq(turns.into_iter().map(|turn| turn.action(hop)))
        });
        let is_one_route = visits.routes.iter().all(|other| other == route);
        (is_one_route && is_1f1b && (is_split || fused == *visits)).then_some(Self { rank_of_hop, is_split })
    }

    /// A schedule of fused backwards with backward as it was in the visits.
    pub fn as_before(&self, fused: Schedule) -> Schedule {
        if self.is_split { split_backward(&fused) } else { fused }
    }
}
