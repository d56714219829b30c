//! A pipeline that plays steps of a shape.

use crate::clock::Clock;
use crate::shape::Shape;
use architecture::Partition;
use burn::tensor::Device;
use kernels::AdamW;
use mesh::{Cores, Rank, StageMap};
use model::Rows;
use schedule::{Action, Backward, Kind, Op, Schedule, Spec, generate, with_transfers};
use simulate::Timeline;
use stage::{Objective, Pipeline, PipelineSpec, Recompute, Report, Step, Update};
use std::time::Duration;

/// Steps of a shape, from drawn weights on.
pub struct Steps {
    shape: Shape,
    pipeline: Pipeline,
    schedule: Schedule,
    n_played: u64,
}

impl Steps {
    /// A rank for each stage of `cut`, with `threads` threads each.
    pub fn start(shape: Shape, cut: &[usize], threads: usize) -> Self {
        let (architecture, n_ranks) = (shape.architecture(), cut.len());
        let stage_map = StageMap::one_per_rank(n_ranks);
        let route = stage_map.route();
        let spec = PipelineSpec {
            partition: Partition::new(&architecture, cut).expect("a partition"),
            architecture,
            stage_map,
            vocabulary: None,
            recompute: vec![Recompute::None; n_ranks],
            devices: vec![Device::flex(); n_ranks],
            precision: stage::Precision::F32,
            cores: vec![Cores { ranks: (0..n_ranks).map(Rank).collect(), permits: n_ranks, threads }],
            deadline: Duration::from_secs(600),
        };
        let Ok(pipeline) = Pipeline::start(&spec, stage::drawn(&spec.architecture, 0));
        // One stage splits its backward, so that both passes are seen; of two, 1F1B does not.
        let backward = if n_ranks == 1 { Backward::Split } else { Backward::Fused };
        let spec = Spec { kind: Kind::OneFOneB, backward };
        let schedule = generate(spec, &route, shape.microbatches, pipeline.tied()).expect("a schedule");
        Self { shape, pipeline, schedule: with_transfers(&schedule), n_played: 0 }
    }

    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Plays one, and the time it took.
    pub fn play(&mut self, clock: Clock) -> (f64, Report) {
        self.n_played += 1;
        let adamw = AdamW {
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            gradient_scale: 1.0,
            step: self.n_played,
        };
        let step = Step {
            number: self.n_played,
            schedule: self.schedule.clone(),
            microbatches: (0..self.shape.microbatches).map(|number| self.microbatch(number)).collect(),
            objective: Objective::NextToken { total_weight: self.shape.tokens_of_step() },
            update: Some(Update { clip_norm: Some(1.0), ..Update::new(adamw) }),
        };
        clock.time(|| self.pipeline.play(step).expect("a step"))
    }

    fn microbatch(&self, number: usize) -> Rows {
        let Shape { rows, tokens, microbatches, vocabulary, .. } = self.shape;
        assert!(rows.is_multiple_of(microbatches), "{rows} rows in {microbatches} microbatches");
        let n = rows / microbatches * tokens;
        let ids: Vec<i32> = (0..n).map(|i| ((i + number * n) * 7919 % vocabulary) as i32).collect();
        Rows { targets: ids.clone(), weights: vec![1.0; n], ..Rows::to_read(ids, tokens) }
    }
}

/// Wall time of forwards, of backwards (of the input, where they are split), of weight passes and of the rest.
pub fn passes_s(timeline: &Timeline) -> [f64; 4] {
    let mut sums = [0.0; 4];
    for span in &timeline.spans {
        let place = match span.action {
            Action::Visit { op: Op::Forward, .. } => 0,
            Action::Visit { op: Op::BackwardInput | Op::Backward, .. } => 1,
            Action::Visit { op: Op::BackwardWeight, .. } => 2,
            _ => 3,
        };
        sums[place] += span.end_s - span.start_s;
    }
    sums
}
