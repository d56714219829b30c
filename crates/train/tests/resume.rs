//! Whole runs on a small model: resume, other stage counts, interruption, fine-tuning.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use architecture::{Architecture, Family, Positions, Rope, RopeScaling};
use corpus::{Content, SourceOptions};
use mesh::StageMap;
use schedule::{Backward, Kind, Spec};
use stage::Precision;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use train::{
    BatchSettings, CHECKPOINTS, CheckpointSettings, DataSettings, DeviceName, Ended, Event, LearningRate,
    MetricsSettings, ModelSource, OptimizerSettings, PipelineSettings, Resume, SampleSettings, Settings, StepMetrics,
    TokenizerSource, TrainError, Trainer, ValidationSettings,
};

fn settings(text: &Path, n_stages: usize) -> Settings {
    Settings {
        seed: 11,
        steps: 12,
        data: DataSettings {
            sources: vec![SourceOptions {
                name: "text".into(),
                paths: vec![text.to_owned()],
                content: Content::Text { field: "text".into() },
                weight: None,
            }],
            validation_fraction: 0.2,
            sequence_length: 31,
            isolate_documents: true,
        },
        tokenizer: TokenizerSource::Train { vocab_size: 300 },
        model: ModelSource::Fresh(Architecture {
            family: Family::Llama,
            hidden_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            num_key_value_heads: 1,
            head_dim: 8,
            intermediate_size: 37,
            vocab_size: 300,
            max_position_embeddings: 64,
            norm_eps: 1e-5,
            positions: Positions::rotary(Rope { theta: 10_000.0, scaling: RopeScaling::None }),
            sliding: None,
            query_pre_attn_scalar: 8.0,
            attention_bias: true,
            mlp_bias: false,
            tie_word_embeddings: true,
            initializer_range: 0.05,
            bos_token_id: None,
            eos_token_id: vec![],
            pad_token_id: None,
        }),
        batch: BatchSettings { rows: 6, microbatches: 3 },
        pipeline: PipelineSettings {
            partition: None,
            stage_map: StageMap::one_per_rank(n_stages),
            schedule: Spec { kind: Kind::OneFOneB, backward: Backward::Split },
            vocabulary: None,
            post_validation: None,
            recompute: vec![plan::Recompute::None; n_stages],
            devices: vec![DeviceName::Cpu; n_stages],
            precision: Precision::F32,
            cores: Some(2),
        },
        optimizer: OptimizerSettings {
            learning_rate: LearningRate::Cosine { peak: 1e-2, minimum: 1e-3, warmup_steps: 3 },
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: Some(1.0),
            not_finite: stage::NotFinite::Stop,
        },
        validation: ValidationSettings { every: Some(5), rows: 6 },
        checkpoint: CheckpointSettings { every: Some(4), keep: 2 },
        sample: SampleSettings { every: None, prompt: String::new(), tokens: 0, temperature: 0.0, top_k: None },
        metrics: MetricsSettings { tensorboard: false, prometheus: None },
    }
}

/// A text with some structure, the same every time: sentences over 40 words.
fn text(folder: &Path) -> std::path::PathBuf {
    let mut x = 7u32;
    let mut word = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ["ban", "do", "ke", "lim", "no", "pra", "sul", "ti"][(x >> 27) as usize % 8].repeat(1 + (x >> 20) as usize % 5)
    };
    let sentences: Vec<String> = (0..1500)
        .map(|i| {
            let words: Vec<String> = (0..5 + i % 7).map(|_| word()).collect();
            words.join(" ") + if i % 9 == 8 { ".\n\n" } else { ". " }
        })
        .collect();
    let path = folder.join("text.txt");
    std::fs::write(&path, sentences.concat()).unwrap();
    path
}

struct Run {
    steps: Vec<StepMetrics>,
    ended: Ended,
    final_loss: Option<f64>,
    validation_loss_by_source: BTreeMap<String, f64>,
}

