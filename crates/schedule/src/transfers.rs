//! The pass that inserts sends and receives.

use crate::{Action, Op, Schedule};
use mesh::Hop;

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
    Schedule { ranks: ranks.collect(), ..schedule.clone() }
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
