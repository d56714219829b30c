//! The schedule value.

use crate::{Action, LabelParts, Op, ShardOp};
use mesh::{Key, Rank, Route, Stage, Visit};
use std::fmt;

/// One step of a pipeline: the routes of its microbatches and one list of actions per rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The schedule's name as the field knows it, with what was chosen ("1F1B, split backward").
    pub name: String,
    /// The route of microbatch `i`. Routes and their number may change from step to step.
    pub routes: Vec<Route>,
    /// How the vocabulary is sharded; `None` when the first stage has the whole embedding and the last the whole head.
    pub vocabulary: Option<Vocabulary>,
    /// Groups of stages that share weights, disjoint: `REDUCE_GRAD` sums their gradients over the ranks of the group.
    pub tied: Vec<Vec<Stage>>,
    /// Number of segments every sequence is cut into; 1 when it is not cut.
    pub n_segments: usize,
    /// `ranks[r]` is what rank `r` plays, in order.
    pub ranks: Vec<Vec<Action>>,
}

/// Vocabulary Parallelism: every rank of the schedule holds an equal part of the rows of the head, and of the
/// embedding where it is sharded too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vocabulary {
    /// How the head's passes are cut.
    pub algorithm: VocabularyAlgorithm,
    /// Who looks tokens up.
    pub input: InputLayer,
}

/// How often ranks meet for a microbatch's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VocabularyAlgorithm {
    /// Algorithm 2, "Vocab-2": the hidden gradient is complete after `VS`; `VT` may run any time later.
    OneBarrier,
    /// Algorithm 1, "Vocab-1": statistics are shared after `VS`, the hidden gradient is complete after `VT`.
    TwoBarriers,
}

/// Where the embedding lies when the head is sharded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputLayer {
    /// On the first stage, whole.
    FirstStage,
    /// Sharded like the head: `IF` and `IB` on every rank.
    Sharded,
}

impl Schedule {
    /// The visit named by `key`, if the routes have it.
    pub fn visit(&self, key: Key) -> Option<Visit> {
        self.routes.get(key.microbatch.0)?.get(key.hop)
    }

    /// The route of the microbatch of `key`.
    ///
    /// # Panics
    /// If there is no such microbatch; a validated schedule names only those it has.
    pub fn route(&self, key: Key) -> &Route {
        &self.routes[key.microbatch.0]
    }

    /// The stage that `action` works on; for work on a vocabulary shard the stage whose layer is sharded: that of the
    /// route's end for the head, of its begin for the embedding.
    ///
    /// # Panics
    /// If the action names a visit that no route has; a validated schedule does not.
    pub fn stage(&self, action: Action) -> Stage {
        match action {
            Action::Visit { key, .. } => self.visit(key).expect("invariant: validated schedule").stage,
            Action::Shard { op: ShardOp::VocabForward | ShardOp::VocabBackward, microbatch } => {
                self.routes[microbatch.0].visits().last().expect("invariant: a route visits a stage").stage
            }
            Action::Shard { microbatch, .. } => self.routes[microbatch.0].visits()[0].stage,
            Action::Stage { stage, .. } => stage,
        }
    }

    /// Where on `rank`'s list the gradients of a tied group are complete: the position of the last `I`, `W` or `B` of one
    /// of its stages. `None` when there is none. The rank's share of the group's sum is there when that action ends.
    ///
    /// # Panics
    /// If an action names a visit that no route has; a validated schedule does not.
    pub fn tied_share(&self, rank: Rank, group: &[Stage]) -> Option<usize> {
        let adds = |action: &Action| match *action {
            Action::Visit { op: Op::BackwardInput | Op::BackwardWeight | Op::Backward, .. } => {
                group.contains(&self.stage(*action))
            }
            Action::Visit { .. } | Action::Shard { .. } | Action::Stage { .. } => false,
        };
        self.ranks[rank.0].iter().rposition(adds)
    }

    /// Number of microbatches.
    pub fn n_microbatches(&self) -> usize {
        self.routes.len()
    }

    /// Number of ranks.
    pub fn n_ranks(&self) -> usize {
        self.ranks.len()
    }

    /// All actions with their rank, rank by rank in list order.
    pub fn actions(&self) -> impl Iterator<Item = (Rank, Action)> + '_ {
        self.ranks.iter().enumerate().flat_map(|(rank, list)| list.iter().map(move |&action| (Rank(rank), action)))
    }

    /// The same schedule with other lists.
    pub(crate) fn with_ranks(&self, ranks: Vec<Vec<Action>>) -> Self {
        Self {
            name: self.name.clone(),
            routes: self.routes.clone(),
            vocabulary: self.vocabulary,
            tied: self.tied.clone(),
            n_segments: self.n_segments,
            ranks,
        }
    }

    /// An action as text: `{stage}{op}{microbatch}` as torch.distributed.pipelining prints it, with `@hop` added when
    /// the route visits the stage more than once and `.segment` when sequences are cut.
    pub fn label(&self, action: Action) -> String {
        action.label(self.stage(action), self.label_parts(action))
    }

    /// What tells visits of one stage and microbatch apart in [`Schedule::label`].
    pub fn label_parts(&self, action: Action) -> LabelParts {
        let Action::Visit { key, .. } = action else { return LabelParts::default() };
        LabelParts { hop: self.route(key).comes_back_to(self.stage(action)), segment: self.n_segments > 1 }
    }
}

impl fmt::Display for Schedule {
    /// One line per rank, labels separated by spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        for (rank, list) in self.ranks.iter().enumerate() {
            let labels: Vec<String> = list.iter().map(|&action| self.label(action)).collect();
            writeln!(f, "rank {rank}: {}", labels.join(" "))?;
        }
        Ok(())
    }
}
