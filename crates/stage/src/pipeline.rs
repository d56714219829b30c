//! The rank threads of one process, and the controller's end of them.

use crate::error::StageError;
use crate::permits::Permits;
use crate::play::{Report, Step};
use crate::rank::{Played, Player, Tie};
use crate::store::{Recompute, Store, decays};
use architecture::{Architecture, Partition, Weight};
use burn::tensor::{Device, Tensor, TensorData};
use kernels::Moments;
use mesh::{Cores, Rank, Stage, StageMap};
use model::Part;
use simulate::{Category, Timeline};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::WireError;

/// What lies where, and on what.
#[derive(Clone, Debug)]
pub struct PipelineSpec {
    /// The model.
    pub architecture: Architecture,
    /// Its blocks by stage.
    pub partition: Partition,
    /// Stage to rank; replicas are not played yet, so every grid has one rank.
    pub stage_map: StageMap,
    /// What each stage keeps.
    pub recompute: Vec<Recompute>,
    /// Device of each rank.
    pub devices: Vec<Device>,
    /// Cores that ranks share.
    pub cores: Vec<Cores>,
    /// Longest wait for a message.
    pub deadline: Duration,
}

/// Which values of a parameter are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The parameter itself.
    Value,
    /// AdamW's first moment.
    FirstMoment,
    /// AdamW's second moment.
    SecondMoment,
    /// The gradient of the last step played.
    Gradient,
}

/// A running pipeline. Dropping it ends its threads.
#[derive(Debug)]
pub struct Pipeline {
    commands: Vec<Sender<Command>>,
    threads: Vec<JoinHandle<()>>,
    /// Parameter name to the first stage that holds it.
    first_stage: BTreeMap<String, Stage>,
    stage_ranks: Vec<Rank>,
    tied: Vec<Vec<Stage>>,
    n_ranks: usize,
    stopped: bool,
}

enum Command {
    Play(Arc<Step>, Instant, Sender<(Rank, Result<Played, StageError>)>),
    Read(Stage, String, Source, Sender<Option<Vec<f32>>>),
}

impl Pipeline {
    /// Starts a thread per rank with its stages' weights and moments, each asked for once per stage that holds it.
    ///
    /// # Errors
    /// What `read` gives.
    ///
    /// # Panics
    /// When the spec's parts do not fit each other; the run's settings were checked before.
    pub fn start<E>(
        spec: &PipelineSpec,
        mut read: impl FnMut(&Weight, Source) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let n_ranks = spec.stage_map.n_ranks();
        assert_eq!(spec.partition.n_stages(), spec.stage_map.n_stages(), "stages of partition and map");
        assert_eq!((spec.recompute.len(), spec.devices.len()), (spec.stage_map.n_stages(), n_ranks), "spec lengths");
        let homes = Homes::new(spec);
        let mut stores: Vec<BTreeMap<Stage, Store>> = (0..n_ranks).map(|_| BTreeMap::new()).collect();
        for stage in (0..spec.partition.n_stages()).map(Stage) {
            let rank = homes.rank_of(stage);
            stores[rank.0].insert(stage, new_store(spec, &homes, stage, rank, &mut read)?);
        }
        let ties = Arc::new(homes.ties);
        let permits: Vec<(&Cores, Arc<Permits>)> =
            spec.cores.iter().map(|cores| (cores, Arc::new(Permits::new(cores.permits)))).collect();
        let mut pipeline = Self {
            commands: Vec::new(),
            threads: Vec::new(),
            first_stage: homes.first_stage,
            stage_ranks: homes.stage_ranks,
            tied: homes.tied_stages,
            n_ranks,
            stopped: false,
        };
        for (endpoint, stores) in wire::connect(n_ranks, spec.deadline).into_iter().zip(stores) {
            let rank = endpoint.rank();
            let shared = permits.iter().find(|(cores, _)| cores.ranks.contains(&rank));
            let n_threads = shared.map_or(1, |(cores, _)| cores.threads);
            let permits = shared.map(|(_, permits)| permits.clone());
            let player = Player { endpoint, stores, permits, ties: ties.clone() };
            let (commands, inbox) = channel();
            let thread = std::thread::Builder::new().name(format!("rank {rank}"));
            pipeline.threads.push(
                thread
                    .spawn(move || in_own_pool(rank, n_threads, || serve(player, inbox)))
                    .expect("invariant: the system starts a thread"),
            );
            pipeline.commands.push(commands);
        }
        Ok(pipeline)
    }

