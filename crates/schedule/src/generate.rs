//! From a specification to a schedule.

use crate::{
    Action, Kind, Op, PassTimes, Placement, Schedule, ScheduleError, StageOp, dualpipe_v, gpipe, interleaved,
    interleaved_zb, looped_bfs, one_f_one_b, split_backward, v_half, v_min, zb_auto, zb_h1, zb_h2, zb_v,
};
use mesh::{Key, Rank, Route, Stage};
use std::fmt;

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

/// The schedule of one training step for equal stages: [`generate_for`] with [`PassTimes::equal`].
///
/// # Errors
/// Those of [`generate_for`].
pub fn generate(
    spec: Spec,
    route: &Route,
    n_microbatches: usize,
    tied: &[Vec<Stage>],
) -> Result<Schedule, ScheduleError> {
    generate_for(spec, route, n_microbatches, tied, &PassTimes::equal(route.n_hops()))
}

/// The schedule of one training step: compute actions only, see [`with_transfers`](crate::with_transfers).
///
/// All microbatches take `route`, which must be laid out as the kind's [`Kind::placement`] says. For GPipe and 1F1B it
/// may skip stages, visit one twice or come back to a rank: a rank that occurs once on the route plays the published
/// list; the lists of a rank's several hops are merged by playing the route in unit time (a forward takes 1, a backward
/// 2): of the turns that could begin, a backward goes first, then the hop nearest the end of the route. The result
/// cannot deadlock, because what was played in time can be played again.
///
/// `times` are weighed by the kinds that choose between orders (`zb-auto`, `zb-v`, `v-half`, `v-min`); the others play
/// the same lists whatever things take. Kinds that place weight passes are always split.
///
/// Each list ends with [`StageOp::ReduceGradients`] for the rank's stages that occur in `tied` (groups of stages that
/// share weights), group by group, then [`StageOp::OptimizerStep`] for each of the rank's stages.
///
/// # Errors
/// [`ScheduleError::NoMicrobatches`]; [`ScheduleError::Placement`] when the route is laid out otherwise;
/// [`ScheduleError::TooFewMicrobatches`] and [`ScheduleError::MemoryLimit`] from kinds that need more;
/// [`ScheduleError::TiedNotVisited`] and [`ScheduleError::TiedTwice`] when `tied` names a stage that the route skips or
/// names one twice.
///
/// # Panics
/// When `times` are not those of as many hops as the route has.
pub fn generate_for(
    spec: Spec,
    route: &Route,
    n_microbatches: usize,
    tied: &[Vec<Stage>],
    times: &PassTimes,
) -> Result<Schedule, ScheduleError> {
    check_size(route, n_microbatches, times)?;
    let ranks = lists(spec.kind, route, n_microbatches, times)?;
    finished(spec, route, n_microbatches, tied, ranks)
}

/// 1F1B with split backward under `times.memory_limit`: each rank as many microbatches ahead as fit, and no more than
/// the rank before it. What [`Kind::ZbAuto`] is never slower than under `times`. Where something else counts that
/// `times` do not say (links that differ or that block), this may be the faster one: play both. Bears the name of
/// [`Kind::ZbAuto`], whose candidate it is.
///
/// # Errors
/// Those of [`generate_for`] for [`Kind::ZbAuto`].
///
/// # Panics
/// When `times` are not those of as many hops as the route has.
pub fn one_f_one_b_within(
    route: &Route,
    n_microbatches: usize,
    tied: &[Vec<Stage>],
    times: &PassTimes,
) -> Result<Schedule, ScheduleError> {
    check_size(route, n_microbatches, times)?;
    let order = ranks_in_order(Kind::ZbAuto, route)?;
    let in_order = zb_auto::plain(order.len(), n_microbatches, times)?;
    let spec = Spec { kind: Kind::ZbAuto, backward: Backward::Split };
    finished(spec, route, n_microbatches, tied, on_their_ranks(&order, in_order))
}

fn check_size(route: &Route, n_microbatches: usize, times: &PassTimes) -> Result<(), ScheduleError> {
    if n_microbatches == 0 {
        return Err(ScheduleError::NoMicrobatches);
    }
    assert_eq!(times.forward.len(), route.n_hops(), "pass times for every hop");
    Ok(())
}

/// The lists as a schedule, with work on stages at their ends.
fn finished(
    spec: Spec,
    route: &Route,
    n_microbatches: usize,
    tied: &[Vec<Stage>],
    ranks: Vec<Vec<Action>>,
) -> Result<Schedule, ScheduleError> {
    let in_order: Vec<Stage> = tied.iter().flatten().copied().collect();
    for (i, &stage) in in_order.iter().enumerate() {
        if in_order[..i].contains(&stage) {
            return Err(ScheduleError::TiedTwice { stage });
        }
        if route.visits().iter().all(|visit| visit.stage != stage) {
            return Err(ScheduleError::TiedNotVisited { stage });
        }
    }

    let name = spec.to_string();
    let routes = vec![route.clone(); n_microbatches];
    let schedule = Schedule { name, routes, vocabulary: None, tied: tied.to_vec(), n_segments: 1, ranks };
    let mut schedule = match spec.backward {
        Backward::Split => split_backward(&schedule),
        Backward::Fused => schedule,
    };
    for (rank, list) in schedule.ranks.iter_mut().enumerate() {
        let mut stages: Vec<Stage> =
            route.visits().iter().filter(|visit| visit.rank.0 == rank).map(|visit| visit.stage).collect();
        stages.sort();
        stages.dedup();
        let reduced = in_order.iter().filter(|stage| stages.contains(stage));
        list.extend(reduced.map(|&stage| Action::Stage { op: StageOp::ReduceGradients, stage }));
        list.extend(stages.iter().map(|&stage| Action::Stage { op: StageOp::OptimizerStep, stage }));
    }
    Ok(schedule)
}

