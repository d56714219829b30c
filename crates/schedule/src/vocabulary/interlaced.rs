//! The interlaced pipeline: vocabulary passes of all ranks at once, as in tensor parallelism.
//!
//! The baseline of the paper's section 6 (Lin et al., *nnScaler*, 2024, call it interlaced). All ranks play `VS` and
//! `VT` of a microbatch one right after the other at the same time and stand still at both barriers. Between two such
//! rounds each rank plays one forward and one backward: the last rank `B F`, the one before it `F B`, and so on in
//! turn. With `a` ranks after it, a rank plays backward of microbatch `j - a` and forward of `j + 1 + a / 2` (rounded
//! down) after round `j`: from one rank to the next back a forward is half a round earlier and a backward one later.
//!
//! Closed form: the first rank holds `3 p / 2` microbatches (rounded down), for as many microbatches.

use super::one_f_one_b::Plain;
use super::{bare, finished, input};
use crate::{Action, InputLayer, Op, PassTimes, Schedule, ScheduleError, ShardOp, Vocabulary, VocabularyAlgorithm};
use mesh::Key;

/// The interlaced schedule of a plain 1F1B schedule, with two barriers. `times` place the passes of a sharded
/// embedding; those of the head lie where they lie whatever things take. Work on stages stays at the end of its list.
///
/// # Errors
/// The first of what [`validate`](crate::validate()) finds in `schedule`; [`ScheduleError::NotInterlaced`] when it is
/// not 1F1B with one hop on every rank.
///
/// # Panics
/// If the vocabulary is sharded already, or `times` lacks a hop.
pub fn interlaced(schedule: &Schedule, input: InputLayer, times: &PassTimes) -> Result<Schedule, ScheduleError> {
    let (visits, updates) = bare(schedule)?;
    let Some(plain) = Plain::of(&visits) else {
        return Err(ScheduleError::NotInterlaced { name: schedule.name.clone() });
    };
    let (n_ranks, n_microbatches) = (visits.n_ranks(), visits.n_microbatches());
    let mut ranks = vec![Vec::new(); n_ranks];
    for (hop, &rank) in plain.rank_of_hop.iter().enumerate() {
        ranks[rank] = list(hop, n_ranks - 1 - hop, n_microbatches);
    }
    let vocabulary = Vocabulary { algorithm: VocabularyAlgorithm::TwoBarriers, input: InputLayer::FirstStage };
    let placed = plain.as_before(Schedule { vocabulary: Some(vocabulary), ranks, ..visits });
    let placed = match input {
        InputLayer::FirstStage => placed,
        InputLayer::Sharded => input::place(&placed, times),
    };
    Ok(finished(placed, "interlaced vocabulary", updates))
}

/// What a rank with `n_after` ranks after it plays.
fn list(hop: usize, n_after: usize, n_microbatches: usize) -> Vec<Action> {
    let exists = |i: &usize| *i < n_microbatches;
    let n_ahead = 1 + n_after / 2;
    let mut list: Vec<Action> = Vec::new();
    list.extend((0..n_ahead).filter(exists).map(|i| Action::visit(Op::Forward, Key::new(i, hop))));
    for round in 0..n_microbatches + n_after {
        if round < n_microbatches {
            list.extend([ShardOp::VocabForward, ShardOp::VocabBackward].map(|op| Action::shard(op, round)));
        }
        let forward = Some(round + n_ahead).filter(exists).map(|i| Action::visit(Op::Forward, Key::new(i, hop)));
        let backward = round.checked_sub(n_after).map(|i| Action::visit(Op::Backward, Key::new(i, hop)));
        match n_after % 2 {
            0 => list.extend(backward.into_iter().chain(forward)),
            _ => list.extend(forward.into_iter().chain(backward)),
        }
    }
    list
}
