//! From a specification to a schedule.

use crate::{Action, Op, Schedule, ScheduleError, StageOp, gpipe, one_f_one_b};
use mesh::{Key, Route, Stage};

/// Which published schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// All forwards, then all backwards in reverse order (Huang et al., GPipe).
    Gpipe,
    /// One forward, one backward after a warm-up (PipeDream-Flush, Megatron-LM).
    OneFOneB,
}

/// How backward is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backward {
    /// `B`: input and weight gradients at once.
    Fused,
    /// `I` then `W`: the input gradient is sent before the weights' gradients are computed.
    Split,
}

/// A schedule asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Which.
    pub kind: Kind,
    /// How backward is played.
    pub backward: Backward,
}

/// The schedule of one training step: compute actions only, see [`with_transfers`](crate::with_transfers).
///
/// All microbatches take `route`, which may skip stages, visit one twice or come back to a rank. A rank that occurs
/// once on the route plays the published list. The lists of a rank's several hops are merged by playing the route in
/// unit time (a forward takes 1, a backward 2): of the turns that could begin, a backward goes first, then the hop
/// nearest the end of the route. The result cannot deadlock, because what was played in time can be played again.
///
/// Each list ends with [`StageOp::ReduceGradients`] for the rank's stages that occur in `tied` (groups of stages that
/// share weights), group by group so that ranks meet in the same order, then [`StageOp::OptimizerStep`] for each of
/// the rank's stages.
///
/// # Errors
/// [`ScheduleError::NoMicrobatches`]; [`ScheduleError::TiedNotVisited`] and [`ScheduleError::TiedTwice`] when `tied`
/// names a stage that the route skips or names one twice.
pub fn generate(
    spec: Spec,
    route: &Route,
    n_microbatches: usize,
    tied: &[Vec<Stage>],
) -> Result<Schedule, ScheduleError> {
    if n_microbatches == 0 {
        return Err(ScheduleError::NoMicrobatches);
    }
    let tied: Vec<Stage> = tied.iter().flatten().copied().collect();
    for (i, &stage) in tied.iter().enumerate() {
        if tied[..i].contains(&stage) {
            return Err(ScheduleError::TiedTwice { stage });
        }
        if route.visits().iter().all(|visit| visit.stage != stage) {
            return Err(ScheduleError::TiedNotVisited { stage });
        }
    }

    let mut n_messages_ahead = 0;
    let mut hops: Vec<Vec<Turn>> = Vec::new();
    for hop in (0..route.n_hops()).rev() {
        let visits = route.visits();
        n_messages_ahead += visits.get(hop + 1).is_some_and(|next| next.rank != visits[hop].rank) as usize;
        hops.push(match spec.kind {
            Kind::Gpipe => gpipe::turns(n_microbatches),
            Kind::OneFOneB => one_f_one_b::turns(n_microbatches, n_messages_ahead),
        });
    }
    hops.reverse();

    let mut ranks: Vec<Vec<Action>> = merge(route, &hops, n_microbatches)
        .into_iter()
        .map(|turns| turns.into_iter().flat_map(|(hop, turn)| turn.actions(hop, spec.backward)).collect())
        .collect();
    for (rank, list) in ranks.iter_mut().enumerate() {
        let mut stages: Vec<Stage> =
            route.visits().iter().filter(|visit| visit.rank.0 == rank).map(|visit| visit.stage).collect();
        stages.sort();
        stages.dedup();
        let reduced = tied.iter().filter(|stage| stages.contains(stage));
        list.extend(reduced.map(|&stage| Action::Stage { op: StageOp::ReduceGradients, stage }));
        list.extend(stages.iter().map(|&stage| Action::Stage { op: StageOp::OptimizerStep, stage }));
    }
    Ok(Schedule { name: spec.name().to_owned(), routes: vec![route.clone(); n_microbatches], n_segments: 1, ranks })
}

impl Spec {
    /// The schedule's name as the field knows it, with what was chosen.
    pub fn name(self) -> &'static str {
        match (self.kind, self.backward) {
            (Kind::Gpipe, Backward::Fused) => "GPipe",
            (Kind::Gpipe, Backward::Split) => "GPipe, split backward",
            (Kind::OneFOneB, Backward::Fused) => "1F1B",
            (Kind::OneFOneB, Backward::Split) => "1F1B, split backward",
        }
    }
}

/// What a hop does with one microbatch at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Forward of this microbatch.
    Forward(usize),
    /// Backward of this microbatch, fused or split.
    Backward(usize),
}

impl Turn {
    fn actions(self, hop: usize, backward: Backward) -> Vec<Action> {
        let (ops, microbatch): (&[Op], _) = match (self, backward) {
            (Turn::Forward(microbatch), _) => (&[Op::Forward], microbatch),
            (Turn::Backward(microbatch), Backward::Fused) => (&[Op::Backward], microbatch),
            (Turn::Backward(microbatch), Backward::Split) => (&[Op::BackwardInput, Op::BackwardWeight], microbatch),
        };
        ops.iter().map(|&op| Action::visit(op, Key::new(microbatch, hop))).collect()
    }
}

/// The lists of the hops, each in order, merged into one list per rank of (hop, turn).
fn merge(route: &Route, hops: &[Vec<Turn>], n_microbatches: usize) -> Vec<Vec<(usize, Turn)>> {
    let n_ranks = route.visits().iter().map(|visit| visit.rank.0 + 1).max().unwrap_or(0);
    let mut hops_of = vec![Vec::new(); n_ranks];
    for (hop, visit) in route.visits().iter().enumerate() {
        hops_of[visit.rank.0].push(hop);
    }
    const NOT_DONE: usize = usize::MAX;
    let mut forward_done = vec![vec![NOT_DONE; n_microbatches]; hops.len()];
    let mut backward_done = forward_done.clone();
    let mut next = vec![0; hops.len()];
    let mut free_at = vec![0; n_ranks];
    let mut merged = vec![Vec::new(); n_ranks];
    let mut n_left: usize = hops.iter().map(Vec::len).sum();
    let mut now = 0;
    while n_left > 0 {
        for rank in 0..n_ranks {
            if free_at[rank] > now {
                continue;
            }
            let can_begin = |hop: usize, turn: Turn| match turn {
                Turn::Forward(microbatch) => hop == 0 || forward_done[hop - 1][microbatch] <= now,
                Turn::Backward(microbatch) => {
                    forward_done[hop][microbatch] <= now
                        && (hop + 1 == hops.len() || backward_done[hop + 1][microbatch] <= now)
                }
            };
            let heads = hops_of[rank].iter().filter_map(|&hop| Some((hop, *hops[hop].get(next[hop])?)));
            let chosen = heads
                .filter(|&(hop, turn)| can_begin(hop, turn))
                .max_by_key(|&(hop, turn)| (matches!(turn, Turn::Backward(_)), hop));
            let Some((hop, turn)) = chosen else { continue };
            free_at[rank] = match turn {
                Turn::Forward(microbatch) => {
                    forward_done[hop][microbatch] = now + 1;
                    now + 1
                }
                Turn::Backward(microbatch) => {
                    backward_done[hop][microbatch] = now + 2;
                    now + 2
                }
            };
            next[hop] += 1;
            merged[rank].push((hop, turn));
            n_left -= 1;
        }
        now += 1;
    }
    merged
}
