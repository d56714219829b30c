//! Settings as a complete run file.

use super::model::{FAMILIES, LAYER_TYPES};
use super::pipeline::{
    BACKWARDS, BY_SCHEDULE, EMBEDDINGS, POST_VALIDATIONS, PRECISIONS, RECOMPUTES, SCHEDULES, VOCABULARIES,
};
use super::sections::{NOT_FINITES, TOKEN_WIDTHS};
use architecture::{Architecture, Family, Positions, RopeScaling, Sliding, Windows};
use corpus::{Content, ONLY_SOURCE, SourceOptions};
use mesh::Stage;
use schedule::{InputLayer, Placement};
use std::fmt::{Display, Write};
use std::path::Path;
use train::{LearningRate, ModelSource, Settings, TokenizerSource};

/// The run file that means exactly these settings: every key, defaults spelled out.
pub fn write(settings: &Settings) -> String {
    let mut file =
        File("# The run as resolved: every key with the value it had. `millstream train` reads it back.\n\n".into());
    file.key("seed", settings.seed);
    file.key("steps", settings.steps);

    let data = &settings.data;
    let is_only =
        |source: &SourceOptions| data.sources.len() == 1 && source.name == ONLY_SOURCE && source.weight.is_none();
    file.section("data");
    match data.sources.as_slice() {
        [] => file.key("paths", "[]"),
        [only] if is_only(only) => source(&mut file, only),
        _ => {}
    }
    file.key("validation_fraction", float(data.validation_fraction));
    file.key("sequence_length", data.sequence_length);
    file.key("isolate_documents", data.isolate_documents);
    for source in data.sources.iter().filter(|source| !is_only(source)) {
        writeln!(file.0, "\n[[data.sources]]").expect("invariant: writing to a string");
        file.key("name", quoted(&source.name));
        self::source(&mut file, source);
        if let Some(weight) = source.weight {
            file.key("weight", float(weight));
        }
    }

    file.section("tokenizer");
    match &settings.tokenizer {
        TokenizerSource::Train { vocab_size } => file.key("vocab_size", vocab_size),
        TokenizerSource::File(tokenizer) => file.key("file", path(tokenizer)),
    }

    file.section("model");
    match &settings.model {
        ModelSource::Folder(folder) => file.key("from", path(folder)),
        ModelSource::Fresh(architecture) => model(&mut file, architecture),
    }

    file.section("batch");
    file.key("rows", settings.batch.rows);
    file.key("microbatches", settings.batch.microbatches);

    pipeline(&mut file, settings);
    optimizer(&mut file, settings);

    file.section("validation");
    file.key("every", or_word(settings.validation.every, "end"));
    file.key("rows", settings.validation.rows);

    file.section("checkpoint");
    file.key("every", or_word(settings.checkpoint.every, "end"));
    file.key("keep", settings.checkpoint.keep);

    file.section("sample");
    file.key("every", or_word(settings.sample.every, "end"));
    file.key("prompt", quoted(&settings.sample.prompt));
    file.key("tokens", settings.sample.tokens);
    file.key("temperature", float(settings.sample.temperature));
    file.key("top_k", or_word(settings.sample.top_k, "all"));

    file.section("metrics");
    file.key("tensorboard", settings.metrics.tensorboard);
    file.key("prometheus", settings.metrics.prometheus.map_or_else(|| quoted("off"), |at| quoted(&at.to_string())));
    file.0
}

fn source(file: &mut File, source: &SourceOptions) {
    file.key("paths", list(source.paths.iter().map(|path| self::path(path))));
    match &source.content {
        Content::Text { field } => file.key("field", quoted(field)),
        Content::Tokens(width) => file.key("tokens", word(TOKEN_WIDTHS, *width)),
    }
}

fn model(file: &mut File, a: &Architecture) {
    let family = a.family;
    file.key("model_type", word(FAMILIES, family));
    file.key("hidden_size", a.hidden_size);
    file.key("num_hidden_layers", a.num_hidden_layers);
    file.key("num_attention_heads", a.num_attention_heads);
    file.key("num_key_value_heads", a.num_key_value_heads);
    file.key("head_dim", a.head_dim);
    file.key("intermediate_size", a.intermediate_size);
    file.key("max_position_embeddings", a.max_position_embeddings);
    file.key("rms_norm_eps", float(a.norm_eps));
    if let Some(Sliding { window, layers }) = &a.sliding {
        file.key("sliding_window", window);
        if family.windows() == Windows::ByLayer {
            file.key("layer_types", list(layers.iter().map(|&slides| word(LAYER_TYPES, slides))));
        }
    }
    file.key("attention_bias", a.attention_bias);
    file.key("mlp_bias", a.mlp_bias);
    file.key("tie_word_embeddings", a.tie_word_embeddings);
    file.key("initializer_range", float(a.initializer_range));
    let Positions::Rotary { full, sliding } = a.positions else { return };
    file.key("rope_theta", float(full.theta));
    if family == Family::Gemma3 {
        file.key("rope_local_base_freq", float(sliding.theta));
        file.key("query_pre_attn_scalar", float(a.query_pre_attn_scalar));
    }
    match full.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            file.section("model.rope_scaling");
            file.key("rope_type", "\"linear\"");
            file.key("factor", float(factor));
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            file.section("model.rope_scaling");
            file.key("rope_type", "\"llama3\"");
            file.key("factor", float(factor));
            file.key("low_freq_factor", float(low_freq_factor));
            file.key("high_freq_factor", float(high_freq_factor));
            file.key("original_max_position_embeddings", original_max_position_embeddings);
        }
    }
}

