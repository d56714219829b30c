//! A layout made concrete: what every stage computes, keeps and sends.

use super::{Checkpointing, Layout, OptimizerState, Task};
use crate::PlanError;
use crate::balance::balance_unequal;
use crate::degrees::Batch;
use crate::footprint::{Footprint, kinds};
use crate::machine::{Collective, Device, Fabric, Machine, Path};
use crate::software::{BetweenProducts, Hops};
use crate::work::{AttentionPass, Clock, PassSeconds, Passes, Setting, Work};
use architecture::Block;
use simulate::{Category, StageCost};
use std::collections::BTreeMap;

/// Between what stages may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// Between the halves of a layer too.
    HalfLayers,
    /// Between layers; embedding and head count as one each.
    Layers,
    /// Between layers; the embedding is with the first, the head with the last.
    WholeLayers,
}

/// What a block takes and holds on a kind of device.
#[derive(Clone, Debug, Default)]
pub(crate) struct Costed {
    pub seconds: PassSeconds,
    /// Of these, seconds of collectives.
    pub collective_s: f64,
    /// Seconds of attention's scores in forward.
    pub scores_s: f64,
    pub footprint: Footprint,
    /// Bytes given to collectives in a microbatch.
    pub traffic_bytes: f64,
}

/// What all blocks take and hold on one kind of device.
#[derive(Clone, Debug)]
pub(crate) struct Catalogue {
    embedding: Costed,
    attention: BTreeMap<usize, Costed>,
    mlp: BTreeMap<usize, Costed>,
    head: Costed,
    kinds: Vec<usize>,
}

impl Catalogue {
    fn new(setting: &Setting, clock: &Clock, task: &Task) -> Self {
        let (model, hidden) = (&task.model, task.model.hidden_size);
        let kinds = kinds(&model.layers);
        let (mut attention, mut mlp) = (BTreeMap::new(), BTreeMap::new());
        for &kind in &kinds {
            let layer = &model.layers[kind];
            attention.entry(kind).or_insert_with(|| {
                let passes = setting.attention(&layer.attention, hidden);
                Costed::new(clock, &passes, setting.attention_footprint(&layer.attention, hidden))
            });
            mlp.entry(kind).or_insert_with(|| {
                Costed::new(clock, &setting.mlp(&layer.mlp, hidden), setting.mlp_footprint(&layer.mlp, hidden))
            });
        }
        let embedding = Costed::new(clock, &setting.embedding(hidden), setting.embedding_footprint(model));
        let head = Costed::new(clock, &setting.head(model), setting.head_footprint(model));
        Self { embedding, attention, mlp, head, kinds }
    }

    pub fn of(&self, block: Block) -> &Costed {
        match block {
            Block::Embedding => &self.embedding,
            Block::Attention(layer) => &self.attention[&self.kinds[layer]],
            Block::Mlp(layer) => &self.mlp[&self.kinds[layer]],
            Block::Head => &self.head,
        }
    }
}

impl Costed {
    fn new(clock: &Clock, passes: &Passes, footprint: Footprint) -> Self {
        let all = || passes.forward.iter().chain(&passes.input).chain(&passes.weight);
        let is_collective = |work: &&Work| matches!(work, Work::Collective { .. });
        let collective_s = all().filter(is_collective).map(|&work| clock.seconds(work)).sum();
        let traffic_bytes =
            all().map(|work| if let Work::Collective { bytes, .. } = work { *bytes } else { 0.0 }).sum();
        let is_scores =
            |work: &&Work| matches!(work, Work::Attention { pass: AttentionPass::Forward, .. } | Work::Grouped { .. });
        let scores_s = passes.forward.iter().filter(is_scores).map(|&work| clock.seconds(work)).sum();
        Self { seconds: clock.passes(passes), collective_s, scores_s, footprint, traffic_bytes }
    }
}

/// A layout of a task with everything that follows from it.
#[derive(Clone, Debug)]
pub struct StagePlan<'a> {
    pub(crate) task: &'a Task,
    pub(crate) layout: &'a Layout,
    pub(crate) microbatches: usize,
    /// Blocks of every stage.
    pub(crate) stages: Vec<Vec<Block>>,
    /// The pipeline rank of every stage.
    pub(crate) rank_of: Vec<usize>,
    /// By pipeline rank.
    pub(crate) catalogues: Vec<usize>,
    pub(crate) distinct: Vec<Catalogue>,
    /// Parameters of each pipeline rank.
    pub(crate) elements: Vec<Elements>,
    /// Bytes of a message between stages, on one rank.
    pub(crate) carry_bytes: u64,
}

