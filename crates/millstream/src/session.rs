//! One training session: from resolved settings to a folder with everything a run leaves.

#[cfg(unix)]
use crate::dashboard::{Dashboard, State};
use crate::exporter::{Reserved, RunInfo};
use crate::fault::{UserFault, users};
use crate::header::{header, stages};
use crate::interrupt::Interrupt;
use crate::out_folder::{OutFolder, write_whole};
use crate::progress::Progress;
use crate::report::{
    self, Kept, Machine, ModelSummary, Sample, SampleMetrics, SpeedSummary, Status, StepSummary, Summary, TimelineFile,
    Timelines, ValidationSummary, Yardsticks,
};
use crate::speed::{Speed, is_unsteady};
use crate::tensorboard::{EventFile, TENSORBOARD};
use crate::units::{bytes, count, ranks, seconds};
use crate::watchers::{Followed, Screen, Watchers};
use crate::{Outcome, commands, fault, run_file};
use anyhow::Context;
use architecture::Weight;
use mesh::Rank;
use serve::{Generator, Options, Sampler, Sampling};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use train::{CHECKPOINTS, Ended, Resume, Settings, Trainer};

/// Name of the exported model's folder within a run's.
pub const MODEL: &str = "model";

/// How a run is shown, and where its run file comes from.
pub struct Manner {
    /// The preset that the run file was laid over.
    pub preset: Option<&'static str>,
    /// Whether the whole terminal is used.
    pub view: View,
}

/// What a person sees of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// A bar on a terminal, lines elsewhere.
    Progress,
    /// The live dashboard.
    Dashboard,
}

/// Trains as the settings say, into `folder`.
///
/// # Errors
/// What the inputs or the disk have wrong; a run that failed on its way has its report, and its checkpoints stay.
pub fn train(settings: Settings, mut folder: OutFolder, resume: Resume, manner: Manner) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let path = folder.path().to_owned();
    let interrupt = Interrupt::installed()?;
    // Before the text is read and costs are measured, which takes a while.
    let reserved = settings.metrics.prometheus.map(Reserved::new).transpose()?;
    let trainer = Trainer::new(settings.clone(), &path, &cache_folder(&path), resume);
    let mut trainer = trainer.map_err(inputs_fault)?;
    let exported = || Summary::earlier(&path)?.exported_step;
    if trainer.step() >= settings.steps && path.join(MODEL).exists() && exported() == Some(trainer.step()) {
        show(&format!("{} has done its {} steps; to train on, add --set steps=N\n", path.display(), trainer.step()))?;
        return Ok(Outcome::Done);
    }
    for reason in trainer.skipped() {
        commands::note(&format!("a newer checkpoint was left out: {reason}"));
    }
    check_prompt(&settings, &trainer)?;
    let before = Speed::now();
    let calibrated = trainer.plan().calibrated_gflops;
    show(&header(&settings, &trainer, &path))?;
    let (mut timelines, mut summary) = begin(&settings, &trainer, &path, manner.preset, before)?;
    folder.keep();
    // What a GPU can do at most is not measured here; `bench --device` does.
    let on_cores = settings.pipeline.on_cores();
    show(&surroundings(reserved.as_ref(), before, on_cores))?;
    let mut watchers = watchers(&settings, &trainer, &path, reserved, manner.view, &interrupt)?;
    let ended = loop {
        let peak_flops = on_cores.then_some(before.peak_gflops * 1e9);
        match trainer.run(interrupt.flag(), peak_flops, |event| watchers.take(event)) {
            Ok(Ended::SampleDue) => watchers.take_sample(sample_on_the_way(&settings, &trainer)),
            ended => break ended,
        }
    };
    let (followed, complete) = watchers.finish();
    let mut conclude = || {
        let after = Speed::now();
        timelines.measured = middle_step(&trainer).map(TimelineFile::from);
        timelines.write(&path)?;
        add_outcome(&mut summary, &trainer, &followed, calibrated, [before, after])?;
        match &ended {
            Ok(Ended::Finished) => finish(&settings, &trainer, &path, &mut summary)?,
            Ok(Ended::Interrupted) => summary.status = Status::Interrupted,
            Ok(Ended::SampleDue) => unreachable!("the loop goes on"),
            Err(error) => summary.status = Status::Failed(error.to_string()),
        }
        summary.wall_s = Some(start.elapsed().as_secs_f64());
        summary.write(&path)?;
        report::write_report(&path)
    };
    let concluded: anyhow::Result<PathBuf> = conclude();
    if let (Err(error), Ok(_)) = (&concluded, &ended) {
        summary.status = Status::Failed(fault::in_full(error));
        // That it cannot be written tells less than why the run could not be concluded.
        drop(summary.write(&path));
    }
    let concluded = concluded.and_then(|page| {
        show(&closing(&summary, &trainer, &path, &page))?;
        complete
    });
    match ended {
        Ok(Ended::Finished) => concluded.map(|()| Outcome::Done),
        Ok(Ended::Interrupted) => concluded.map(|()| Outcome::Interrupted),
        Ok(Ended::SampleDue) => unreachable!("the loop goes on"),
        // That the report could not be written either would hide why the run stopped.
        Err(error) => Err(stopped(error, &path)?),
    }
}

