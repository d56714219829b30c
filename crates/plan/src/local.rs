//! Plans for this program's own trainer: ranks of one process that share a machine's cores and memory.

use crate::balance::partition;
use crate::choice::{Choice, MOST_TRIES};
use crate::cost::{MicrobatchShape, Recompute, pass_times, stage_costs};
use crate::memory::{ELEMENT_BYTES, HEAD_CHUNK};
use crate::shards::block_cost;
use architecture::{Architecture, Block, BlockCost};
use mesh::{Cores, Grid, Rank, StageMap};
use schedule::{Action, Backward, Kind, Op, Placement, Schedule, Spec, StageOp};
use simulate::{Category, Costs, Timeline, bubbles, idle_fraction};

/// What is to be done, on which cores.
#[derive(Clone, Copy, Debug)]
pub struct LocalTask<'a> {
    /// The model.
    pub architecture: &'a Architecture,
    /// Rows of a step.
    pub rows: usize,
    /// Tokens of a row.
    pub tokens: usize,
    /// Cores that ranks share.
    pub cores: usize,
    /// How fast all cores together are.
    pub rates: LocalRates,
    /// Bytes that all ranks together may hold.
    pub memory_bytes: u64,
}

/// What all cores together do in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalRates {
    /// Operations of forward.
    pub forward_flops_per_s: f64,
    /// Operations of backward.
    pub backward_flops_per_s: f64,
    /// Bytes that updates move.
    pub update_bytes_per_s: f64,
    /// Bytes through memory, as the machine file has it: [`LocalRates::of_step`] keeps it.
    pub memory_bytes_per_s: f64,
}

/// A parameter, its gradient and two moments are read, and written or cleared, in 32 bits each.
const UPDATED_BYTES: u64 = 8;

/// Bytes of weights and their gradients that the passes of one microbatch move through memory, whatever its rows: this is
/// what small microbatches lose.
#[derive(Clone, Copy, Debug, Default)]
struct WeightBytes {
    forward: u64,
    input: u64,
    weight: u64,
}

impl WeightBytes {
    /// Forward and the input pass read the weights, the weight pass reads and writes the gradients' sum. A head does all
    /// three [`HEAD_CHUNK`] tokens at a time in its input pass. Of an embedding only the rows looked up move.
    fn of(architecture: &Architecture, blocks: &[Block], shape: MicrobatchShape) -> Self {
        blocks.iter().fold(Self::default(), |sum, &block| {
            let bytes = block_cost(architecture, block, shape, None).weight_elements * ELEMENT_BYTES;
            let chunks = (shape.rows * shape.tokens).div_ceil(HEAD_CHUNK) as u64;
            let [forward, input, weight] = match block {
                Block::Embedding => [0; 3],
                Block::Attention(_) | Block::Mlp(_) => [bytes, bytes, 2 * bytes],
                Block::Head => [0, 4 * bytes * chunks, 0],
            };
            Self { forward: sum.forward + forward, input: sum.input + input, weight: sum.weight + weight }
        })
    }
}

