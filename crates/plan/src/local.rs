//! Plans for this program's own trainer: ranks of one process that share a machine's cores and memory.

use crate::balance::partition;
use crate::choice::{Choice, Chosen};
use crate::cost::{MicrobatchShape, Recompute, pass_times, stage_costs};
use architecture::Architecture;
use mesh::{Cores, Grid, Rank, StageMap};
use schedule::{Backward, Kind, Placement, Schedule, Spec};
use simulate::{Category, Costs, Timeline, bubbles, idle_fraction, simulate};

/// What is to be done, on which cores.
#[derive(Clone, Debug)]
pub struct LocalTask<'a> {
    /// The model.
    pub architecture: &'a Architecture,
    /// Rows of a step.
    pub rows: usize,
    /// Tokens of a row.
    pub tokens: usize,
    /// Cores that ranks share.
    pub cores: usize,
    /// Products a second on all cores.
    pub flops_per_s: f64,
    /// Bytes that all ranks together may hold.
    pub memory_bytes: u64,
}

/// A way to do it, and what it takes.
#[derive(Clone, Debug)]
pub struct LocalPlan {
    /// Blocks of every stage.
    pub sizes: Vec<usize>,
    /// Ranks.
    pub n_ranks: usize,
    /// The schedule.
    pub spec: Spec,
    /// Microbatches of a step.
    pub microbatches: usize,
    /// Of every stage.
    pub recompute: Recompute,
    /// Seconds of the passes; updates move memory and compute little.
    pub step_s: f64,
    /// Share of it in which ranks do nothing.
    pub bubble: f64,
    /// Peak bytes by rank.
    pub memory: Vec<u64>,
    /// The step.
    pub timeline: Timeline,
}

/// Ranks tried at most: more than so many in one process only wait for each other.
const RANKS_MAX: usize = 8;
/// Microbatches tried at most.
const MICROBATCHES_MAX: usize = 32;
/// Stages on a rank when the schedule loops over ranks.
const CHUNKS: usize = 2;

impl LocalPlan {
    /// Bytes of all ranks together.
    pub fn peak_bytes(&self) -> u64 {
        self.memory.iter().sum()
    }
}

/// All plans with `kinds`, fastest first; those that fit before those that do not. Of equals fewer ranks, then less memory.
pub fn local_plans(task: &LocalTask, kinds: &[Kind]) -> Vec<LocalPlan> {
    let n_blocks = task.architecture.blocks().len();
    let mut plans = Vec::new();
    for n_ranks in 1..=RANKS_MAX.min(n_blocks) {
        for &kind in kinds.iter().filter(|&&kind| n_ranks > 1 || kind == Kind::OneFOneB) {
            let per_rank = match kind.placement() {
                Placement::V => 2,
                Placement::Looped => CHUNKS,
                Placement::Any | Placement::OnePerRank => 1,
            };
            for microbatches in (1..=task.rows.min(MICROBATCHES_MAX)).filter(|&m| task.rows.is_multiple_of(m)) {
                for recompute in [Recompute::None, Recompute::Full] {
                    let backward = if kind.places_weight_passes() { Backward::Split } else { Backward::Fused };
                    let spec = Spec { kind, backward };
                    plans.extend(local_plan(task, spec, n_ranks, per_rank, microbatches, recompute));
                }
            }
        }
    }
    let fits = |plan: &LocalPlan| plan.peak_bytes() <= task.memory_bytes;
    plans.sort_by(|a, b| {
        let order = fits(b).cmp(&fits(a)).then(a.step_s.total_cmp(&b.step_s)).then(a.n_ranks.cmp(&b.n_ranks));
        order.then(a.peak_bytes().cmp(&b.peak_bytes()))
    });
    plans
}

/// `None` where there is no such schedule.
fn local_plan(
    task: &LocalTask,
    spec: Spec,
    n_ranks: usize,
    per_rank: usize,
    microbatches: usize,
    recompute: Recompute,
) -> Option<LocalPlan> {
    let n_stages = n_ranks * per_rank;
    let ranks = spec.kind.placement().ranks(n_stages, per_rank)?;
    let shape = MicrobatchShape { rows: task.rows / microbatches, tokens: task.tokens };
    let cut = partition(task.architecture, shape, n_stages, None).ok()?;
    // Whoever holds a permit computes on that permit's cores.
    let per_permit = task.flops_per_s / n_ranks.min(task.cores) as f64;
    let stages = stage_costs(task.architecture, &cut, shape, &vec![recompute; n_stages], None, per_permit);
    let grids = ranks.iter().map(|&rank| Grid::single(Rank(rank))).collect();
    let route = StageMap::new(grids).ok()?.route();
    let sum = |list: &[(Category, u64)]| list.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let beside: u64 = stages.iter().map(|stage| sum(&stage.resident) + sum(&stage.backward_scratch)).sum();
    let mut times = pass_times(&route, &stages);
    // Ranks share the memory; schedules that ask for a limit get an equal part of what is left for activations.
    times.memory_limit = match spec.kind {
        Kind::ZbAuto | Kind::ZbV => {
            let room = task.memory_bytes.saturating_sub(beside) as f64 / n_ranks as f64;
            let wanted = 2.0 * n_ranks as f64 * times.activation.iter().copied().fold(0.0, f64::max);
            (room < wanted).then_some(room)
        }
        _ => None,
    };
    let costs = Costs { stages, cores: vec![Cores::shared(n_ranks, task.cores)], ..Costs::default() };
    let above = |_: &Schedule, timeline: &Timeline| {
        let peak: u64 = (0..n_ranks).map(|rank| timeline.peak_bytes(Rank(rank))).sum();
        peak.saturating_sub(task.memory_bytes) as f64 / n_ranks as f64
    };
    let choice = Choice {
        spec,
        route: &route,
        n_microbatches: microbatches,
        tied: &[],
        times,
        costs: &costs,
        finish: &Ok,
        above: &above,
    };
    let Chosen { schedule, timeline } = choice.best().ok()?;
    let timeline = match timeline {
        Some(timeline) => timeline,
        None => simulate(&schedule, &costs).ok()?,
    };
    Some(LocalPlan {
        sizes: cut.stages().iter().map(|blocks| blocks.len()).collect(),
        n_ranks,
        spec,
        microbatches,
        recompute,
        step_s: timeline.makespan_s(),
        bubble: idle_fraction(&bubbles(&timeline, &costs)),
        memory: (0..n_ranks).map(|rank| timeline.peak_bytes(Rank(rank))).collect(),
        timeline,
    })
}
