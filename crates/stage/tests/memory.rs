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
    Action, Backward, InputLayer, Kind, Op, PassTimes, Schedule, ShardOp, Spec, Vocabulary, VocabularyAlgorithm,
    generate, with_transfers, with_vocabulary,
};
use simulate::{Category, Costs, MemorySample, Timeline, simulate};
use stage::{Objective, Pipeline, PipelineSpec, Recompute, Source, Step, Update};
use std::convert::Infallible;
use std::time::Duration;

#[global_allocator]
static LEDGER: Ledger = Ledger;

/// A model, its cut and the size of a microbatch.
#[derive(Clone, Copy)]
struct Case {
    /// Hidden size, layers, heads, key heads, head width, MLP width, vocabulary.
    sizes: [usize; 7],
    tied: bool,
    cut: &'static [usize],
    shape: MicrobatchShape,
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
    /// Stage `i` on rank `ranks[i]`.
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

    fn schedule(&self, spec: Spec, n_microbatches: usize) -> Schedule {
        let schedule = generate(spec, &self.route, n_microbatches, self.pipeline.tied()).unwrap();
        with_transfers(&match self.vocabulary {
            Some(vocabulary) => with_vocabulary(&schedule, vocabulary, &PassTimes::equal(self.case.cut.len())).unwrap(),
            None => schedule,
        })
    }

    /// A step as it was counted, as it was predicted, and the costs that were taken for it.
    fn play(&mut self, spec: Spec, n_microbatches: usize) -> (Timeline, Timeline, Costs) {
        let schedule = self.schedule(spec, n_microbatches);
        if self.n_played == 0 {
            self.step(&schedule);
        }
        let counted = self.step(&schedule);
        let architecture = architecture(&self.case);
        let partition = Partition::new(&architecture, self.case.cut).unwrap();
        let shards = self.vocabulary.map(|vocabulary| Shards { vocabulary, n_ranks: schedule.n_ranks() });
        let (shape, recompute) = (self.case.shape, vec![self.recompute; self.case.cut.len()]);
        let stages = stage_costs(&architecture, &partition, shape, &recompute, shards, 1e9);
        let shards = shards.map_or_else(Vec::new, |shards| shard_costs(&architecture, shape, shards, 1e9));
        let costs = Costs { stages, shards, cores: self.cores.clone(), ..Costs::default() };
        (counted, simulate(&schedule, &costs).unwrap(), costs)
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
            update: Some(Update { clip_norm: Some(1.0), ..Update::new(adamw) }),
        };
        self.pipeline.play(step).unwrap().timeline
    }
}

/// The ranks' spans in the order in which they were played, weighed by what the planner says of each visit: the most that
/// visits held at once, from `F` to `I` or `B` and in part to `W`, and shards from `VS` to `VT`.
fn peak_of_visits(timeline: &Timeline, costs: &Costs, rank: Rank) -> u64 {
    let (mut held, mut peak) = (0, 0);
    for span in timeline.rank(rank) {
        let cost = &costs.stages[span.stage.0];
        let whole = (cost.activation_bytes + cost.logit_bytes) as i64;
        let queued = cost.weight_grad_bytes as i64;
        held += match span.action {
            Action::Visit { op, .. } => match op {
                Op::Forward => whole,
                Op::Backward => -whole,
                Op::BackwardInput => queued - whole,
                Op::BackwardWeight => -queued,
                _ => 0,
            },
            Action::Shard { op: ShardOp::VocabForward, .. } => costs.shards[rank.0].logit_bytes as i64,
            Action::Shard { op: ShardOp::VocabBackward, .. } => -(costs.shards[rank.0].logit_bytes as i64),
            Action::Shard { .. } | Action::Stage { .. } => 0,
        };
        peak = peak.max(held);
    }
    assert_eq!(held, 0, "rank {rank}");
    peak as u64
}