impl LocalRates {
    /// Fitted to a step of a run without recomputation, of the task as it was played by `n_ranks` of its ranks: operations of its passes over the seconds
    /// they took beyond moving weights, bytes of its updates over theirs. Classes without a span, or without more time than
    /// weights take, keep the rates of the task.
    pub fn of_step(task: &LocalTask, timeline: &Timeline) -> Self {
        let permits = timeline.n_ranks.min(task.cores) as f64;
        let microbatches = timeline.spans.iter().filter_map(|span| match span.action {
            Action::Visit { key, .. } => Some(key.microbatch.0 + 1),
            Action::Shard { .. } | Action::Stage { .. } => None,
        });
        let m = microbatches.max().unwrap_or(1);
        let shape = MicrobatchShape { rows: task.rows / m, tokens: task.tokens };
        let seconds = |wanted: &dyn Fn(Action) -> bool| -> f64 {
            let spans = timeline.spans.iter().filter(|span| wanted(span.action));
            spans.map(|span| span.end_s - span.start_s).sum::<f64>() / permits
        };
        let of_ops = |ops: &[Op]| seconds(&|action| matches!(action, Action::Visit { op, .. } if ops.contains(&op)));
        let forward_s = of_ops(&[Op::Forward]);
        let backward_s = of_ops(&[Op::Backward, Op::BackwardInput, Op::BackwardWeight]);
        let update_s = seconds(&|action| {
            matches!(action, Action::Stage { op: StageOp::OptimizerStep | StageOp::OptimisticStep, .. })
        });
        let blocks = task.architecture.blocks();
        let costs: Vec<_> = blocks.iter().map(|&block| block_cost(task.architecture, block, shape, None)).collect();
        let sum = |of: &dyn Fn(&BlockCost) -> u64| costs.iter().map(of).sum::<u64>() as f64 * m as f64;
        let forward = sum(&|cost| cost.total_forward_flops());
        let mut backward = sum(&|cost| cost.total_backward_input_flops() + cost.backward_weight_flops);
        let or = |found: f64, given: f64| if found.is_finite() && found > 0.0 { found } else { given };
        let moved = WeightBytes::of(task.architecture, &blocks, shape);
        let moving_s = |bytes: u64| (bytes * m as u64) as f64 / task.rates.memory_bytes_per_s;
        let forward_flops_per_s = or(forward / (forward_s - moving_s(moved.forward)), task.rates.forward_flops_per_s);
        let beside_s = moving_s(moved.input + moved.weight);
        if beside_s >= backward_s {
            backward = 0.0;
        }
        let parameters = task.architecture.n_parameters() as u64;
        Self {
            forward_flops_per_s,
            backward_flops_per_s: or(backward / (backward_s - beside_s), task.rates.backward_flops_per_s),
            update_bytes_per_s: or(
                (parameters * UPDATED_BYTES * ELEMENT_BYTES) as f64 / update_s,
                task.rates.update_bytes_per_s,
            ),
            memory_bytes_per_s: task.rates.memory_bytes_per_s,
        }
    }
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
    /// Seconds of a step.
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

/// Steps that differ by less than this share are alike to such a prediction.
const TIE: f64 = 0.02;

/// All plans with `kinds`, fastest first; those that fit before those that do not. Of those within a fiftieth of the fastest
/// of them fewer microbatches come first, then fewer ranks, then less memory.
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
    plans.sort_by(|a, b| fits(b).cmp(&fits(a)).then(a.step_s.total_cmp(&b.step_s)));
    let mut rest = plans.as_mut_slice();
    while let Some(first) = rest.first() {
        let (is_fitting, tied_s) = (fits(first), first.step_s * (1.0 + TIE));
        let n_tied = rest.partition_point(|plan| fits(plan) == is_fitting && plan.step_s <= tied_s);
        let (tied, others) = rest.split_at_mut(n_tied);
        tied.sort_by_key(|plan| (plan.microbatches, plan.n_ranks, plan.peak_bytes()));
        rest = others;
    }
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
    let permits = n_ranks.min(task.cores) as f64;
    let LocalRates { forward_flops_per_s, backward_flops_per_s, update_bytes_per_s, memory_bytes_per_s } = task.rates;
    let per_permit = forward_flops_per_s / permits;
    let mut stages = stage_costs(task.architecture, &cut, shape, &vec![recompute; n_stages], None, per_permit);
    let slower = forward_flops_per_s / backward_flops_per_s;
    for (stage, blocks) in stages.iter_mut().zip(cut.stages()) {
        for seconds in [&mut stage.backward_s, &mut stage.backward_input_s, &mut stage.backward_weight_s] {
            *seconds *= slower;
        }
        let moved = WeightBytes::of(task.architecture, blocks, shape);
        let moving_s = |bytes: u64| bytes as f64 / (memory_bytes_per_s / permits);
        // A stage that makes its forward in its backward has none.
        if stage.forward_s > 0.0 {
            stage.forward_s += moving_s(moved.forward);
        }
        stage.backward_input_s += moving_s(moved.input);
        stage.backward_weight_s += moving_s(moved.weight);
        stage.backward_s += moving_s(moved.input + moved.weight);
        if recompute == Recompute::Full {
            stage.recompute_s += moving_s(moved.forward);
        }
        let weights = stage.resident.iter().filter(|(category, _)| *category == Category::Weights);
        let bytes: u64 = weights.map(|(_, bytes)| bytes * UPDATED_BYTES).sum();
        stage.optimizer_s = bytes as f64 / (update_bytes_per_s / permits);
    }
    let grids = ranks.iter().map(|&rank| Grid::single(Rank(rank))).collect();
    let route = StageMap::new(grids).ok()?.route();
    let sum = |list: &[(Category, u64)]| list.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let beside: u64 = stages.iter().map(|stage| sum(&stage.resident) + sum(&stage.backward_scratch)).sum();
    let mut times = pass_times(&route, &stages);
    // Ranks share the memory; schedules that ask for a limit get an equal part of what is left for activations.
    times.memory_limit = spec.kind.unlimited(n_ranks).and_then(|unlimited| {
        let room = task.memory_bytes.saturating_sub(beside) as f64 / n_ranks as f64;
        let wanted = unlimited as f64 * times.activation.iter().copied().fold(0.0, f64::max);
        (room < wanted).then_some(room)
    });
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
        most_tries: MOST_TRIES,
        above: &above,
    };
    let timeline = choice.best().ok()?.played(&costs).ok()?;
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
