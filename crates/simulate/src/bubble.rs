//! Where the time of a step went that no rank computed in.

use crate::{Communication, Costs, MeetingSpan, Span, StageCost, Timeline};
use mesh::{Hop, Key, Rank, Segment, Stage};
use schedule::{Action, Meeting, Op, ShardOp, StageOp};
use std::collections::{BTreeMap, HashMap};

/// The time of one rank, in seconds. The parts sum to the makespan, and none is negative where spans of a rank follow
/// each other without overlap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bubble {
    /// Computing.
    pub compute_s: f64,
    /// Before the rank's first compute action could begin; all of the step if there is none.
    pub warm_up_s: f64,
    /// After its last compute action until the last rank has finished, and before its update: waiting for gradients
    /// of other ranks.
    pub drain_s: f64,
    /// In between: waiting for a message that its sender had not handed over yet, or for the others in a collective;
    /// less what is `memory_s`.
    pub dependency_s: f64,
    /// The part of these waits that less holding back would have filled, had there been more memory: a forward further
    /// down the list had its input there, and none that had would have fitted. See [`bubbles`]; 0 without costs.
    pub memory_s: f64,
    /// In between: waiting for a message that was queued or on its way, or for a collective to end. Anywhere after the
    /// first compute action: moving the bytes of a message, where that keeps the rank.
    pub communication_s: f64,
    /// Waiting for a core permit.
    pub permit_s: f64,
    /// In between, waiting for none of these: overhead between actions. 0 when simulated.
    pub other_s: f64,
}

impl Bubble {
    /// All but computing, in seconds.
    pub fn idle_s(&self) -> f64 {
        self.warm_up_s
            + self.drain_s
            + self.dependency_s
            + self.memory_s
            + self.communication_s
            + self.permit_s
            + self.other_s
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

/// For each rank, how its part of the makespan was spent. Works alike for simulated and measured timelines. Of the costs
/// that the timeline was played with three things are used: whether communication blocks, the latency of links, and the
/// bytes that stages keep. Where they are not known, [`Costs::default`] does: communication overlaps, and nothing is told
/// apart as `memory_s`.
///
/// A rank keeps, for every `F` it began, the stage's activations and logits until `B` or `I` ends, and the part that
/// `W` needs until `W` ends: `kept`, which does not change while the rank waits. Its peak over the step is `limit`. A
/// wait for other ranks is `memory_s` at the moments at which the input of at least one forward (`F`) further down the
/// rank's list is there, and each such forward would keep more than `limit - kept`. The input is there when the
/// previous hop's message has arrived (or its forward has ended, on the same rank), the previous segment's forward has
/// ended and the embedded rows are there; at the first hop of whole sequences from the begin of the step. Waits for a
/// message on its way stay communication.
///
/// Stages without costs keep nothing.
pub fn bubbles(timeline: &Timeline, costs: &Costs) -> Vec<Bubble> {
    let mut of_rank: Vec<Vec<&Span>> = vec![Vec::new(); timeline.n_ranks];
    for span in &timeline.spans {
        of_rank[span.rank.0].push(span);
    }
    let step = Step {
        costs,
        sends: spans_of(timeline, &[Op::SendActivation, Op::SendGradient]),
        forwards: spans_of(timeline, if costs.stages.is_empty() { &[] } else { &[Op::Forward] }),
        meetings: timeline.meetings.iter().map(|span| (span.meeting, span)).collect(),
        makespan_s: timeline.makespan_s(),
    };
    of_rank.into_iter().map(|spans| step.bubble(&spans)).collect()
}

fn spans_of<'a>(timeline: &'a Timeline, ops: &[Op]) -> HashMap<(Op, Key), &'a Span> {
    let of = |span: &'a Span| match span.action {
        Action::Visit { op, key } if ops.contains(&op) => Some(((op, key), span)),
        _ => None,
    };
    timeline.spans.iter().filter_map(of).collect()
}

/// What the accounts of all ranks look up.
struct Step<'a> {
    costs: &'a Costs,
    sends: HashMap<(Op, Key), &'a Span>,
    forwards: HashMap<(Op, Key), &'a Span>,
    meetings: HashMap<Meeting, &'a MeetingSpan>,
    makespan_s: f64,
}