/// Parameters on one rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elements {
    /// That every replica has.
    pub dense: u64,
    /// Of experts.
    pub expert: u64,
    /// Of these, a copy of the embedding for a tied head.
    pub tied: u64,
}

impl<'a> StagePlan<'a> {
    /// The layout on the task's machine.
    ///
    /// # Errors
    /// When the model, batch or machine cannot be divided so.
    pub fn new(task: &'a Task, layout: &'a Layout) -> Result<Self, PlanError> {
        let Task { model, machine, software, batch, granularity } = task;
        let degrees = layout.degrees;
        degrees.check(model, *batch)?;
        let refuse = |problem: String| PlanError::Degrees { degrees, problem };
        if degrees.n_devices() > machine.n_devices() {
            return Err(refuse(format!(
                "{} devices are needed, there are {}",
                degrees.n_devices(),
                machine.n_devices()
            )));
        }
        let microbatches = layout.microbatches(*batch).ok_or_else(|| {
            let rows = layout.microbatch_rows;
            refuse(format!(
                "{} rows do not divide over {} replicas in microbatches of {rows}",
                batch.rows, degrees.data
            ))
        })?;
        let setting =
            Setting { software, degrees, microbatch: Batch { rows: layout.microbatch_rows, tokens: batch.tokens } };
        let (catalogues, distinct) = catalogues(task, &setting);
        let n_stages = layout.n_stages();
        let kind = layout.spec.kind;
        let ranks = kind.placement().ranks(n_stages, layout.chunks);
        let rank_of = ranks.ok_or_else(|| refuse(format!("{kind} cannot have {n_stages} stages")))?;
        let units = units(model.layers.len(), *granularity);
        let sizes = match &layout.sizes {
            Some(sizes)
                if sizes.len() != n_stages || sizes.iter().sum::<usize>() != units.len() || sizes.contains(&0) =>
            {
                let n = units.len();
                return Err(refuse(format!("stages of {sizes:?} do not fit {n} pieces in {n_stages} stages")));
            }
            Some(sizes) => sizes.clone(),
            None if n_stages > units.len() => {
                return Err(refuse(format!("{n_stages} stages are more than the model's {} pieces", units.len())));
            }
            None => {
                let seconds: Vec<Vec<f64>> =
                    distinct.iter().map(|catalogue| unit_seconds(catalogue, &units, layout.recompute)).collect();
                let of_stage: Vec<&[f64]> = rank_of.iter().map(|&rank| seconds[catalogues[rank]].as_slice()).collect();
                balance_unequal(&of_stage)
            }
        };
        let mut rest = units.as_slice();
        let mut stages = Vec::with_capacity(n_stages);
        for size in sizes {
            let (head, tail) = rest.split_at(size);
            stages.push(head.concat());
            rest = tail;
        }
        let elements = elements(task, degrees.pipeline, &stages, &rank_of, &catalogues, &distinct);
        let tokens = match (software.between_products, software.hops) {
            (BetweenProducts::Split, _) => setting.tokens_between(),
            (BetweenProducts::Replicated, Hops::Scattered) => setting.tokens() / degrees.tensor,
            (BetweenProducts::Replicated, Hops::Whole) => setting.tokens(),
        };
        let carry_bytes = ((tokens * model.hidden_size) as f64 * software.precision.bytes()) as u64;
        Ok(Self { task, layout, microbatches, stages, rank_of, catalogues, distinct, elements, carry_bytes })
    }

    /// Whether `layout` has the same stages on the same ranks: then this is its plan too, but for the schedule.
    pub(crate) fn is_cut_for(&self, layout: &Layout) -> bool {
        let apart_from_schedule = Layout { spec: self.layout.spec, chunks: self.layout.chunks, ..layout.clone() };
        let ranks = layout.spec.kind.placement().ranks(layout.n_stages(), layout.chunks);
        apart_from_schedule == *self.layout && ranks.as_ref() == Some(&self.rank_of)
    }

