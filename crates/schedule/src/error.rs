//! What can be wrong with a schedule.

use crate::{Action, Kind, Op, Placement, Schedule, ShardOp};
use mesh::{Key, Microbatch, Rank, Stage};
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
            Action::Shard { op, microbatch } => format!("{op}{microbatch}"),
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
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// Nothing to schedule.
    #[error("a schedule needs at least one microbatch")]
    NoMicrobatches,
    /// A tied stage that has nothing to give to its partners.
    #[error("stage {stage} shares weights with other stages, but no route trains it; let one visit it or untie it")]
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
    /// A route that the kind is not made for.
    #[error(
        "{kind} needs {}, but the stages lie on ranks {}; change the ranks or the schedule",
        wanted(*.kind),
        words(.ranks)
    )]
    Placement {
        /// Which schedule.
        kind: Kind,
        /// The route's ranks, hop by hop.
        ranks: Vec<Rank>,
    },
    /// A schedule that only works with more microbatches.
    #[error(
        "{kind} needs at least {wanted} microbatches on {n_ranks} ranks, not {found}; use more or another schedule"
    )]
    TooFewMicrobatches {
        /// Which schedule.
        kind: Kind,
        /// Number of ranks.
        n_ranks: usize,
        /// How many there are.
        found: usize,
        /// How many it needs.
        wanted: usize,
    },
    /// A memory limit under which nothing can run.
    #[error(
        "{kind}: one microbatch needs {wanted} of activation memory on rank {rank}, above the limit of {limit}; raise the \
         limit"
    )]
    MemoryLimit {
        /// Which schedule.
        kind: Kind,
        /// On which rank.
        rank: Rank,
        /// What one microbatch takes up there.
        wanted: f64,
        /// The most it may.
        limit: f64,
    },
    /// Work on a stage that its rank never visits.
    #[error("{place}: no route visits stage {stage} on rank {rank}; take it out or put it where the stage lies")]
    NotHere {
        /// Where.
        place: Place,
        /// Which stage.
        stage: Stage,
        /// The rank whose list names it.
        rank: Rank,
    },
    /// An update of a stage that gets no gradients.
    #[error("{place}: the stage gets no gradients in this schedule; take it out")]
    NothingToUpdate {
        /// Where.
        place: Place,
    },
    /// Some ranks wait for the global norm and others do not.
    #[error(
        "{barrier} waits for the global norm and {optimistic} does not; use OPT everywhere, or TRY_OPT and VALIDATE"
    )]
    MixedSteps {
        /// The first update with the global norm.
        barrier: Place,
        /// The first without.
        optimistic: Place,
    },
    /// Sequences that are cut, and a vocabulary that is sharded.
    #[error(
        "sequences are cut into {n_segments} segments, but vocabulary shards work on whole ones; choose one of the two"
    )]
    ShardedSegments {
        /// Segments of each sequence.
        n_segments: usize,
    },
    /// Work on a vocabulary shard in a schedule that does not shard the vocabulary.
    #[error("{place}: the schedule does not shard the vocabulary so; take it out or say how it is sharded")]
    NoShard {
        /// Where.
        place: Place,
    },
    /// A shard's work for a microbatch that does not exist.
    #[error("{place}: there is no microbatch {microbatch}; the schedule has {n_microbatches}")]
    UnknownMicrobatch {
        /// Where.
        place: Place,
        /// The microbatch named.
        microbatch: Microbatch,
        /// Microbatches of the schedule.
        n_microbatches: usize,
    },
    /// A shard's work that is never done.
    #[error("rank {rank} lacks {op} of microbatch {microbatch}; every rank works on its vocabulary shard")]
    MissingShard {
        /// Where it belongs.
        rank: Rank,
        /// What.
        op: ShardOp,
        /// For which microbatch.
        microbatch: Microbatch,
    },
    /// A schedule that the interlaced pipeline is not made of.
    #[error(
        "interlaced vocabulary passes need 1F1B with one stage on each rank, not {name}; use that or vocabulary \
         parallelism, which any schedule can have"
    )]
    NotInterlaced {
        /// The schedule's name.
        name: String,
    },
    /// An evaluation that is to be given a training's vocabulary passes.
    #[error(
        "{name} evaluates and has no backwards to make room for; `forward_only` shards the vocabulary of evaluations"
    )]
    Evaluates {
        /// The schedule's name.
        name: String,
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
    #[error(
        "rank {rank} lacks the optimizer step of stage {stage} (OPT, or TRY_OPT and VALIDATE), though other stages have \
         theirs"
    )]
    MissingStep {
        /// Where it belongs.
        rank: Rank,
        /// Which stage.
        stage: Stage,
    },
    /// A tied stage whose gradients are not summed with those of the others.
    #[error(
        "rank {rank} lacks REDUCE_GRAD of stage {stage}, which shares weights with {}; every rank of a tied group sums its \
         gradients",
        stages(.others)
    )]
    MissingReduction {
        /// Where it belongs.
        rank: Rank,
        /// Which stage.
        stage: Stage,
        /// The rest of its group.
        others: Vec<Stage>,
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
    /// A cell of a PyTorch pipeline file that does not fit.
    #[error("row {row}, column {column} of the pipeline file: found \"{found}\", wanted {wanted}")]
    PytorchCell {
        /// From 1, as editors count; the row of rank `r` is `r + 1`.
        row: usize,
        /// From 1.
        column: usize,
        /// The cell's text.
        found: String,
        /// What would fit.
        wanted: String,
    },
    /// A PyTorch pipeline file that leaves out a number.
    #[error("the pipeline file names {what} {found} but no {what} {wanted}; count from 0 without gaps")]
    PytorchGap {
        /// Stage or microbatch.
        what: &'static str,
        /// The first one left out.
        wanted: usize,
        /// The one after it.
        found: usize,
    },
    /// A schedule that PyTorch's pipeline files cannot tell.
    #[error("PyTorch's pipeline files have no words for {found}; they need {wanted}")]
    PytorchSchedule {
        /// What the schedule has.
        found: String,
        /// What PyTorch takes for granted.
        wanted: &'static str,
    },
    /// An action that PyTorch's pipeline files cannot tell.
    #[error("{place}: PyTorch's pipeline files have no such action; take it out")]
    PytorchAction {
        /// Where.
        place: Place,
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

fn wanted(kind: Kind) -> &'static str {
    match kind.placement() {
        Placement::Any => "any route",
        Placement::OnePerRank => "one stage on each rank",
        Placement::Looped => "the ranks in the same order again and again (0 1 0 1)",
        Placement::V => "two stages on each rank, down the ranks and back up (0 1 1 0)",
    }
}

fn stages(stages: &[Stage]) -> String {
    match stages {
        [] => "no other".to_owned(),
        [stage] => format!("stage {stage}"),
        _ => format!("stages {}", stages.iter().map(ToString::to_string).collect::<Vec<String>>().join(" ")),
    }
}

fn words(ranks: &[Rank]) -> String {
    let words: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    words.join(" ")
}
