//! The sections of a run file, those on the model and the pipeline apart.

use super::{model, pipeline};
use crate::toml_file::{
    Node, NumberRange, Parsed, Reader, Value, Wrong, any_whole, choice, flag, list, number, or_word, text, whole,
};
use corpus::{Content, ONLY_SOURCE, SourceOptions, TokenWidth};
use stage::{NotFinite, RollBack};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use train::{
    BatchSettings, CheckpointSettings, DataSettings, LearningRate, MetricsSettings, OptimizerSettings,
    PipelineSettings, SampleSettings, Settings, TokenizerSource, ValidationSettings,
};

/// Reads everything; `None` when something was reported.
pub(super) fn settings(run: &Reader) -> Option<Settings> {
    // `super::layers` has followed it; reading it here makes it known.
    let _known: bool = run.has("preset");
    let seed = run.or("seed", 0, any_whole(0));
    let steps = run.required("steps", "the number of optimizer steps", whole(1));
    let (model_section, pipeline_section) = (run.section("model"), run.section("pipeline"));
    let data_section = run.section("data");
    let data = data(&data_section);
    let tokenizer = tokenizer(&run.section("tokenizer"), &model_section);
    let holds_ids = |source: &SourceOptions| matches!(source.content, Content::Tokens(_));
    if let (Some(data), Some(TokenizerSource::Train { .. })) = (&data, &tokenizer)
        && data.sources.iter().any(holds_ids)
    {
        let why = "token ids need the tokenizer that made them; name it with `tokenizer.file`";
        data_section.complain(if data_section.has("sources") { "sources" } else { "tokens" }, why.into());
    }
    let tokens_per_row = data.as_ref().map(|data| data.sequence_length);
    let model = model::model(&model_section, tokenizer.as_ref(), tokens_per_row);
    if let (Some(model), Some(tokens)) = (&model, tokens_per_row) {
        let longest = model.architecture.max_position_embeddings;
        if tokens > longest {
            let wanted = format!("the model is meant for at most {longest} tokens (max_position_embeddings)");
            data_section.refuse("sequence_length", "", &wanted, &format!("use {longest} or less"));
        }
    }
    let batch = batch(&run.section("batch"));
    let pipeline = pipeline::pipeline(&pipeline_section, model.as_ref().map(|model| &model.architecture));
    let optimizer = optimizer(&run.section("optimizer"), steps);
    if let (Some(pipeline), Some(optimizer)) = (&pipeline, &optimizer) {
        refuse_what_cannot_be_inverted(pipeline, optimizer, &pipeline_section);
    }
    let validation = validation(&run.section("validation"));
    let checkpoint = checkpoint(&run.section("checkpoint"));
    let sample = sample(&run.section("sample"));
    let metrics = metrics(&run.section("metrics"));
    Some(Settings {
        seed: seed?,
        steps: steps?,
        data: data?,
        tokenizer: tokenizer?,
        model: model?.source,
        batch: batch?,
        pipeline: pipeline?,
        optimizer: optimizer?,
        validation: validation?,
        checkpoint: checkpoint?,
        sample: sample?,
        metrics: metrics?,
    })
}

/// A path that leads to something.
fn existing(node: &Node) -> Parsed<PathBuf> {
    let path = PathBuf::from(text(node)?);
    if path.exists() { Ok(path) } else { Err(Wrong::new(node, "a file or folder that exists")) }
}

/// Widths of token ids.
pub(super) const TOKEN_WIDTHS: &[(&str, TokenWidth)] = &[("u16", TokenWidth::U16), ("u32", TokenWidth::U32)];

fn data(section: &Reader) -> Option<DataSettings> {
    let sources = match section.has("sources") {
        true => sources(section),
        false => only_source(section),
    };
    let validation_fraction = section.or("validation_fraction", 0.05, number(NumberRange::Fraction));
    let sequence_length = section.required("sequence_length", "the tokens of a row", whole(1));
    let isolate_documents = section.or("isolate_documents", true, flag);
    Some(DataSettings {
        sources: sources?,
        validation_fraction: validation_fraction?,
        sequence_length: sequence_length?,
        isolate_documents: isolate_documents?,
    })
}