/// The lines below the header: where metrics are served, and what the machine can do.
fn surroundings(reserved: Option<&Reserved>, speed: Speed, on_cores: bool) -> String {
    let metrics = reserved.map(|reserved| format!("{:<11}{}\n", "metrics", reserved.url())).unwrap_or_default();
    let what_for =
        if on_cores { ": the peak that shares below are of" } else { " on its cores; of GPUs no share is told" };
    format!("{metrics}{:<11}{:.0} GFLOP/s in large matrix products{what_for}\n\n", "machine", speed.peak_gflops)
}

/// Why a run stopped; shows how to go on where that is possible.
fn stopped(error: train::TrainError, path: &Path) -> anyhow::Result<anyhow::Error> {
    if checkpoint::latest(&path.join(CHECKPOINTS)).is_ok_and(|found| found.checkpoint.is_some()) {
        show(&format!("\ngo on from the last checkpoint with: millstream train --resume {}\n", path.display()))?;
    }
    Ok(step_fault(error))
}

/// Writes what is known before the first step: the run file, the prediction, and a summary that says that the run goes on.
fn begin(
    settings: &Settings,
    trainer: &Trainer,
    folder: &Path,
    preset: Option<&str>,
    before: Speed,
) -> anyhow::Result<(Timelines, Summary)> {
    // Not before: a run that cannot be resumed with these settings still can with those it had.
    write_whole(&folder.join("run.toml"), run_file::write(settings))?;
    let plan = trainer.plan();
    let timelines = Timelines {
        predicted: Some(TimelineFile::from(&plan.predicted)),
        measured: None,
        kept: plan.costs.stages.iter().map(Kept::from).collect(),
    };
    // The prediction is on disk before the first step that it predicts.
    timelines.write(folder)?;
    let earlier = Summary::earlier(folder);
    let preset = preset.map(str::to_owned).or_else(|| earlier.as_ref()?.preset.clone());
    let exported_step = earlier.as_ref().and_then(|earlier| earlier.exported_step);
    let summary = Summary { status: Status::Running, preset, exported_step, ..at_start(settings, trainer, before) };
    summary.write(folder)?;
    Ok((timelines, summary))
}

