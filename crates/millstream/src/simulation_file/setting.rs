//! Everything that a simulation is told beside the schedule, and what it makes of one.

use super::costs::Shard;
use super::shape::on_all;
use super::{Links, Simulation};
use crate::units;
use mesh::{Cores, Rank, StageMap};
use schedule::{Backward, InputLayer, Kind, PassTimes, Schedule, ScheduleError, Vocabulary, VocabularyAlgorithm};
use simulate::{Category, Costs, MeetingCost, ShardCost, StageCost};
use std::fmt;

/// Machine, model and costs.
#[derive(Clone, Debug)]
pub struct Setting {
    pub n_ranks: usize,
    pub n_microbatches: usize,
    /// Stages on each rank, for schedules that hold any number of them.
    pub n_chunks: usize,
    pub backward: Backward,
    /// The model in order, in as many pieces as costs are given for.
    pub pieces: Vec<StageCost>,
    /// By rank; `None` when nothing is said about the vocabulary.
    pub shards: Option<Vec<Shard>>,
    /// Who looks tokens up when the vocabulary is sharded.
    pub input: InputLayer,
    pub collectives: MeetingCost,
    pub links: Links,
    /// Cores that the ranks share; `None`: every rank computes whenever it can.
    pub n_cores: Option<usize>,
    pub memory_limit: Option<MemoryLimit>,
}

/// The most memory that a rank may take up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryLimit {
    /// Activations of this many microbatches, in a rank's equal part of the model.
    Microbatches(f64),
    /// Everything, in bytes.
    Bytes(u64),
}

impl MemoryLimit {
    /// By how much a rank's peaks are above it, in its own unit; 0 when they are not. `activations` is in microbatches of
    /// a rank's equal part of the model.
    pub fn above(self, activations: f64, bytes: u64) -> f64 {
        let (found, limit, tolerance) = match self {
            // Sums of shares are a rounding error off.
            MemoryLimit::Microbatches(limit) => (activations, limit, 1e-9 * limit),
            MemoryLimit::Bytes(limit) => (bytes as f64, limit as f64, 0.0),
        };
        if found > limit + tolerance { found - limit } else { 0.0 }
    }

    /// An amount in its unit.
    pub fn amount(self, amount: f64) -> String {
        match self {
            MemoryLimit::Microbatches(_) => format!("{amount:.2}"),
            MemoryLimit::Bytes(_) => units::bytes(amount as u64),
        }
    }
}

impl fmt::Display for MemoryLimit {
    /// The limit with its unit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryLimit::Microbatches(limit) => write!(f, "{limit} microbatches"),
            MemoryLimit::Bytes(limit) => f.write_str(&units::bytes(*limit)),
        }
    }
}

/// Who works on the head's and the embedding's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VocabularyMode {
    /// The last stage has the whole head and the first the whole embedding.
    Whole,
    /// Every rank has a shard, whose work is part of its backward.
    InBackward,
    /// Every rank has a shard and plays its passes between those of its stages.
    Sharded(VocabularyAlgorithm),
    /// Every rank has a shard, and all play its passes at the same time.
    Interlaced,
}

/// A rank's two passes over its shard of the head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ShardPasses {
    /// `VS` and `VT` together, in seconds. Three products of matrices, of which `VS` does two with one barrier and one
    /// with two.
    Together(f64),
    /// `VS` and `VT`, in seconds.
    Apart([f64; 2]),
}

impl Setting {
    /// Where a schedule of `kind` has its stages, on all ranks.
    pub fn stage_map(&self, kind: Kind) -> StageMap {
        on_all(kind, self.n_ranks, self.n_chunks)
    }

    /// The simulation of a schedule that is there already.
    ///
    /// # Errors
    /// When the schedule is not made for this treatment of the vocabulary.
    pub fn simulation_of(
        &self,
        schedule: Schedule,
        vocabulary: VocabularyMode,
        stage_map: StageMap,
    ) -> Result<Simulation, ScheduleError> {
        let planned = self.planned(vocabulary, &stage_map);
        let costs = self.costs(vocabulary, &planned);
        let schedule = self.with_vocabulary(schedule, vocabulary, &planned)?;
        Ok(self.simulation_from(schedule, &stage_map, &costs, &planned))
    }