/// The source that `data.paths` names; none for the embedded text.
fn only_source(section: &Reader) -> Option<Vec<SourceOptions>> {
    let paths = section.or("paths", Vec::new(), list(existing));
    let content = content(section);
    let (paths, content) = (paths?, content?);
    if paths.is_empty() {
        for key in ["field", "tokens"].into_iter().filter(|key| section.has(key)) {
            section.complain(key, format!("`data.{key}` says what `data.paths` hold, but there are none; name files"));
        }
    }
    match (paths, content) {
        (paths, _) if paths.is_empty() => Some(Vec::new()),
        (paths, content) => Some(vec![SourceOptions { name: ONLY_SOURCE.to_owned(), paths, content, weight: None }]),
    }
}

/// `[[data.sources]]`.
fn sources(section: &Reader) -> Option<Vec<SourceOptions>> {
    for key in ["paths", "field", "tokens"].into_iter().filter(|key| section.has(key)) {
        section.complain(key, format!("`data.{key}` stands beside `data.sources`; write it into one of them"));
    }
    let readers = section.tables("sources");
    if readers.is_empty() {
        section.complain("sources", "`data.sources` is empty; write [[data.sources]] sections or take it out".into());
        return None;
    }
    let has_weight = |reader: &Option<Reader>| reader.as_ref().is_some_and(|reader| reader.has("weight"));
    let are_weighted = readers.iter().any(has_weight);
    let mut names: Vec<String> = Vec::new();
    let mut source = |reader: &Option<Reader>| {
        let reader = reader.as_ref()?;
        let name = reader.required("name", "what the source is called in metrics", text);
        let paths = reader.required("paths", "the source's files and folders", list(existing));
        let content = content(reader);
        let weight = reader.optional("weight", number(NumberRange::Positive));
        if are_weighted && !reader.has("weight") {
            reader.missing("weight", "the source's share of the rows, as other sources have one");
        }
        let name = name?;
        if names.contains(&name) {
            reader.refuse("name", "", "another source is called so", "give each its own name");
        }
        names.push(name.clone());
        let paths = paths?;
        if paths.is_empty() {
            reader.refuse("paths", "", "a source has at least one file or folder", "name it, or take the source out");
        }
        Some(SourceOptions { name, paths, content: content?, weight: weight? })
    };
    // All are read, so that the problems of all are told.
    let sources: Vec<Option<SourceOptions>> = readers.iter().map(&mut source).collect();
    sources.into_iter().collect()
}

/// What the files of a source hold.
fn content(section: &Reader) -> Option<Content> {
    let field = section.optional("field", text);
    let tokens = section.optional("tokens", choice(TOKEN_WIDTHS));
    match (field?, tokens?) {
        (field, None) => Some(Content::Text { field: field.unwrap_or_else(|| "text".to_owned()) }),
        (None, Some(width)) => Some(Content::Tokens(width)),
        (Some(_), Some(_)) => {
            section.complain("field", "token ids have no fields; take out `field` or `tokens`".into());
            None
        }
    }
}

fn tokenizer(section: &Reader, model: &Reader) -> Option<TokenizerSource> {
    // A document separator and the 256 bytes.
    let vocab_size = section.optional("vocab_size", whole(257));
    let file = section.optional("file", existing);
    match (vocab_size?, file?) {
        (Some(vocab_size), None) => Some(TokenizerSource::Train { vocab_size }),
        (None, Some(file)) => Some(TokenizerSource::File(file)),
        (Some(_), Some(_)) => {
            let why = "`tokenizer.file` brings its own vocabulary; take out `file` or `vocab_size`";
            section.complain("file", why.into());
            None
        }
        (None, None) => match model.optional("from", text)? {
            Some(folder) => {
                let folder = PathBuf::from(&folder);
                let names = ["tokenizer.json", "tokenizer.model"].map(|name| folder.join(name));
                let file = names.iter().find(|file| file.exists()).unwrap_or(&names[0]);
                if folder.is_dir() && !file.exists() {
                    model.refuse("from", "", "it has no tokenizer.json", "name one with `tokenizer.file`");
                    return None;
                }
                Some(TokenizerSource::File(file.clone()))
            }
            None => {
                section.missing("vocab_size", "the entries of a tokenizer to train; or give `file` to load one");
                None
            }
        },
    }
}

