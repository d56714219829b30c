//! What a run will do on its ranks, and what that is predicted to cost.

use crate::{DeviceName, Settings, TrainError};
use architecture::Architecture;
use burn::tensor::Device;
use kernels::CudaError;
use mesh::Cores;
use plan::{MicrobatchShape, Shards};
use schedule::{Action, Op, Schedule, ShardOp, StageOp};
use simulate::{Costs, Timeline};
use stage::{Pipeline, PipelineSpec, Step, Update};
use std::time::{Duration, Instant};

/// A plan with its prediction.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// What lies where.
    pub spec: PipelineSpec,
    /// One training step, transfers included.
    pub schedule: Schedule,
    /// What the prediction was made from.
    pub costs: Costs,
    /// The machine's speed when the costs were measured, as [`matmul_gflops`] has it; `None` before.
    pub calibrated_gflops: Option<f64>,
    /// One step, as predicted.
    pub predicted: Timeline,
}

/// Steps of the calibration that are not counted, and that are at most. A machine shared with others changes its speed
/// every half second: a median over seconds is needed, and reached with steps of a tenth of a second.
const UNCOUNTED_STEPS: usize = 3;
const COUNTED_STEPS: usize = 25;

/// How often a calibration is repeated on a machine that is not steady, and what counts as steady: the same as for the
/// measurements that predictions are compared with.
const CALIBRATIONS_MAX: usize = 2;
const STEADY: f64 = 0.05;

/// Products whose middle rate is the machine's speed; on two cores each takes about a tenth of a second.
const SPEED_PRODUCTS: usize = 3;

/// No calibration step is begun after this time.
const CALIBRATION_BUDGET: Duration = Duration::from_secs(4);

/// A stage that is silent for this long has failed: the slowest action of a model that fits a workstation's memory
/// takes a few seconds.
const DEADLINE: Duration = Duration::from_secs(600);

impl RunPlan {
    /// The plan that the settings ask for: the partition given or balanced by operations, cores shared by all ranks.
    /// Its prediction has the memory of the model's arithmetic and times of 0; see [`RunPlan::calibrate`].
    ///
    /// # Errors
    /// When the model cannot be cut so, the schedule does not exist, or a device cannot be used.
    pub fn new(settings: &Settings, architecture: &Architecture) -> Result<Self, TrainError> {
        let pipeline = &settings.pipeline;
        let stage_map = pipeline.stage_map.clone();
        let shape = shape(settings);
        let shards = pipeline.vocabulary.map(|vocabulary| Shards { vocabulary, n_ranks: stage_map.n_ranks() });
        let partition = match pipeline.given_partition(architecture)? {
            Some(partition) => partition,
            None => plan::partition(architecture, shape, stage_map.n_stages(), shards)?,
        };
        let n_cores = pipeline.cores.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
        let spec = PipelineSpec {
            architecture: architecture.clone(),
            recompute: pipeline.recompute.clone(),
            devices: pipeline.devices.iter().map(|&name| device(name)).collect::<Result<_, _>>()?,
            precision: pipeline.precision,
            cores: vec![Cores::shared(stage_map.n_ranks(), n_cores)],
            deadline: DEADLINE,
            partition,
            stage_map,
            vocabulary: pipeline.vocabulary,
        };
        let tied = spec.tied();
        let route = spec.stage_map.route();
        // From arithmetic and not from measurement, so that a run can be played again with the same bits.
        let per_flop = plan::stage_costs(architecture, &spec.partition, shape, &spec.recompute, shards, 1.0);
        let times = plan::pass_times(&route, &per_flop);
        let of_shards = |flops_per_s: f64| {
            shards.map(|shards| plan::shard_costs(architecture, shape, shards, flops_per_s)).unwrap_or_default()
        };
        // Cores count where the run file says how many: with those of the machine the lists, and with them the order in
        // which gradients are added, would depend on where the run is.
        let cores = pipeline.cores.map(|n_cores| Cores::shared(spec.stage_map.n_ranks(), n_cores));
        let arithmetic =
            Costs { stages: per_flop, shards: of_shards(1.0), cores: cores.into_iter().collect(), ..Costs::default() };
        let finish = |compute: schedule::Schedule| {
            let compute = match pipeline.vocabulary {
                Some(vocabulary) => schedule::with_vocabulary(&compute, vocabulary, &times)?,
                None => compute,
            };
            Ok(match pipeline.post_validation {
                Some(_) => schedule::with_post_validation(&compute),
                None => compute,
            })
        };
        let choice = plan::Choice {
            spec: pipeline.schedule,
            route: &route,
            n_microbatches: settings.batch.microbatches,
            tied: &tied,
            times: times.clone(),
            costs: &arithmetic,
            finish: &finish,
            most_tries: 1,
            above: &|_, _| 0.0,
        };
        let compute = choice.best()?.schedule;
        let schedule = schedule::with_transfers(&compute);
        // A rate so high that predicted times vanish: only the bytes are used until times are measured.
        let stages = plan::stage_costs(architecture, &spec.partition, shape, &spec.recompute, shards, f64::MAX);
        let costs = Costs { stages, shards: of_shards(f64::MAX), cores: spec.cores.clone(), ..Costs::default() };
        let predicted = predict(&schedule, &costs);
        Ok(Self { spec, schedule, costs, calibrated_gflops: None, predicted })
    }

