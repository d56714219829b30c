//! The rank threads of one process, and the controller's end of them.

use crate::cut::Cut;
use crate::error::StageError;
use crate::permits::Permits;
use crate::play::{Report, Step};
use crate::precision::Precision;
use crate::rank::{Played, Player};
use crate::shard::Shard;
use crate::statistics::{Held, ParameterStatistics, Watch, each_once};
use crate::store::Store;
use crate::tied::Tie;
use crate::training_state::{TrainingState, decays};
use crate::updates::is_update;
use architecture::{Architecture, Block, Partition, Weight};
use burn::tensor::{DType, Device};
use kernels::AdamW;
use mesh::{Cores, Rank, Stage, StageMap};
use model::{Parameter, Part};
use plan::Recompute;
use schedule::{Action, InputLayer, Schedule, StageOp, Vocabulary};
use simulate::{Category, Timeline};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    /// How the vocabulary is sharded over all ranks, each of which must hold a stage; `None` when it is not.
    pub vocabulary: Option<Vocabulary>,
    /// What each stage keeps.
    pub recompute: Vec<Recompute>,
    /// Device of each rank.
    pub devices: Vec<Device>,
    /// What they compute in.
    pub precision: Precision,
    /// Cores that ranks share.
    pub cores: Vec<Cores>,
    /// Longest wait for a message.
    pub deadline: Duration,
}

/// Which values of a parameter are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// Names of parameters whose rows lie on all ranks.
    sharded: Vec<String>,
    input: Option<InputLayer>,
    stage_ranks: Vec<Rank>,
    tied: Vec<Vec<Stage>>,
    /// Whether the shards of the head are rows of an embedding that is whole elsewhere.
    shares_tied_rows: bool,
    n_ranks: usize,
    stopped: bool,
}

enum Command {
    Play(Arc<Step>, Instant, Watch, Sender<(Rank, Result<Played, StageError>)>),
    Read(Holder, String, Source, Sender<Option<Vec<f32>>>),
    Measure(Option<AdamW>, Sender<Vec<Held>>),
}

/// Who on a rank is asked for a parameter.
#[derive(Clone, Copy)]
enum Holder {
    Stage(Stage),
    Shard,
}

impl Pipeline {
    /// Starts a thread per rank with its stages' weights and moments, each asked for once per stage that holds it,
    /// and once where its rows are cut over the ranks.
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
        let shards = new_shards(spec, &homes, &mut read)?;
        let ties = Arc::new(homes.ties);
        let permits: Vec<(&Cores, Arc<Permits>)> =
            spec.cores.iter().map(|cores| (cores, Arc::new(Permits::new(cores.permits)))).collect();
        let mut pipeline = Self {
            commands: Vec::new(),
            threads: Vec::new(),
            first_stage: homes.first_stage,
            sharded: homes.sharded,
            input: spec.vocabulary.map(|vocabulary| vocabulary.input),
            stage_ranks: homes.stage_ranks,
            tied: homes.tied_stages,
            shares_tied_rows: homes.tied_embedding.is_some(),
            n_ranks,
            stopped: false,
        };
        for ((endpoint, stores), shard) in wire::connect(n_ranks, spec.deadline).into_iter().zip(stores).zip(shards) {
            let rank = endpoint.rank();
            let shared = permits.iter().find(|(cores, _)| cores.ranks.contains(&rank));
            let n_threads = shared.map_or(1, |(cores, _)| cores.threads);
            let permits = shared.map(|(_, permits)| permits.clone());
            let player = Player { endpoint, stores, shard, permits, ties: ties.clone() };
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
        self.play_and_watch(step, Watch::Nothing)
    }

    /// Plays one step on all ranks and looks at the residual stream after each block that is evaluated.
    ///
    /// # Errors
    /// As [`Pipeline::play`].
    pub fn play_watched(&mut self, step: Step) -> Result<Report, StageError> {
        self.play_and_watch(step, Watch::Blocks)
    }

