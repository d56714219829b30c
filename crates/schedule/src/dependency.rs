//! What every action waits for.

use crate::index::Index;
use crate::{Action, Op, Schedule, ScheduleError, StageOp};
use mesh::{Key, Rank, Segment};

/// For every action those it waits for, beside the one before it on its list. Actions are numbered rank by rank in
/// list order, as [`Schedule::actions`] yields them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependencies {
    starts: Vec<usize>,
    /// `ends[i]` is where the list of action `i` ends in `on`, and that of `i + 1` begins.
    ends: Vec<u32>,
    on: Vec<u32>,
}

impl Dependencies {
    /// Number of actions.
    pub fn n_actions(&self) -> usize {
        self.ends.len()
    }

    /// The actions that action `i` waits for.
    pub fn of(&self, i: usize) -> impl ExactSizeIterator<Item = usize> + '_ {
        let begin = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.on[begin as usize..self.ends[i] as usize].iter().map(|&on| on as usize)
    }

    /// The numbers of a rank's actions.
    pub fn actions_of(&self, rank: Rank) -> std::ops::Range<usize> {
        self.starts[rank.0]..self.starts[rank.0 + 1]
    }
}

/// What every action waits for, in a schedule with or without transfers.
///
/// - `F` and `E` wait for the previous hop: for their `RECV_F`, or for the `F` itself on the same rank or where no
///   transfers are spelled out; and for the previous segment at the same hop.
/// - `R` waits for `F`. `I` and `B` wait for `F` and `R` of their visit, for the next hop (`RECV_B`, or its `I` or
///   `B`), and for the next segment at the same hop. `W` waits for `I`.
/// - `SEND_F` waits for `F`, `SEND_B` for `I` or `B`, a receive for its send.
/// - `REDUCE_GRAD` waits for all `W` and `B` of its stage on its rank, `OPT` for these and for `REDUCE_GRAD`. That the
///   ranks of a reduction wait for each other is not told: the schedule does not say who they are.
/// - `OPT` also waits for every other rank's last gradient: the update is clipped by the norm over all stages.
///
/// # Errors
/// [`ScheduleError::UnknownVisit`] and [`ScheduleError::Repeated`]: the first of them. What is merely absent is no
/// dependency; [`validate`](crate::validate()) names it.
pub fn dependencies(schedule: &Schedule) -> Result<Dependencies, ScheduleError> {
    let (index, problems) = Index::new(schedule)?;
    match problems.into_iter().next() {
        Some(problem) => Err(problem),
        None => Ok(Dependencies::new(&index)),
    }
}

const FORWARD: [Op; 2] = [Op::Forward, Op::ForwardNoGrad];
const BACKWARD: [Op; 2] = [Op::Backward, Op::BackwardInput];

impl Dependencies {
    pub(crate) fn new(index: &Index) -> Self {
        let n_actions = index.starts[index.starts.len() - 1];
        let mut all = Self {
            starts: index.starts.clone(),
            ends: Vec::with_capacity(n_actions),
            on: Vec::with_capacity(2 * n_actions),
        };
        for (rank, action) in index.schedule.actions() {
            match action {
                Action::Visit { op, key } => all.on.extend(of_visit(index, op, key).into_iter().flatten()),
                Action::Stage { op: op @ (StageOp::ReduceGradients | StageOp::OptimizerStep), .. } => {
                    of_update(index, rank, op, action, &mut all.on);
                }
                Action::Stage { .. } => {}
            }
            all.ends.push(all.on.len() as u32);
        }
        all
    }
}

/// At most three: the own forward or recomputation, the neighbouring hop, the neighbouring segment.
fn of_visit(index: &Index, op: Op, key: Key) -> [Option<u32>; 3] {
    let next_hop = key.at(key.hop.0 + 1);
    let previous_hop = key.hop.0.checked_sub(1).map(|hop| key.at(hop));
    let next_segment = Key { segment: Segment(key.segment.0 + 1), ..key };
    let previous_segment = key.segment.0.checked_sub(1).map(|segment| Key { segment: Segment(segment), ..key });
    let found = match op {
        Op::Forward | Op::ForwardNoGrad => [
            index.find(Op::RecvActivation, key).or_else(|| previous_hop.and_then(|key| index.find_any(&FORWARD, key))),
            previous_segment.and_then(|key| index.find_any(&FORWARD, key)),
            None,
        ],
        Op::Recompute => [index.find(Op::Forward, key), None, None],
        Op::BackwardInput | Op::Backward => [
            index.find_any(&[Op::Recompute, Op::Forward], key),
            index.find(Op::RecvGradient, key).or_else(|| index.find_any(&BACKWARD, next_hop)),
            index.find_any(&BACKWARD, next_segment),
        ],
        Op::BackwardWeight => [index.find(Op::BackwardInput, key), None, None],
        Op::SendActivation => [index.find_any(&FORWARD, key), None, None],
        Op::SendGradient => [index.find_any(&BACKWARD, key), None, None],
        Op::RecvActivation => [previous_hop.and_then(|key| index.find(Op::SendActivation, key)), None, None],
        Op::RecvGradient => [index.find(Op::SendGradient, next_hop), None, None],
        Op::VocabForward | Op::VocabBackward | Op::EmbedForward | Op::EmbedBackward => [None; 3],
    };
    found.map(|i| i.map(|i| i as u32))
}

/// The gradients of a stage on its rank and, for its update, their reduction.
fn of_update(index: &Index, rank: Rank, op: StageOp, action: Action, on: &mut Vec<u32>) {
    let schedule = index.schedule;
    let stage = schedule.stage(action);
    for (position, &other) in schedule.ranks[rank.0].iter().enumerate() {
        let gives_gradients = match other {
            Action::Visit { op: Op::BackwardWeight | Op::Backward, .. } => schedule.stage(other) == stage,
            Action::Visit { .. } => false,
            Action::Stage { op: other_op, stage: other_stage } => {
                op == StageOp::OptimizerStep && other_op == StageOp::ReduceGradients && other_stage == stage
            }
        };
        if gives_gradients {
            on.push((index.starts[rank.0] + position) as u32);
        }
    }
    if op == StageOp::OptimizerStep {
        let others = schedule.ranks.iter().enumerate().filter(|(other, _)| *other != rank.0);
        on.extend(others.filter_map(|(other, list)| {
            let last = list.iter().rposition(|&action| is_gradient(action))?;
            Some((index.starts[other] + last) as u32)
        }));
    }
}

fn is_gradient(action: Action) -> bool {
    matches!(
        action,
        Action::Visit { op: Op::BackwardWeight | Op::Backward, .. }
            | Action::Stage { op: StageOp::ReduceGradients, .. }
    )
}