fn batch(section: &Reader) -> Option<BatchSettings> {
    let rows = section.required("rows", "the rows of a step", whole(1));
    let microbatches = section.or("microbatches", 1, whole(1));
    let (rows, microbatches): (usize, usize) = (rows?, microbatches?);
    if !rows.is_multiple_of(microbatches) {
        let wanted = format!("must be a multiple of `batch.microbatches`, which is {microbatches}");
        let above = rows.next_multiple_of(microbatches);
        let way_out = match above - microbatches {
            0 => format!("use {above} rows, or a number of microbatches that divides {rows}"),
            below => format!("use {below} or {above} rows, or a number of microbatches that divides {rows}"),
        };
        section.refuse("rows", "", &wanted, &way_out);
        return None;
    }
    Some(BatchSettings { rows, microbatches })
}

/// Names of what becomes of a step whose gradient norm is not finite.
pub(super) const NOT_FINITES: &[(&str, NotFinite)] = &[("stop", NotFinite::Stop), ("skip", NotFinite::Skip)];

#[derive(Clone, Copy, PartialEq)]
enum Decay {
    Cosine,
    WarmupStableDecay,
}

/// Of AdamW, at the widths that are trained here.
const USUAL_RATES: &str = "usually 3e-4 to 5e-3, or 1e-5 to 1e-4 to fine-tune a model";

fn optimizer(section: &Reader, steps: Option<u64>) -> Option<OptimizerSettings> {
    let what = format!("the highest learning rate, {USUAL_RATES}");
    let peak = section.required("learning_rate", &what, |node: &Node| {
        let wanted = format!("a number above 0, {USUAL_RATES}");
        number(NumberRange::Positive)(node).map_err(|_not_positive| Wrong::new(node, wanted))
    });
    let minimum = section.or("minimum_learning_rate", 0.0, number(NumberRange::NotNegative));
    let warmup_steps = section.or("warmup_steps", 0, whole(0));
    let decay =
        section.or("decay", Decay::Cosine, choice(&[("cosine", Decay::Cosine), ("wsd", Decay::WarmupStableDecay)]));
    let decay_steps = section.optional("decay_steps", whole(1));
    let beta1 = section.or("beta1", 0.9, number(NumberRange::BelowOne));
    let beta2 = section.or("beta2", 0.95, number(NumberRange::BelowOne));
    let epsilon = section.or("epsilon", 1e-8, number(NumberRange::Positive));
    let weight_decay = section.or("weight_decay", 0.1, number(NumberRange::NotNegative));
    let clip_norm = section.or("clip_norm", Some(1.0), or_word("off", number(NumberRange::Positive)));

    let not_finite = section.or("not_finite", NotFinite::Stop, choice(NOT_FINITES));

    let (peak, minimum, warmup_steps): (f64, f64, u64) = (peak?, minimum?, warmup_steps?);
    if minimum > peak {
        let wanted = format!("the rate falls to it from `optimizer.learning_rate`, which is {peak:?}");
        section.refuse("minimum_learning_rate", "", &wanted, "use that or less");
    }
    let learning_rate = match (decay?, decay_steps?) {
        (Decay::Cosine, None) => LearningRate::Cosine { peak, minimum, warmup_steps },
        (Decay::WarmupStableDecay, Some(decay_steps)) => {
            LearningRate::WarmupStableDecay { peak, minimum, warmup_steps, decay_steps }
        }
        (Decay::Cosine, Some(_)) => {
            section.refuse("decay_steps", "", "a cosine decays to the last step", "take it out or set decay = \"wsd\"");
            return None;
        }
        (Decay::WarmupStableDecay, None) => {
            section.refuse(
                "decay",
                "",
                "then `optimizer.decay_steps` must say how long",
                "give it, or set decay = \"cosine\"",
            );
            return None;
        }
    };
    let decay_steps = match learning_rate {
        LearningRate::Cosine { .. } => 0,
        LearningRate::WarmupStableDecay { decay_steps, .. } => decay_steps,
    };
    let moving = warmup_steps.saturating_add(decay_steps);
    if let Some(steps) = steps.filter(|&steps| moving > steps) {
        let decay = if decay_steps > 0 { format!(" with {decay_steps} decay steps") } else { String::new() };
        let wanted = format!("it must fit into the run{decay}, and `steps` is {steps}");
        match steps.checked_sub(decay_steps) {
            Some(most) => section.refuse("warmup_steps", "0", &wanted, &format!("use {most} or less, or train longer")),
            None => {
                let wanted = format!("it must fit into the run, and `steps` is {steps}");
                section.refuse("decay_steps", "", &wanted, &format!("use {steps} or less, or train longer"));
            }
        }
    }
    Some(OptimizerSettings {
        learning_rate,
        beta1: beta1?,
        beta2: beta2?,
        epsilon: epsilon?,
        weight_decay: weight_decay?,
        clip_norm: clip_norm?,
        not_finite: not_finite?,
    })
}

