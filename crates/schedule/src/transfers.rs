//! The passes that insert sends and receives.

use crate::{Action, Op, Schedule, dependencies};
use mesh::{Hop, Key, Rank};

/// The schedule with its messages spelled out, between different ranks only: on one rank, carries and gradients pass
/// directly. A send follows its producer at once, a receive stands right before its consumer; sends do not wait, so
/// this order cannot deadlock where the compute actions do not. Sends and receives already present are replaced.
///
/// # Panics
/// If an action names a visit that no route has; a validated schedule does not.
pub fn with_transfers(schedule: &Schedule) -> Schedule {
    let ranks = schedule.ranks.iter().map(|list| {
        let mut with = Vec::with_capacity(2 * list.len());
        for &action in list {
            let Action::Visit { op, key } = action else {
                with.push(action);
                continue;
            };
            let route = schedule.route(key);
            let visit = route.get(key.hop).expect("invariant: validated schedule");
            let from_elsewhere = route.before(key.hop).is_some_and(|before| before.rank != visit.rank);
            let to_elsewhere = route.after(key.hop).is_some_and(|after| after.rank != visit.rank);
            let (receive, send) = match op {
                Op::Forward | Op::ForwardNoGrad => {
                    (from_elsewhere.then_some(Op::RecvActivation), to_elsewhere.then_some(Op::SendActivation))
                }
                Op::BackwardInput | Op::Backward => {
                    (to_elsewhere.then_some(Op::RecvGradient), from_elsewhere.then_some(Op::SendGradient))
                }
                _ => (None, None),
            };
            with.extend(receive.map(|op| Action::visit(op, key)));
            with.extend(op.is_compute().then_some(action));
            with.extend(send.map(|op| Action::visit(op, key)));
        }
        with
    });
    schedule.with_ranks(ranks.collect())
}

/// The schedule with its messages spelled out as [`with_transfers`] does, in an order that cannot deadlock even where a
/// send waits until it is received, as sends of large messages do with many transports.
///
/// The lists are played in turns, rank by rank; a rank plays its next action if what that waits for has been played.
/// Right after it, both halves of its message are written down: the send on the own list, the receive on the peer's.
/// So all halves stand in the order of one sequence of messages, and playing that sequence never waits for a later one.
/// Receives stand earlier than with [`with_transfers`]: as soon as the message exists, not when it is needed. This is
/// the order of torch.distributed.pipelining.
///
/// # Panics
/// If the schedule is one that [`validate`](crate::validate()) refuses.
pub fn with_transfers_in_lockstep(schedule: &Schedule) -> Schedule {
    let ranks = schedule.ranks.iter().map(|list| {
        let is_no_message = |action: &Action| !matches!(action, Action::Visit { op, .. } if !op.is_compute());
        list.iter().copied().filter(is_no_message).collect()
    });
    in_lockstep(&schedule.with_ranks(ranks.collect()), &[])
}

/// [`with_transfers_in_lockstep`] of a schedule without messages, where rank `r` lets `n_idle[r][i]` turns pass before
/// its action `i` (none where no number is given).
pub(crate) fn in_lockstep(schedule: &Schedule, n_idle: &[Vec<usize>]) -> Schedule {
    let dependencies = dependencies(schedule).expect("invariant: validated schedule");
    let n_ranks = schedule.n_ranks();
    let mut done = vec![false; dependencies.n_actions()];
    let mut ranks: Vec<Vec<Action>> = vec![Vec::new(); n_ranks];
    let mut next = vec![0; n_ranks];
    let mut n_passed = vec![0; n_ranks];
    let mut n_left = done.len();
    while n_left > 0 {
        let mut is_stuck = true;
        for rank in 0..n_ranks {
            let Some(&action) = schedule.ranks[rank].get(next[rank]) else { continue };
            if n_passed[rank] < n_idle.get(rank).and_then(|idle| idle.get(next[rank])).copied().unwrap_or(0) {
                n_passed[rank] += 1;
                is_stuck = false;
                continue;
            }
            let i = dependencies.actions_of(Rank(rank)).start + next[rank];
            let is_done = |on: usize| match done.get(on) {
                Some(&is_done) => is_done,
                None => dependencies.of(on).all(|member| done[member]),
            };
            if !dependencies.of(i).all(is_done) {
                continue;
            }
            ranks[rank].push(action);
            if let Some(message) = message(schedule, Rank(rank), action) {
                ranks[rank].push(message.send);
                ranks[message.to.0].push(message.receive);
            }
            done[i] = true;
            next[rank] += 1;
            n_passed[rank] = 0;
            n_left -= 1;
            is_stuck = false;
        }
        assert!(!is_stuck, "invariant: validated schedule");
    }
    schedule.with_ranks(ranks)
}

struct Message {
    send: Action,
    receive: Action,
    to: Rank,
}

/// The message that an action's result goes out with, if another rank needs it.
fn message(schedule: &Schedule, rank: Rank, action: Action) -> Option<Message> {
    let Action::Visit { op, key } = action else { return None };
    let send = match op {
        Op::Forward | Op::ForwardNoGrad => Op::SendActivation,
        Op::BackwardInput | Op::Backward => Op::SendGradient,
        _ => return None,
    };
    let (receive, hop) = send.other_half(key.hop)?;
    let there = Key { hop, ..key };
    let to = schedule.visit(there)?.rank;
    (to != rank).then(|| Message { send: Action::visit(send, key), receive: Action::visit(receive, there), to })
}

impl Op {
    /// The other half of a send or receive: what the peer plays, and at which hop. `None` for other operations, and
    /// where a route begins.
    pub(crate) fn other_half(self, hop: Hop) -> Option<(Op, Hop)> {
        let (before, after) = (hop.0.checked_sub(1).map(Hop), Hop(hop.0 + 1));
        match self {
            Op::SendActivation => Some((Op::RecvActivation, after)),
            Op::RecvActivation => Some((Op::SendActivation, before?)),
            Op::SendGradient => Some((Op::RecvGradient, before?)),
            Op::RecvGradient => Some((Op::SendGradient, after)),
            _ => None,
        }
    }
}