/// The most that waited for a rank in messages at once, from when a send ended until what uses it began.
fn peak_of_messages(timeline: &Timeline, schedule: &Schedule, costs: &Costs, rank: Rank) -> i64 {
    let mut changes: Vec<(f64, i64)> = Vec::new();
    for sent in &timeline.spans {
        let Action::Visit { op: op @ (Op::SendActivation | Op::SendGradient), key } = sent.action else { continue };
        let (there, users) = match op {
            Op::SendActivation => (key.at(key.hop.0 + 1), [Op::Forward; 2]),
            _ => (key.at(key.hop.0 - 1), [Op::Backward, Op::BackwardInput]),
        };
        if schedule.visit(there).unwrap().rank != rank {
            continue;
        }
        let is_user = |action| matches!(action, Action::Visit { op, key } if users.contains(&op) && key == there);
        let used = timeline.rank(rank).find(|span| is_user(span.action)).unwrap();
        let carry_of = if op == Op::SendActivation { key } else { there };
        let bytes = costs.stages[schedule.visit(carry_of).unwrap().stage.0].carry_bytes as i64;
        changes.extend([(sent.end_s.min(used.start_s), bytes), (used.start_s, -bytes)]);
    }
    changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    let live = changes.iter().scan(0, |live, (_, bytes)| {
        *live += bytes;
        Some(*live)
    });
    live.max().unwrap_or(0)
}

/// The most that is live on a rank at once of the categories.
fn peak(timeline: &Timeline, rank: Rank, categories: &[Category]) -> u64 {
    let of_rank = timeline.memory.iter().filter(|sample| sample.rank == rank);
    let sum = |sample: &MemorySample| categories.iter().map(|&category| sample.bytes[category as usize]).sum();
    of_rank.map(sum).max().unwrap_or(0)
}

const LIVE: [Category; 2] = [Category::Activations, Category::Logits];

/// Of what visits hold, without shards. Not predicted: blocks' seeds and ids, and the operation inside a forward that is
/// at work while all else is held. The lists alone decide these, not who is ahead of whom. Largest found 1.1 %.
const LIVE_TOLERANCE: f64 = 0.02;

/// As [`LIVE_TOLERANCE`], with shards: a message to `VS` is booked to the buffers before and after it is taken over.
/// Largest found 2.5 %.
const SHARDS_LIVE_TOLERANCE: f64 = 0.04;

/// Of the sum over categories: also buffers that live for one operation, and gradients of tied matrices on their way.
/// Added to it is by how much more or less waited in messages than was predicted: which rank is ahead of which is the
/// machine's choice. Largest found in ten runs 3.3 %.
const TOLERANCE: f64 = 0.05;

/// Of what is held for the whole step: blocks under 4 kB are not counted, as those of norms are.
const RESIDENT_TOLERANCE: f64 = 0.01;

/// Plays the schedule on real tensors and holds the ledger's count of every rank against the simulator's.
fn check(running: &mut Running, spec: Spec, n_microbatches: usize) {
    let (counted, predicted, costs) = running.play(spec, n_microbatches);
    let schedule = running.schedule(spec, n_microbatches);
    let schedule_only = simulate(&schedule, &without_scratch(&costs)).unwrap();
    for rank in (0..counted.n_ranks).map(Rank) {
        let setting =
            format!("{spec}, {n_microbatches} microbatches, {:?}, {:?}", running.recompute, running.vocabulary);
        let what = format!("{:?}, {setting}, rank {rank}", running.case.cut);
        assert_eq!(peak_of_visits(&counted, &costs, rank), peak(&schedule_only, rank, &LIVE), "{what}");
        let close = |categories: &[Category], tolerance: f64, apart: i64| {
            let [found, wanted] = [&counted, &predicted].map(|timeline| peak(timeline, rank, categories) as i64);
            let difference = ((wanted - found).abs() - apart) as f64 / found as f64;
            assert!(difference < tolerance, "{what}: {found} bytes of {categories:?}, predicted {wanted}");
        };
        match (running.recompute, running.vocabulary) {
            (Recompute::None, None) => close(&LIVE, LIVE_TOLERANCE, 0),
            (Recompute::None, Some(_)) => close(&LIVE, SHARDS_LIVE_TOLERANCE, 0),
            // The account shows the moment of a backward with the most in all; what is played again is gone in part then.
            (Recompute::Full, _) => {}
        }
        let [found, wanted] =
            [&counted, &predicted].map(|timeline| peak_of_messages(timeline, &schedule, &costs, rank));
        close(&Category::ALL, TOLERANCE, (found - wanted).abs());
        close(&[Category::Weights], RESIDENT_TOLERANCE, 0);
        close(&[Category::Gradients], RESIDENT_TOLERANCE, 0);
    }
}