fn run(settings: Settings, folder: &Path, resume: Resume, stop_after: Option<u64>) -> Run {
    let cache = folder.join("cache");
    let mut trainer = Trainer::new(settings, folder, &cache, resume).unwrap();
    let (mut steps, mut final_loss) = (Vec::new(), None);
    let mut validation_loss_by_source = BTreeMap::new();
    let interrupted = AtomicBool::new(false);
    let ended = trainer.run(&interrupted, None, |event| match event {
        Event::Step(metrics) => {
            interrupted.store(stop_after == Some(metrics.step), Ordering::Relaxed);
            steps.push(metrics);
        }
        Event::Validation(metrics) => {
            final_loss = Some(metrics.loss);
            validation_loss_by_source = metrics.validation_loss_by_source;
        }
        Event::Blocks(_) | Event::Checkpoint { .. } => {}
    });
    Run { steps, ended: ended.unwrap(), final_loss, validation_loss_by_source }
}

fn losses(run: &Run) -> Vec<f64> {
    run.steps.iter().map(|step| step.loss).collect()
}

fn weights(folder: &Path, step: u64) -> Vec<u8> {
    std::fs::read(folder.join(CHECKPOINTS).join(format!("step-{step:08}/model.safetensors"))).unwrap()
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one() {
    let whole = tempfile::tempdir().unwrap();
    let text = text(whole.path());
    let uninterrupted = run(settings(&text, 2), whole.path(), Resume::Fresh, None);
    assert_eq!((uninterrupted.ended, uninterrupted.steps.len()), (Ended::Finished, 12));
    let first = uninterrupted.steps[0].loss;
    assert!(uninterrupted.final_loss.unwrap() < first - 0.5, "it learns: {first} to {:?}", uninterrupted.final_loss);

    // Interrupted at 7, where no checkpoint was due, and resumed to the end: the same bits.
    let parts = tempfile::tempdir().unwrap();
    let before = run(settings(&text, 2), parts.path(), Resume::Fresh, Some(7));
    assert_eq!((before.ended, before.steps.len()), (Ended::Interrupted, 7));
    let after = run(settings(&text, 2), parts.path(), Resume::Latest, None);
    assert_eq!(after.ended, Ended::Finished);
    assert_eq!([losses(&before), losses(&after)].concat(), losses(&uninterrupted));
    assert_eq!(weights(parts.path(), 12), weights(whole.path(), 12));
    assert_eq!(after.final_loss, uninterrupted.final_loss);

    // Resumed on other numbers of stages: within rounding. Losses near 4 in f32 carry errors near 1e-6 a step, which
    // Adam's division lets grow over the five steps.
    for n_stages in [1, 3] {
        let other = tempfile::tempdir().unwrap();
        run(settings(&text, 2), other.path(), Resume::Fresh, Some(7));
        let after = run(settings(&text, n_stages), other.path(), Resume::Latest, None);
        for (got, wanted) in losses(&after).iter().zip(&losses(&uninterrupted)[7..]) {
            assert!((got - wanted).abs() < 1e-4, "{n_stages} stages: {got} instead of {wanted}");
        }
    }
}

/// Two sources, one hard and one easy to learn: the run resumes exactly, says what each costs, and its layout changes
/// nothing but roundings.
#[test]
fn a_mixture_is_resumed_and_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let hard = text(folder.path());
    let easy = folder.path().join("easy.jsonl");
    let line = |n: usize| format!("{{\"text\": \"{}\"}}\n", "ti ".repeat(40 + n));
    std::fs::write(&easy, (0..60).map(line).collect::<String>()).unwrap();
    let settings = |n_stages| {
        let mut settings = settings(&hard, n_stages);
        let source = |name: &str, path: &Path, weight| SourceOptions {
            name: name.into(),
            paths: vec![path.to_owned()],
            weight: Some(weight),
            ..settings.data.sources[0].clone()
        };
        settings.data.sources = vec![source("hard", &hard, 2.0), source("easy", &easy, 1.0)];
        settings.steps = 24;
        settings
    };
    let whole = tempfile::tempdir().unwrap();
    let uninterrupted = run(settings(2), whole.path(), Resume::Fresh, None);
    let parts = tempfile::tempdir().unwrap();
    let before = run(settings(2), parts.path(), Resume::Fresh, Some(7));
    let after = run(settings(2), parts.path(), Resume::Latest, None);
    let by_source = |run: &Run| run.steps.iter().map(|step| step.loss_by_source.clone()).collect::<Vec<_>>();
    assert_eq!([by_source(&before), by_source(&after)].concat(), by_source(&uninterrupted));
    assert_eq!(weights(parts.path(), 24), weights(whole.path(), 24));

    let (mut rows, mut alone) = ([0.0; 2], 0);
    for step in &uninterrupted.steps {
        let of = |name: &str| step.loss_by_source.get(name).copied();
        let share = match (of("hard"), of("easy")) {
            // Rows are equally long, so the step's loss lies between at a share of the 6 rows.
            (Some(hard), Some(easy)) => (step.loss - easy) / (hard - easy),
            (Some(loss), None) | (None, Some(loss)) => {
                alone += 1;
                // The same sum, divided once more.
                assert!((loss - step.loss).abs() < 1e-12, "{step:?}");
                f64::from(of("hard").is_some())
            }
            (None, None) => panic!("no source: {step:?}"),
        };
        let hard = 6.0 * share;
        // Losses near 4 differ by more than a hundredth, so that rounding in f64 is far below this.
        assert!((hard - hard.round()).abs() < 1e-6, "{hard} of 6 rows: {step:?}");
        rows = [rows[0] + hard, rows[1] + 6.0 - hard];
    }
    // 144 rows, a third of them easy: 48 within 4 standard deviations of 5.7.
    assert!((rows[1] - 48.0).abs() < 22.6, "{rows:?} rows, {alone} steps of one source");
    let last = &uninterrupted.validation_loss_by_source;
    assert!(last["easy"] < last["hard"] - 1.0, "{last:?}");
    // The mean by shares is the validation loss.
    let mean = (2.0 * last["hard"] + last["easy"]) / 3.0;
    assert!((mean - uninterrupted.final_loss.unwrap()).abs() < 1e-12, "{last:?}");

    let other = tempfile::tempdir().unwrap();
    let three = run(settings(3), other.path(), Resume::Fresh, Some(5));
    for (found, wanted) in by_source(&three).iter().zip(&by_source(&uninterrupted)) {
        assert!(found.keys().eq(wanted.keys()));
        // As for the loss itself, above.
        assert!(found.values().zip(wanted.values()).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {wanted:?}");
    }
}

#[test]
fn a_run_continues_from_a_model_folder() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(folder.path());
    let base = run(settings(&text, 2), folder.path(), Resume::Fresh, None);
    let model = folder.path().join(CHECKPOINTS).join("step-00000012");
    let tuned = tempfile::tempdir().unwrap();
    let settings = Settings { model: ModelSource::Folder(model), steps: 1, ..settings(&text, 1) };
    let tuned = run(settings, tuned.path(), Resume::Fresh, None);
    assert!(tuned.steps[0].loss < base.steps[8].loss, "it starts from what the folder knows: {}", tuned.steps[0].loss);
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(folder.path());
    run(settings(&text, 1), folder.path(), Resume::Fresh, Some(2));
    let refused = |change: fn(&mut Settings)| {
        let mut settings = settings(&text, 1);
        change(&mut settings);
        Trainer::new(settings, folder.path(), &folder.path().join("cache"), Resume::Latest).err().unwrap().to_string()
    };
    assert!(refused(|settings| settings.seed = 12).contains("another seed: 11 there, 12 now"));
    assert!(refused(|settings| settings.batch.rows = 9).contains("another rows: 6 there, 9 now"));
    // Another text, although the tokenizer is the checkpoint's own.
    let longer = std::fs::read_to_string(&text).unwrap().replace("ban", "bun");
    std::fs::write(&text, longer).unwrap();
    let other = Trainer::new(settings(&text, 1), folder.path(), &folder.path().join("cache"), Resume::Latest);
    let message = other.err().unwrap().to_string();
    assert!(message.contains("another training text: "), "{message}");
    let empty = tempfile::tempdir().unwrap();
    let nothing = Trainer::new(settings(&text, 1), empty.path(), empty.path(), Resume::Latest).err().unwrap();
    assert!(matches!(nothing, TrainError::NothingToResume { .. }), "{nothing}");
}
