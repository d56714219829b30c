//! One training session: from resolved settings to a folder with everything a run leaves.

use crate::header::{header, stages};
use crate::out_folder::{OutFolder, write_whole};
use crate::progress::Progress;
use crate::report::{
    self, Kept, Machine, ModelSummary, Sample, SpeedSummary, Status, StepSummary, Summary, TimelineFile, Timelines,
    ValidationSummary, Yardsticks,
};
use crate::units::{bytes, seconds};
use crate::{Outcome, commands, fault, run_file};
use anyhow::Context;
use burn::tensor::Device;
use mesh::Rank;
use serve::{Generator, Options, Sampler, Sampling};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use train::{CHECKPOINTS, Ended, Event, Resume, Settings, StepMetrics, Trainer, ValidationMetrics};

/// Name of the exported model's folder within a run's.
pub const MODEL: &str = "model";

/// Matrix products that say what this machine can do: their best is its peak, their middle one its speed now.
const PRODUCTS: usize = 5;

/// A change of the machine's speed that is told: as large as makes a measurement void (docs/prediction.md).
const UNSTEADY: f64 = 0.05;

/// Trains as the settings say, into `folder`.
///
/// # Errors
/// What the inputs or the disk have wrong; a run that failed on its way has its report, and its checkpoints stay.
pub fn train(settings: Settings, mut folder: OutFolder, resume: Resume) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let path = folder.path().to_owned();
    let interrupted = interrupt_flag()?;
    let trainer = Trainer::new(settings.clone(), &path, &cache_folder(&path), resume);
    let mut trainer = trainer.map_err(inputs_fault)?;
    if trainer.step() >= settings.steps && path.join(MODEL).exists() {
        show(&format!("{} has done its {} steps; to train on, add --set steps=N\n", path.display(), trainer.step()))?;
        return Ok(Outcome::Done);
    }
    for reason in trainer.skipped() {
        commands::note(&format!("a newer checkpoint was left out: {reason}"));
    }
    let before = Speed::now();
    let calibrated = trainer.plan().calibrated_gflops;
    show(&header(&settings, &trainer, &path))?;
    // Not before: a run that cannot be resumed with these settings still can with those it had.
    write_whole(&path.join("run.toml"), run_file::write(&settings))?;
    // The prediction is on disk before the first step that it predicts.
    let plan = trainer.plan();
    let mut timelines = Timelines {
        predicted: Some(TimelineFile::from(&plan.predicted)),
        measured: None,
        kept: plan.costs.stages.iter().map(Kept::from).collect(),
    };
    timelines.write(&path)?;
    folder.keep();

    show(&format!(
        "{:<11}{:.0} GFLOP/s in large matrix products: the peak that shares below are of\n\n",
        "machine", before.peak_gflops
    ))?;
    let mut seen = Seen::new(&path, &settings, trainer.step())?;
    let ended = trainer.run(&interrupted, Some(before.peak_gflops * 1e9), |event| seen.take(&event));
    let mut conclude = || {
        seen.finish()?;
        let after = Speed::now();
        timelines.measured = middle_step(&trainer).map(TimelineFile::from);
        timelines.write(&path)?;
        let mut summary = summarise(&settings, &trainer, &seen, calibrated, [before, after])?;
        match &ended {
            Ok(Ended::Finished) => summary.sample = finish(&settings, &trainer, &path)?,
            Ok(Ended::Interrupted) => summary.status = Status::Interrupted,
            Err(error) => summary.status = Status::Failed(error.to_string()),
        }
        summary.wall_s = Some(start.elapsed().as_secs_f64());
        summary.write(&path)?;
        let page = report::write_report(&path)?;
        Ok(show(&closing(&summary, &trainer, &path, &page))?)
    };
    let concluded: anyhow::Result<()> = conclude();
    match ended {
        Ok(Ended::Finished) => concluded.map(|()| Outcome::Done),
        Ok(Ended::Interrupted) => concluded.map(|()| Outcome::Interrupted),
        // That the report could not be written either would hide why the run stopped.
        Err(error) => {
            if checkpoint::latest(&path.join(CHECKPOINTS)).is_ok_and(|found| found.checkpoint.is_some()) {
                show(&format!(
                    "\ngo on from the last checkpoint with: millstream train --resume {}\n",
                    path.display()
                ))?;
            }
            Err(step_fault(error))
        }
    }
}

/// What this machine can do, in matrix products.
#[derive(Clone, Copy)]
struct Speed {
    /// At most.
    peak_gflops: f64,
    /// At this moment.
    gflops: f64,
}

impl Speed {
    fn now() -> Self {
        let mut rates = kernels::matmul_rates(PRODUCTS);
        rates.sort_by(f64::total_cmp);
        Self { peak_gflops: rates[PRODUCTS - 1], gflops: rates[PRODUCTS / 2] }
    }
}

/// Events as they come: to the screen and to `metrics.jsonl`.
struct Seen {
    progress: Progress,
    metrics: File,
    last_steps: Vec<StepMetrics>,
    validation: Option<ValidationMetrics>,
    /// The first failure to write; training goes on, and the run's end reports it.
    failure: Option<std::io::Error>,
}