    pub(super) fn planned(&self, vocabulary: VocabularyMode, stage_map: &StageMap) -> Planned {
        let stages = self.stage_costs(stage_map, vocabulary);
        let activations = self.activations(&stages);
        let times = self.pass_times(&stages, &activations, stage_map, vocabulary);
        Planned { stages, activations, times }
    }

    /// With the passes of the vocabulary's shards.
    pub(super) fn with_vocabulary(
        &self,
        schedule: Schedule,
        vocabulary: VocabularyMode,
        planned: &Planned,
    ) -> Result<Schedule, ScheduleError> {
        match vocabulary {
            VocabularyMode::Whole | VocabularyMode::InBackward => Ok(schedule),
            VocabularyMode::Sharded(algorithm) => {
                schedule::with_vocabulary(&schedule, Vocabulary { algorithm, input: self.input }, &planned.times)
            }
            VocabularyMode::Interlaced => schedule::interlaced(&schedule, self.input, &planned.times),
        }
    }

    pub(super) fn costs(&self, vocabulary: VocabularyMode, planned: &Planned) -> Costs {
        let shards = match vocabulary {
            VocabularyMode::Whole | VocabularyMode::InBackward => Vec::new(),
            VocabularyMode::Sharded(algorithm) => self.shard_costs(algorithm),
            VocabularyMode::Interlaced => self.shard_costs(VocabularyAlgorithm::TwoBarriers),
        };
        let cores = self.n_cores.map(|n_cores| Cores::shared(self.n_ranks, n_cores));
        Costs {
            stages: planned.stages.clone(),
            shards,
            meetings: self.collectives,
            links: self.links.of(self.n_ranks),
            communication: self.links.communication,
            cores: cores.into_iter().collect(),
        }
    }

    pub(super) fn simulation_from(
        &self,
        schedule: Schedule,
        stage_map: &StageMap,
        costs: &Costs,
        planned: &Planned,
    ) -> Simulation {
        Simulation {
            schedule,
            stage_map: stage_map.clone(),
            costs: costs.clone(),
            activations: planned.activations.clone(),
            memory_limit: self.memory_limit,
        }
    }

    fn pass_times(
        &self,
        stages: &[StageCost],
        activations: &[Activation],
        stage_map: &StageMap,
        vocabulary: VocabularyMode,
    ) -> PassTimes {
        let route = stage_map.route();
        let hops = route.visits().windows(2).filter(|pair| pair[0].rank != pair[1].rank);
        let messages =
            hops.map(|pair| self.links.message_s(pair[0].rank, pair[1].rank, stages[pair[0].stage.0].carry_bytes));
        let resident = |rank: usize| -> u64 {
            let own = stage_map.stages_on(Rank(rank)).into_iter().flat_map(|stage| &stages[stage.0].resident);
            let shard = self.shards.as_ref().filter(|_| vocabulary.n_barriers() > 0);
            own.map(|(_, bytes)| bytes).sum::<u64>() + shard.map_or(0, |shards| shards[rank].resident_bytes)
        };
        let microbatch_bytes = self.microbatch_bytes();
        let memory_limit = self.memory_limit.map(|limit| match limit {
            MemoryLimit::Microbatches(limit) => limit,
            MemoryLimit::Bytes(limit) => {
                let resident = (0..self.n_ranks).map(resident).max().unwrap_or(0);
                limit.saturating_sub(resident) as f64 / microbatch_bytes
            }
        });
        // They live and go with the activations; a limit in microbatches is one of activations alone.
        let logits = |stage: &StageCost| match self.memory_limit {
            Some(MemoryLimit::Bytes(_)) => stage.logit_bytes as f64 / microbatch_bytes,
            Some(MemoryLimit::Microbatches(_)) | None => 0.0,
        };
        PassTimes {
            forward: stages.iter().map(|stage| stage.forward_s).collect(),
            backward_input: stages.iter().map(|stage| stage.backward_input_s + stage.recompute_s).collect(),
            backward_weight: stages.iter().map(|stage| stage.backward_weight_s).collect(),
            message: messages.fold(0.0, f64::max),
            activation: activations
                .iter()
                .zip(stages)
                .map(|(activation, stage)| activation.whole + logits(stage))
                .collect(),
            kept_for_weight: activations.iter().map(|activation| activation.for_weight).collect(),
            memory_limit,
        }
    }