/// An update that leaves nothing of the past cannot be taken back by inverting it.
fn refuse_what_cannot_be_inverted(pipeline: &PipelineSettings, optimizer: &OptimizerSettings, section: &Reader) {
    let (LearningRate::Cosine { peak, .. } | LearningRate::WarmupStableDecay { peak, .. }) = optimizer.learning_rate;
    let forgets = [
        (optimizer.beta1 == 0.0, "`optimizer.beta1` is 0"),
        (optimizer.beta2 == 0.0, "`optimizer.beta2` is 0"),
        (peak * optimizer.weight_decay >= 1.0, "`optimizer.learning_rate` times `optimizer.weight_decay` is 1 or more"),
    ];
    let why = forgets.iter().find(|(forgets, _)| *forgets);
    if let (Some(RollBack::Invert), Some((_, why))) = (pipeline.post_validation, why) {
        let wanted = format!("{why}, so that an update leaves nothing of what it would have to restore");
        section.refuse("post_validation", "", &wanted, "use \"copy\"");
    }
}

fn validation(section: &Reader) -> Option<ValidationSettings> {
    let every = section.or("every", None, or_word("end", whole(1)));
    let rows = section.or("rows", 64, whole(1));
    Some(ValidationSettings { every: every?, rows: rows? })
}

fn checkpoint(section: &Reader) -> Option<CheckpointSettings> {
    let every = section.or("every", None, or_word("end", whole(1)));
    let keep = section.or("keep", 2, whole(1));
    Some(CheckpointSettings { every: every?, keep: keep? })
}

fn sample(section: &Reader) -> Option<SampleSettings> {
    let every = section.or("every", None, or_word("end", whole(1)));
    let prompt = section.or("prompt", String::new(), text);
    let tokens = section.or("tokens", 100, whole(0));
    let temperature = section.or("temperature", 0.8, number(NumberRange::NotNegative));
    let top_k = section.or("top_k", None, or_word("all", whole(1)));
    Some(SampleSettings { every: every?, prompt: prompt?, tokens: tokens?, temperature: temperature?, top_k: top_k? })
}

fn metrics(section: &Reader) -> Option<MetricsSettings> {
    let tensorboard = section.or("tensorboard", true, flag);
    let prometheus = section.or("prometheus", None, or_word("off", address));
    Some(MetricsSettings { tensorboard: tensorboard?, prometheus: prometheus? })
}

/// An address to listen on; a port alone is one of this machine that no other reaches.
fn address(node: &Node) -> Parsed<SocketAddr> {
    let local = |port: &str| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?)));
    let found = match &node.value {
        Value::Whole(port) => local(&port.to_string()),
        Value::Text(text) => text.strip_prefix("localhost:").map_or_else(|| text.parse().ok(), local),
        _ => None,
    };
    found.ok_or_else(|| Wrong::new(node, "a port, an address with a port such as \"127.0.0.1:9464\","))
}
