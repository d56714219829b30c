//! Bytes counted at the allocator against the planner's prediction.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use architecture::{Architecture, Family, Partition, Rope, RopeScaling};
use burn::tensor::Device;
use kernels::AdamW;
use ledger::Ledger;
use mesh::{Cores, Grid, Rank, Route, StageMap};
use model::Rows;
use plan::{MicrobatchShape, Shards, shard_costs, stage_costs};
use schedule::{
    Backward, InputLayer, Kind, PassTimes, Schedule, Spec, Vocabulary, VocabularyAlgorithm, generate, with_transfers,
    with_vocabulary,
};
use simulate::{Category, Costs, Timeline, simulate};
use stage::{Objective, Pipeline, PipelineSpec, Recompute, Source, Step, Update};
use std::convert::Infallible;
use std::time::Duration;

#[global_allocator]
static LEDGER: Ledger = Ledger;

/// A model, its cut, the microbatch and their number.
#[derive(Clone, Copy)]
struct Case {
    /// Hidden size, layers, heads, key heads, head width, MLP width, vocabulary.
    sizes: [usize; 7],
    tied: bool,
    cut: &'static [usize],
    shape: MicrobatchShape,
    n_microbatches: usize,
}

fn architecture(case: &Case) -> Architecture {
    let [
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        intermediate_size,
        vocab_size,
    ] = case.sizes;
    Architecture {
        family: Family::Llama,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        intermediate_size,
        vocab_size,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-6,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        attention_bias: false,
        mlp_bias: false,
        tie_word_embeddings: case.tied,
        initializer_range: 0.02,
        bos_token_id: None,
        eos_token_id: Vec::new(),
        pad_token_id: None,
    }
}

fn rows(case: &Case, seed: usize) -> Rows {
    let n = case.shape.rows * case.shape.tokens;
    let ids = (0..n).map(|i| ((i + seed) * 31 % case.sizes[6]) as i32).collect();
    Rows { weights: vec![1.0; n], ..Rows::to_read(ids, case.shape.tokens) }
}

/// A pipeline that has played, so that what is made in a first step is there.
struct Running {
    case: Case,
    recompute: Recompute,
    vocabulary: Option<Vocabulary>,
    route: Route,
    cores: Vec<Cores>,
    pipeline: Pipeline,
    n_played: u64,
}

impl Running {
    fn start(case: Case, ranks: &[usize], recompute: Recompute, vocabulary: Option<Vocabulary>) -> Self {
        let architecture = architecture(&case);
        let n_stages = case.cut.len();
        let grids = ranks.iter().map(|&rank| Grid::single(Rank(rank)));
        let stage_map = StageMap::new(grids.collect()).unwrap();
        let n_ranks = stage_map.n_ranks();
        let cores = vec![Cores { ranks: (0..n_ranks).map(Rank).collect(), permits: 2, threads: 1 }];
        let pipeline = Pipeline::start(
            &PipelineSpec {
                architecture: architecture.clone(),
                partition: Partition::new(&architecture, case.cut).unwrap(),
                stage_map: stage_map.clone(),
                vocabulary,
                recompute: vec![recompute; n_stages],
                devices: vec![Device::flex(); n_ranks],
                cores: cores.clone(),
                deadline: Duration::from_secs(60),
            },
            |weight, source| {
                Ok::<_, Infallible>(match source {
                    Source::Value => model::draw(&architecture, weight, 3),
                    _ => vec![0.0; weight.n_elements()],
                })
            },
        )
        .unwrap();
        Self { case, recompute, vocabulary, route: stage_map.route(), cores, pipeline, n_played: 0 }
    }

    /// A step as it was counted, and as it was predicted.
    fn play(&mut self, spec: Spec, n_microbatches: usize) -> (Timeline, Timeline) {
        let n_stages = self.case.cut.len();
        let schedule = generate(spec, &self.route, n_microbatches, self.pipeline.tied()).unwrap();
        let schedule: Schedule = with_transfers(&match self.vocabulary {
            Some(vocabulary) => with_vocabulary(&schedule, vocabulary, &PassTimes::equal(n_stages)).unwrap(),
            None => schedule,
        });
        if self.n_played == 0 {
            self.step(&schedule);
        }
        let counted = self.step(&schedule);
        let architecture = architecture(&self.case);
        let partition = Partition::new(&architecture, self.case.cut).unwrap();
        let shards = self.vocabulary.map(|vocabulary| Shards { vocabulary, n_ranks: schedule.n_ranks() });
        let (shape, recompute) = (self.case.shape, vec![self.recompute; n_stages]);
        let stages = stage_costs(&architecture, &partition, shape, &recompute, shards, 1e9);
        let shards = shards.map_or_else(Vec::new, |shards| shard_costs(&architecture, shape, shards, 1e9));
        let costs = Costs { stages, shards, cores: self.cores.clone(), ..Costs::default() };
        (counted, simulate(&schedule, &costs).unwrap())
    }

