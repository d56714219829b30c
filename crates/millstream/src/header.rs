//! What a person reads before training starts: what will run where, and what it is predicted to cost.

use crate::report::StageSummary;
use crate::units::{self, bytes, count, percent, seconds};
use architecture::{Architecture, Block};
use corpus::Source;
use mesh::{Rank, Stage};
use std::fmt::Write;
use std::path::Path;
use train::{Settings, Trainer};

/// The header's lines, line breaks included.
pub fn header(settings: &Settings, trainer: &Trainer, folder: &Path) -> String {
    let (architecture, plan, corpus) = (trainer.architecture(), trainer.plan(), trainer.corpus());
    let n_ranks = plan.spec.stage_map.n_ranks();
    let mut lines = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(lines, "{name:<11}{value}").expect("invariant: text takes text");
    };
    line("millstream", format!("{}, run in {}", env!("CARGO_PKG_VERSION"), folder.display()));
    line("model", model(architecture));
    for (index, source) in corpus.sources.iter().enumerate() {
        let heading = |heading| if index == 0 { heading } else { "" };
        line(heading("text"), where_from(settings, source));
        let (train, validation) = (&source.train, &source.validation);
        line(
            "",
            format!(
                "{} tokens in {} documents to train on, {} in {} to validate",
                count(train.len() as u64),
                train.documents(),
                count(validation.len() as u64),
                validation.documents()
            ),
        );
    }
    let batch = &settings.batch;
    line(
        "step",
        format!(
            "{} rows x {} tokens in {} microbatches; {} steps, from step {}",
            batch.rows,
            settings.data.sequence_length,
            batch.microbatches,
            settings.steps,
            trainer.step() + 1
        ),
    );
    let cores = plan.spec.cores.iter().map(|cores| cores.permits * cores.threads).sum::<usize>();
    let ranks = units::ranks(n_ranks);
    line("schedule", format!("{} on {ranks} sharing {cores} cores", plan.schedule.name));
    for stage in stages(trainer) {
        line(
            &format!("  rank {}", stage.rank),
            format!(
                "stage {}: {} ({} parameters, {})",
                stage.stage,
                stage.blocks,
                count(stage.parameters),
                settings.pipeline.devices[stage.rank]
            ),
        );
    }
    let predicted = &plan.predicted;
    let bubble = simulate::idle_fraction(&simulate::bubbles(predicted, &plan.costs));
    let memory: Vec<String> = (0..n_ranks).map(|rank| bytes(predicted.peak_bytes(Rank(rank)))).collect();
    let left_s = predicted.makespan_s() * settings.steps.saturating_sub(trainer.step()) as f64;
    line(
        "predicted",
        format!(
            "{} a step, bubble {}, {} of training in all; memory by rank {}{}",
            seconds(predicted.makespan_s()),
            percent(bubble),
            seconds(left_s),
            memory.join(" + "),
            if settings.pipeline.on_cores() { "" } else { " (of f32; what GPUs hold is not measured)" }
        ),
    );
    lines
}

/// A source in words: its files, and among several its name and share.
fn where_from(settings: &Settings, source: &Source) -> String {
    let Some(options) = settings.data.sources.iter().find(|options| options.name == source.name) else {
        return "the Jargon File 4.4.7 (embedded)".to_owned();
    };
    let paths = options.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    match settings.data.sources.len() {
        1 => paths,
        _ => format!("{} ({} of the rows): {paths}", source.name, percent(source.weight)),
    }
}

/// What lies where, in words and numbers.
pub fn stages(trainer: &Trainer) -> Vec<StageSummary> {
    let (architecture, spec) = (trainer.architecture(), &trainer.plan().spec);
    let stages = spec.partition.stages().iter().enumerate();
    stages
        .map(|(stage, blocks)| {
            let weights = blocks.iter().flat_map(|&block| architecture.weights(block));
            StageSummary {
                stage,
                rank: spec.stage_map.grid(Stage(stage)).ranks[0].0,
                blocks: in_words(blocks),
                parameters: weights.map(|weight| weight.n_elements() as u64).sum(),
            }
        })
        .collect()
}

/// `embedding to mlp 2`, or the one block.
fn in_words(blocks: &[Block]) -> String {
    match blocks {
        [] => String::new(),
        [only] => only.to_string(),
        [first, .., last] => format!("{first} to {last}"),
    }
}

fn model(a: &Architecture) -> String {
    let heads = if a.num_key_value_heads == a.num_attention_heads {
        format!("{} heads", a.num_attention_heads)
    } else {
        format!("{} heads sharing {} key heads", a.num_attention_heads, a.num_key_value_heads)
    };
    format!(
        "{}, {} parameters: {} layers, hidden {}, {heads} of {}, MLP {}, vocabulary {}{}",
        a.family,
        count(a.n_parameters() as u64),
        a.num_hidden_layers,
        a.hidden_size,
        a.head_dim,
        a.intermediate_size,
        a.vocab_size,
        if a.tie_word_embeddings { ", tied head" } else { "" }
    )
}