impl Step<'_> {
    fn bubble(&self, spans: &[&Span]) -> Bubble {
        let mut bubble = Bubble::default();
        let mut held_back = HeldBack::new(self, spans);
        // Up to where the rank's time is accounted for; `None` before its first compute action.
        let mut until_s = None;
        for span in spans {
            let Some(from_s) = until_s else {
                if span.action.is_compute() {
                    bubble.warm_up_s = span.asked_s;
                    bubble.permit_s += span.start_s - span.asked_s;
                    bubble.compute_s += span.end_s - span.start_s;
                    held_back.play(span);
                    until_s = Some(span.end_s);
                }
                continue;
            };
            match span.action {
                Action::Visit { op: op @ (Op::RecvActivation | Op::RecvGradient), key } => {
                    let send = sent(op, key).and_then(|send| self.sends.get(&send));
                    let sent_s = send.map_or(span.end_s, |send| send.asked_s).clamp(span.start_s, span.end_s);
                    bubble.other_s += span.start_s - from_s;
                    held_back.wait(&mut bubble, span.start_s, sent_s);
                    bubble.communication_s += span.end_s - sent_s;
                }
                Action::Visit { op: Op::SendActivation | Op::SendGradient, .. } => {
                    if self.costs.communication == Communication::Overlapped {
                        continue;
                    }
                    bubble.other_s += span.asked_s - from_s;
                    bubble.communication_s += span.end_s - span.asked_s;
                }
                action if is_update(action) => {
                    bubble.drain_s += span.start_s - from_s;
                    bubble.compute_s += span.end_s - span.start_s;
                }
                action => {
                    if let Some(met) = meetings(action).iter().flatten().find_map(|one| self.meetings.get(one)) {
                        let start_s = met.start_s.clamp(from_s, span.asked_s);
                        let end_s = met.end_s.clamp(start_s, span.asked_s);
                        held_back.wait(&mut bubble, from_s, start_s);
                        bubble.communication_s += end_s - start_s;
                        bubble.other_s += span.asked_s - end_s;
                    } else {
                        bubble.other_s += span.asked_s - from_s;
                    }
                    bubble.permit_s += span.start_s - span.asked_s;
                    bubble.compute_s += span.end_s - span.start_s;
                    held_back.play(span);
                }
            }
            until_s = Some(span.end_s);
        }
        match until_s {
            Some(until_s) => bubble.drain_s += self.makespan_s - until_s,
            None => bubble.warm_up_s = self.makespan_s,
        }
        bubble
    }

    /// When the input of the forward at `key`, played on `rank`, was there.
    fn input_s(&self, rank: Rank, key: Key) -> f64 {
        let from_before =
            key.hop.0.checked_sub(1).map_or(0.0, |hop| match self.sends.get(&(Op::SendActivation, key.at(hop))) {
                Some(send) => send.end_s + self.latency_after_s(send.rank, rank),
                None => self.forwards.get(&(Op::Forward, key.at(hop))).map_or(0.0, |before| before.end_s),
            });
        let previous = key.segment.0.checked_sub(1).map(|segment| Key { segment: Segment(segment), ..key });
        let from_previous = previous.and_then(|key| self.forwards.get(&(Op::Forward, key)));
        let embedded = self.meetings.get(&Meeting::Embedded(key.microbatch)).filter(|_| key.hop.0 == 0);
        let others_s = [from_previous.map(|span| span.end_s), embedded.map(|met| met.end_s)];
        others_s.into_iter().flatten().fold(from_before, f64::max)
    }

    /// How long after the end of its send's span a message arrives.
    fn latency_after_s(&self, from: Rank, to: Rank) -> f64 {
        match self.costs.communication {
            Communication::Overlapped => 0.0,
            Communication::Blocking => {
                let link = self.costs.links.iter().find(|link| link.from == from && link.to == to);
                link.map_or(0.0, |link| link.latency_s)
            }
        }
    }
}

/// The forwards that a rank has still to play, while its list is gone through.
struct HeldBack<'a> {
    costs: &'a Costs,
    /// Of each of the rank's stages.
    stages: BTreeMap<Stage, Upcoming>,
    kept: i64,
    limit: i64,
}