    fn play_and_watch(&mut self, step: Step, watch: Watch) -> Result<Report, StageError> {
        if self.stopped {
            return Err(StageError::Stopped);
        }
        schedule::validate(&step.schedule).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            StageError::Schedule(lines.join("; "))
        })?;
        self.check_vocabulary(&step.schedule)?;
        self.check_tied(&step.schedule)?;
        let n_microbatches = step.microbatches.len();
        let mut step = step;
        step.schedule.ranks.resize(self.n_ranks, Vec::new());
        let (step, start) = (Arc::new(step), Instant::now());
        let (reply, replies) = channel();
        for commands in &self.commands {
            if commands.send(Command::Play(step.clone(), start, watch, reply.clone())).is_err() {
                self.stopped = true;
                return Err(StageError::Stopped);
            }
        }
        drop(reply);
        let mut report = Report {
            losses: vec![Vec::new(); n_microbatches],
            gradient_norm: None,
            most_kept: Vec::new(),
            timeline: Timeline { n_ranks: self.n_ranks, ..Timeline::default() },
            outputs: Vec::new(),
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
            part.losses.into_iter().for_each(|(microbatch, rows)| report.losses[microbatch] = rows);
            report.gradient_norm = report.gradient_norm.or(part.gradient_norm);
            report.most_kept.push(part.most_kept);
            report.timeline.spans.extend(part.spans);
            report.timeline.memory.extend(part.memory);
            for (block, size) in part.outputs {
                match report.outputs.iter_mut().find(|(known, _)| *known == block) {
                    Some((_, sum)) => *sum = sum.and(size),
                    None => report.outputs.push((block, size)),
                }
            }
        }
        Ok(report)
    }

    /// Sizes of all parameters, each once, in order of names, with the gradients of the last training step and what the
    /// update `last` did; `None` when the last step updated nothing. Takes about as long as an update.
    ///
    /// # Errors
    /// [`StageError::Stopped`] after a failure.
    pub fn statistics(&self, last: Option<AdamW>) -> Result<Vec<ParameterStatistics>, StageError> {
        if self.stopped {
            return Err(StageError::Stopped);
        }
        let ask = |commands: &Sender<Command>| -> Result<Receiver<Vec<Held>>, StageError> {
            let (reply, answer) = channel();
            commands.send(Command::Measure(last, reply)).map_err(|_gone| StageError::Stopped)?;
            Ok(answer)
        };
        let answers = self.commands.iter().map(ask).collect::<Result<Vec<_>, _>>()?;
        let held = answers.iter().map(|answer| answer.recv().map_err(|_gone| StageError::Stopped));
        let held = held.collect::<Result<Vec<_>, _>>()?;
        Ok(each_once(held.into_iter().flatten(), &self.first_stage, &self.sharded))
    }

    /// Whether the schedule shards the vocabulary as the weights are.
    fn check_vocabulary(&self, schedule: &Schedule) -> Result<(), StageError> {
        let input = schedule.vocabulary.map(|vocabulary| vocabulary.input);
        let describe = |input: Option<InputLayer>| match input {
            None => "no shards of the vocabulary",
            Some(InputLayer::FirstStage) => "shards of the head",
            Some(InputLayer::Sharded) => "shards of the head and the embedding",
        };
        if input != self.input {
            let (found, wanted) = (describe(input), describe(self.input));
            return Err(StageError::Schedule(format!("it has {found}, but the pipeline was started with {wanted}")));
        }
        let n_lists = schedule.n_ranks();
        if input.is_some() && n_lists != self.n_ranks {
            let n_ranks = self.n_ranks;
            return Err(StageError::Schedule(format!(
                "it has {n_lists} ranks, but the vocabulary is sharded over {n_ranks}"
            )));
        }
        let updates = |list: &[Action]| list.iter().any(|&action| is_update(action));
        let idle = schedule.ranks.iter().position(|list| !updates(list));
        match idle.filter(|_| input.is_some() && schedule.ranks.iter().any(|list| updates(list))) {
            Some(rank) => Err(StageError::Schedule(format!(
                "rank {rank} holds a shard of the vocabulary but has no optimizer step; give it a stage on the route"
            ))),
            None => Ok(()),
        }
    }

    /// Whether the schedule ties the stages that the weights tie, where it updates or reduces anything.
    fn check_tied(&self, schedule: &Schedule) -> Result<(), StageError> {
        let is_at_work =
            |action| is_update(action) || matches!(action, Action::Stage { op: StageOp::ReduceGradients, .. });
        if !schedule.actions().any(|(_, action)| is_at_work(action)) {
            return Ok(());
        }
        let groups = |tied: &[Vec<Stage>]| -> BTreeSet<BTreeSet<Stage>> {
            tied.iter().map(|group| group.iter().copied().collect()).collect()
        };
        if groups(&schedule.tied) != groups(&self.tied) {
            let (found, wanted) = (words(&schedule.tied), words(&self.tied));
            return Err(StageError::Schedule(format!(
                "it ties {found}, but in the pipeline {wanted} share weights; generate it with what `Pipeline::tied` says"
            )));
        }
        // With a sharded head and a whole embedding of the same matrix, ranks meet at their first update.
        let is_visit = |action: &Action| matches!(action, Action::Visit { .. });
        let goes_on = |list: &Vec<Action>| {
            let first = list.iter().position(|&action| is_update(action));
            first.is_some_and(|first| list[first..].iter().any(is_visit))
        };
        match schedule.ranks.iter().position(goes_on).filter(|_| self.shares_tied_rows) {
            Some(rank) => Err(StageError::Schedule(format!(
                "rank {rank} plays visits after its first update, where it waits for all ranks to sum the gradient of the \
                 matrix that head and embedding share; put updates last"
            ))),
            None => Ok(()),
        }
    }

    /// A copy of a parameter's values. Stages that share the parameter hold the same ones, apart from gradients before
    /// they are reduced; the first is read. Rows that lie on several ranks are put together.
    ///
    /// # Errors
    /// [`StageError::Stopped`] after a failure.
    ///
    /// # Panics
    /// When no stage holds the parameter.
    pub fn read(&self, name: &str, source: Source) -> Result<Vec<f32>, StageError> {
        if self.sharded.iter().any(|sharded| sharded == name) {
            let shards = (0..self.n_ranks).map(|rank| self.ask(Rank(rank), Holder::Shard, name, source));
            return shards
                .map(|values| Ok(values?.unwrap_or_default()))
                .collect::<Result<Vec<_>, _>>()
                .map(|v| v.concat());
        }
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
        let values = self.ask(self.stage_ranks[stage.0], Holder::Stage(stage), name, source)?;
        Ok(values.unwrap_or_else(|| panic!("stage {stage} does not hold {name}")))
    }

    fn ask(&self, rank: Rank, holder: Holder, name: &str, source: Source) -> Result<Option<Vec<f32>>, StageError> {
        if self.stopped {
            return Err(StageError::Stopped);
        }
        let (reply, answer) = channel();
        let command = Command::Read(holder, name.to_owned(), source, reply);
        self.commands[rank.0].send(command).map_err(|_gone| StageError::Stopped)?;
        answer.recv().map_err(|_gone| StageError::Stopped)
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
            Command::Play(step, start, watch, reply) => {
                let result = catch_unwind(AssertUnwindSafe(|| player.play(&step, start, watch)))
                    .unwrap_or_else(|panic| Err(StageError::Panicked { rank, message: panic_message(&*panic) }));
                let failed = result.as_ref().err().map(ToString::to_string);
                if let Some(message) = &failed {
                    player.endpoint.fail(message);
                }
                if reply.send((rank, result)).is_err() || failed.is_some() {
                    return;
                }
            }
            Command::Measure(last, reply) => {
                if reply.send(player.statistics(last)).is_err() {
                    return;
                }
            }
            Command::Read(holder, name, source, reply) => {
                let values = match holder {
                    Holder::Stage(stage) => player
                        .stores
                        .get(&stage)
                        .and_then(|store| store.training.read(store.part.parameters(), &name, source)),
                    Holder::Shard => {
                        player.shard.as_ref().and_then(|shard| shard.training.read(&shard.parameters, &name, source))
                    }
                };
                if reply.send(values).is_err() {
                    return;
                }
            }
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

fn words(tied: &[Vec<Stage>]) -> String {
    let group =
        |group: &Vec<Stage>| format!("stages {}", group.iter().map(Stage::to_string).collect::<Vec<_>>().join(" "));
    match tied {
        [] => "no stages".to_owned(),
        groups => groups.iter().map(group).collect::<Vec<_>>().join(" and "),
    }
}

impl PipelineSpec {
    /// Groups of stages that share parameters: what the schedule's generator is told.
    pub fn tied(&self) -> Vec<Vec<Stage>> {
        Homes::new(self).tied_stages
    }
}

/// Which stages hold which parameter.
struct Homes {
    stage_ranks: Vec<Rank>,
    first_stage: BTreeMap<String, Stage>,
    ties: Vec<Tie>,
    tied_stages: Vec<Vec<Stage>>,
    /// Blocks whose vocabulary matrix is cut over the ranks.
    sharded_blocks: &'static [Block],
    /// The names of these matrices, the head's first, each once.
    sharded: Vec<String>,
    /// Where a whole copy of the sharded head lies: the embedding tied to it.
    tied_embedding: Option<(Stage, Rank, usize)>,
    /// Names of parameters that decay.
    decaying: BTreeSet<String>,
}

impl Homes {
    fn new(spec: &PipelineSpec) -> Self {
        let stage_ranks: Vec<Rank> =
            (0..spec.stage_map.n_stages()).map(|stage| spec.stage_map.grid(Stage(stage)).ranks[0]).collect();
        let sharded_blocks: &[Block] = match spec.vocabulary.map(|vocabulary| vocabulary.input) {
            None => &[],
            Some(InputLayer::FirstStage) => &[Block::Head],
            Some(InputLayer::Sharded) => &[Block::Head, Block::Embedding],
        };
        let mut holders: BTreeMap<String, Vec<(Stage, Rank, usize)>> = BTreeMap::new();
        for (stage, blocks) in spec.partition.stages().iter().enumerate() {
            let mut names: Vec<String> = Vec::new();
            for weight in
                blocks.iter().flat_map(|&block| spec.architecture.weights_beside_shards(block, sharded_blocks))
            {
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
        let matrices = sharded_blocks.iter().filter_map(|&block| spec.architecture.vocabulary_matrix(block));
        let mut sharded: Vec<String> = matrices.map(|matrix| matrix.name).collect();
        sharded.dedup();
        let weights = spec.architecture.all_weights().into_iter();
        let decaying = weights.filter(|weight| decays(weight.role)).map(|weight| weight.name).collect();
        let tied_embedding = sharded.first().and_then(|head| holders.get(head)).map(|holders| holders[0]);
        let first_stage = holders.iter().map(|(name, holders)| (name.clone(), holders[0].0)).collect();
        let ties: Vec<Tie> =
            holders.into_values().filter(|holders| holders.len() > 1).map(|holders| Tie { holders }).collect();
        let tied_stages = ties.iter().map(|tie| tie.holders.iter().map(|holder| holder.0).collect()).collect();
        Self { stage_ranks, first_stage, ties, tied_stages, sharded_blocks, sharded, tied_embedding, decaying }
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
    let (device, blocks) = (&spec.devices[rank.0], &spec.partition.stages()[stage.0]);
    let part = {
        let _account = ledger::scope(rank.0, Category::Weights);
        let values = |weight: &Weight| read(weight, Source::Value);
        Part::with_sharded_vocabulary(&spec.architecture, blocks, homes.sharded_blocks, device, values)?.computing_in(
            match spec.precision {
                Precision::F32 => DType::F32,
                Precision::Bf16 => DType::BF16,
            },
        )
    };
    let _account = ledger::scope(rank.0, Category::Optimizer);
    let counted = |name: &str| homes.first_stage[name] == stage && homes.sharded.iter().all(|sharded| sharded != name);
    let training = TrainingState::new(part.parameters(), device, |name| homes.decaying.contains(name), counted, read)?;
    Ok(Store { recompute: spec.recompute[stage.0], training, part })
}

/// The shard of every rank; none when the vocabulary is not sharded.
fn new_shards<E>(
    spec: &PipelineSpec,
    homes: &Homes,
    read: &mut impl FnMut(&Weight, Source) -> Result<Vec<f32>, E>,
) -> Result<Vec<Option<Shard>>, E> {
    let n_ranks = spec.stage_map.n_ranks();
    if homes.sharded.is_empty() {
        return Ok((0..n_ranks).map(|_| None).collect());
    }
    let has_stage = |rank: usize| !spec.stage_map.stages_on(Rank(rank)).is_empty();
    assert!((0..n_ranks).all(has_stage), "a rank with a shard of the vocabulary has a stage");
    let [n_rows, width] = [spec.architecture.vocab_size, spec.architecture.hidden_size];
    let cut = Cut::even(n_rows, n_ranks);
    let of_all = spec.architecture.all_weights();
    let matrices = || homes.sharded.iter().map(|name| of_all.iter().find(|weight| weight.name == *name));
    let matrices: Vec<&Weight> = matrices().map(|weight| weight.expect("invariant: a weight of the model")).collect();
    // Every matrix is read whole, once per source, and its rows taken from there.
    let mut whole: HashMap<(String, Source), Vec<f32>> = HashMap::new();
    for matrix in &matrices {
        for source in [Source::Value, Source::FirstMoment, Source::SecondMoment] {
            whole.insert((matrix.name.clone(), source), read(matrix, source)?);
        }
    }
    let shard = |rank: Rank| {
        let rows = cut.rows(rank);
        let own = |weight: &Weight, source| {
            let values = &whole[&(weight.name.clone(), source)];
            Ok::<_, E>(values[rows.start * width..rows.end * width].to_vec())
        };
        let device = &spec.devices[rank.0];
        let mut parameters = Vec::new();
        for matrix in matrices.iter().filter(|_| !rows.is_empty()) {
            let _account = ledger::scope(rank.0, Category::Weights);
            let weight = Weight { shape: vec![rows.len(), width], ..(*matrix).clone() };
            parameters.push(Parameter::new(weight, own(matrix, Source::Value)?, device));
        }
        let _account = ledger::scope(rank.0, Category::Optimizer);
        let training = TrainingState::new(&parameters, device, |name| homes.decaying.contains(name), |_| true, own)?;
        let looks_up = homes.sharded_blocks.contains(&Block::Embedding) && !parameters.is_empty();
        Ok(Some(Shard {
            rank,
            cut: cut.clone(),
            device: device.clone(),
            width,
            embedding: looks_up.then(|| parameters.len() - 1),
            parameters,
            training,
            tied: homes.tied_embedding,
            kept: HashMap::new(),
        }))
    };
    (0..n_ranks).map(|rank| shard(Rank(rank))).collect()
}
