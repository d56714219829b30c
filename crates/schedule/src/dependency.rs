//! What every action waits for.

use crate::index::Index;
use crate::{Action, InputLayer, Op, Schedule, ScheduleError, ShardOp, StageOp, VocabularyAlgorithm};
use mesh::{Key, Microbatch, Rank, Segment, Stage};

/// For every action those it waits for, beside the one before it on its list. Actions are numbered rank by rank in
/// list order, as [`Schedule::actions`] yields them; the meetings that actions wait for come after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependencies {
    starts: Vec<usize>,
    /// `ends[i]` is where the list of node `i` ends in `on`, and that of `i + 1` begins.
    ends: Vec<u32>,
    on: Vec<u32>,
    meetings: Vec<Meeting>,
}

/// A collective: it begins when all its members have ended, and those who wait for it begin after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meeting {
    /// The last hop's output goes to every vocabulary shard (C0).
    Hidden(Microbatch),
    /// Shards' softmax statistics are combined, with one barrier their hidden gradients too (C1).
    Softmax(Microbatch),
    /// With two barriers, shards' hidden gradients are summed (C2).
    HiddenGradient(Microbatch),
    /// Shards' looked-up rows are summed for the first hop.
    Embedded(Microbatch),
    /// The gradient of the embedded rows goes to every shard.
    EmbeddedGradient(Microbatch),
    /// The gradients of the tied group of this number go to all ranks that hold a stage of it.
    Tied(usize),
    /// The norm of the gradients of this rank and those before it, for an optimistic update.
    PartialNorm(Rank),
    /// The gradients' global norm, which clips the update.
    Norm,
}

impl Dependencies {
    /// Number of actions.
    pub fn n_actions(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// The meetings; meeting `i` is node `n_actions() + i`.
    pub fn meetings(&self) -> &[Meeting] {
        &self.meetings
    }

    /// The nodes that node `i` waits for: actions and, if `i` is an action, meetings.
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
/// - `REDUCE_GRAD` waits for all `W` and `B` of its stage on its rank, `OPT` for these and for `REDUCE_GRAD`. For a stage
///   of a tied group it also waits until every rank has given its share, which is there at the last `I`, `W` or `B` of the
///   group on the rank's list ([`Schedule::tied_share`]). That replicas of one stage wait for each other is not told: the
///   schedule does not say who they are.
/// - `OPT` also waits for the norm over all ranks' gradients, which clips the update, and for the gradients of its rank's
///   vocabulary shard. A rank gives its part of the norm when it comes to its first update.
/// - `TRY_OPT` waits like `OPT`, but for the norm over the ranks up to its own; `VALIDATE` for `TRY_OPT` and the norm over
///   all ranks.
/// - Where the vocabulary is sharded: `VS` waits for the last hop's `F`, `VT` for all ranks' `VS`, the last hop's `I` or
///   `B` for all ranks' `VS` (one barrier) or `VT` (two); where the embedding is sharded too, the first hop's `F` for all
///   ranks' `IF`, `IB` for its `I` or `B`.
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
        let (meetings, members) = meetings(index);
        let node = |meeting: Meeting| meetings.binary_search(&meeting).ok().map(|i| (n_actions + i) as u32);
        let mut all = Self {
            starts: index.starts.clone(),
            ends: Vec::with_capacity(n_actions + meetings.len()),
            on: Vec::with_capacity(2 * n_actions),
            meetings: Vec::new(),
        };
        for (rank, action) in index.schedule.actions() {
            match action {
                Action::Visit { op, key } => {
                    all.on.extend(of_visit(index, op, key).into_iter().flatten());
                    all.on.extend(shared(index, op, key).and_then(node));
                }
                Action::Shard { op, microbatch } => all.on.extend(node(match op {
                    ShardOp::VocabForward => Meeting::Hidden(microbatch),
                    ShardOp::VocabBackward => Meeting::Softmax(microbatch),
                    ShardOp::EmbedBackward => Meeting::EmbeddedGradient(microbatch),
                    ShardOp::EmbedForward => {
                        all.ends.push(all.on.len() as u32);
                        continue;
                    }
                })),
                Action::Stage { op, stage } => {
                    of_update(index, rank, op, action, &mut all.on);
                    let group = || index.schedule.tied.iter().position(|group| group.contains(&stage));
                    all.on.extend(match op {
                        StageOp::ReduceGradients => group().and_then(|group| node(Meeting::Tied(group))),
                        StageOp::OptimizerStep | StageOp::PostValidate => node(Meeting::Norm),
                        StageOp::OptimisticStep => node(Meeting::PartialNorm(rank)),
                        _ => None,
                    });
                }
            }
            all.ends.push(all.on.len() as u32);
        }
        for members in members {
            all.on.extend(members);
            all.ends.push(all.on.len() as u32);
        }
        Self { meetings, ..all }
    }
}

