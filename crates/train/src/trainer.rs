//! The training loop.

use crate::data::{loss_by_source, microbatches};
use crate::run_plan::update;
use crate::state::State;
use crate::{
    BlocksMetrics, Event, ModelSource, RankMetrics, RunPlan, Settings, StepMetrics, TokenizerSource, TrainError,
    ValidationMetrics,
};
use architecture::{Architecture, Block, Weight};
use checkpoint::{Checkpoint, Companion, Dtype, Export, Folder, Part};
use corpus::{Borders, Corpus, CorpusOptions, Mixture, Packing, TokenizerChoice, ValidationRows};
use kernels::{AdamW, Size};
use mesh::Rank;
use simulate::{Bubble, Timeline};
use stage::{Objective, Pipeline, Source, Step};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Name of the folder of checkpoints within a run's.
pub const CHECKPOINTS: &str = "checkpoints";

/// A run that is ready to go, or under way.
pub struct Trainer {
    settings: Settings,
    corpus: Corpus,
    plan: RunPlan,
    pipeline: Pipeline,
    training: Mixture,
    /// By source.
    validation: Vec<ValidationRows>,
    state: State,
    checkpoints: PathBuf,
    /// Of the model that the run started from.
    companions: Vec<Companion>,
    skipped: Vec<String>,
    measured: Vec<Timeline>,
    /// The last update; `None` before the first and when the last step was skipped.
    last_update: Option<AdamW>,
    /// The residual stream after each block in the first batch of the last validation.
    outputs: Vec<(Block, Size)>,
}

/// Why [`Trainer::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A text is to be written ([`crate::SampleSettings::every`]), which is not this crate's; run again to go on.
    SampleDue,
    /// All steps are done.
    Finished,
    /// The flag was raised; the step was finished and saved.
    Interrupted,
}

impl Trainer {
    /// Reads the text, the tokenizer and the model, plans, calibrates, and starts the pipeline. `cache` is where token
    /// caches live; `run` is the run's folder, in which nothing is written before the first checkpoint.
    ///
    /// With `resume`, the newest sound checkpoint of `run` is continued: bit for bit as if the run had not stopped
    /// when the plan is the same, within rounding on another number of stages.
    ///
    /// # Errors
    /// Whatever is wrong with the inputs, before any training.
    pub fn new(settings: Settings, run: &Path, cache: &Path, resume: Resume) -> Result<Self, TrainError> {
        let checkpoints = run.join(CHECKPOINTS);
        let (resumed, skipped) = match resume {
            Resume::Fresh => (None, Vec::new()),
            Resume::Latest => {
                let (checkpoint, skipped) = latest(&checkpoints)?;
                (Some(checkpoint), skipped)
            }
        };
        // A checkpoint has model and tokenizer in itself: what it was made from need not be there any more.
        let base = match (&settings.model, &resumed) {
            (ModelSource::Folder(folder), None) => Some(checkpoint::read_folder(folder)?),
            _ => None,
        };
        let origin = resumed.as_ref().map(Checkpoint::folder).or(base.as_ref());
        let corpus = Corpus::open(&CorpusOptions {
            sources: settings.data.sources.clone(),
            tokenizer: tokenizer_choice(&settings, origin, resume)?,
            validation_fraction: settings.data.validation_fraction,
            seed: settings.seed,
            cache_folder: cache.to_owned(),
        })?;
        let architecture = architecture(&settings, origin, &corpus)?;
        let companions = companions(&settings, origin, resume)?;
        let state = match &resumed {
            Some(checkpoint) => State::from_json(checkpoint.state(), &settings, &corpus, checkpoint.path())?,
            None => State::start(&corpus),
        };
        let packing = Packing {
            sequence_length: settings.data.sequence_length,
            borders: if settings.data.isolate_documents { Borders::Isolated } else { Borders::Joined },
        };
        let training = Mixture::new(&corpus, packing, settings.seed)?;
        let validation = corpus.sources.iter().map(|source| ValidationRows::new(source.validation.clone(), packing));
        let validation = validation.collect::<Result<Vec<_>, _>>()?;
        let mut plan = RunPlan::new(&settings, &architecture)?;
        plan.calibrate(&settings)?;
        let pipeline = Pipeline::start(&plan.spec, |weight, source| {
            Ok::<_, TrainError>(match (&resumed, &base, source) {
                (Some(checkpoint), _, source) => checkpoint.read(weight, part(source))?,
                (None, Some(folder), Source::Value) => folder.read(weight)?,
                (None, None, Source::Value) => model::draw(&architecture, weight, settings.seed),
                (None, _, _) => vec![0.0; weight.n_elements()],
            })
        })?;
        Ok(Self {
            settings,
            corpus,
            plan,
            pipeline,
            training,
            validation,
            state,
            checkpoints,
            companions,
            skipped,
            measured: Vec::new(),
            last_update: None,
            outputs: Vec::new(),
        })
    }