    /// Seconds that no schedule and no cut of `layout` undercuts: all passes spread evenly over the ranks in proportion to
    /// their speed, every rank busy all the time.
    ///
    /// # Errors
    /// When the model or the batch cannot be divided so.
    pub(crate) fn even_bound(task: &Task, layout: &Layout) -> Result<f64, PlanError> {
        let degrees = layout.degrees;
        degrees.check(&task.model, task.batch)?;
        let problem = "the batch does not divide so".to_owned();
        let microbatches = layout.microbatches(task.batch).ok_or(PlanError::Degrees { degrees, problem })?;
        let microbatch = Batch { rows: layout.microbatch_rows, tokens: task.batch.tokens };
        let (of_rank, distinct) = catalogues(task, &Setting { software: &task.software, degrees, microbatch });
        let whole = |catalogue: &Catalogue| -> f64 {
            let units = units(task.model.layers.len(), Granularity::HalfLayers);
            unit_seconds(catalogue, &units, layout.recompute).iter().sum()
        };
        let whole: Vec<f64> = distinct.iter().map(whole).collect();
        let speed: f64 = of_rank.iter().map(|&catalogue| 1.0 / whole[catalogue]).sum();
        Ok(microbatches as f64 / speed)
    }

    pub(crate) fn catalogue(&self, rank: usize) -> &Catalogue {
        &self.distinct[self.catalogues[rank]]
    }

    /// The device kind of a pipeline rank: the slowest of those that hold its stages.
    pub(crate) fn device(&self, rank: usize) -> &Device {
        slowest_device(self.task, self.first_device(rank), self.layout.degrees.per_stage())
    }

    pub(crate) fn first_device(&self, rank: usize) -> usize {
        rank * self.layout.degrees.per_stage()
    }

    /// Seconds of a stage's passes for one microbatch.
    pub(crate) fn seconds(&self, stage: usize) -> PassSeconds {
        let catalogue = self.catalogue(self.rank_of[stage]);
        self.stages[stage].iter().fold(PassSeconds::default(), |sum, &block| sum.plus(catalogue.of(block).seconds))
    }

    /// Seconds that a stage computes again.
    pub(crate) fn recompute_s(&self, stage: usize) -> f64 {
        let catalogue = self.catalogue(self.rank_of[stage]);
        let of = |block: &Block| match (self.layout.recompute, block) {
            (Checkpointing::None, _) | (_, Block::Embedding | Block::Head) => 0.0,
            (Checkpointing::Scores, _) => catalogue.of(*block).scores_s,
            (Checkpointing::Layers, _) => catalogue.of(*block).seconds.forward,
        };
        self.stages[stage].iter().map(of).sum()
    }

    /// A stage for the simulator: seconds, what it keeps, and what is live while it works. Nothing is resident here.
    pub(crate) fn stage_cost(&self, stage: usize) -> StageCost {
        let seconds = self.seconds(stage);
        let recompute_s = self.recompute_s(stage);
        let (kept, logits, backward) = self.kept(stage);
        let is_last = stage + 1 == self.stages.len();
        StageCost {
            forward_s: seconds.forward,
            backward_input_s: seconds.input,
            backward_weight_s: seconds.weight,
            backward_s: seconds.input + seconds.weight,
            recompute_s,
            carry_bytes: if is_last { 0 } else { self.carry_bytes },
            activation_bytes: kept,
            logit_bytes: logits,
            // Half of what is kept, about: the inputs of products, and as much in output gradients that take the place of
            // the rest.
            weight_grad_bytes: kept / 2 + logits,
            backward_scratch: vec![(Category::Buffers, backward)],
            ..StageCost::default()
        }
    }

    /// Bytes that a stage keeps of a microbatch, its logits, and the most that backward holds beside them. Backward goes
    /// from the last block to the first; blocks passed hold nothing any more.
    fn kept(&self, stage: usize) -> (u64, u64, u64) {
        let catalogue = self.catalogue(self.rank_of[stage]);
        let blocks = &self.stages[stage];
        let recompute = self.layout.recompute;
        let kept_of = |at: usize, block: Block| {
            let footprint = &catalogue.of(block).footprint;
            match (recompute, block) {
                (Checkpointing::None, _) | (_, Block::Embedding | Block::Head) => footprint.kept_bytes,
                (Checkpointing::Scores, _) => footprint.kept_bytes - footprint.score_bytes,
                // An MLP is computed again together with its attention, from the layer's input.
                (Checkpointing::Layers, Block::Mlp(_)) if at > 0 => 0,
                (Checkpointing::Layers, _) => footprint.input_bytes,
            }
        };
        let kept: Vec<u64> = blocks.iter().enumerate().map(|(at, &block)| kept_of(at, block)).collect();
        let (total, mut behind) = (kept.iter().sum::<u64>(), 0);
        let mut widest = 0;
        let mut logits = 0;
        for (at, &block) in blocks.iter().enumerate().rev() {
            let footprint = &catalogue.of(block).footprint;
            let again = match (recompute, block) {
                (Checkpointing::Layers, Block::Mlp(layer)) => {
                    let attention = at.checked_sub(1).filter(|&before| blocks[before] == Block::Attention(layer));
                    let before =
                        attention.map_or(0, |before| catalogue.of(blocks[before]).footprint.kept_bytes - kept[before]);
                    footprint.kept_bytes - kept[at] + before
                }
                (_, _) => footprint.kept_bytes - kept[at],
            };
            widest = widest.max((footprint.backward_bytes + again).saturating_sub(behind));
            behind += kept[at] + footprint.logit_bytes;
            logits += footprint.logit_bytes;
        }
        (total, logits, widest)
    }

