//! Where every action of a schedule stands.

use crate::error::Place;
use crate::{Action, InputLayer, Op, Schedule, ScheduleError, ShardOp};
use mesh::{Key, Microbatch, Rank};

const NOWHERE: u32 = u32::MAX;
const N_OPS: usize = 10;
const N_SHARD_OPS: usize = 4;

/// For each visit and operation the action that plays it, found in constant time. Actions are numbered rank by rank in
/// list order.
pub(crate) struct Index<'a> {
    pub schedule: &'a Schedule,
    /// `starts[r]` is the first action of rank `r`; the last entry is the number of actions.
    pub starts: Vec<usize>,
    /// First visit of each microbatch; the last entry is the number of visits.
    visits: Vec<usize>,
    /// `at[visit][op]`.
    at: Vec<[u32; N_OPS]>,
    /// `shards[rank * n_microbatches + microbatch][op]`; empty when the vocabulary is not sharded.
    shards: Vec<[u32; N_SHARD_OPS]>,
}

impl<'a> Index<'a> {
    /// The index of `schedule`, and every action that names no visit of it or repeats an earlier one.
    pub fn new(schedule: &'a Schedule) -> Result<(Self, Vec<ScheduleError>), ScheduleError> {
        let mut starts = vec![0];
        for list in &schedule.ranks {
            starts.push(starts[starts.len() - 1] + list.len());
        }
        let n_actions = starts[starts.len() - 1];
        if n_actions >= NOWHERE as usize {
            return Err(ScheduleError::TooLong { found: n_actions });
        }
        let mut visits = vec![0];
        for route in &schedule.routes {
            visits.push(visits[visits.len() - 1] + route.n_hops() * schedule.n_segments);
        }
        let n_shards = if schedule.vocabulary.is_some() { schedule.n_ranks() * schedule.n_microbatches() } else { 0 };
        let at = vec![[NOWHERE; N_OPS]; visits[visits.len() - 1]];
        let mut index = Self { schedule, starts, at, visits, shards: vec![[NOWHERE; N_SHARD_OPS]; n_shards] };
        let mut problems = Vec::new();
        for (i, (rank, action)) in schedule.actions().enumerate() {
            let slot = match action {
                Action::Visit { op, key } => match index.visit(key) {
                    Some(visit) => &mut index.at[visit][op as usize],
                    None => {
                        problems.push(ScheduleError::UnknownVisit {
                            place: index.place(i),
                            key,
                            n_microbatches: schedule.n_microbatches(),
                            n_segments: schedule.n_segments,
                        });
                        continue;
                    }
                },
                Action::Shard { op, microbatch } => {
                    if !shards(schedule).contains(&op) {
                        problems.push(ScheduleError::NoShard { place: index.place(i) });
                        continue;
                    }
                    if microbatch.0 >= schedule.n_microbatches() {
                        let n_microbatches = schedule.n_microbatches();
                        let place = index.place(i);
                        problems.push(ScheduleError::UnknownMicrobatch { place, microbatch, n_microbatches });
                        continue;
                    }
                    &mut index.shards[rank.0 * schedule.n_microbatches() + microbatch.0][op as usize]
                }
                Action::Stage { .. } => continue,
            };
            match *slot {
                NOWHERE => *slot = i as u32,
                first => {
                    problems.push(ScheduleError::Repeated { place: index.place(i), first: index.place(first as usize) })
                }
            }
        }
        Ok((index, problems))
    }

    /// The action that plays `op` on the shard of `rank` for `microbatch`, if any does.
    pub fn find_shard(&self, op: ShardOp, rank: Rank, microbatch: Microbatch) -> Option<usize> {
        match self.shards.get(rank.0 * self.schedule.n_microbatches() + microbatch.0)?[op as usize] {
            NOWHERE => None,
            i => Some(i as usize),
        }
    }

    /// The action that plays `op` on `key`, if any does.
    pub fn find(&self, op: Op, key: Key) -> Option<usize> {
        match self.at[self.visit(key)?][op as usize] {
            NOWHERE => None,
            i => Some(i as usize),
        }
    }

    /// The first of several operations that is played on `key`.
    pub fn find_any(&self, ops: &[Op], key: Key) -> Option<usize> {
        ops.iter().find_map(|&op| self.find(op, key))
    }

    /// Rank and position in its list of action `i`.
    pub fn rank_and_position(&self, i: usize) -> (Rank, usize) {
        // Ranks with empty lists share a start; the last of those is the one whose list holds `i`.
        let rank = self.starts.partition_point(|&start| start <= i) - 1;
        (Rank(rank), i - self.starts[rank])
    }

    /// Where action `i` stands.
    pub fn place(&self, i: usize) -> Place {
        let (rank, position) = self.rank_and_position(i);
        Place::new(self.schedule, rank, position)
    }

    fn visit(&self, key: Key) -> Option<usize> {
        let n_segments = self.schedule.n_segments;
        let route = self.schedule.routes.get(key.microbatch.0)?;
        let known = key.hop.0 < route.n_hops() && key.segment.0 < n_segments;
        known.then(|| self.visits[key.microbatch.0] + key.hop.0 * n_segments + key.segment.0)
    }
}

/// What every rank does on its vocabulary shard for every microbatch.
pub(crate) fn shards(schedule: &Schedule) -> &'static [ShardOp] {
    use ShardOp::{EmbedBackward, EmbedForward, VocabBackward, VocabForward};
    match schedule.vocabulary.map(|vocabulary| vocabulary.input) {
        None => &[],
        Some(InputLayer::FirstStage) => &[VocabForward, VocabBackward],
        Some(InputLayer::Sharded) => &[VocabForward, VocabBackward, EmbedForward, EmbedBackward],
    }
}