/// Steps whose losses are averaged for the summary.
const LAST_STEPS: usize = 20;

impl Seen {
    fn new(folder: &Path, settings: &Settings, done_before: u64) -> anyhow::Result<Self> {
        let path = folder.join("metrics.jsonl");
        let metrics = whole_lines(&path).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self {
            progress: Progress::new(settings.steps, done_before),
            metrics,
            last_steps: Vec::new(),
            validation: None,
            failure: None,
        })
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Step(step) => {
                self.last_steps.push(step.clone());
                let surplus = self.last_steps.len().saturating_sub(LAST_STEPS);
                self.last_steps.drain(..surplus);
            }
            Event::Validation(validation) => self.validation = Some(validation.clone()),
            Event::Checkpoint { .. } => {}
        }
        let line = report::line(event).unwrap_or_default();
        let written = self.metrics.write_all(line.as_bytes()).and_then(|()| self.progress.show(event, show));
        if let Err(error) = written {
            self.failure.get_or_insert(error);
        }
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.progress.finish();
        match self.failure.take() {
            None => Ok(()),
            Some(error) => Err(error).context("metrics.jsonl is not complete"),
        }
    }
}

/// A file to append lines to, without the piece of a line that a killed process may have left at its end.
fn whole_lines(path: &Path) -> std::io::Result<File> {
    let mut file = File::options().create(true).read(true).append(true).open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    file.set_len(end as u64)?;
    Ok(file)
}

/// Exports the model and lets it write.
fn finish(settings: &Settings, trainer: &Trainer, folder: &Path) -> anyhow::Result<Option<Sample>> {
    let model = folder.join(MODEL);
    let fresh = folder.join(".model-new");
    let remove = |folder: &Path| match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    // Beside its place first: a run that is trained on keeps its model until the new one is whole.
    let replace = || remove(&model).and_then(|()| std::fs::rename(&fresh, &model));
    remove(&fresh).with_context(|| format!("{} cannot be removed", fresh.display()))?;
    trainer.export(&fresh)?;
    replace().with_context(|| format!("{} cannot be replaced", model.display()))?;
    let wanted = &settings.sample;
    if wanted.tokens == 0 {
        return Ok(None);
    }
    let sampling = Sampling { temperature: wanted.temperature, top_k: wanted.top_k, top_p: None, seed: settings.seed };
    let options = Options { tokens_max: wanted.tokens, sampler: Sampler::new(sampling)?, stop: Vec::new() };
    let generator = Generator::open(&model, &Device::flex())?;
    let generated = generator.generate(&wanted.prompt, &options, |_| ())?;
    Ok(Some(Sample { prompt: wanted.prompt.clone(), text: generated.text }))
}

fn summarise(
    settings: &Settings,
    trainer: &Trainer,
    seen: &Seen,
    calibrated: Option<f64>,
    [before, after]: [Speed; 2],
) -> anyhow::Result<Summary> {
    let (architecture, plan) = (trainer.architecture(), trainer.plan());
    let yardsticks = trainer.corpus().yardsticks()?;
    let losses = seen.last_steps.iter().map(|step| step.loss);
    let mean = losses.sum::<f64>() / seen.last_steps.len() as f64;
    Ok(Summary {
        status: Status::Finished,
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
        devices: settings.pipeline.devices.clone(),
        cores: Some(plan.spec.cores.iter().map(|cores| cores.permits * cores.threads).sum()),
        predicted: Some(StepSummary::of(&plan.predicted)),
        measured: middle_step(trainer).map(StepSummary::of),
        steps: trainer.step(),
        train_loss: (!seen.last_steps.is_empty()).then_some(mean),
        validation: seen.validation.as_ref().map(|validation| ValidationSummary {
            loss: validation.loss,
            perplexity: validation.perplexity,
            bits_per_byte: validation.bits_per_byte,
        }),
        yardsticks: Some(Yardsticks {
            unigram_nats_per_token: yardsticks.unigram_nats_per_token,
            unigram_bits_per_byte: yardsticks.unigram_bits_per_byte,
            xz_bits_per_byte: yardsticks.xz_bits_per_byte,
            text_bytes: yardsticks.text_bytes,
        }),
        sample: None,
        machine: Some(Machine::here()),
        matmul_gflops: Some(before.peak_gflops),
        speed: Some(SpeedSummary {
            calibrated_gflops: calibrated,
            before_gflops: before.gflops,
            after_gflops: after.gflops,
        }),
        wall_s: None,
    })
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
        && (after_gflops / before_gflops - 1.0).abs() > UNSTEADY
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
    written("model", &folder.join(MODEL));
    // A save that failed leaves the folder it was for.
    if std::fs::read_dir(folder.join(CHECKPOINTS)).is_ok_and(|mut entries| entries.next().is_some()) {
        written("checkpoints", &folder.join(CHECKPOINTS));
    }
    written("metrics", &folder.join("metrics.jsonl"));
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

/// Raised by Ctrl-C and by a request to terminate; a second one ends the process at once.
fn interrupt_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = flag.clone();
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("the handler for Ctrl-C cannot be installed")?;
    Ok(flag)
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