    /// Weights, gradients, optimizer and dummy gradients of a pipeline rank.
    pub(crate) fn resident(&self, rank: usize) -> Vec<(Category, u64)> {
        let software = &self.task.software;
        let degrees = self.layout.degrees;
        let Elements { dense, expert, .. } = self.elements[rank];
        let all = dense + expert;
        let (replicas, expert_replicas) = match self.layout.optimizer {
            OptimizerState::Replicated => (1, 1),
            OptimizerState::Sharded => (degrees.data * degrees.context, degrees.per_stage() / degrees.expert),
        };
        let optimizer =
            software.optimizer_bytes * (dense.div_ceil(replicas as u64) + expert.div_ceil(expert_replicas as u64));
        let mut shapes: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for (stage, _) in self.rank_of.iter().enumerate().filter(|&(_, &of)| of == rank) {
            for &block in &self.stages[stage] {
                shapes.extend(&self.catalogue(rank).of(block).footprint.dummy_gradients);
            }
        }
        vec![
            (Category::Weights, (all as f64 * software.precision.bytes()) as u64),
            (Category::Gradients, all * software.gradient_bytes),
            (Category::Optimizer, optimizer),
            (Category::Buffers, shapes.values().sum()),
        ]
    }

    /// Share of a rank's passes that are collectives.
    pub(crate) fn collective_share(&self, rank: usize) -> f64 {
        let catalogue = self.catalogue(rank);
        let blocks = || self.blocks_of(rank);
        let collective: f64 = blocks().map(|block| catalogue.of(block).collective_s).sum();
        let all: f64 = blocks().map(|block| catalogue.of(block).seconds.total()).sum();
        collective / all.max(f64::MIN_POSITIVE)
    }

    /// Bytes of a rank's collectives within layers, for one microbatch.
    pub(crate) fn traffic_bytes(&self, rank: usize) -> f64 {
        self.blocks_of(rank).map(|block| self.catalogue(rank).of(block).traffic_bytes).sum()
    }

    fn blocks_of(&self, rank: usize) -> impl Iterator<Item = Block> + '_ {
        let stages = self.rank_of.iter().enumerate().filter(move |&(_, &of)| of == rank);
        stages.flat_map(|(stage, _)| self.stages[stage].iter().copied())
    }

    /// Seconds of a message from one pipeline rank to another, with what is gathered on the other side.
    pub(crate) fn message_s(&self, from: usize, to: usize) -> (f64, f64) {
        let Task { machine, software, .. } = self.task;
        let degrees = self.layout.degrees;
        let (first, second) = (self.first_device(from), self.first_device(to));
        let hop = machine.path(first.min(second), 2, first.abs_diff(second));
        let latency_s = hop.between_latency_s;
        let mut seconds = machine.collective_s(Collective::PointToPoint, self.carry_bytes as f64, &hop);
        let is_gathered = software.between_products == BetweenProducts::Replicated && software.hops == Hops::Scattered;
        if is_gathered && degrees.tensor > 1 {
            let tensor = machine.path(second, degrees.tensor, 1);
            let whole = self.carry_bytes as f64 * degrees.tensor as f64;
            seconds += machine.collective_s(Collective::AllGather, whole, &tensor);
        }
        (seconds, latency_s)
    }
}