    /// What each stage keeps of a microbatch, where 1 is what a rank keeps of it when all have an equal part of the
    /// model. Without bytes, stages keep the same, and half of it until the backward of the weights.
    fn activations(&self, stages: &[StageCost]) -> Vec<Activation> {
        let microbatch_bytes = self.microbatch_bytes();
        let equal = self.n_ranks as f64 / stages.len() as f64;
        let activation = |stage: &StageCost| match microbatch_bytes > 0.0 {
            true => Activation {
                whole: stage.activation_bytes as f64 / microbatch_bytes,
                for_weight: stage.weight_grad_bytes as f64 / microbatch_bytes,
            },
            false => Activation { whole: equal, for_weight: equal / 2.0 },
        };
        stages.iter().map(activation).collect()
    }

    /// Bytes of activations of a microbatch in a rank's equal part of the model; 0 when none are given.
    pub(super) fn microbatch_bytes(&self) -> f64 {
        self.pieces.iter().map(|piece| piece.activation_bytes).sum::<u64>() as f64 / self.n_ranks as f64
    }

    fn stage_costs(&self, stage_map: &StageMap, vocabulary: VocabularyMode) -> Vec<StageCost> {
        let mut stages = cut_anew(&self.pieces, stage_map.n_stages());
        let Some(shards) = &self.shards else { return stages };
        match vocabulary {
            VocabularyMode::Sharded(_) | VocabularyMode::Interlaced => {
                if self.input == InputLayer::FirstStage {
                    add_embedding(&mut stages[0], shards);
                }
            }
            VocabularyMode::Whole => {
                add_embedding(&mut stages[0], shards);
                add_head(stages.last_mut().expect("invariant: at least one stage"), shards);
            }
            VocabularyMode::InBackward => {
                for (rank, shard) in shards.iter().enumerate() {
                    let own = stage_map.stages_on(Rank(rank));
                    let share_s = (shard.passes.sum_s() + shard.embedding_s.iter().sum::<f64>()) / own.len() as f64;
                    stages[own[0].0].logit_bytes += shard.logit_bytes;
                    stages[own[0].0].resident.push((Category::Weights, shard.resident_bytes));
                    for stage in own {
                        stages[stage.0].backward_s += share_s;
                        stages[stage.0].backward_input_s += share_s;
                    }
                }
            }
        }
        stages
    }

    fn shard_costs(&self, algorithm: VocabularyAlgorithm) -> Vec<ShardCost> {
        let cost = |shard: &Shard| {
            let [forward_s, backward_s] = shard.passes.in_algorithm(algorithm);
            let [embed_forward_s, embed_backward_s] = shard.embedding_s;
            ShardCost {
                forward_s,
                backward_s,
                embed_forward_s,
                embed_backward_s,
                logit_bytes: shard.logit_bytes,
                resident: vec![(Category::Weights, shard.resident_bytes)],
                ..ShardCost::default()
            }
        };
        self.shards.iter().flatten().map(cost).collect()
    }
}

/// What a schedule is made from.
#[derive(Clone)]
pub(super) struct Planned {
    pub stages: Vec<StageCost>,
    pub activations: Vec<Activation>,
    pub times: PassTimes,
}

/// What a stage keeps of a microbatch, in microbatches of a rank's equal part of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Activation {
    /// From forward on.
    pub whole: f64,
    /// Of these, until the backward of the weights.
    pub for_weight: f64,
}

impl VocabularyMode {
    pub(super) fn n_barriers(self) -> usize {
        match self {
            VocabularyMode::Whole | VocabularyMode::InBackward => 0,
            VocabularyMode::Sharded(algorithm) => algorithm.n_barriers(),
            VocabularyMode::Interlaced => VocabularyAlgorithm::TwoBarriers.n_barriers(),
        }
    }
}