    fn step(&mut self, schedule: &Schedule) -> Timeline {
        self.n_played += 1;
        let adamw = AdamW {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_scale: 1.0,
            step: self.n_played,
        };
        let n = schedule.n_microbatches() * self.case.shape.rows * self.case.shape.tokens;
        let step = Step {
            number: self.n_played,
            schedule: schedule.clone(),
            microbatches: (0..schedule.n_microbatches()).map(|i| rows(&self.case, i)).collect(),
            objective: Objective::NextToken { total_weight: n as f64 },
            update: Some(Update { adamw, clip_norm: Some(1.0) }),
        };
        self.pipeline.play(step).unwrap().timeline
    }
}

const MODEL: Case = Case {
    sizes: [128, 3, 4, 2, 32, 340, 1021],
    tied: false,
    cut: &[2, 2, 2, 2],
    shape: MicrobatchShape { rows: 1, tokens: 128 },
    n_microbatches: 0,
};

fn explore(what: &str, counted: &Timeline, predicted: &Timeline) {
    for rank in (0..counted.n_ranks).map(Rank) {
        let live = |t: &Timeline, cats: &[usize]| {
            t.memory
                .iter()
                .filter(|s| s.rank == rank)
                .map(|s| cats.iter().map(|&c| s.bytes[c]).sum::<u64>())
                .max()
                .unwrap() as f64
        };
        let ratio = |cats: &[usize]| 100.0 * (live(predicted, cats) / live(counted, cats) - 1.0);
        let at = |t: &Timeline| {
            t.memory.iter().filter(|s| s.rank == rank).max_by_key(|s| s.bytes.iter().sum::<u64>()).unwrap().clone()
        };
        let (c, p) = (at(counted), at(predicted));
        let label = |t: &Timeline, at: f64| {
            t.rank(rank).find(|s| s.start_s <= at && at <= s.end_s).map(|s| s.label.clone()).unwrap_or_default()
        };
        println!(
            "{what:60} r{} AL {:+5.1} ALB {:+5.1} total {:+5.1} counted {:?} at {} predicted {:?} at {}",
            rank.0,
            ratio(&[3, 4]),
            ratio(&[3, 4, 5]),
            ratio(&[0, 1, 2, 3, 4, 5]),
            c.bytes.map(|b| b / 1024),
            label(counted, c.at_s),
            p.bytes.map(|b| b / 1024),
            label(predicted, p.at_s)
        );
    }
}

#[test]
fn explore_all() {
    for kind in Kind::ALL {
        let ranks = kind.placement().ranks(4, 2).unwrap();
        for recompute in [Recompute::None, Recompute::Full] {
            let mut running = Running::start(MODEL, &ranks, recompute, None);
            for backward in [Backward::Fused, Backward::Split] {
                if backward == Backward::Split && kind.places_weight_passes() {
                    continue;
                }
                for m in [5, 8] {
                    let spec = Spec { kind, backward };
                    let (c, p) = running.play(spec, m);
                    explore(&format!("{spec} {m} {recompute:?}"), &c, &p);
                }
            }
        }
    }
    for kind in [Kind::OneFOneB, Kind::Gpipe, Kind::VHalf] {
        let ranks = kind.placement().ranks(4, 2).unwrap();
        for algorithm in [VocabularyAlgorithm::OneBarrier, VocabularyAlgorithm::TwoBarriers] {
            for input in [InputLayer::FirstStage, InputLayer::Sharded] {
                let vocabulary = Vocabulary { algorithm, input };
                let mut running = Running::start(MODEL, &ranks, Recompute::None, Some(vocabulary));
                for backward in [Backward::Fused, Backward::Split] {
                    if backward == Backward::Split && kind.places_weight_passes() {
                        continue;
                    }
                    let spec = Spec { kind, backward };
                    let (c, p) = running.play(spec, 7);
                    explore(&format!("{spec} {vocabulary:?}"), &c, &p);
                }
            }
        }
    }
}