    /// Measures what the stages' actions take by playing steps of this plan on a pipeline of its own with drawn weights
    /// and rows, and predicts a step from them. The first steps are not counted: they touch fresh memory. Long
    /// steps are played less often, at least three times. When the machine's speed moved meanwhile by more than 5 %, the
    /// measurement is repeated, twice in all at most.
    ///
    /// # Errors
    /// When a step fails.
    pub fn calibrate(&mut self, settings: &Settings) -> Result<(), TrainError> {
        let Ok(mut pipeline) = Pipeline::start(&self.spec, stage::drawn(&self.spec.architecture, settings.seed));
        let mut number = 0;
        for _ in 0..CALIBRATIONS_MAX {
            let before = matmul_gflops();
            let measured = self.play_drawn(settings, &mut pipeline, &mut number)?;
            let after = matmul_gflops();
            self.use_times_of(&measured);
            self.calibrated_gflops = Some((before + after) / 2.0);
            if (after / before - 1.0).abs() <= STEADY {
                break;
            }
        }
        Ok(())
    }

    /// Timelines of the counted steps.
    fn play_drawn(
        &self,
        settings: &Settings,
        pipeline: &mut Pipeline,
        number: &mut u64,
    ) -> Result<Vec<Timeline>, TrainError> {
        let rows_per_microbatch = settings.batch.rows / settings.batch.microbatches;
        let (tokens, vocabulary) = (settings.data.sequence_length, self.spec.architecture.vocab_size);
        let microbatches: Vec<model::Rows> = (0..settings.batch.microbatches)
            .map(|microbatch| {
                let n = rows_per_microbatch * tokens;
                let id = |i: usize| ((microbatch * n + i) * 7919 % vocabulary) as i32;
                let rows = model::Rows::to_read((0..n).map(id).collect(), tokens);
                model::Rows { targets: (1..=n).map(id).collect(), weights: vec![1.0; n], ..rows }
            })
            .collect();
        let total_weight = (settings.batch.rows * tokens) as f64;
        let uncounted = if *number == 0 { UNCOUNTED_STEPS } else { 0 };
        let mut timelines = Vec::new();
        let start = Instant::now();
        while timelines.len() < uncounted + COUNTED_STEPS {
            if timelines.len() > 2 && start.elapsed() > CALIBRATION_BUDGET {
                break;
            }
            *number += 1;
            let report = pipeline.play(Step {
                number: *number,
                schedule: self.schedule.clone(),
                microbatches: microbatches.clone(),
                objective: stage::Objective::NextToken { total_weight },
                update: Some(Update { clip_norm: None, ..update(settings, *number, 0.0) }),
            })?;
            timelines.push(report.timeline);
        }
        timelines.drain(..uncounted.min(timelines.len() - 2));
        Ok(timelines)
    }