impl ShardPasses {
    fn sum_s(self) -> f64 {
        match self {
            ShardPasses::Together(sum_s) => sum_s,
            ShardPasses::Apart([forward_s, backward_s]) => forward_s + backward_s,
        }
    }

    fn in_algorithm(self, algorithm: VocabularyAlgorithm) -> [f64; 2] {
        match (self, algorithm) {
            (ShardPasses::Apart(passes_s), _) => passes_s,
            (ShardPasses::Together(sum_s), VocabularyAlgorithm::OneBarrier) => [2.0 * sum_s / 3.0, sum_s / 3.0],
            (ShardPasses::Together(sum_s), VocabularyAlgorithm::TwoBarriers) => [sum_s / 3.0, 2.0 * sum_s / 3.0],
        }
    }
}

/// All shards of the head on one stage: three products, one in the forward and one in each half of the backward.
fn add_head(stage: &mut StageCost, shards: &[Shard]) {
    let product_s = shards.iter().map(|shard| shard.passes.sum_s()).sum::<f64>() / 3.0;
    stage.forward_s += product_s;
    stage.backward_input_s += product_s;
    stage.backward_weight_s += product_s;
    stage.backward_s += 2.0 * product_s;
    stage.logit_bytes += shards.iter().map(|shard| shard.logit_bytes).sum::<u64>();
    stage.resident.push((Category::Weights, shards.iter().map(|shard| shard.resident_bytes).sum()));
}

/// The whole embedding on one stage. Its shards look up and add rows of all tokens alike, so one is as long as any.
fn add_embedding(stage: &mut StageCost, shards: &[Shard]) {
    let longest_s = |pass: usize| shards.iter().map(|shard| shard.embedding_s[pass]).fold(0.0, f64::max);
    stage.forward_s += longest_s(0);
    stage.backward_weight_s += longest_s(1);
    stage.backward_s += longest_s(1);
}

/// The model in `n` equal pieces instead, each piece given being uniform in itself: what a stage takes and keeps is
/// that of the parts that fall to it, and its message is that of the piece it ends in.
fn cut_anew(pieces: &[StageCost], n: usize) -> Vec<StageCost> {
    if pieces.len() == n {
        return pieces.to_vec();
    }
    // On a scale of `n * pieces.len()`, all cuts are whole numbers.
    let k = pieces.len();
    let stage = |j: usize| {
        let (from, to) = (j * k, (j + 1) * k);
        let parts: Vec<(f64, &StageCost)> = (from / n..to.div_ceil(n))
            .map(|i| (((to.min((i + 1) * n) - from.max(i * n)) as f64 / n as f64), &pieces[i]))
            .collect();
        let seconds = |of: fn(&StageCost) -> f64| parts.iter().map(|(share, piece)| share * of(piece)).sum();
        let bytes = |of: fn(&StageCost) -> u64| {
            parts.iter().map(|(share, piece)| share * of(piece) as f64).sum::<f64>().round() as u64
        };
        StageCost {
            forward_s: seconds(|piece| piece.forward_s),
            backward_input_s: seconds(|piece| piece.backward_input_s),
            backward_weight_s: seconds(|piece| piece.backward_weight_s),
            backward_s: seconds(|piece| piece.backward_s),
            recompute_s: seconds(|piece| piece.recompute_s),
            optimizer_s: seconds(|piece| piece.optimizer_s),
            reduce_s: seconds(|piece| piece.reduce_s),
            tied_bytes: 0,
            carry_bytes: parts.last().map_or(0, |(_, piece)| piece.carry_bytes),
            activation_bytes: bytes(|piece| piece.activation_bytes),
            logit_bytes: bytes(|piece| piece.logit_bytes),
            weight_grad_bytes: bytes(|piece| piece.weight_grad_bytes),
            forward_scratch: Vec::new(),
            backward_scratch: Vec::new(),
            resident: vec![(Category::Weights, bytes(|piece| piece.resident.iter().map(|(_, bytes)| bytes).sum()))],
        }
    };
    (0..n).map(stage).collect()
}
