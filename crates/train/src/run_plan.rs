//! What a run will do on its ranks, and what that is predicted to cost.

use crate::{ActivationCheckpointing, Settings, TrainError};
use architecture::Architecture;
use burn::tensor::Device;
use mesh::Cores;
use plan::MicrobatchShape;
use schedule::{Action, Op, Schedule, StageOp};
use simulate::{Costs, Timeline};
use stage::{Pipeline, PipelineSpec, Recompute, Step, Update};
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
    /// One step, as predicted.
    pub predicted: Timeline,
}

/// Steps of the calibration that are not counted, and that are; a median of fewer is worth little.
const UNCOUNTED_STEPS: u64 = 3;
const COUNTED_STEPS: u64 = 7;

/// No calibration step is begun after this time.
const CALIBRATION_BUDGET: Duration = Duration::from_secs(10);

/// A stage that is silent for this long has failed: the slowest action of a model that fits a workstation's memory
/// takes a few seconds.
const DEADLINE: Duration = Duration::from_secs(600);

impl RunPlan {
    /// The plan that the settings ask for: the partition given or balanced by operations, cores shared by all ranks.
    /// Its prediction has the memory of the model's arithmetic and times of 0; see [`RunPlan::calibrate`].
    ///
    /// # Errors
    /// When the model cannot be cut so, or the schedule does not exist.
    pub fn new(settings: &Settings, architecture: &Architecture) -> Result<Self, TrainError> {
        let pipeline = &settings.pipeline;
        let stage_map = pipeline.stage_map.clone();
        let shape = shape(settings);
        let partition = match pipeline.given_partition(architecture)? {
            Some(partition) => partition,
            None => plan::partition(architecture, shape, stage_map.n_stages())?,
        };
        let n_cores = pipeline.cores.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
        let spec = PipelineSpec {
            architecture: architecture.clone(),
            recompute: pipeline.checkpointing.iter().copied().map(recompute).collect(),
            devices: vec![Device::flex(); stage_map.n_ranks()],
            cores: vec![Cores::shared(stage_map.n_ranks(), n_cores)],
            deadline: DEADLINE,
            partition,
            stage_map,
        };
        let tied = tied(&spec);
        let route = spec.stage_map.route();
        let compute = schedule::generate(pipeline.schedule, &route, settings.batch.microbatches, &tied)?;
        let schedule = schedule::with_transfers(&compute);
        let planned: Vec<plan::Recompute> = spec.recompute.iter().map(|&recompute| for_planner(recompute)).collect();
        // A rate so high that predicted times vanish: only the bytes are used until times are measured.
        let stages = plan::stage_costs(architecture, &spec.partition, shape, &planned, f64::MAX);
        let costs = Costs { stages, links: Vec::new(), cores: spec.cores.clone() };
        let predicted = predict(&schedule, &costs);
        Ok(Self { spec, schedule, costs, predicted })
    }

    /// Measures what the stages' actions take by playing steps of this plan on a pipeline of its own with drawn weights
    /// and rows, and predicts a step from the medians. The first steps are not counted: they touch fresh memory. Long
    /// steps are played less often, at least twice.
    ///
    /// # Errors
    /// When a step fails.
    pub fn calibrate(&mut self, settings: &Settings) -> Result<(), TrainError> {
        let architecture = &self.spec.architecture;
        let mut pipeline = Pipeline::start(&self.spec, |weight, source| {
            Ok::<_, TrainError>(match source {
                stage::Source::Value => model::draw(architecture, weight, settings.seed),
                _ => vec![0.0; weight.n_elements()],
            })
        })?;
        let rows_per_microbatch = settings.batch.rows / settings.batch.microbatches;
        let (tokens, vocabulary) = (settings.data.sequence_length, architecture.vocab_size);
        let microbatches: Vec<model::Rows> = (0..settings.batch.microbatches)
            .map(|microbatch| {
                let n = rows_per_microbatch * tokens;
                let id = |i: usize| ((microbatch * n + i) * 7919 % vocabulary) as i32;
                let rows = model::Rows::to_read((0..n).map(id).collect(), tokens);
                model::Rows { targets: (1..=n).map(id).collect(), weights: vec![1.0; n], ..rows }
            })
            .collect();
        let total_weight = (settings.batch.rows * tokens) as f64;
        let mut timelines = Vec::new();
        let start = Instant::now();
        for number in 1..=UNCOUNTED_STEPS + COUNTED_STEPS {
            if number > 2 && start.elapsed() > CALIBRATION_BUDGET {
                break;
            }
            let report = pipeline.play(Step {
                number,
                schedule: self.schedule.clone(),
                microbatches: microbatches.clone(),
                objective: stage::Objective::NextToken { total_weight },
                update: Some(Update { adamw: adamw(settings, number, 0.0), clip_norm: None }),
            })?;
            timelines.push(report.timeline);
        }
        let uncounted = (UNCOUNTED_STEPS as usize).min(timelines.len() - 1);
        self.use_times_of(&timelines[uncounted..]);
        Ok(())
    }

