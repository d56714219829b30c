//! What can be wrong with a schedule.

use crate::{Action, Op, Schedule};
use mesh::{Key, Rank, Stage};
use std::fmt;

/// Where an action stands in a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// On whose list.
    pub rank: Rank,
    /// How many actions stand before it.
    pub position: usize,
    /// The action as [`Schedule::label`] prints it.
    pub label: String,
}

impl Place {
    pub(crate) fn new(schedule: &Schedule, rank: Rank, position: usize) -> Self {
        let action = schedule.ranks[rank.0][position];
        let label = match action {
            Action::Visit { op, key } if schedule.visit(key).is_none() => format!("{op} of {key}"),
            action => schedule.label(action),
        };
        Self { rank, position, label }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (rank {}, position {})", self.label, self.rank, self.position)
    }
}

/// A schedule that cannot be made or cannot be played.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// Nothing to schedule.
    #[error("a schedule needs at least one microbatch")]
    NoMicrobatches,
    /// A tied stage whose partners would wait for ever.
    #[error(
        "stage {stage} shares weights with other stages, but the route does not visit it; let the route visit it or untie it"
    )]
    TiedNotVisited {
        /// Which stage.
        stage: Stage,
    },
    /// A stage named twice among the tied groups.
    #[error("stage {stage} is named twice among the groups of stages that share weights; join its groups into one")]
    TiedTwice {
        /// Which stage.
        stage: Stage,
    },
    /// More actions than an index of 32 bits can name.
    #[error("the schedule has {found} actions; at most {} can be handled", u32::MAX - 1)]
    TooLong {
        /// Number of actions.
        found: usize,
    },
    /// An action for a visit that does not exist.
    #[error("{place}: no route has {key}; the schedule has {n_microbatches} microbatches of {n_segments} segments")]
    UnknownVisit {
        /// Where.
        place: Place,
        /// The visit named.
        key: Key,
        /// Microbatches of the schedule.
        n_microbatches: usize,
        /// Segments of each.
        n_segments: usize,
    },
    /// An action on a rank that its route does not lead to.
    #[error("{place}: the route plays {key} on rank {wanted}")]
    WrongRank {
        /// Where.
        place: Place,
        /// The visit named.
        key: Key,
        /// Where the route goes.
        wanted: Rank,
    },
    /// An action that only its generator knows how to order.
    #[error("{place}: {op} passes have no order rules yet; leave them out")]
    Unordered {
        /// Where.
        place: Place,
        /// What.
        op: Op,
    },
    /// The same work twice.
    #[error("{place} repeats {first}; every visit is played once")]
    Repeated {
        /// The later one in rank order.
        place: Place,
        /// The earlier one.
        first: Place,
    },
    /// Work that is never done.
    #[error("rank {rank} lacks {what} of {key} (stage {stage})")]
    MissingVisit {
        /// Where it belongs.
        rank: Rank,
        /// The stage visited.
        stage: Stage,
        /// The visit.
        key: Key,
        /// What is missing.
        what: String,
    },
    /// A stage that gets gradients and no update, while others get one.
    #[error("rank {rank} lacks the optimizer step of stage {stage}, though other stages have theirs")]
    MissingStep {
        /// Where it belongs.
        rank: Rank,
        /// Which stage.
        stage: Stage,
    },
    /// A send or receive without its other half.
    #[error("{place} is without its other half: rank {rank} lacks {what} of {key}")]
    Unmatched {
        /// The half that is there.
        place: Place,
        /// Where the other half belongs.
        rank: Rank,
        /// What is missing.
        what: Op,
        /// The visit of the missing half.
        key: Key,
    },
    /// A message that goes nowhere.
    #[error("{place}: {why}; take it out")]
    NeedlessTransfer {
        /// Where.
        place: Place,
        /// Why no message is needed.
        why: &'static str,
    },
    /// An action before something it waits for on the same list.
    #[error("{place} stands before {waits_for}, which it waits for")]
    OutOfOrder {
        /// The one that stands too early.
        place: Place,
        /// What must be done first.
        waits_for: Place,
    },
    /// Actions that wait for each other in a circle.
    #[error("deadlock: {}", circle(.waiting))]
    Deadlock {
        /// Each waits for the next, the last for the first: as its input, or as the action before it on its list.
        waiting: Vec<Place>,
    },
}

fn circle(waiting: &[Place]) -> String {
    let names: Vec<String> = waiting.iter().chain(waiting.first()).map(Place::to_string).collect();
    names.join(" waits for ")
}