/// Those who follow the run, from its first event on.
fn watchers(
    settings: &Settings,
    trainer: &Trainer,
    folder: &Path,
    reserved: Option<Reserved>,
    view: View,
    interrupt: &Arc<Interrupt>,
) -> anyhow::Result<Watchers> {
    let exporter = reserved.map(|reserved| reserved.serve(run_info(settings, trainer, folder))).transpose()?;
    let events = settings.metrics.tensorboard.then(|| {
        let events = EventFile::create(folder, trainer.step(), &run_file::write(settings), SystemTime::now());
        events.with_context(|| format!("event files cannot be written in {}", folder.join(TENSORBOARD).display()))
    });
    let events = events.transpose()?;
    Watchers::new(folder, screen(view, settings, trainer, folder, interrupt)?, events, exporter)
}

/// Exports the model and lets it write. That it cannot write is told and fails no run.
fn finish(settings: &Settings, trainer: &Trainer, folder: &Path, summary: &mut Summary) -> anyhow::Result<()> {
    let model = folder.join(MODEL);
    trainer.export(&model)?;
    summary.exported_step = Some(trainer.step());
    if settings.sample.tokens == 0 {
        return Ok(());
    }
    let generator = Generator::open(&model, &trainer.plan().spec.devices[0]);
    match generator.map_err(Into::into).and_then(|generator| sample(settings, &generator)) {
        Ok(text) => summary.sample = Some(Sample { prompt: settings.sample.prompt.clone(), text }),
        Err(error) => commands::note(&format!("no sample: {}", fault::in_full(&error))),
    }
    Ok(())
}

/// The model can read the prompt of its samples.
fn check_prompt(settings: &Settings, trainer: &Trainer) -> Result<(), UserFault> {
    let (wanted, tokenizer) = (&settings.sample, &trainer.corpus().tokenizer);
    let most = trainer.architecture().max_position_embeddings;
    let n_ids = tokenizer.begin_of_text().iter().count() + tokenizer.encode(&wanted.prompt).map_err(users)?.len();
    if wanted.tokens == 0 || n_ids <= most {
        return Ok(());
    }
    let fault = UserFault::new(format!("sample.prompt has {n_ids} tokens, and the model reads at most {most}"));
    Err(fault.hint("shorten it, or write no samples: --set sample.tokens=0"))
}

/// Lets the model write with the weights that it has now, of which a second copy is held meanwhile.
fn sample_on_the_way(settings: &Settings, trainer: &Trainer) -> anyhow::Result<SampleMetrics> {
    let tokenizer = Some(trainer.corpus().tokenizer.clone());
    let weights = |weight: &Weight| Ok::<_, Infallible>(trainer.weight(weight));
    let Ok(generator) = Generator::new(trainer.architecture(), tokenizer, &trainer.plan().spec.devices[0], weights);
    let text = sample(settings, &generator)?;
    Ok(SampleMetrics { step: trainer.step(), prompt: settings.sample.prompt.clone(), text })
}

/// How the model goes on with the prompt.
fn sample(settings: &Settings, generator: &Generator) -> anyhow::Result<String> {
    let wanted = &settings.sample;
    let Settings { seed, .. } = *settings;
    let sampling = Sampling { temperature: wanted.temperature, top_k: wanted.top_k, seed, ..Sampling::GREEDY };
    let sampler = Sampler::new(sampling)?;
    let options = Options { tokens_max: wanted.tokens, sampler, stop: Vec::new(), alternatives: None };
    Ok(generator.generate(&wanted.prompt, &options, |_| ())?.text)
}