    /// Takes the stages' times from measured steps of the same plan (medians), and predicts a step from them.
    pub fn use_times_of(&mut self, measured: &[Timeline]) {
        for (stage, cost) in self.costs.stages.iter_mut().enumerate() {
            let median = |wanted: &dyn Fn(Action) -> bool| {
                let spans = measured.iter().flat_map(|timeline| &timeline.spans);
                let of_stage = spans.filter(|span| span.stage.0 == stage && wanted(span.action));
                median(of_stage.map(|span| span.end_s - span.start_s).collect())
            };
            let of_op = |wanted: Op| median(&|action| matches!(action, Action::Visit { op, .. } if op == wanted));
            cost.forward_s = of_op(Op::Forward);
            // Measured backwards include what they recompute.
            cost.recompute_s = 0.0;
            cost.backward_s = of_op(Op::Backward);
            cost.backward_input_s = of_op(Op::BackwardInput);
            cost.backward_weight_s = of_op(Op::BackwardWeight);
            cost.optimizer_s = median(&|action| matches!(action, Action::Stage { op: StageOp::OptimizerStep, .. }));
        }
        self.predicted = predict(&self.schedule, &self.costs);
    }
}

/// AdamW's numbers for a step.
pub(crate) fn adamw(settings: &Settings, step: u64, learning_rate: f64) -> kernels::AdamW {
    let optimizer = &settings.optimizer;
    kernels::AdamW {
        learning_rate,
        beta1: optimizer.beta1,
        beta2: optimizer.beta2,
        epsilon: optimizer.epsilon,
        weight_decay: optimizer.weight_decay,
        gradient_scale: 1.0,
        step,
    }
}

fn shape(settings: &Settings) -> MicrobatchShape {
    MicrobatchShape { rows: settings.batch.rows / settings.batch.microbatches, tokens: settings.data.sequence_length }
}

fn predict(schedule: &Schedule, costs: &Costs) -> Timeline {
    simulate::simulate(schedule, costs).expect("invariant: a generated schedule is valid and its costs are finite")
}

/// Groups of stages that hold the same parameter.
fn tied(spec: &PipelineSpec) -> Vec<Vec<mesh::Stage>> {
    let holders = |name: &str| -> Vec<mesh::Stage> {
        let stages = spec.partition.stages().iter().enumerate();
        let holds = |blocks: &[architecture::Block]| {
            blocks.iter().any(|&block| spec.architecture.weights(block).iter().any(|weight| weight.name == name))
        };
        stages.filter(|(_, blocks)| holds(blocks)).map(|(stage, _)| mesh::Stage(stage)).collect()
    };
    let all = spec.architecture.all_weights();
    all.iter().map(|weight| holders(&weight.name)).filter(|holders| holders.len() > 1).collect()
}

fn recompute(checkpointing: ActivationCheckpointing) -> Recompute {
    match checkpointing {
        ActivationCheckpointing::None => Recompute::None,
        ActivationCheckpointing::Full => Recompute::Full,
    }
}

fn for_planner(recompute: Recompute) -> plan::Recompute {
    match recompute {
        Recompute::None => plan::Recompute::None,
        Recompute::Full => plan::Recompute::Full,
    }
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
