//! The passes that shard the vocabulary over all ranks.
//!
//! Yeung et al., *Balancing Pipeline Parallelism with Vocabulary Parallelism* (2024). The head (and the embedding) is
//! cut by rows into one shard per rank, so that no stage is longer than another. A microbatch's logits are then the
//! work of all ranks: a pass `VS`, a pass `VT` and one or two barriers between the last hop's forward and its backward.
//! The schedule's backwards move one repetition back per barrier to make room: a rank holds one or two more
//! microbatches (interleaved 1F1B two and a half with two barriers).
//!
//! Where the passes go: in 1F1B by the reference's rule (`one_f_one_b.rs`), elsewhere by time (`by_time.rs`); passes of
//! a sharded embedding by time everywhere (`input.rs`). The baseline that stops all ranks at the barriers is
//! `interlaced.rs`.

mod by_time;
mod input;
mod interlaced;
mod one_f_one_b;

pub use interlaced::interlaced;

use crate::player::duration;
use crate::{
    Action, InputLayer, Op, PassTimes, Schedule, ScheduleError, ShardOp, Vocabulary, VocabularyAlgorithm, validate,
};

/// The schedule with the vocabulary sharded over all its ranks: their passes on every list, and its own backwards late
/// enough that nobody waits at the barriers.
///
/// Plain 1F1B with one hop on every rank and backwards no shorter than forwards gets the reference's placement; its
/// peak on rank 0 is `p + 1` microbatches with one barrier and `p + 2` with two, for as many microbatches. Every other
/// training schedule gets the placement by time; of an evaluation, [`crate::forward_only()`] places the passes.
///
/// Meant for a generator's schedule, before other passes: sends and receives are taken out, work on stages stays in
/// order at the end of its list. Deterministic. `times` are those of the visits; passes of shards are taken to be equal on
/// all ranks, so that their length moves nothing. The result is valid whatever the times; with times far from the real
/// ones it only fits less well.
///
/// # Errors
/// The first of what [`validate`](crate::validate()) finds in `schedule`; [`ScheduleError::Evaluates`] when it evaluates.
///
/// # Panics
/// If the vocabulary is sharded already, or `times` lacks a hop.
pub fn with_vocabulary(
    schedule: &Schedule,
    vocabulary: Vocabulary,
    times: &PassTimes,
) -> Result<Schedule, ScheduleError> {
    let (visits, updates) = bare(schedule)?;
    let is_evaluated = |(_, action)| matches!(action, Action::Visit { op: Op::ForwardNoGrad, .. });
    if visits.actions().any(is_evaluated) {
        return Err(ScheduleError::Evaluates { name: schedule.name.clone() });
    }
    let head = Vocabulary { input: InputLayer::FirstStage, ..vocabulary };
    let placed = match one_f_one_b::place(&visits, head, times) {
        Some(placed) => placed,
        None => by_time::place(&visits, head, times),
    };
    let placed = match vocabulary.input {
        InputLayer::FirstStage => placed,
        InputLayer::Sharded => input::place(&placed, times),
    };
    let what = match vocabulary.algorithm {
        VocabularyAlgorithm::OneBarrier => "Vocab-2",
        VocabularyAlgorithm::TwoBarriers => "Vocab-1",
    };
    Ok(finished(placed, what, updates))
}

/// The schedule's compute visits, and apart from them the work on stages.
fn bare(schedule: &Schedule) -> Result<(Schedule, Vec<Vec<Action>>), ScheduleError> {
    assert!(schedule.vocabulary.is_none(), "the vocabulary of {} is sharded already", schedule.name);
    if let Some(problem) = validate(schedule).err().and_then(|problems| problems.into_iter().next()) {
        return Err(problem);
    }
    let compute = schedule.ranks.iter().map(|list| list.iter().copied().filter(|action| action.is_compute()));
    let is_visit = |action: &Action| matches!(action, Action::Visit { .. });
    let (visits, updates) = compute.map(|list| list.partition(is_visit)).unzip();
    Ok((schedule.with_ranks(visits), updates))
}

/// The placed schedule with its name and with the work on stages at the end of the lists.
fn finished(placed: Schedule, what: &str, updates: Vec<Vec<Action>>) -> Schedule {
    let input = match placed.vocabulary.map(|vocabulary| vocabulary.input) {
        Some(InputLayer::Sharded) => ", sharded embedding",
        _ => "",
    };
    let ranks = placed.ranks.into_iter().zip(updates).map(|(list, updates)| [list, updates].concat());
    Schedule { name: format!("{}, {what}{input}", placed.name), ranks: ranks.collect(), ..placed }
}

/// The repetition of the schedule's pattern: the visits of the busiest rank for one microbatch.
fn period(schedule: &Schedule, times: &PassTimes) -> f64 {
    let busy = schedule.ranks.iter().map(|list| list.iter().map(|&action| duration(action, times)).sum::<f64>());
    busy.fold(0.0, f64::max) / schedule.n_microbatches() as f64
}

/// What a rank plays when `VS` of one microbatch and `VT` of the one before go together: of `n` microbatches there are
/// `n + 1` such pairs, the first without `VT` and the last without `VS`.
fn pair(i: usize, n_microbatches: usize) -> impl Iterator<Item = Action> {
    let backward = i.checked_sub(1).filter(|&before| before < n_microbatches);
    let forward = (i < n_microbatches).then_some(i);
    let backward = backward.map(|before| Action::shard(ShardOp::VocabBackward, before));
    backward.into_iter().chain(forward.map(|i| Action::shard(ShardOp::VocabForward, i)))
}

impl VocabularyAlgorithm {
    /// How often ranks meet between the last hop's forward and its backward.
    pub fn n_barriers(self) -> usize {
        match self {
            VocabularyAlgorithm::OneBarrier => 1,
            VocabularyAlgorithm::TwoBarriers => 2,
        }
    }
}
