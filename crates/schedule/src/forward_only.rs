//! Evaluation: every hop plays its forwards in order, keeping nothing.

use crate::{Action, Op, Schedule, ScheduleError};
use mesh::{Key, Route};

/// The forwards of `n_microbatches` along `route`: compute actions only, see
/// [`with_transfers`](crate::with_transfers). With p hops of equal cost F it takes (m + p - 1) F.
///
/// Ranks that hold several hops play them microbatch by microbatch in order of hops, which cannot deadlock: every
/// action waits only for actions of the same or an earlier microbatch.
///
/// # Errors
/// [`ScheduleError::NoMicrobatches`].
pub fn forward_only(route: &Route, n_microbatches: usize) -> Result<Schedule, ScheduleError> {
    if n_microbatches == 0 {
        return Err(ScheduleError::NoMicrobatches);
    }
    let n_ranks = route.visits().iter().map(|visit| visit.rank.0 + 1).max().unwrap_or(0);
    let mut ranks = vec![Vec::new(); n_ranks];
    for microbatch in 0..n_microbatches {
        for (hop, visit) in route.visits().iter().enumerate() {
            ranks[visit.rank.0].push(Action::visit(Op::ForwardNoGrad, Key::new(microbatch, hop)));
        }
    }
    Ok(Schedule { name: "forward only".to_owned(), routes: vec![route.clone(); n_microbatches], n_segments: 1, ranks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{validate, with_transfers};
    use mesh::{Rank, Stage, StageMap, Visit};

    #[test]
    fn every_route_can_be_evaluated() {
        let visit = |stage, rank| Visit { stage: Stage(stage), rank: Rank(rank) };
        let looped = Route::new(vec![visit(0, 0), visit(1, 1), visit(1, 1), visit(2, 0)]);
        for route in [StageMap::one_per_rank(3).route(), StageMap::looped(5, 2).route(), looped] {
            for n_microbatches in [1, 2, 7] {
                let schedule = with_transfers(&forward_only(&route, n_microbatches).unwrap());
                assert_eq!(validate(&schedule), Ok(()));
            }
        }
    }
}