    /// Takes the stages' times from measured steps of the same plan, and predicts a step from them: means without the
    /// lowest and highest tenth. Medians would promise too little, because times are skewed: a step adds up many actions,
    /// and some of them are slow every time.
    pub fn use_times_of(&mut self, measured: &[Timeline]) {
        for (stage, cost) in self.costs.stages.iter_mut().enumerate() {
            let typical = |wanted: &dyn Fn(Action) -> bool| {
                let spans = measured.iter().flat_map(|timeline| &timeline.spans);
                let of_stage = spans.filter(|span| span.stage.0 == stage && wanted(span.action));
                typical_of(of_stage.map(|span| span.end_s - span.start_s).collect())
            };
            let of_op = |wanted: Op| typical(&|action| matches!(action, Action::Visit { op, .. } if op == wanted));
            cost.forward_s = of_op(Op::Forward);
            // Measured backwards include what they recompute.
            cost.recompute_s = 0.0;
            cost.backward_s = of_op(Op::Backward);
            cost.backward_input_s = of_op(Op::BackwardInput);
            cost.backward_weight_s = of_op(Op::BackwardWeight);
            cost.reduce_s = typical(&|action| matches!(action, Action::Stage { op: StageOp::ReduceGradients, .. }));
            cost.optimizer_s = typical(&|action| {
                matches!(action, Action::Stage { op: StageOp::OptimizerStep | StageOp::OptimisticStep, .. })
            });
        }
        for (rank, cost) in self.costs.shards.iter_mut().enumerate() {
            let of_op = |wanted: ShardOp| {
                let spans = measured.iter().flat_map(|timeline| &timeline.spans).filter(|span| span.rank.0 == rank);
                let of_op = spans.filter(|span| matches!(span.action, Action::Shard { op, .. } if op == wanted));
                typical_of(of_op.map(|span| span.end_s - span.start_s).collect())
            };
            cost.forward_s = of_op(ShardOp::VocabForward);
            cost.backward_s = of_op(ShardOp::VocabBackward);
            cost.embed_forward_s = of_op(ShardOp::EmbedForward);
            cost.embed_backward_s = of_op(ShardOp::EmbedBackward);
        }
        self.predicted = predict(&self.schedule, &self.costs);
    }
}

/// The device of this name.
///
/// # Errors
/// When this build or this machine does not have it, or it does not compute.
pub fn device(name: DeviceName) -> Result<Device, CudaError> {
    match name {
        DeviceName::Cpu => Ok(Device::flex()),
        DeviceName::Cuda(index) => kernels::cuda(index),
    }
}

/// The machine's speed at this moment: the middle rate of a few large matrix products on all cores, in GFLOP/s.
pub fn matmul_gflops() -> f64 {
    median(kernels::matmul_rates(SPEED_PRODUCTS))
}

/// The optimizer's numbers for a step.
pub(crate) fn update(settings: &Settings, step: u64, learning_rate: f64) -> Update {
    let optimizer = &settings.optimizer;
    let adamw = kernels::AdamW {
        learning_rate,
        beta1: optimizer.beta1,
        beta2: optimizer.beta2,
        epsilon: optimizer.epsilon,
        weight_decay: optimizer.weight_decay,
        gradient_scale: 1.0,
        step,
    };
    Update {
        clip_norm: optimizer.clip_norm,
        not_finite: optimizer.not_finite,
        roll_back: settings.pipeline.post_validation.unwrap_or_default(),
        ..Update::new(adamw)
    }
}

fn shape(settings: &Settings) -> MicrobatchShape {
    MicrobatchShape { rows: settings.batch.rows / settings.batch.microbatches, tokens: settings.data.sequence_length }
}

fn predict(schedule: &Schedule, costs: &Costs) -> Timeline {
    simulate::simulate(schedule, costs).expect("invariant: a generated schedule is valid and its costs are finite")
}

/// The mean without the lowest and the highest tenth; 0 of none.
fn typical_of(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let left_out = values.len() / 10;
    let kept = &values[left_out..values.len() - left_out];
    if kept.is_empty() { 0.0 } else { kept.iter().sum::<f64>() / kept.len() as f64 }
}

/// The middle value, or the mean of the two; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (n, middle) if n % 2 == 1 => values[middle],
        (_, middle) => (values[middle - 1] + values[middle]) / 2.0,
    }
}
