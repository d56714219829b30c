//! Lists to choose from by what they take.

use crate::player::{Length, as_schedule, play};
use crate::retime::{Gap, refill};
use crate::{Action, PassTimes};

/// What lists are made for.
pub(crate) struct Course<'a> {
    /// Hop `i` of every microbatch lies on rank `rank_of[i]`.
    pub rank_of: &'a [usize],
    pub n_microbatches: usize,
    pub times: &'a PassTimes,
    /// Most memory that a rank may hold.
    pub limits: &'a [f64],
}

/// Lists that could be played, where they come from and how long they take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate<T> {
    pub lists: Vec<Vec<Action>>,
    pub length: Length,
    pub origin: T,
}

/// Where lists of a fixed order of `F` and `I` have their `W`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// Right after its `I`, as `B` would play it.
    AtOnce,
    /// Where there is time.
    Placed(Gap),
}

impl Weights {
    pub const ALL: [Weights; 4] =
        [Weights::Placed(Gap::Leave), Weights::Placed(Gap::Fill), Weights::Placed(Gap::FillHalf), Weights::AtOnce];
}

impl Course<'_> {
    /// What a message from one hop to its neighbour takes.
    pub fn message(&self, from: usize, to: usize) -> f64 {
        if self.rank_of[from] == self.rank_of[to] { 0.0 } else { self.times.message }
    }

    /// Lists as they stand.
    pub fn candidate<T>(&self, lists: Vec<Vec<Action>>, origin: T) -> Candidate<T> {
        let schedule = as_schedule(lists, self.rank_of, self.n_microbatches);
        Candidate { length: play(&schedule, self.times), lists: schedule.ranks, origin }
    }

    /// Lists that have every `W` right after its `I`, with them placed as asked.
    pub fn with_weights<T>(&self, lists: &[Vec<Action>], weights: Weights, origin: T) -> Candidate<T> {
        match weights {
            Weights::AtOnce => self.candidate(lists.to_vec(), origin),
            Weights::Placed(gap) => {
                let schedule = as_schedule(lists.to_vec(), self.rank_of, self.n_microbatches);
                let (placed, length) = refill(&schedule, self.times, self.limits, gap);
                Candidate { lists: placed.ranks, length, origin }
            }
        }
    }
}

/// The shortest by the longest span of a rank, then by the makespan; of equals the first.
pub(crate) fn shortest<T>(candidates: impl IntoIterator<Item = Candidate<T>>) -> Option<Candidate<T>> {
    candidates.into_iter().min_by(|a, b| a.length.partial_cmp(&b.length).expect("invariant: finite times"))
}