    /// Groups of stages that share parameters: what the schedule's generator is told.
    pub fn tied(&self) -> &[Vec<Stage>] {
        &self.tied
    }

    /// Plays one step on all ranks.
    ///
    /// # Errors
    /// The first cause when a rank failed; all ranks have stopped then, and every later call gives
    /// [`StageError::Stopped`].
    pub fn play(&mut self, step: Step) -> Result<Report, StageError> {
        if self.stopped {
            return Err(StageError::Stopped);
        }
        schedule::validate(&step.schedule).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            StageError::Schedule(lines.join("; "))
        })?;
        let n_microbatches = step.microbatches.len();
        let mut step = step;
        step.schedule.ranks.resize(self.n_ranks, Vec::new());
        let (step, start) = (Arc::new(step), Instant::now());
        let (reply, replies) = channel();
        for commands in &self.commands {
            if commands.send(Command::Play(step.clone(), start, reply.clone())).is_err() {
                self.stopped = true;
                return Err(StageError::Stopped);
            }
        }
        drop(reply);
        let mut report = Report {
            losses: vec![0.0; n_microbatches],
            gradient_norm: None,
            timeline: Timeline { n_ranks: self.n_ranks, ..Timeline::default() },
        };
        let mut failures = Vec::new();
        let mut played: Vec<(Rank, Played)> = Vec::new();
        for (rank, result) in replies {
            match result {
                Ok(part) => played.push((rank, part)),
                Err(error) => failures.push(error),
            }
        }
        if !failures.is_empty() {
            self.stopped = true;
            // A rank that heard of another's failure is an echo; the cause speaks for itself.
            let is_echo = |error: &StageError| {
                matches!(error, StageError::Wire(WireError::PeerFailed { .. } | WireError::Gone { .. }))
            };
            failures.sort_by_key(is_echo);
            return Err(failures.swap_remove(0));
        }
        played.sort_by_key(|(rank, _)| *rank);
        for (_, part) in played {
            part.losses.iter().for_each(|&(microbatch, loss)| report.losses[microbatch] = loss);
            report.gradient_norm = report.gradient_norm.or(part.gradient_norm);
            report.timeline.spans.extend(part.spans);
            report.timeline.memory.extend(part.memory);
        }
        Ok(report)
    }

    /// A copy of a parameter's values. Stages that share the parameter hold the same ones, apart from gradients before
    /// they are reduced; the first is read.
    ///
    /// # Errors
    /// [`StageError::Stopped`] after a failure.
    ///
    /// # Panics
    /// When no stage holds the parameter.
    pub fn read(&self, name: &str, source: Source) -> Result<Vec<f32>, StageError> {
        let stage = self.first_stage.get(name).unwrap_or_else(|| panic!("parameter {name} is held by a stage"));
        self.read_at(*stage, name, source)
    }

    /// A copy of the values that `stage` holds of a parameter.
    ///
    /// # Errors
    /// [`StageError::Stopped`] after a failure.
    ///
    /// # Panics
    /// When there is no such stage, or it does not hold the parameter.
    pub fn read_at(&self, stage: Stage, name: &str, source: Source) -> Result<Vec<f32>, StageError> {
        if self.stopped {
            return Err(StageError::Stopped);
        }
        let (reply, answer) = channel();
        let command = Command::Read(stage, name.to_owned(), source, reply);
        self.commands[self.stage_ranks[stage.0].0].send(command).map_err(|_gone| StageError::Stopped)?;
        let values = answer.recv().map_err(|_gone| StageError::Stopped)?;
        Ok(values.unwrap_or_else(|| panic!("stage {stage} does not hold {name}")))
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.commands.clear();
        for thread in self.threads.drain(..) {
            // A rank reports its panic in its reply; nothing is left to say here.
            thread.join().unwrap_or_default();
        }
    }
}

/// Runs a rank's whole loop inside a thread pool of its own, so that kernels use its cores and no others.
fn in_own_pool(rank: Rank, n_threads: usize, run: impl FnOnce() + Send) {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .thread_name(move |i| format!("rank {rank} kernel {i}"))
        .build()
        .expect("invariant: the system starts threads");
    pool.install(run);
}