/// One stage's forwards on a rank that are still to come.
#[derive(Default)]
struct Upcoming {
    /// The earliest moment at which the input of the last forward is there, of the last two, and so on: the last entry
    /// is that of all that are to come.
    inputs_s: Vec<f64>,
}

impl<'a> HeldBack<'a> {
    fn new(step: &Step<'a>, spans: &[&Span]) -> Self {
        let mut all = Self { costs: step.costs, stages: BTreeMap::new(), kept: 0, limit: 0 };
        if all.costs.stages.is_empty() {
            return all;
        }
        for span in spans {
            all.keep(span);
            all.limit = all.limit.max(all.kept);
        }
        all.kept = 0;
        for span in spans.iter().rev() {
            if let Action::Visit { op: Op::Forward, key } = span.action {
                let inputs_s = &mut all.stages.entry(span.stage).or_default().inputs_s;
                let later_s = inputs_s.last().copied().unwrap_or(f64::INFINITY);
                inputs_s.push(step.input_s(span.rank, key).min(later_s));
            }
        }
        all
    }

    /// Goes on past a compute action.
    fn play(&mut self, span: &Span) {
        self.keep(span);
        if let Action::Visit { op: Op::Forward, .. } = span.action
            && let Some(upcoming) = self.stages.get_mut(&span.stage)
        {
            upcoming.inputs_s.pop();
        }
    }

    fn keep(&mut self, span: &Span) {
        let (Action::Visit { op, .. }, Some(cost)) = (span.action, self.costs.stages.get(span.stage.0)) else { return };
        let forward = forward_bytes(cost);
        self.kept += match op {
            Op::Forward => forward,
            Op::Backward => -forward,
            Op::BackwardInput => cost.weight_grad_bytes as i64 - forward,
            Op::BackwardWeight => -(cost.weight_grad_bytes as i64),
            _ => 0,
        };
    }

    /// Accounts for a wait for other ranks.
    fn wait(&self, bubble: &mut Bubble, from_s: f64, to_s: f64) {
        let (mut begin_s, mut end_s) = (f64::INFINITY, to_s);
        for (stage, upcoming) in &self.stages {
            let Some(&input_s) = upcoming.inputs_s.last() else { continue };
            let bytes = self.costs.stages.get(stage.0).map_or(0, forward_bytes);
            match self.kept + bytes > self.limit {
                true => begin_s = input_s.min(begin_s),
                false => end_s = input_s.min(end_s),
            }
        }
        let memory_s = (end_s - begin_s.max(from_s)).max(0.0);
        bubble.memory_s += memory_s;
        bubble.dependency_s += to_s - from_s - memory_s;
    }
}

fn forward_bytes(cost: &StageCost) -> i64 {
    (cost.activation_bytes + cost.logit_bytes) as i64
}

fn is_update(action: Action) -> bool {
    use StageOp::{OptimisticStep, OptimizerStep, PostValidate, ReduceGradients};
    matches!(action, Action::Stage { op: OptimizerStep | OptimisticStep | PostValidate | ReduceGradients, .. })
}

/// The collectives that an action may wait for: the first that was played is it.
fn meetings(action: Action) -> [Option<Meeting>; 2] {
    match action {
        Action::Shard { op: ShardOp::VocabForward, microbatch } => [Some(Meeting::Hidden(microbatch)), None],
        Action::Shard { op: ShardOp::VocabBackward, microbatch } => [Some(Meeting::Softmax(microbatch)), None],
        Action::Shard { op: ShardOp::EmbedBackward, microbatch } => [Some(Meeting::EmbeddedGradient(microbatch)), None],
        Action::Visit { op: Op::Forward | Op::ForwardNoGrad, key } => [Some(Meeting::Embedded(key.microbatch)), None],
        Action::Visit { op: Op::Backward | Op::BackwardInput, key } => {
            [Some(Meeting::HiddenGradient(key.microbatch)), Some(Meeting::Softmax(key.microbatch))]
        }
        _ => [None; 2],
    }
}

/// The send that a receive waits for.
fn sent(receive: Op, key: Key) -> Option<(Op, Key)> {
    match receive {
        Op::RecvActivation => Some((Op::SendActivation, Key { hop: Hop(key.hop.0.checked_sub(1)?), ..key })),
        _ => Some((Op::SendGradient, key.at(key.hop.0 + 1))),
    }
}