/// Where a person sees the run.
fn screen(
    view: View,
    settings: &Settings,
    trainer: &Trainer,
    folder: &Path,
    interrupt: &Arc<Interrupt>,
) -> anyhow::Result<Screen> {
    match view {
        View::Progress => Ok(Screen::Progress(Progress::new(settings.steps, trainer.step()))),
        #[cfg(unix)]
        View::Dashboard => {
            let (predicted, stages) = (&trainer.plan().predicted, stages(trainer));
            let rank = |rank: usize| {
                let own = stages.iter().filter(|stage| stage.rank == rank);
                let own: Vec<String> = own.map(|stage| format!("stage {}: {}", stage.stage, stage.blocks)).collect();
                (own.join(", "), predicted.peak_bytes(Rank(rank)))
            };
            let shown = (0..predicted.n_ranks).map(rank).collect();
            let parameters = count(trainer.architecture().n_parameters() as u64);
            let title = format!(
                "{}: {:?}, {parameters} parameters, {} on {}",
                folder.display(),
                trainer.architecture().family,
                trainer.plan().schedule.name,
                ranks(predicted.n_ranks)
            );
            let state = State::new(title, settings.steps, trainer.step(), shown);
            let dashboard = Dashboard::open(state, interrupt.clone());
            Ok(Screen::Dashboard(dashboard.context("the terminal cannot be used for the dashboard")?))
        }
        #[cfg(not(unix))]
        View::Dashboard => anyhow::bail!("the dashboard needs a Unix terminal; leave --tui out"),
    }
}

fn run_info(settings: &Settings, trainer: &Trainer, folder: &Path) -> RunInfo {
    RunInfo {
        folder: folder.display().to_string(),
        model: format!("{:?}", trainer.architecture().family),
        schedule: trainer.plan().schedule.name.clone(),
        parameters: trainer.architecture().n_parameters() as u64,
        steps: settings.steps,
    }
}

/// What is known before the first step.
fn at_start(settings: &Settings, trainer: &Trainer, before: Speed) -> Summary {
    let (architecture, plan) = (trainer.architecture(), trainer.plan());
    Summary {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: Some(ModelSummary {
            family: format!("{:?}", architecture.family),
            parameters: architecture.n_parameters() as u64,
            blocks: architecture.blocks().len(),
            vocabulary: architecture.vocab_size,
            sequence_length: settings.data.sequence_length,
        }),
        stages: stages(trainer),
        schedule: Some(plan.schedule.name.clone()),
        microbatches: Some(settings.batch.microbatches),
        rows: Some(settings.batch.rows),
        devices: settings.pipeline.devices.iter().map(ToString::to_string).collect(),
        cores: Some(plan.spec.cores.iter().map(|cores| cores.permits * cores.threads).sum()),
        predicted: Some(StepSummary::of(&plan.predicted)),
        steps: trainer.step(),
        machine: Some(Machine::here()),
        matmul_gflops: Some(before.peak_gflops),
        ..Summary::default()
    }
}

/// What the steps have brought.
fn add_outcome(
    summary: &mut Summary,
    trainer: &Trainer,
    followed: &Followed,
    calibrated: Option<f64>,
    [before, after]: [Speed; 2],
) -> anyhow::Result<()> {
    let yardsticks = trainer.corpus().yardsticks()?;
    summary.status = Status::Finished;
    summary.measured = middle_step(trainer).map(StepSummary::of);
    summary.steps = trainer.step();
    summary.train_loss = followed.train_loss;
    summary.validation = followed.validation.as_ref().map(|validation| ValidationSummary {
        loss: validation.loss,
        perplexity: validation.perplexity,
        bits_per_byte: validation.bits_per_byte,
    });
    summary.yardsticks = Some(Yardsticks {
        unigram_nats_per_token: yardsticks.unigram_nats_per_token,
        unigram_bits_per_byte: yardsticks.unigram_bits_per_byte,
        xz_bits_per_byte: yardsticks.xz_bits_per_byte,
        text_bytes: yardsticks.text_bytes,
    });
    summary.speed =
        Some(SpeedSummary { calibrated_gflops: calibrated, before_gflops: before.gflops, after_gflops: after.gflops });
    Ok(())
}

/// The last steps' timeline of median length.
fn middle_step(trainer: &Trainer) -> Option<&simulate::Timeline> {
    let mut steps: Vec<&simulate::Timeline> = trainer.measured().iter().collect();
    steps.sort_by(|a, b| a.makespan_s().total_cmp(&b.makespan_s()));
    steps.get(steps.len() / 2).copied()
}

