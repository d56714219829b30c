//! Lists to choose from by what they take.

use crate::player::{Length, Player, as_schedule, duration};
use crate::retime::{Gap, Refill, refill};
use crate::{Action, Op, PassTimes};

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
        Candidate { length: self.length(&lists), lists, origin }
    }

    /// Lists that have every `W` right after its `I`, with them placed in every way.
    pub fn with_weights<T>(&self, lists: Vec<Vec<Action>>, origin: impl Fn(Weights) -> T) -> Vec<Candidate<T>> {
        let schedule = as_schedule(lists, self.rank_of, self.n_microbatches);
        let player = Player::new(&schedule, self.times);
        let refills = Refill::of_ranks(&player, self.limits);
        let with = |weights| match weights {
            Weights::AtOnce => self.candidate(schedule.ranks.clone(), origin(weights)),
            Weights::Placed(gap) => {
                let (placed, length) = refill(&player, refills.clone(), gap);
                Candidate { lists: placed.ranks, length, origin: origin(weights) }
            }
        };
        Weights::ALL.into_iter().map(with).collect()
    }

    /// What [`play`](crate::player::play) says of lists of `F`, `I` and `W`. Candidates are many: where every microbatch
    /// takes one route, what a pass waits for is found without an index of all actions.
    fn length(&self, lists: &[Vec<Action>]) -> Length {
        let never = vec![f64::INFINITY; self.rank_of.len() * self.n_microbatches];
        let (mut forward_end, mut backward_end) = (never.clone(), never);
        let mut next = vec![0; lists.len()];
        let mut clock = vec![0.0_f64; lists.len()];
        let mut begin: Vec<Option<f64>> = vec![None; lists.len()];
        let mut n_left: usize = lists.iter().map(Vec::len).sum();
        while n_left > 0 {
            let before = n_left;
            for (rank, list) in lists.iter().enumerate() {
                while let Some(&action) = list.get(next[rank]) {
                    let Action::Visit { op, key } = action else { unreachable!("invariant: lists of passes") };
                    let (hop, microbatch) = (key.hop.0, key.microbatch.0);
                    let at = |hop: usize| hop * self.n_microbatches + microbatch;
                    let ready = match op {
                        Op::Forward if hop == 0 => 0.0,
                        Op::Forward => forward_end[at(hop - 1)] + self.message(hop - 1, hop),
                        Op::BackwardInput if hop + 1 == self.rank_of.len() => forward_end[at(hop)],
                        Op::BackwardInput => {
                            forward_end[at(hop)].max(backward_end[at(hop + 1)] + self.message(hop, hop + 1))
                        }
                        _ => backward_end[at(hop)],
                    };
                    if !ready.is_finite() {
                        break;
                    }
                    let start = ready.max(clock[rank]);
                    begin[rank].get_or_insert(start);
                    clock[rank] = start + duration(action, self.times);
                    match op {
                        Op::Forward => forward_end[at(hop)] = clock[rank],
                        Op::BackwardInput => backward_end[at(hop)] = clock[rank],
                        _ => {}
                    }
                    next[rank] += 1;
                    n_left -= 1;
                }
            }
            assert!(n_left < before, "a validated schedule does not deadlock");
        }
        let spans = clock.iter().zip(&begin).map(|(end, begin)| end - begin.unwrap_or(*end));
        Length { span: spans.fold(0.0, f64::max), makespan: clock.iter().copied().fold(0.0, f64::max) }
    }
}

/// The shortest by the longest span of a rank, then by the makespan; of equals the first.
pub(crate) fn shortest<T>(candidates: impl IntoIterator<Item = Candidate<T>>) -> Option<Candidate<T>> {
    candidates.into_iter().min_by(|a, b| a.length.partial_cmp(&b.length).expect("invariant: finite times"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list_scheduler::{Heuristic, scheduled};
    use crate::player::play;
    use crate::v_pattern::ranks_of_v;

    /// Lengths without an index are those of the player, to the bit: of lists on a line and in a V, hops that differ, with
    /// and without messages, under every heuristic.
    #[test]
    fn lengths_are_those_of_the_player() {
        for (rank_of, message) in [((0..5).collect(), 0.0), ((0..5).collect(), 0.3), (ranks_of_v(3), 0.7)] {
            let n_hops = Vec::len(&rank_of);
            let by_hop = |base: f64, step: f64| (0..n_hops).map(|hop| base + step * (hop % 3) as f64).collect();
            let times = PassTimes {
                forward: by_hop(1.0, 0.11),
                backward_input: by_hop(1.3, 0.17),
                backward_weight: by_hop(0.7, 0.13),
                message,
                ..PassTimes::equal(n_hops)
            };
            let limits = vec![7.0; rank_of.iter().max().unwrap() + 1];
            let course = Course { rank_of: &rank_of, n_microbatches: 11, times: &times, limits: &limits };
            for heuristic in Heuristic::all() {
                let lists = scheduled(&course, heuristic);
                let schedule = as_schedule(lists.clone(), &rank_of, 11);
                assert_eq!(course.length(&lists), play(&schedule, &times), "{heuristic:?} on {rank_of:?}");
            }
        }
    }
}