/// Serves commands until the controller leaves or a step fails.
fn serve(mut player: Player, inbox: Receiver<Command>) {
    let rank = player.endpoint.rank();
    for command in inbox {
        match command {
            Command::Play(step, start, reply) => {
                let result = catch_unwind(AssertUnwindSafe(|| player.play(&step, start)))
                    .unwrap_or_else(|panic| Err(StageError::Panicked { rank, message: panic_message(&*panic) }));
                let failed = result.as_ref().err().map(ToString::to_string);
                if let Some(message) = &failed {
                    player.endpoint.fail(message);
                }
                if reply.send((rank, result)).is_err() || failed.is_some() {
                    return;
                }
            }
            Command::Read(stage, name, source, reply) => {
                let values = player.stores.get(&stage).and_then(|store| read(store, &name, source));
                if reply.send(values).is_err() {
                    return;
                }
            }
        }
    }
}

fn read(store: &Store, name: &str, source: Source) -> Option<Vec<f32>> {
    let i = store.part.parameters().iter().position(|parameter| parameter.weight.name == name)?;
    Some(crate::carry::into_vec(match source {
        Source::Value => store.part.parameters()[i].value.clone(),
        Source::FirstMoment => store.moments[i].m.clone(),
        Source::SecondMoment => store.moments[i].v.clone(),
        Source::Gradient => store.gradients[i].clone(),
    }))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

/// Which stages hold which parameter.
struct Homes {
    stage_ranks: Vec<Rank>,
    first_stage: BTreeMap<String, Stage>,
    ties: Vec<Tie>,
    tied_stages: Vec<Vec<Stage>>,
}

impl Homes {
    fn new(spec: &PipelineSpec) -> Self {
        let stage_ranks: Vec<Rank> =
            (0..spec.stage_map.n_stages()).map(|stage| spec.stage_map.grid(Stage(stage)).ranks[0]).collect();
        let mut holders: BTreeMap<String, Vec<(Stage, Rank, usize)>> = BTreeMap::new();
        for (stage, blocks) in spec.partition.stages().iter().enumerate() {
            let mut names: Vec<String> = Vec::new();
            for weight in blocks.iter().flat_map(|&block| spec.architecture.weights(block)) {
                if !names.contains(&weight.name) {
                    holders.entry(weight.name.clone()).or_default().push((
                        Stage(stage),
                        stage_ranks[stage],
                        names.len(),
                    ));
                    names.push(weight.name);
                }
            }
        }
        let first_stage = holders.iter().map(|(name, holders)| (name.clone(), holders[0].0)).collect();
        let ties: Vec<Tie> =
            holders.into_values().filter(|holders| holders.len() > 1).map(|holders| Tie { holders }).collect();
        let tied_stages = ties.iter().map(|tie| tie.holders.iter().map(|holder| holder.0).collect()).collect();
        Self { stage_ranks, first_stage, ties, tied_stages }
    }

    fn rank_of(&self, stage: Stage) -> Rank {
        self.stage_ranks[stage.0]
    }
}

fn new_store<E>(
    spec: &PipelineSpec,
    homes: &Homes,
    stage: Stage,
    rank: Rank,
    read: &mut impl FnMut(&Weight, Source) -> Result<Vec<f32>, E>,
) -> Result<Store, E> {
    let device = &spec.devices[rank.0];
    let part = {
        let _account = ledger::scope(rank.0, Category::Weights);
        Part::new(&spec.architecture, &spec.partition.stages()[stage.0], device, |weight| read(weight, Source::Value))?
    };
    let _account = ledger::scope(rank.0, Category::Optimizer);
    let mut moments = Vec::new();
    for parameter in part.parameters() {
        let mut moment = |source| -> Result<Tensor<1>, E> {
            let values = read(&parameter.weight, source)?;
            let n = values.len();
            Ok(Tensor::from_data(TensorData::new(values, [n]), device))
        };
        moments.push(Moments { m: moment(Source::FirstMoment)?, v: moment(Source::SecondMoment)? });
    }
    let roles: BTreeMap<String, architecture::Role> =
        spec.architecture.all_weights().into_iter().map(|weight| (weight.name, weight.role)).collect();
    let names = || part.parameters().iter().map(|parameter| &parameter.weight.name);
    let mut store = Store {
        decays: names().map(|name| decays(roles[name])).collect(),
        counted: names().map(|name| homes.first_stage[name] == stage).collect(),
        recompute: spec.recompute[stage.0],
        gradients: Vec::new(),
        moments,
        part,
    };
    store.clear_gradients();
    Ok(store)
}
