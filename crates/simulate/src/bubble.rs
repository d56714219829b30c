//! Where the time of a step went that no rank computed in.

use crate::{Span, Timeline};
use mesh::{Hop, Key};
use schedule::{Action, Op, StageOp};
use std::collections::HashMap;

/// The time of one rank, in seconds. The parts sum to the makespan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bubble {
    /// Computing.
    pub compute_s: f64,
    /// Before the rank's first compute action could begin; all of the step if there is none.
    pub warm_up_s: f64,
    /// After its last compute action until the last rank has finished, and before its update: waiting for gradients
    /// of other ranks.
    pub drain_s: f64,
    /// In between: waiting for a message that its sender had not handed over yet.
    pub dependency_s: f64,
    /// In between: waiting for a message that was queued or on its way.
    pub communication_s: f64,
    /// Waiting for a core permit.
    pub permit_s: f64,
    /// In between, waiting for none of these: overhead between actions. 0 when simulated.
    pub other_s: f64,
}

impl Bubble {
    /// All but computing, in seconds.
    pub fn idle_s(&self) -> f64 {
        self.warm_up_s + self.drain_s + self.dependency_s + self.communication_s + self.permit_s + self.other_s
    }
}

/// The bubble fraction of a step: idle time over ranks times makespan, 0 when nothing was played. For GPipe and 1F1B
/// with `p` equal stages and `m` microbatches it is `(p - 1) / (m + p - 1)`. Papers that divide by the ideal time
/// instead get `(p - 1) / m`.
pub fn idle_fraction(bubbles: &[Bubble]) -> f64 {
    let idle_s: f64 = bubbles.iter().map(Bubble::idle_s).sum();
    let all_s: f64 = bubbles.iter().map(|bubble| bubble.compute_s + bubble.idle_s()).sum();
    if all_s > 0.0 { idle_s / all_s } else { 0.0 }
}

/// For each rank, how its part of the makespan was spent. Works alike for simulated and measured timelines.
pub fn bubbles(timeline: &Timeline) -> Vec<Bubble> {
    let handed_over: HashMap<(Op, Key), f64> = timeline
        .spans
        .iter()
        .filter_map(|span| match span.action {
            Action::Visit { op: op @ (Op::SendActivation | Op::SendGradient), key } => Some(((op, key), span.asked_s)),
            _ => None,
        })
        .collect();
    let mut of_rank: Vec<Vec<&Span>> = vec![Vec::new(); timeline.n_ranks];
    for span in &timeline.spans {
        of_rank[span.rank.0].push(span);
    }
    let makespan_s = timeline.makespan_s();
    of_rank.into_iter().map(|spans| of_spans(&spans, &handed_over, makespan_s)).collect()
}

fn of_spans(spans: &[&Span], handed_over: &HashMap<(Op, Key), f64>, makespan_s: f64) -> Bubble {
    let mut bubble = Bubble::default();
    let mut busy_until_s = None;
    // Of the gap since the last compute action: what receives explain so far.
    let (mut dependency_s, mut communication_s) = (0.0, 0.0);
    for span in spans {
        match span.action {
            Action::Visit { op: op @ (Op::RecvActivation | Op::RecvGradient), key } => {
                let sent_s = sent(op, key).and_then(|send| handed_over.get(&send)).copied();
                let sent_s = sent_s.unwrap_or(span.end_s).clamp(span.start_s, span.end_s);
                dependency_s += sent_s - span.start_s;
                communication_s += span.end_s - sent_s;
            }
            Action::Visit { op: Op::SendActivation | Op::SendGradient, .. } => {}
            Action::Stage { op: StageOp::OptimizerStep | StageOp::ReduceGradients, .. } if busy_until_s.is_some() => {
                bubble.drain_s += busy_until_s.map_or(0.0, |until_s| span.start_s - until_s);
                bubble.compute_s += span.end_s - span.start_s;
                busy_until_s = Some(span.end_s);
            }
            _ => {
                match busy_until_s {
                    None => bubble.warm_up_s = span.asked_s,
                    Some(until_s) => {
                        bubble.dependency_s += dependency_s;
                        bubble.communication_s += communication_s;
                        bubble.other_s += span.asked_s - until_s - dependency_s - communication_s;
                    }
                }
                (dependency_s, communication_s) = (0.0, 0.0);
                bubble.permit_s += span.start_s - span.asked_s;
                bubble.compute_s += span.end_s - span.start_s;
                busy_until_s = Some(span.end_s);
            }
        }
    }
    match busy_until_s {
        Some(until_s) => bubble.drain_s += makespan_s - until_s,
        None => bubble.warm_up_s = makespan_s,
    }
    bubble
}

/// The send that a receive waits for.
fn sent(receive: Op, key: Key) -> Option<(Op, Key)> {
    match receive {
        Op::RecvActivation => Some((Op::SendActivation, Key { hop: Hop(key.hop.0.checked_sub(1)?), ..key })),
        _ => Some((Op::SendGradient, key.at(key.hop.0 + 1))),
    }
}