/// The meetings in ascending order, each with the actions it waits for.
fn meetings(index: &Index) -> (Vec<Meeting>, Vec<Vec<u32>>) {
    let schedule = index.schedule;
    let mut all: Vec<(Meeting, Vec<u32>)> = Vec::new();
    let on_all_ranks = |op: ShardOp, microbatch: Microbatch| -> Vec<u32> {
        (0..schedule.n_ranks())
            .filter_map(|rank| index.find_shard(op, Rank(rank), microbatch))
            .map(|i| i as u32)
            .collect()
    };
    if let Some(vocabulary) = schedule.vocabulary {
        for (i, route) in schedule.routes.iter().enumerate() {
            let microbatch = Microbatch(i);
            let hidden = index.find_any(&FORWARD, Key::new(i, route.n_hops() - 1));
            all.push((Meeting::Hidden(microbatch), hidden.into_iter().map(|i| i as u32).collect()));
            all.push((Meeting::Softmax(microbatch), on_all_ranks(ShardOp::VocabForward, microbatch)));
            if vocabulary.algorithm == VocabularyAlgorithm::TwoBarriers {
                all.push((Meeting::HiddenGradient(microbatch), on_all_ranks(ShardOp::VocabBackward, microbatch)));
            }
            if vocabulary.input == InputLayer::Sharded {
                let gradient = index.find_any(&BACKWARD, Key::new(i, 0));
                all.push((Meeting::Embedded(microbatch), on_all_ranks(ShardOp::EmbedForward, microbatch)));
                let gradient = gradient.into_iter().map(|i| i as u32).collect();
                all.push((Meeting::EmbeddedGradient(microbatch), gradient));
            }
        }
    }
    all.extend(tied(index));
    let plays = |wanted: &[StageOp]| schedule.actions().any(|(_, action)| is_stage_op(action, wanted));
    if plays(&[StageOp::OptimizerStep, StageOp::OptimisticStep, StageOp::PostValidate]) {
        let parts: Vec<Vec<u32>> = (0..schedule.n_ranks()).map(|rank| part_of_norm(index, rank)).collect();
        if plays(&[StageOp::OptimisticStep]) {
            let up_to = |rank: usize| parts[..=rank].concat();
            all.extend((0..parts.len()).map(|rank| (Meeting::PartialNorm(Rank(rank)), up_to(rank))));
        }
        all.push((Meeting::Norm, parts.concat()));
    }
    all.sort();
    all.into_iter().unzip()
}

/// The meetings of tied groups that are reduced, each with the actions that complete the ranks' shares.
fn tied(index: &Index) -> Vec<(Meeting, Vec<u32>)> {
    let schedule = index.schedule;
    let is_reduced = |group: &[Stage]| {
        schedule.actions().any(|(_, action)| match action {
            Action::Stage { op: StageOp::ReduceGradients, stage } => group.contains(&stage),
            _ => false,
        })
    };
    let shares = |group: &[Stage]| {
        let positions = (0..schedule.n_ranks()).map(|rank| (rank, schedule.tied_share(Rank(rank), group)));
        positions.filter_map(|(rank, position)| Some((index.starts[rank] + position?) as u32)).collect()
    };
    let groups = schedule.tied.iter().enumerate().filter(|(_, group)| is_reduced(group));
    groups.map(|(number, group)| (Meeting::Tied(number), shares(group))).collect()
}