fn pipeline(file: &mut File, settings: &Settings) {
    let pipeline = &settings.pipeline;
    let n_stages = pipeline.stage_map.n_stages();
    file.section("pipeline");
    file.key("stages", n_stages);
    match &pipeline.partition {
        Some(sizes) => file.key("cut", list(sizes)),
        None => file.key("cut", "\"balanced\""),
    }
    let ranks: Vec<_> = (0..n_stages).map(|stage| pipeline.stage_map.grid(Stage(stage)).ranks[0]).collect();
    let n_ranks = pipeline.stage_map.n_ranks();
    let n_per_rank = if n_stages.is_multiple_of(n_ranks) { n_stages / n_ranks } else { 1 };
    let placed = pipeline.schedule.kind.placement().ranks(n_stages, n_per_rank);
    let is_placed = placed.is_some_and(|placed| ranks.iter().map(|rank| rank.0).eq(placed));
    file.key("ranks", if is_placed { quoted(BY_SCHEDULE) } else { list(ranks) });
    if pipeline.schedule.kind.placement() == Placement::Looped {
        file.key("stages_per_rank", n_per_rank);
    }
    file.key("schedule", word(SCHEDULES, pipeline.schedule.kind));
    file.key("backward", word(BACKWARDS, pipeline.schedule.backward));
    let vocabulary = pipeline.vocabulary;
    file.key("vocabulary", word(VOCABULARIES, vocabulary.map(|vocabulary| vocabulary.algorithm)));
    let input = vocabulary.map_or(InputLayer::FirstStage, |vocabulary| vocabulary.input);
    file.key("embedding", word(EMBEDDINGS, input));
    file.key("post_validation", word(POST_VALIDATIONS, pipeline.post_validation));
    file.key("recompute", same_or_each(&pipeline.recompute, |&kept| word(RECOMPUTES, kept)));
    file.key("devices", same_or_each(&pipeline.devices, |device| quoted(&device.to_string())));
    file.key("precision", word(PRECISIONS, pipeline.precision));
    file.key("cores", or_word(pipeline.cores, "all"));
}

fn optimizer(file: &mut File, settings: &Settings) {
    let optimizer = &settings.optimizer;
    file.section("optimizer");
    let (peak, minimum, warmup_steps, decay) = match optimizer.learning_rate {
        LearningRate::Cosine { peak, minimum, warmup_steps } => (peak, minimum, warmup_steps, None),
        LearningRate::WarmupStableDecay { peak, minimum, warmup_steps, decay_steps } => {
            (peak, minimum, warmup_steps, Some(decay_steps))
        }
    };
    file.key("learning_rate", float(peak));
    file.key("minimum_learning_rate", float(minimum));
    file.key("warmup_steps", warmup_steps);
    match decay {
        None => file.key("decay", "\"cosine\""),
        Some(decay_steps) => {
            file.key("decay", "\"wsd\"");
            file.key("decay_steps", decay_steps);
        }
    }
    file.key("beta1", float(optimizer.beta1));
    file.key("beta2", float(optimizer.beta2));
    file.key("epsilon", float(optimizer.epsilon));
    file.key("weight_decay", float(optimizer.weight_decay));
    file.key("clip_norm", or_word(optimizer.clip_norm.map(float), "off"));
    file.key("not_finite", word(NOT_FINITES, optimizer.not_finite));
}

struct File(String);

impl File {
    fn section(&mut self, name: &str) {
        writeln!(self.0, "\n[{name}]").expect("invariant: writing to a string");
    }

    fn key(&mut self, key: &str, value: impl Display) {
        writeln!(self.0, "{key} = {value}").expect("invariant: writing to a string");
    }
}

/// A finite float as the shortest TOML that reads back to the same bits.
fn float(x: f64) -> String {
    format!("{x:?}")
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn path(path: &Path) -> String {
    super::quoted(path)
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("[{}]", items.join(", "))
}

/// One value where all are the same: that stays right when the number of stages is changed.
fn same_or_each<T: PartialEq>(values: &[T], show: impl Fn(&T) -> String) -> String {
    match values {
        [first, rest @ ..] if rest.iter().all(|value| value == first) => show(first),
        _ => list(values.iter().map(show)),
    }
}

fn or_word<T: Display>(value: Option<T>, word: &str) -> String {
    value.map_or_else(|| quoted(word), |value| value.to_string())
}

fn word<T: Copy + PartialEq>(words: &[(&str, T)], meant: T) -> String {
    let (word, _) = words.iter().find(|(_, value)| *value == meant).expect("invariant: every choice has a word");
    quoted(word)
}