/// The costs without what lives only while one action runs.
fn without_scratch(costs: &Costs) -> Costs {
    let mut bare = costs.clone();
    for stage in &mut bare.stages {
        (stage.forward_scratch, stage.backward_scratch) = (Vec::new(), Vec::new());
    }
    bare.shards.iter_mut().for_each(|shard| shard.forward_scratch_bytes = 0);
    bare
}

fn specs(kind: Kind) -> Vec<Spec> {
    let backwards: &[Backward] =
        if kind.places_weight_passes() { &[Backward::Split] } else { &[Backward::Fused, Backward::Split] };
    backwards.iter().map(|&backward| Spec { kind, backward }).collect()
}

/// Four stages, on four ranks or two by two.
const MODEL: Case = Case {
    sizes: [128, 3, 4, 2, 32, 340, 1021],
    tied: false,
    cut: &[2, 2, 2, 2],
    shape: MicrobatchShape { rows: 1, tokens: 128 },
};

fn check_every_kind() {
    for kind in Kind::ALL {
        let ranks = kind.placement().ranks(MODEL.cut.len(), 2).unwrap();
        for recompute in [Recompute::None, Recompute::Full] {
            let mut running = Running::start(MODEL, &ranks, recompute, None);
            for spec in specs(kind) {
                let counts: &[usize] = if recompute == Recompute::None { &[5, 8] } else { &[5] };
                counts.iter().for_each(|&n_microbatches| check(&mut running, spec, n_microbatches));
            }
        }
    }
}

fn check_shards() {
    for kind in [Kind::OneFOneB, Kind::Gpipe, Kind::VHalf] {
        let ranks = kind.placement().ranks(MODEL.cut.len(), 2).unwrap();
        for algorithm in [VocabularyAlgorithm::OneBarrier, VocabularyAlgorithm::TwoBarriers] {
            for input in [InputLayer::FirstStage, InputLayer::Sharded] {
                let vocabulary = Vocabulary { algorithm, input };
                let mut running = Running::start(MODEL, &ranks, Recompute::None, Some(vocabulary));
                specs(kind).into_iter().for_each(|spec| check(&mut running, spec, 7));
            }
        }
    }
}

/// Other widths and cuts: a tied matrix, a stage that is the head alone, one rank.
const CASES: [Case; 5] = [
    Case {
        sizes: [96, 3, 6, 6, 16, 256, 1021],
        tied: true,
        cut: &[4, 2, 2],
        shape: MicrobatchShape { rows: 1, tokens: 96 },
    },
    Case {
        sizes: [96, 3, 3, 1, 32, 256, 1531],
        tied: false,
        cut: &[3, 4, 1],
        shape: MicrobatchShape { rows: 2, tokens: 64 },
    },
    Case {
        sizes: [64, 4, 4, 2, 16, 171, 251],
        tied: false,
        cut: &[5, 5],
        shape: MicrobatchShape { rows: 2, tokens: 64 },
    },
    Case {
        sizes: [64, 2, 3, 1, 16, 127, 509],
        tied: false,
        cut: &[6],
        shape: MicrobatchShape { rows: 3, tokens: 128 },
    },
    Case {
        sizes: [128, 2, 4, 4, 32, 340, 257],
        tied: false,
        cut: &[2, 2, 2],
        shape: MicrobatchShape { rows: 4, tokens: 32 },
    },
];

fn check_other_cuts() {
    for case in CASES {
        let ranks: Vec<usize> = (0..case.cut.len()).collect();
        for recompute in [Recompute::None, Recompute::Full] {
            let mut running = Running::start(case, &ranks, recompute, None);
            for spec in [Kind::Gpipe, Kind::OneFOneB].into_iter().flat_map(specs) {
                check(&mut running, spec, 5);
            }
        }
    }
}

/// One test, since the ranks' accounts are the process's.
#[test]
fn counted_memory_is_as_predicted() {
    check_every_kind();
    check_shards();
    check_other_cuts();
}
