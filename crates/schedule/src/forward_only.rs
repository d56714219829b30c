//! Evaluation: every hop plays its forwards in order, keeping nothing.

use crate::{Action, InputLayer, Op, Schedule, ScheduleError, ShardOp, Vocabulary};
use mesh::{Key, Rank, Route};

/// The forwards of `n_microbatches` along `route`: compute actions only, see
/// [`with_transfers`](crate::with_transfers). With p hops of equal cost F it takes (m + p - 1) F.
///
/// Ranks that hold several hops play them microbatch by microbatch in order of hops, which cannot deadlock: every
/// action waits only for actions of the same or an earlier microbatch.
///
/// With a sharded `vocabulary`, every rank also looks up its rows (`IF`) of each microbatch before the first hop needs
/// them, and gives the statistics of its logits (`VS`) after the last hop made them: as many microbatches ahead of its own
/// forward, or behind it, as hops lie between, so that neither holds the pipeline up. An `IF` waits for nothing, and a
/// `VS` stands before forwards of later microbatches only, so that still nothing waits for a later microbatch.
///
/// # Errors
/// [`ScheduleError::NoMicrobatches`].
pub fn forward_only(
    route: &Route,
    n_microbatches: usize,
    vocabulary: Option<Vocabulary>,
) -> Result<Schedule, ScheduleError> {
    if n_microbatches == 0 {
        return Err(ScheduleError::NoMicrobatches);
    }
    let n_ranks = route.visits().iter().map(|visit| visit.rank.0 + 1).max().unwrap_or(0);
    Ok(Schedule {
        name: "forward only".to_owned(),
        routes: vec![route.clone(); n_microbatches],
        vocabulary,
        tied: Vec::new(),
        n_segments: 1,
        ranks: (0..n_ranks).map(|rank| list(route, Rank(rank), n_microbatches, vocabulary)).collect(),
    })
}

fn list(route: &Route, rank: Rank, n_microbatches: usize, vocabulary: Option<Vocabulary>) -> Vec<Action> {
    let visits = route.visits().iter().enumerate();
    let hops: Vec<usize> = visits.filter(|(_, visit)| visit.rank == rank).map(|(hop, _)| hop).collect();
    // In turns of this rank, which plays all its hops for every microbatch.
    let turns = |n_hops: usize| n_hops.div_ceil(hops.len().max(1));
    let ahead = turns(hops.first().copied().unwrap_or(0));
    let behind = turns(route.n_hops() - 1 - hops.last().copied().unwrap_or(route.n_hops() - 1));
    let looks_up = vocabulary.is_some_and(|vocabulary| vocabulary.input == InputLayer::Sharded);

    let mut list = Vec::new();
    let shard = |op, microbatches: std::ops::Range<usize>| {
        microbatches.filter(|&microbatch| microbatch < n_microbatches).map(move |i| Action::shard(op, i))
    };
    for microbatch in 0..n_microbatches {
        if looks_up {
            let from = if microbatch == 0 { 0 } else { microbatch + ahead };
            list.extend(shard(ShardOp::EmbedForward, from..microbatch + ahead + 1));
        }
        list.extend(hops.iter().map(|&hop| Action::visit(Op::ForwardNoGrad, Key::new(microbatch, hop))));
        if vocabulary.is_some() && microbatch >= behind {
            list.extend(shard(ShardOp::VocabForward, microbatch - behind..microbatch - behind + 1));
        }
    }
    if vocabulary.is_some() {
        list.extend(shard(ShardOp::VocabForward, n_microbatches.saturating_sub(behind)..n_microbatches));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{VocabularyAlgorithm, validate, with_transfers};
    use mesh::{Stage, StageMap, Visit};

    #[test]
    fn every_route_can_be_evaluated() {
        let visit = |stage, rank| Visit { stage: Stage(stage), rank: Rank(rank) };
        let looped = Route::new(vec![visit(0, 0), visit(1, 1), visit(1, 1), visit(2, 0)]);
        let skipping = Route::new(vec![visit(0, 3), visit(2, 0), visit(1, 3)]);
        let vocabulary = |input| Some(Vocabulary { algorithm: VocabularyAlgorithm::OneBarrier, input });
        let routes = [
            StageMap::one_per_rank(1).route(),
            StageMap::one_per_rank(3).route(),
            StageMap::looped(5, 2).route(),
            StageMap::looped(12, 4).route(),
            looped,
            skipping,
        ];
        for route in routes {
            for vocabulary in [None, vocabulary(InputLayer::FirstStage), vocabulary(InputLayer::Sharded)] {
                for n_microbatches in [1, 2, 7] {
                    let schedule = with_transfers(&forward_only(&route, n_microbatches, vocabulary).unwrap());
                    assert_eq!(validate(&schedule), Ok(()), "{schedule}");
                }
            }
        }
    }

    /// Three ranks: the last is two microbatches behind the first, and the statistics of a microbatch come when it ends.
    #[test]
    fn shards_keep_pace_with_the_pipeline() {
        let vocabulary = Vocabulary { algorithm: VocabularyAlgorithm::TwoBarriers, input: InputLayer::Sharded };
        let schedule = forward_only(&StageMap::one_per_rank(3).route(), 4, Some(vocabulary)).unwrap();
        let wanted = "forward only
rank 0: IF0 0E0 IF1 0E1 IF2 0E2 VS0 IF3 0E3 VS1 VS2 VS3
rank 1: IF0 IF1 1E0 IF2 1E1 VS0 IF3 1E2 VS1 1E3 VS2 VS3
rank 2: IF0 IF1 IF2 2E0 VS0 IF3 2E1 VS1 2E2 VS2 2E3 VS3
";
        assert_eq!(schedule.to_string(), wanted);
    }
}