    /// What will be played, and what it is predicted to cost.
    pub fn plan(&self) -> &RunPlan {
        &self.plan
    }

    /// The text.
    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    /// The model.
    pub fn architecture(&self) -> &Architecture {
        &self.plan.spec.architecture
    }

    /// Checkpoints newer than the one resumed that are damaged, and what is wrong with them.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Optimizer steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// The timelines of the last steps, oldest first, at most [`Trainer::TIMELINES_MAX`].
    pub fn measured(&self) -> &[Timeline] {
        &self.measured
    }

    /// How many timelines are kept: enough for a median, few enough for a report.
    pub const TIMELINES_MAX: usize = 25;

    /// Trains until the last step, or until `interrupted` is raised: then the step under way is finished and saved; or
    /// until a sample is due.
    /// `peak_flops` is the machine's measured matrix-product rate per second, for the share of it in the metrics.
    ///
    /// # Errors
    /// When a step or a save fails; earlier checkpoints are as they were.
    pub fn run(
        &mut self,
        interrupted: &AtomicBool,
        peak_flops: Option<f64>,
        mut on_event: impl FnMut(Event),
    ) -> Result<Ended, TrainError> {
        let steps = self.settings.steps;
        let due = |every: Option<u64>, step: u64| every.is_some_and(|every| step.is_multiple_of(every));
        while self.state.step < steps {
            on_event(Event::Step(self.train_step(peak_flops)?));
            let step = self.state.step;
            if step == steps || due(self.settings.validation.every, step) {
                let rows = if step == steps { usize::MAX } else { self.settings.validation.rows };
                if let Some(metrics) = self.validate(rows, interrupted)? {
                    on_event(Event::Validation(metrics));
                    on_event(Event::Blocks(self.blocks()?));
                }
            }
            let stop = interrupted.load(Ordering::Relaxed);
            if stop || step == steps || due(self.settings.checkpoint.every, step) {
                let folder = self.save()?;
                on_event(Event::Checkpoint { step, folder });
            }
            if stop && step < steps {
                return Ok(Ended::Interrupted);
            }
            if step < steps && due(self.settings.sample.every, step) {
                return Ok(Ended::SampleDue);
            }
        }
        Ok(Ended::Finished)
    }

    fn train_step(&mut self, peak_flops: Option<f64>) -> Result<StepMetrics, TrainError> {
        let start = Instant::now();
        let number = self.state.step + 1;
        let (batch, cursor) = self.training.batch(&self.state.cursor, self.settings.batch.rows);
        let total_weight = batch.weight();
        let learning_rate = self.settings.optimizer.learning_rate.at(number, self.settings.steps);
        let update = update(&self.settings, number, learning_rate);
        let report = self.pipeline.play(Step {
            number,
            schedule: self.plan.schedule.clone(),
            microbatches: microbatches(&batch, self.settings.batch.microbatches),
            objective: Objective::NextToken { total_weight },
            update: Some(update),
        })?;
        self.last_update = (!report.is_skipped()).then_some(update.adamw);
        self.state = State { step: number, cursor };
        let step_s = start.elapsed().as_secs_f64();
        let n_tokens = (batch.rows * batch.tokens) as f64;
        let bubbles = simulate::bubbles(&report.timeline, &self.plan.costs);
        let flops = self.architecture().training_flops_per_token(batch.tokens) * n_tokens;
        let metrics = StepMetrics {
            step: number,
            loss: report.loss(),
            gradient_norm: report.gradient_norm.unwrap_or(0.0),
            learning_rate,
            tokens: batch.weights.iter().filter(|weight| **weight != 0.0).count() as u64,
            step_s,
            tokens_per_s: n_tokens / step_s,
            peak_share: peak_flops.map(|peak| flops / step_s / peak),
            bubble: simulate::idle_fraction(&bubbles),
            loss_by_source: match self.corpus.sources.as_slice() {
                [_] => BTreeMap::new(),
                sources => loss_by_source(&batch, &report.losses, total_weight, sources),
            },
            ranks: ranks(&report.timeline, &bubbles),
        };
        if self.measured.len() == Self::TIMELINES_MAX {
            self.measured.remove(0);
        }
        self.measured.push(report.timeline);
        Ok(metrics)
    }