/// What a rank's part of the norm waits for: its last gradient, and what it plays before its first update. Sends are
/// handed over and not waited for.
fn part_of_norm(index: &Index, rank: usize) -> Vec<u32> {
    let list = &index.schedule.ranks[rank];
    let is_send = |action: Action| matches!(action, Action::Visit { op: Op::SendActivation | Op::SendGradient, .. });
    let updates = [StageOp::OptimizerStep, StageOp::OptimisticStep];
    let first = list.iter().position(|&action| is_stage_op(action, &updates));
    let before = first.and_then(|first| list[..first].iter().rposition(|&action| !is_send(action)));
    let gradient = list.iter().rposition(|&action| is_gradient(action));
    let mut positions: Vec<usize> = before.into_iter().chain(gradient).collect();
    positions.dedup();
    positions.into_iter().map(|position| (index.starts[rank] + position) as u32).collect()
}

fn is_stage_op(action: Action, wanted: &[StageOp]) -> bool {
    matches!(action, Action::Stage { op, .. } if wanted.contains(&op))
}

/// The meeting that a visit waits for, where the vocabulary is sharded.
fn shared(index: &Index, op: Op, key: Key) -> Option<Meeting> {
    let vocabulary = index.schedule.vocabulary?;
    match op {
        Op::Forward | Op::ForwardNoGrad if key.hop.0 == 0 => {
            (vocabulary.input == InputLayer::Sharded).then_some(Meeting::Embedded(key.microbatch))
        }
        Op::BackwardInput | Op::Backward if index.schedule.route(key).is_last(key.hop) => {
            Some(match vocabulary.algorithm {
                VocabularyAlgorithm::OneBarrier => Meeting::Softmax(key.microbatch),
                VocabularyAlgorithm::TwoBarriers => Meeting::HiddenGradient(key.microbatch),
            })
        }
        _ => None,
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
    };
    found.map(|i| i.map(|i| i as u32))
}

/// The gradients of a stage on its rank and, for its update, their reduction and those of the rank's shard.
fn of_update(index: &Index, rank: Rank, op: StageOp, action: Action, on: &mut Vec<u32>) {
    let schedule = index.schedule;
    let stage = schedule.stage(action);
    let updates = matches!(op, StageOp::OptimizerStep | StageOp::OptimisticStep);
    for (position, &other) in schedule.ranks[rank.0].iter().enumerate() {
        let is_awaited = match (op, other) {
            (StageOp::PostValidate, Action::Stage { op: StageOp::OptimisticStep, stage: other }) => other == stage,
            (StageOp::ReduceGradients | StageOp::OptimizerStep | StageOp::OptimisticStep, other) => match other {
                Action::Visit { op: Op::BackwardWeight | Op::Backward, .. } => schedule.stage(other) == stage,
                Action::Shard { op: ShardOp::VocabBackward | ShardOp::EmbedBackward, .. } => updates,
                Action::Stage { op: StageOp::ReduceGradients, stage: other } => updates && other == stage,
                Action::Visit { .. } | Action::Shard { .. } | Action::Stage { .. } => false,
            },
            _ => false,
        };
        if is_awaited {
            on.push((index.starts[rank.0] + position) as u32);
        }
    }
}

fn is_gradient(action: Action) -> bool {
    matches!(
        action,
        Action::Visit { op: Op::BackwardWeight | Op::Backward, .. }
            | Action::Shard { op: ShardOp::VocabBackward | ShardOp::EmbedBackward, .. }
            | Action::Stage { op: StageOp::ReduceGradients, .. }
    )
}
