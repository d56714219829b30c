//! Speed of training: steps of one stage with AdamW and clipping, as a run plays them.

use super::Args;
use super::peak::Peak;
use crate::units;
use architecture::{Architecture, Partition};
use burn::tensor::Device;
use kernels::AdamW;
use mesh::{Cores, Rank, Route, StageMap};
use model::Rows;
use schedule::{Action, Backward, Kind, Op, Spec};
use serde::Serialize;
use simulate::Timeline;
use stage::{Objective, Pipeline, PipelineSpec, Recompute, Step, Update};
use std::time::{Duration, Instant};

/// What steps took.
#[derive(Clone, Debug, Serialize)]
pub struct Training {
    /// Middle wall time of a counted step.
    step_s: f64,
    /// All counted steps.
    steps_s: Vec<f64>,
    tokens_per_s: f64,
    /// `6 (matrix elements) + 6 layers heads head_dim (seq + 1)`: attention under its causal mask.
    flops_per_token: f64,
    gflops: f64,
    /// Of the matrix-product peak.
    peak_share: f64,
    /// Where the time of the middle step went.
    passes: Passes,
    /// Of the last step: a value that is not finite would make the speed worthless.
    loss: f64,
}

/// Parts of a step, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Passes {
    /// All but the head.
    forward_s: f64,
    /// The head with its loss and all its gradients, then the gradients of inputs, norms and embedding.
    inputs_s: f64,
    /// The gradients of all matrices but the head's.
    weights_s: f64,
    /// AdamW.
    update_s: f64,
    /// Clearing gradients, their norm, the way between threads.
    other_s: f64,
}

impl Passes {
    fn of(timeline: &Timeline, step_s: f64) -> Self {
        let mut passes = Self::default();
        for span in &timeline.spans {
            let part = match span.action {
                Action::Visit { op: Op::Forward, .. } => &mut passes.forward_s,
                Action::Visit { op: Op::BackwardInput, .. } => &mut passes.inputs_s,
                Action::Visit { op: Op::BackwardWeight, .. } => &mut passes.weights_s,
                _ => &mut passes.update_s,
            };
            *part += span.end_s - span.start_s;
        }
        let Self { forward_s, inputs_s, weights_s, update_s, .. } = passes;
        Self { other_s: step_s - forward_s - inputs_s - weights_s - update_s, ..passes }
    }
}

/// Plays the steps on `threads` threads, with drawn weights and the peers' token ids.
pub fn measure(architecture: &Architecture, args: &Args, device: &Device, threads: usize) -> anyhow::Result<Training> {
    let stage_map = StageMap::one_per_rank(1);
    let n_blocks = architecture.blocks().len();
    let spec = PipelineSpec {
        architecture: architecture.clone(),
        partition: Partition::new(architecture, &[n_blocks])?,
        vocabulary: None,
        recompute: vec![Recompute::None],
        devices: vec![device.clone()],
        precision: args.precision.precision(),
        cores: vec![Cores { ranks: vec![Rank(0)], permits: 1, threads }],
        deadline: Duration::from_secs(600),
        stage_map,
    };
    let mut pipeline = Pipeline::start(&spec, stage::drawn(architecture, 0))?;
    let route: Route = spec.stage_map.route();
    let one = Spec { kind: Kind::OneFOneB, backward: Backward::Split };
    let schedule = schedule::with_transfers(&schedule::generate(one, &route, 1, pipeline.tied())?);
    let rows = rows(args);
    let total_weight = (args.batch * args.seq) as f64;
    let (mut steps_s, mut timelines, mut loss) = (Vec::new(), Vec::new(), 0.0);
    for number in 1..=args.steps as u64 {
        let start = Instant::now();
        let report = pipeline.play(Step {
            number,
            schedule: schedule.clone(),
            microbatches: vec![rows.clone()],
            objective: Objective::NextToken { total_weight },
            update: Some(update(number)),
        })?;
        steps_s.push(start.elapsed().as_secs_f64());
        loss = report.loss();
        timelines.push(report.timeline);
    }
    // The first touches fresh memory.
    steps_s.remove(0);
    timelines.remove(0);
    let mut order: Vec<usize> = (0..steps_s.len()).collect();
    order.sort_by(|&a, &b| steps_s[a].total_cmp(&steps_s[b]));
    let middle = order[order.len() / 2];
    let step_s = steps_s[middle];
    let passes = Passes::of(&timelines[middle], step_s);
    let tokens_per_s = total_weight / step_s;
    let flops_per_token = architecture.training_flops_per_token(args.seq);
    let gflops = 1e-9 * flops_per_token * tokens_per_s;
    Ok(Training { step_s, steps_s, tokens_per_s, flops_per_token, gflops, peak_share: 0.0, passes, loss })
}

/// Every token its own target, positions from 0.
fn rows(args: &Args) -> Rows {
    let n = args.batch * args.seq;
    let ids: Vec<i32> = (0..n).map(|i| (i * 7919 % args.vocab) as i32).collect();
    Rows {
        n_rows: args.batch,
        n_tokens: args.seq,
        targets: ids.clone(),
        ids,
        positions: (0..n).map(|i| (i % args.seq) as i32).collect(),
        documents: vec![0; n],
        weights: vec![1.0; n],
    }
}

fn update(number: u64) -> Update {
    let adamw = AdamW {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        step: number,
        gradient_scale: 1.0,
    };
    Update { clip_norm: Some(1.0), ..Update::new(adamw) }
}

impl Training {
    /// As a share of the peak.
    pub fn against(mut self, peak: &Peak) -> Self {
        self.peak_share = self.gflops / peak.matmul_gflops;
        self
    }

    pub fn step_s(&self) -> f64 {
        self.step_s
    }

    pub fn page(&self) -> String {
        let Passes { forward_s, inputs_s, weights_s, update_s, other_s } = self.passes;
        let [forward, inputs, weights, update, other] =
            [forward_s, inputs_s, weights_s, update_s, other_s].map(units::seconds);
        format!(
            "training    {:.1} tokens/s, {} a step (middle of {}), {:.1} GFLOP/s, {} of the product's peak\n            \
             counted: 6 (matrix elements) + 6 layers heads head_dim (seq + 1) = {} FLOP a token, causal mask\n            \
             the middle step: forward {forward}, head and gradients of inputs {inputs}, gradients of weights {weights}, \
             update {update}, other {other}\n",
            self.tokens_per_s,
            units::seconds(self.step_s),
            self.steps_s.len(),
            self.gflops,
            units::percent(self.peak_share),
            units::count(self.flops_per_token as u64),
        )
    }
}