    /// The loss on the first validation rows of each source, untracked and through the same stages: at most `rows_max`
    /// over all sources in whole batches, but at least one batch of each, and all rows when there are fewer. `None` when
    /// `interrupted` was raised.
    ///
    /// # Errors
    /// When a step fails.
    pub fn validate(
        &mut self,
        rows_max: usize,
        interrupted: &AtomicBool,
    ) -> Result<Option<ValidationMetrics>, TrainError> {
        let start = Instant::now();
        let n_sources = self.corpus.sources.len();
        let (mut mean, mut bytes_per_token, mut n_tokens) = (0.0, 0.0, 0);
        let mut by_source = BTreeMap::new();
        self.outputs.clear();
        for index in 0..n_sources {
            let Some((nats, weight)) = self.validate_source(index, rows_max / n_sources, interrupted)? else {
                return Ok(None);
            };
            let source = &self.corpus.sources[index];
            mean += source.weight * nats / weight;
            // A part of the rows stands for the whole text: its nats per token, over all tokens and bytes.
            bytes_per_token += source.weight * source.validation.bytes() as f64 / source.validation.len() as f64;
            n_tokens += weight as u64;
            if n_sources > 1 {
                by_source.insert(source.name.clone(), nats / weight);
            }
        }
        Ok(Some(ValidationMetrics {
            step: self.state.step,
            loss: mean,
            perplexity: mean.exp(),
            bits_per_byte: mean / std::f64::consts::LN_2 / bytes_per_token,
            tokens: n_tokens,
            wall_s: start.elapsed().as_secs_f64(),
            validation_loss_by_source: by_source,
        }))
    }

    /// Nats and tokens of the first validation rows of one source.
    fn validate_source(
        &mut self,
        source: usize,
        rows_max: usize,
        interrupted: &AtomicBool,
    ) -> Result<Option<(f64, f64)>, TrainError> {
        let (per_step, count) = (self.settings.batch.rows, self.settings.batch.microbatches);
        let rows = self.validation[source].rows().min((rows_max / per_step).max(1).saturating_mul(per_step));
        let spec = &self.plan.spec;
        let schedule = schedule::forward_only(&spec.stage_map.route(), count, spec.vocabulary)?;
        let schedule = schedule::with_transfers(&schedule);
        let (mut loss, mut weight) = (0.0, 0.0);
        for first in (0..rows).step_by(per_step) {
            if interrupted.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let batch = self.validation[source].batch(first, per_step);
            let step = Step {
                number: self.state.step,
                schedule: schedule.clone(),
                microbatches: microbatches(&batch, count),
                objective: Objective::NextToken { total_weight: 1.0 },
                update: None,
            };
            let report = match first {
                0 => self.pipeline.play_watched(step)?,
                _ => self.pipeline.play(step)?,
            };
            self.outputs.extend(report.outputs.iter().copied());
            loss += report.loss();
            weight += batch.weight();
        }
        Ok(Some((loss, weight)))
    }

    /// Parameters after the last step, and activations of the last validation.
    fn blocks(&self) -> Result<BlocksMetrics, TrainError> {
        let parameters = self.pipeline.statistics(self.last_update)?;
        let (architecture, partition) = (self.architecture(), &self.plan.spec.partition);
        Ok(BlocksMetrics::new(self.state.step, architecture, partition, &parameters, &self.outputs))
    }

    /// The values of a parameter as they are now.
    ///
    /// # Panics
    /// When the model does not have it, or a step has failed.
    pub fn weight(&self, weight: &Weight) -> Vec<f32> {
        self.read(&weight.name, Source::Value)
    }

    /// Saves a checkpoint and yields its folder, which is also a Hugging Face folder.
    fn save(&self) -> Result<PathBuf, TrainError> {
        let save = checkpoint::Save {
            step: self.state.step,
            keep: self.settings.checkpoint.keep,
            architecture: self.architecture(),
            tokenizer: Some(self.corpus.tokenizer.to_json().as_bytes()),
            companions: &self.companions,
            state: &self.state.to_json(&self.settings, &self.corpus),
        };
        Ok(checkpoint::save(&self.checkpoints, &save, |weight, part| Ok(self.read(&weight.name, source(part))))?)
    }

    /// Writes the model as a Hugging Face folder in f32. An older model there is replaced, and other files there stay
    /// ([`checkpoint::replace_folder`]).
    ///
    /// # Errors
    /// When the folder cannot be written; then an older one is as before.
    pub fn export(&self, folder: &Path) -> Result<(), TrainError> {
        let export = Export {
            architecture: self.architecture(),
            tokenizer: Some(self.corpus.tokenizer.to_json().as_bytes()),
            companions: &self.companions,
            dtype: Dtype::F32,
            shard_bytes: None,
        };
        Ok(checkpoint::replace_folder(folder, &export, |weight| Ok(self.read(&weight.name, Source::Value)))?)
    }