/// What a person reads at the end.
fn closing(summary: &Summary, trainer: &Trainer, folder: &Path, page: &Path) -> String {
    let mut lines = String::from("\n");
    if let (Some(validation), Some(yardsticks)) = (&summary.validation, &summary.yardsticks) {
        let gain = yardsticks.unigram_nats_per_token - validation.loss;
        lines += &format!(
            "validation loss  {:.3} nats per token, perplexity {:.1}; unigram entropy {:.3}: {:.3} {}\n",
            validation.loss,
            validation.perplexity,
            yardsticks.unigram_nats_per_token,
            gain.abs(),
            if gain > 0.0 { "better" } else { "worse" }
        );
        lines += &format!(
            "bits per byte    {:.3}; xz -9 needs {:.3} for the same text, unigram {:.3}\n",
            validation.bits_per_byte, yardsticks.xz_bits_per_byte, yardsticks.unigram_bits_per_byte
        );
    }
    if let (Some(predicted), Some(measured)) = (&summary.predicted, &summary.measured) {
        lines += &format!(
            "step time        {} measured, {} predicted; peak memory",
            seconds(measured.step_s),
            seconds(predicted.step_s)
        );
        for rank in 0..measured.peak_bytes.len() {
            let peak = |timeline: &simulate::Timeline| bytes(timeline.peak_bytes(Rank(rank)));
            let measured = middle_step(trainer).map(peak).unwrap_or_default();
            let comma = if rank > 0 { "," } else { "" };
            lines += &format!("{comma} rank {rank} {measured} (predicted {})", peak(&trainer.plan().predicted));
        }
        lines += "\n";
    }
    if let Some(SpeedSummary { before_gflops, after_gflops, .. }) = summary.speed
        && is_unsteady(before_gflops, after_gflops)
    {
        lines += &format!(
            "machine          its speed moved from {before_gflops:.0} to {after_gflops:.0} GFLOP/s in this run, which no \
             prediction knows\n"
        );
    }
    if let Some(sample) = &summary.sample {
        lines += &format!("\n{}{}\n", sample.prompt, commands::harmless(&sample.text));
    }
    lines += "\n";
    let mut written = |name: &str, path: &Path| {
        if path.exists() {
            lines += &format!("{name:<17}{}\n", path.display());
        }
    };
    written("report", page);
    if summary.exported_step == Some(summary.steps) {
        written("model", &folder.join(MODEL));
    }
    // A save that failed leaves the folder it was for.
    if std::fs::read_dir(folder.join(CHECKPOINTS)).is_ok_and(|mut entries| entries.next().is_some()) {
        written("checkpoints", &folder.join(CHECKPOINTS));
    }
    written("metrics", &folder.join("metrics.jsonl"));
    written("TensorBoard", &folder.join(TENSORBOARD));
    written("trace (Perfetto)", &folder.join("trace.json"));
    if summary.status == Status::Interrupted {
        lines += &format!(
            "\ninterrupted after step {}; go on with: millstream train --resume {}\n",
            summary.steps,
            folder.display()
        );
    }
    lines
}

/// Where token caches live: the user's cache folder, or the run's own where there is none.
fn cache_folder(run: &Path) -> PathBuf {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).filter(|base| base.is_absolute());
    base.map_or_else(|| run.join("cache"), |base| base.join("millstream"))
}

/// What keeps a run from starting is the user's to mend, unless calibration fails.
fn inputs_fault(error: train::TrainError) -> anyhow::Error {
    match error {
        train::TrainError::Stage(_) => error.into(),
        _ => fault::users(error).into(),
    }
}

/// What stops a run on its way is not the user's fault, unless training diverged.
fn step_fault(error: train::TrainError) -> anyhow::Error {
    match error {
        train::TrainError::Stage(stage::StageError::NotFinite { .. }) => fault::users(error).into(),
        _ => error.into(),
    }
}

fn show(text: &str) -> std::io::Result<()> {
    commands::print(text)
}
