//! What can keep a schedule from being simulated.

use mesh::{Rank, Stage};
use schedule::ScheduleError;

/// A schedule or costs that cannot be simulated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SimulateError {
    /// A schedule that the validator refuses.
    #[error("the schedule cannot be played: {}", joined(.problems))]
    Schedule {
        /// Everything found.
        problems: Vec<ScheduleError>,
    },
    /// A stage without costs.
    #[error("the schedule plays stage {stage}, but costs are given for {given} stages; give each stage its costs")]
    MissingStage {
        /// Which stage.
        stage: Stage,
        /// Number of stages that have costs.
        given: usize,
    },
    /// A vocabulary shard without costs.
    #[error(
        "the schedule shards the vocabulary, but costs of shards are given for {given} ranks, not for rank {rank}; give \
         each rank those of its shard"
    )]
    MissingShard {
        /// The first rank without.
        rank: Rank,
        /// Number of ranks that have costs.
        given: usize,
    },
    /// A duration that is negative, infinite or not a number.
    #[error("{what} takes {found} seconds; durations are finite and not negative")]
    Duration {
        /// Whose duration.
        what: String,
        /// The value given.
        found: f64,
    },
    /// A link that moves nothing.
    #[error("the link from rank {from} to rank {to} moves {found} bytes per second; give more than 0")]
    Bandwidth {
        /// Sender.
        from: Rank,
        /// Receiver.
        to: Rank,
        /// The value given.
        found: f64,
    },
    /// Two links for one direction.
    #[error("the link from rank {from} to rank {to} is given twice")]
    LinkTwice {
        /// Sender.
        from: Rank,
        /// Receiver.
        to: Rank,
    },
    /// Cores that nobody may use.
    #[error("a group of ranks shares 0 core permits; give at least 1")]
    NoPermits,
    /// A rank in two groups of cores.
    #[error("rank {rank} is in two groups of cores; a rank computes on one")]
    CoresTwice {
        /// Which rank.
        rank: Rank,
    },
}

fn joined(problems: &[ScheduleError]) -> String {
    let all: Vec<String> = problems.iter().map(ScheduleError::to_string).collect();
    all.join("; ")
}