/// For each pipeline rank which catalogue, and the catalogues.
fn catalogues(task: &Task, setting: &Setting) -> (Vec<usize>, Vec<Catalogue>) {
    let degrees = setting.degrees;
    let mut distinct: Vec<Catalogue> = Vec::new();
    let mut known: Vec<(&Device, &Fabric, [Path; 3])> = Vec::new();
    let mut of_rank = Vec::with_capacity(degrees.pipeline);
    for rank in 0..degrees.pipeline {
        let first = rank * degrees.per_stage();
        let device = slowest_device(task, first, degrees.per_stage());
        let machine: &Machine = &task.machine;
        let paths = [
            machine.path(first, degrees.tensor, 1),
            machine.path(first, degrees.context, degrees.tensor),
            machine.path(first, degrees.expert, 1),
        ];
        let fabric = &machine.group_of(first).fabric;
        // Devices of one name may have other rates in another group.
        let is_same = |(of_device, of_fabric, of): &(&Device, &Fabric, [Path; 3])| {
            let alike = |a: &Path, b: &Path| Path { first: 0, ..*a } == Path { first: 0, ..*b };
            let is_one = std::ptr::eq(*of_device, device) && std::ptr::eq(*of_fabric, fabric);
            let are_equal = is_one || (*of_device == device && *of_fabric == fabric);
            are_equal && of.iter().zip(&paths).all(|(a, b)| alike(a, b))
        };
        let index = known.iter().position(is_same).unwrap_or_else(|| {
            let [tensor, context, expert] = paths;
            let clock = Clock { machine, device, software: &task.software, tensor, context, expert };
            distinct.push(Catalogue::new(setting, &clock, task));
            known.push((device, fabric, paths));
            known.len() - 1
        });
        of_rank.push(index);
    }
    (of_rank, distinct)
}

fn slowest_device(task: &Task, first: usize, n: usize) -> &Device {
    let precision = task.software.precision;
    let speed = |device: &Device| device.peak.of(precision) * device.efficiency.product;
    let mut begin = 0;
    let mut slowest: Option<&Device> = None;
    for group in &task.machine.nodes {
        let end = begin + group.count * group.devices;
        if begin < first + n && end > first && slowest.is_none_or(|found| speed(&group.device) < speed(found)) {
            slowest = Some(&group.device);
        }
        begin = end;
    }
    slowest.expect("invariant: devices were counted")
}

/// The pieces of a model of `n_layers` that a stage is made of.
pub(crate) fn units(n_layers: usize, granularity: Granularity) -> Vec<Vec<Block>> {
    let layer = |n: usize| vec![Block::Attention(n), Block::Mlp(n)];
    let mut units: Vec<Vec<Block>> = match granularity {
        Granularity::HalfLayers => (0..n_layers).flat_map(|n| layer(n).into_iter().map(|block| vec![block])).collect(),
        Granularity::Layers | Granularity::WholeLayers => (0..n_layers).map(layer).collect(),
    };
    match granularity {
        Granularity::HalfLayers | Granularity::Layers => {
            units.insert(0, vec![Block::Embedding]);
            units.push(vec![Block::Head]);
        }
        Granularity::WholeLayers => {
            if let Some(first) = units.first_mut() {
                first.insert(0, Block::Embedding);
            }
            if let Some(last) = units.last_mut() {
                last.push(Block::Head);
            }
        }
    }
    units
}

fn unit_seconds(catalogue: &Catalogue, units: &[Vec<Block>], recompute: Checkpointing) -> Vec<f64> {
    let of = |block: &Block| {
        let costed = catalogue.of(*block);
        let again = match (recompute, block) {
            (Checkpointing::None, _) | (_, Block::Embedding | Block::Head) => 0.0,
            (Checkpointing::Scores, _) => costed.scores_s,
            (Checkpointing::Layers, _) => costed.seconds.forward,
        };
        costed.seconds.total() + again
    };
    units.iter().map(|unit| unit.iter().map(of).sum()).collect()
}

fn elements(
    task: &Task,
    n_ranks: usize,
    stages: &[Vec<Block>],
    rank_of: &[usize],
    catalogues: &[usize],
    distinct: &[Catalogue],
) -> Vec<Elements> {
    let mut elements = vec![Elements::default(); n_ranks];
    for (stage, &rank) in rank_of.iter().enumerate() {
        for &block in &stages[stage] {
            let footprint = &distinct[catalogues[rank]].of(block).footprint;
            elements[rank].dense += footprint.dense_elements;
            elements[rank].expert += footprint.expert_elements;
        }
    }
    if task.model.is_tied {
        let (first, last) = (rank_of[0], rank_of[rank_of.len() - 1]);
        let embedding = distinct[catalogues[first]].of(Block::Embedding).footprint.dense_elements;
        let positions = (task.model.position_rows * task.model.hidden_size) as u64;
        let matrix = embedding - positions;
        if first == last { elements[first].dense -= matrix } else { elements[last].tied = matrix }
    }
    elements
}