    fn read(&self, name: &str, source: Source) -> Vec<f32> {
        self.pipeline.read(name, source).expect("invariant: no step has failed, or the run had ended")
    }
}

/// Each rank's part of a step.
fn ranks(timeline: &Timeline, bubbles: &[Bubble]) -> Vec<RankMetrics> {
    let of_rank = |(rank, bubble): (usize, &Bubble)| {
        let (idle_s, all_s) = (bubble.idle_s(), bubble.compute_s + bubble.idle_s());
        let idle = if all_s > 0.0 { idle_s / all_s } else { 0.0 };
        RankMetrics { idle, peak_bytes: timeline.peak_bytes(Rank(rank)) }
    };
    bubbles.iter().enumerate().map(of_rank).collect()
}

/// Where a run starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At step 0.
    Fresh,
    /// At the newest sound checkpoint.
    Latest,
}

/// The newest sound checkpoint, and what is wrong with newer ones.
fn latest(checkpoints: &Path) -> Result<(Checkpoint, Vec<String>), TrainError> {
    let found = checkpoint::latest(checkpoints)?;
    let skipped: Vec<String> = found.skipped.iter().map(|skipped| skipped.reason.to_string()).collect();
    match found.checkpoint {
        Some(checkpoint) => Ok((checkpoint, skipped)),
        None => Err(TrainError::NothingToResume {
            folder: checkpoints.to_owned(),
            skipped: skipped.iter().map(|reason| format!("; {reason}")).collect(),
        }),
    }
}

/// The tokenizer named, the origin's, or a fresh one. A run that is resumed goes on with the tokenizer it was saved with.
fn tokenizer_choice(
    settings: &Settings,
    origin: Option<&Folder>,
    resume: Resume,
) -> Result<TokenizerChoice, TrainError> {
    match (&settings.tokenizer, origin, resume) {
        (TokenizerSource::File(file), _, Resume::Fresh) => Ok(TokenizerChoice::File(file.clone())),
        (TokenizerSource::Train { vocab_size }, None, _) => Ok(TokenizerChoice::Train { vocab_size: *vocab_size }),
        (_, Some(folder), _) => {
            let file = folder.tokenizer_path();
            let file = file.ok_or_else(|| TrainError::NoTokenizer { folder: folder.path().to_owned() })?;
            Ok(TokenizerChoice::File(file.to_owned()))
        }
        (TokenizerSource::File(_), None, Resume::Latest) => unreachable!("a resumed run has its checkpoint's folder"),
    }
}

/// The origin's, unless they tell of another tokenizer than the run's.
fn companions(settings: &Settings, origin: Option<&Folder>, resume: Resume) -> Result<Vec<Companion>, TrainError> {
    match (&settings.tokenizer, origin, resume) {
        (_, None, _) => Ok(Vec::new()),
        (TokenizerSource::File(file), Some(folder), Resume::Fresh) if folder.tokenizer_path() != Some(file) => {
            Ok(Vec::new())
        }
        (_, Some(folder), _) => Ok(folder.companions()?),
    }
}

/// The origin's description, or the fresh one with vocabulary and token ids from the tokenizer.
fn architecture(settings: &Settings, origin: Option<&Folder>, corpus: &Corpus) -> Result<Architecture, TrainError> {
    let tokenizer = &corpus.tokenizer;
    let architecture = match (origin, &settings.model) {
        (Some(folder), _) => folder.architecture().clone(),
        (None, ModelSource::Fresh(architecture)) => Architecture {
            vocab_size: tokenizer.vocab_size(),
            bos_token_id: Some(tokenizer.start_of_document()),
            eos_token_id: vec![tokenizer.end_of_text()],
            ..architecture.clone()
        },
        (None, ModelSource::Folder(_)) => unreachable!("a folder was read when one is the source"),
    };
    if tokenizer.vocab_size() > architecture.vocab_size {
        let (tokenizer, model) = (tokenizer.vocab_size(), architecture.vocab_size);
        return Err(TrainError::Vocabulary { tokenizer, model });
    }
    let (found, limit) = (settings.data.sequence_length, architecture.max_position_embeddings);
    if found > limit {
        return Err(TrainError::SequenceLength { found, limit });
    }
    architecture.check()?;
    Ok(architecture)
}

fn part(source: Source) -> Part {
    match source {
        Source::Value => Part::Value,
        Source::FirstMoment => Part::FirstMoment,
        Source::SecondMoment => Part::SecondMoment,
        Source::Gradient => unreachable!("a gradient is not stored"),
    }
}

fn source(part: Part) -> Source {
    match part {
        Part::Value => Source::Value,
        Part::FirstMoment => Source::FirstMoment,
        Part::SecondMoment => Source::SecondMoment,
    }
}