/// What the ranks play, by rank.
fn lists(
    kind: Kind,
    route: &Route,
    n_microbatches: usize,
    times: &PassTimes,
) -> Result<Vec<Vec<Action>>, ScheduleError> {
    let order = ranks_in_order(kind, route)?;
    let (n_ranks, n_hops) = (order.len(), route.n_hops());
    let in_order = match kind {
        Kind::Gpipe => return Ok(by_hop(route, n_microbatches, |_| gpipe::turns(n_microbatches))),
        Kind::OneFOneB => {
            let turns = |n_messages_ahead| one_f_one_b::turns(n_microbatches, n_messages_ahead);
            return Ok(by_hop(route, n_microbatches, turns));
        }
        Kind::Interleaved => interleaved::lists(n_ranks, n_hops / n_ranks, n_microbatches),
        Kind::LoopedBfs => looped_bfs::lists(n_ranks, n_hops / n_ranks, n_microbatches),
        Kind::ZbH1 => zb_h1::lists(n_ranks, n_microbatches),
        Kind::ZbH2 => zb_h2::lists(n_ranks, n_microbatches),
        Kind::ZbAuto => zb_auto::lists(n_ranks, n_microbatches, times)?,
        Kind::InterleavedZb => interleaved_zb::lists(n_ranks, n_hops / n_ranks, n_microbatches),
        Kind::ZbV => zb_v::lists(n_ranks, n_microbatches, times)?,
        Kind::VHalf => v_half::lists(n_ranks, n_microbatches, times),
        Kind::VMin => v_min::lists(n_ranks, n_microbatches, times),
        Kind::DualPipeV => dualpipe_v::lists(n_ranks, n_microbatches)?,
    };
    Ok(on_their_ranks(&order, in_order))
}

/// Lists by position as lists by rank; `order` says which rank is where.
fn on_their_ranks(order: &[Rank], in_order: Vec<Vec<Action>>) -> Vec<Vec<Action>> {
    let mut lists = vec![Vec::new(); order.iter().map(|rank| rank.0 + 1).max().unwrap_or(0)];
    for (rank, list) in order.iter().zip(in_order) {
        lists[rank.0] = list;
    }
    lists
}

/// The ranks in the order that the route first visits them, when it is laid out as `kind` needs.
fn ranks_in_order(kind: Kind, route: &Route) -> Result<Vec<Rank>, ScheduleError> {
    let mut order: Vec<Rank> = Vec::new();
    for visit in route.visits() {
        if !order.contains(&visit.rank) {
            order.push(visit.rank);
        }
    }
    let n_ranks = order.len();
    let position = |hop: usize| match kind.placement() {
        Placement::Any => None,
        Placement::OnePerRank if hop < n_ranks => Some(hop),
        Placement::Looped => Some(hop % n_ranks),
        Placement::V if hop < n_ranks => Some(hop),
        Placement::V if hop < 2 * n_ranks => Some(2 * n_ranks - 1 - hop),
        Placement::OnePerRank | Placement::V => Some(usize::MAX),
    };
    let n_hops = match kind.placement() {
        Placement::Any => route.n_hops(),
        Placement::OnePerRank => n_ranks,
        Placement::Looped => route.n_hops().next_multiple_of(n_ranks),
        Placement::V => 2 * n_ranks,
    };
    let fits = |(hop, rank): (usize, Rank)| position(hop).is_none_or(|i| order.get(i) == Some(&rank));
    let ranks = || route.visits().iter().map(|visit| visit.rank);
    match n_hops == route.n_hops() && ranks().enumerate().all(fits) {
        true => Ok(order),
        false => Err(ScheduleError::Placement { kind, ranks: ranks().collect() }),
    }
}

/// The lists of a schedule that tells every hop its turns by the number of messages ahead of it on the route.
fn by_hop(route: &Route, n_microbatches: usize, turns: impl Fn(usize) -> Vec<Turn>) -> Vec<Vec<Action>> {
    let visits = route.visits();
    let mut n_messages_ahead = 0;
    let mut hops: Vec<Vec<Turn>> = Vec::new();
    for hop in (0..route.n_hops()).rev() {
        n_messages_ahead += visits.get(hop + 1).is_some_and(|next| next.rank != visits[hop].rank) as usize;
        hops.push(turns(n_messages_ahead));
    }
    hops.reverse();
    let merged = merge(route, &hops, n_microbatches).into_iter();
    merged.map(|turns| turns.into_iter().map(|(hop, turn)| turn.action(hop)).collect()).collect()
}

impl fmt::Display for Spec {
    /// The schedule's name as the field knows it, with what was chosen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let split = if self.kind.places_weight_passes() { Backward::Fused } else { self.backward };
        match split {
            Backward::Split => write!(f, "{}, split backward", self.kind),
            Backward::Fused => write!(f, "{}", self.kind),
        }
    }
}

/// What a hop does with one microbatch at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Forward of this microbatch.
    Forward(usize),
    /// Backward of this microbatch.
    Backward(usize),
}

impl Turn {
    pub(crate) fn action(self, hop: usize) -> Action {
        let (op, microbatch) = match self {
            Turn::Forward(microbatch) => (Op::Forward, microbatch),
            Turn::Backward(microbatch) => (Op::Backward, microbatch),
        };
        Action::visit(op, Key::new(microbatch, hop))
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
