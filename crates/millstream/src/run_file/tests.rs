use super::*;
use std::fs;
use std::path::Path;

/// The least that trains.
const LEAST: &str = "\
steps = 10
[data]
sequence_length = 8
[tokenizer]
vocab_size = 300
[model]
hidden_size = 12
num_hidden_layers = 3
num_attention_heads = 3
intermediate_size = 20
[batch]
rows = 4
[optimizer]
learning_rate = 0.01
";

fn resolve_text(text: &str, sets: &[&str]) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    fs::write(&path, text).unwrap();
    let request =
        Request { file: Some(path), sets: sets.iter().map(|set| (*set).to_owned()).collect(), ..Request::default() };
    let here = format!("{}/", folder.path().display());
    resolve(&request).map_err(|problems| problems.to_string().replace(&here, ""))
}

fn check_refused(text: &str, sets: &[&str], expected: &str) {
    let found = resolve_text(text, sets).expect_err(text);
    assert_eq!(found, expected.trim_end(), "{text}\n{sets:?}\n--- found:\n{found}\n---");
}

/// `LEAST` with lines replaced: what is refused, and in which words.
#[test]
fn golden() {
    for (sets, expected) in GOLDEN_SETS {
        check_refused(LEAST, sets, &format!("the run file cannot be used: {expected}"));
    }
    for (text, expected) in GOLDEN_FILES {
        check_refused(text, &[], &format!("the run file cannot be used: {expected}"));
    }
}

const GOLDEN_SETS: &[(&[&str], &str)] = &[
    (
        &["batch.rows=10", "batch.microbatches=4"],
        r#"1 problem
  --set batch.rows=10: `batch.rows` is 10, but must be a multiple of `batch.microbatches`, which is 4; use 8 or 12 rows, or a number of microbatches that divides 10"#,
    ),
    (
        &["batch.rows=3", "batch.microbatches=4"],
        r#"1 problem
  --set batch.rows=3: `batch.rows` is 3, but must be a multiple of `batch.microbatches`, which is 4; use 4 rows, or a number of microbatches that divides 3"#,
    ),
    (
        &["pipeline.stages=9"],
        r#"1 problem
  --set pipeline.stages=9: `pipeline.stages` is 9, but the model has 8 blocks (embedding, attention and MLP of 3 layers, head); use at most 8 stages or more layers"#,
    ),
    (
        &["pipeline.stages=2", "pipeline.cut=[3, 4]"],
        r#"1 problem
  --set pipeline.cut=[3, 4]: `pipeline.cut` is [3, 4], but that makes 7 blocks where the model has 8; count the embedding, attention and MLP of 3 layers, and the head"#,
    ),
    (
        &["pipeline.stages=2", "pipeline.cut=[3, 3, 2]"],
        r#"1 problem
  --set pipeline.cut=[3, 3, 2]: `pipeline.cut` is [3, 3, 2], but must have one size for each stage, 2 in all, not 3; change `cut` or `stages`, or write "balanced""#,
    ),
    (
        &["pipeline.stages=2", "pipeline.cut=[8, 0]"],
        r#"1 problem
  --set pipeline.cut=[8, 0]: an item of `pipeline.cut` is 0, but must be a whole number of at least 1"#,
    ),
    (
        &["pipeline.stages=2", "pipeline.ranks=[0]"],
        r#"1 problem
  --set pipeline.ranks=[0]: `pipeline.ranks` is [0], but must have one rank for each stage, 2 in all, not 1; change `ranks` or `stages`"#,
    ),
    (
        &["pipeline.stages=2", "pipeline.ranks=[0, 2]"],
        r#"1 problem
  --set pipeline.ranks=[0, 2]: `pipeline.ranks` is [0, 2], but rank 1 is given no stage; count ranks from 0 to 2 without gaps"#,
    ),
    (
        &["pipeline.devices=[\"cpu\", \"cpu\"]"],
        r#"1 problem
  --set pipeline.devices=["cpu", "cpu"]: `pipeline.devices` is ["cpu", "cpu"], but must have one device for each rank, 1 in all, not 2; change `devices` or the number of ranks"#,
    ),
    (
        &["pipeline.devices=[\"cuda:0\"]"],
        r#"1 problem
  --set pipeline.devices=["cuda:0"]: an item of `pipeline.devices` is "cuda:0", but must be "cpu", the only device this build can use; --features cuda builds one for GPUs"#,
    ),
    (
        &["pipeline.recompute=[\"full\", \"none\"]"],
        r#"1 problem
  --set pipeline.recompute=["full", "none"]: `pipeline.recompute` is ["full", "none"], but must have one word for each stage, 1 in all, not 2; change it or write one word for all"#,
    ),
    (
        &["pipeline.recompute=ful"],
        r#"1 problem
  --set pipeline.recompute=ful: `pipeline.recompute` is "ful", but must be "none" or "full"; did you mean "full"?"#,
    ),
    (
        &["pipeline.schedule=zero-bubble"],
        r#"1 problem
  --set pipeline.schedule=zero-bubble: `pipeline.schedule` is "zero-bubble", but must be one of "gpipe", "1f1b", "interleaved", "looped-bfs", "zb-h1", "zb-h2", "zb-auto", "interleaved-zb", "zb-v", "v-half", "v-min", "dualpipe-v""#,
    ),
    (
        &["model.num_attention_heads=6", "model.num_key_value_heads=4"],
        r#"1 problem
  --set model.num_key_value_heads=4: `model.num_key_value_heads` is 4, but it must divide `num_attention_heads`, which is 6"#,
    ),
    (
        &["model.head_dim=5"],
        r#"1 problem
  --set model.head_dim=5: `model.head_dim` is 5, but rotary embedding turns pairs, so it must be even and at least 2"#,
    ),
    (
        &["model.num_attention_heads=5"],
        r#"1 problem
  run.toml:7:15: `model.hidden_size` is 12, but without `model.head_dim` it must be a multiple of num_attention_heads, which is 5; give head_dim"#,
    ),
    (
        &["model.max_position_embeddings=7"],
        r#"1 problem
  run.toml:3:19: `data.sequence_length` is 8, but the model is meant for at most 7 tokens (max_position_embeddings); use 7 or less"#,
    ),
    (
        &["data.validation_fraction=1"],
        r#"1 problem
  --set data.validation_fraction=1: `data.validation_fraction` is 1, but must be a number above 0 and below 1"#,
    ),
    (
        &["data.validation_fraction=0.0"],
        r#"1 problem
  --set data.validation_fraction=0.0: `data.validation_fraction` is 0.0, but must be a number above 0 and below 1"#,
    ),
    (
        &["data.paths=[\"no such file\"]"],
        r#"1 problem
  --set data.paths=["no such file"]: an item of `data.paths` is "no such file", but must be a file or folder that exists"#,
    ),
    (
        &["tokenizer.vocab_size=100"],
        r#"1 problem
  --set tokenizer.vocab_size=100: `tokenizer.vocab_size` is 100, but must be a whole number of at least 257"#,
    ),
    (
        &["optimizer.warmup_steps=11"],
        r#"1 problem
  --set optimizer.warmup_steps=11: `optimizer.warmup_steps` is 11, but it must fit into the run, and `steps` is 10; use 10 or less, or train longer"#,
    ),
    (
        &["optimizer.decay=wsd"],
        r#"1 problem
  --set optimizer.decay=wsd: `optimizer.decay` is "wsd", but then `optimizer.decay_steps` must say how long; give it, or set decay = "cosine""#,
    ),
    (
        &["optimizer.decay_steps=5"],
        r#"1 problem
  --set optimizer.decay_steps=5: `optimizer.decay_steps` is 5, but a cosine decays to the last step; take it out or set decay = "wsd""#,
    ),
    (
        &["optimizer.decay=wsd", "optimizer.decay_steps=7", "optimizer.warmup_steps=5"],
        r#"1 problem
  --set optimizer.warmup_steps=5: `optimizer.warmup_steps` is 5, but it must fit into the run with 7 decay steps, and `steps` is 10; use 3 or less, or train longer"#,
    ),
    (
        &["optimizer.minimum_learning_rate=0.1"],
        r#"1 problem
  --set optimizer.minimum_learning_rate=0.1: `optimizer.minimum_learning_rate` is 0.1, but the rate falls to it from `optimizer.learning_rate`, which is 0.01; use that or less"#,
    ),
    (
        &["optimizer.beta1=1"],
        r#"1 problem
  --set optimizer.beta1=1: `optimizer.beta1` is 1, but must be a number of at least 0 and below 1"#,
    ),
    (
        &["pipeline.post_validation=invert", "optimizer.beta1=0"],
        r#"1 problem
  --set pipeline.post_validation=invert: `pipeline.post_validation` is "invert", but `optimizer.beta1` is 0, so that an update leaves nothing of what it would have to restore; use "copy""#,
    ),
    (
        &["pipeline.post_validation=invert", "optimizer.weight_decay=100"],
        r#"1 problem
  --set pipeline.post_validation=invert: `pipeline.post_validation` is "invert", but `optimizer.learning_rate` times `optimizer.weight_decay` is 1 or more, so that an update leaves nothing of what it would have to restore; use "copy""#,
    ),
    (
        &["pipeline.post_validation=on"],
        r#"1 problem
  --set pipeline.post_validation=on: `pipeline.post_validation` is "on", but must be "off" or "copy" or "invert""#,
    ),
    (
        &["optimizer.clip_norm=0"],
        r#"1 problem
  --set optimizer.clip_norm=0: `optimizer.clip_norm` is 0, but must be a number above 0 or "off""#,
    ),
    (
        &["steps=0", "seed=-1", "batch.rows=2.5", "sample.temperature=nan"],
        r#"4 problems
  --set batch.rows=2.5: `batch.rows` is 2.5, but must be a whole number of at least 1
  --set sample.temperature=nan: `sample.temperature` is NaN, but must be a number of at least 0
  --set seed=-1: `seed` is -1, but must be a whole number of at least 0
  --set steps=0: `steps` is 0, but must be a whole number of at least 1"#,
    ),
    (
        &["model.from=nowhere"],
        r#"1 problem
  --set model.from=nowhere: `model.from` is "nowhere", but must be a folder with a readable config.json (No such file or directory (os error 2))"#,
    ),
    (
        &["model.model_type=gpt3"],
        r#"1 problem
  --set model.model_type=gpt3: `model.model_type` is "gpt3", but must be one of "llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "gpt2", "olmo2"; did you mean "gpt2"?"#,
    ),
    (
        &["model.sliding_window=4"],
        r#"1 problem
  --set model.sliding_window=4: `model.sliding_window` is 4, but Llama models have no layers with a window"#,
    ),
    (
        &["model.model_type=mistral", "model.layer_types=[\"full_attention\"]"],
        r#"1 problem
  --set model.layer_types=["full_attention"]: `model.layer_types` means nothing in Mistral models; take it out"#,
    ),
    (
        &["model.model_type=qwen3", "model.layer_types=[\"sliding_attention\", \"sliding\"]"],
        r#"1 problem
  --set model.layer_types=["sliding_attention", "sliding"]: an item of `model.layer_types` is "sliding", but must be "full_attention" or "sliding_attention"; did you mean "sliding_attention"?"#,
    ),
    (
        &["model.model_type=qwen3", "model.layer_types=[\"sliding_attention\"]", "model.sliding_window=4"],
        r#"1 problem
  --set model.layer_types=["sliding_attention"]: `model.layer_types` is 1, but there must be one for each of the 3 layers"#,
    ),
    (
        &[
            "model.model_type=gemma3_text",
            "model.layer_types=[\"sliding_attention\", \"full_attention\", \"full_attention\"]",
        ],
        r#"1 problem
  --set model.layer_types=["sliding_attention", "full_attention", "full_attention"]: `model.sliding_window` is missing; it gives how many tokens layers of type "sliding_attention" see"#,
    ),
    (
        &["model.model_type=qwen2", "model.attention_bias=false", "model.mlp_bias=true"],
        r#"2 problems
  --set model.attention_bias=false: `model.attention_bias` is false, but Qwen2 models are with these biases
  --set model.mlp_bias=true: `model.mlp_bias` is true, but Qwen2 models are without these biases"#,
    ),
    (
        &["model.query_pre_attn_scalar=5"],
        r#"1 problem
  --set model.query_pre_attn_scalar=5: `model.query_pre_attn_scalar` is 5, but in Llama models it is `head_dim`, which is 4"#,
    ),
    (
        &["model.rope_local_base_freq=5"],
        r#"1 problem
  --set model.rope_local_base_freq=5: `model.rope_local_base_freq` means nothing in Llama models; take it out"#,
    ),
    (
        &["model.model_type=gpt2", "model.rope_theta=5"],
        r#"1 problem
  --set model.rope_theta=5: `model.rope_theta` means nothing in GPT-2 models; take it out"#,
    ),
    (
        &["model.model_type=gpt2", "model.num_key_value_heads=1"],
        r#"1 problem
  --set model.num_key_value_heads=1: `model.num_key_value_heads` is 1, but GPT-2 models have as many as query heads, which are 3"#,
    ),
    (
        &["model.rope_scaling={rope_type = \"linear\", factor = 2, low_freq_factor = 4}"],
        r#"1 problem
  --set model.rope_scaling={rope_type = "linear", factor = 2, low_freq_factor = 4}: `model.rope_scaling.low_freq_factor` needs `rope_type = "llama3"`"#,
    ),
    (
        &["model.rope_scaling.factor=2"],
        r#"1 problem
  --set model.rope_scaling.factor=2: `model.rope_scaling.factor` needs a `rope_type` that uses it"#,
    ),
    (
        &[
            "model.rope_scaling={rope_type = \"llama3\", factor = 0.5, low_freq_factor = 4, high_freq_factor = 1, original_max_position_embeddings = 8}",
        ],
        r#"2 problems
  --set model.rope_scaling={rope_type = "llama3", factor = 0.5, low_freq_factor = 4, high_freq_factor = 1, original_max_position_embeddings = 8}: `model.rope_scaling.factor` is 0.5, but it must be at least 1 and finite
  --set model.rope_scaling={rope_type = "llama3", factor = 0.5, low_freq_factor = 4, high_freq_factor = 1, original_max_position_embeddings = 8}: `model.rope_scaling.high_freq_factor` is 1, but it must be finite and above `low_freq_factor`, which is 4"#,
    ),
    (
        &["nonsense", "=3", "stepps=3", "model=3"],
        r#"4 problems
  --set =3: `` is not a key; write section.key=value
  --set model=3: `model` is 3, but must be a section [model]
  --set nonsense: this assigns nothing; write key=value, such as `steps=100`
  --set stepps=3: there is no key `stepps`; did you mean `steps`?"#,
    ),
];

const GOLDEN_FILES: &[(&str, &str)] = &[
    (
        "",
        r#"9 problems
  run.toml: `batch.rows` is missing; it gives the rows of a step
  run.toml: `data.sequence_length` is missing; it gives the tokens of a row
  run.toml: `model.hidden_size` is missing; it gives the width of the residual stream
  run.toml: `model.intermediate_size` is missing; it gives the width inside the MLP
  run.toml: `model.num_attention_heads` is missing; it gives the number of query heads
  run.toml: `model.num_hidden_layers` is missing; it gives the number of layers
  run.toml: `optimizer.learning_rate` is missing; it gives the highest learning rate, usually 3e-4 to 5e-3, or 1e-5 to 1e-4 to fine-tune a model
  run.toml: `steps` is missing; it gives the number of optimizer steps
  run.toml: `tokenizer.vocab_size` is missing; it gives the entries of a tokenizer to train; or give `file` to load one"#,
    ),
    (
        "preset = \"defualt\"\nsteps = 3",
        r#"2 problems
  run.toml:1:10: `preset` is "defualt", but must be "default" or "small" or "split-backward-4-stages"
  preset `default`:32:16: `optimizer.warmup_steps` is 40, but it must fit into the run, and `steps` is 3; use 3 or less, or train longer"#,
    ),
    (
        "preset = \"default\"\nsteps = \n[pipeline]\nstages = 3\nstages = 4\n[batch\nrows = 4\n",
        r#"3 problems
  run.toml:2:9: this is not TOML: string values must be quoted, expected literal string
  run.toml:5:1: this is not TOML: duplicate key
  run.toml:6:7: this is not TOML: unclosed table, expected `]`"#,
    ),
    (
        "preset = \"default\"\n\n[pipelin]\nstages = 2\n\n[batch]\nrows = \"many\"\nmicro = 3\n[checkpoint]\nevery = \"never\"\nkeep = 0\n",
        r#"5 problems
  run.toml:3:2: there is no key `pipelin`; did you mean `pipeline`?
  run.toml:7:8: `batch.rows` is "many", but must be a whole number of at least 1
  run.toml:8:1: there is no key `batch.micro`; did you mean `microbatches`?
  run.toml:10:9: `checkpoint.every` is "never", but must be a whole number of at least 1 or "end"
  run.toml:11:8: `checkpoint.keep` is 0, but must be a whole number of at least 1"#,
    ),
    (
        "preset = \"default\"\n[tokenizer]\nfile = \"Cargo.toml\"\nvocab_size = 300\n[data]\npaths = [\"Cargo.toml\", 5]\n",
        r#"2 problems
  run.toml:3:8: `tokenizer.file` brings its own vocabulary; take out `file` or `vocab_size`
  run.toml:6:24: an item of `data.paths` is 5, but must be a string"#,
    ),
];

/// A value other than the default or preset one for every key there is.
const EVERY_KEY: &[(&str, &str)] = &[
    ("seed", "18446744073709551615"),
    ("steps", "301"),
    ("data.paths", "[\"Cargo.toml\"]"),
    ("data.field", "content"),
    ("data.tokens", "u16"),
    ("data.sources", "[{ name = \"a\", paths = [\"Cargo.toml\"], field = \"b\" }]"),
    ("data.validation_fraction", "0.25"),
    ("data.sequence_length", "96"),
    ("data.isolate_documents", "false"),
    ("tokenizer.vocab_size", "1000"),
    ("tokenizer.file", "Cargo.toml"),
    ("model.hidden_size", "96"),
    ("model.num_hidden_layers", "3"),
    ("model.num_attention_heads", "8"),
    ("model.num_key_value_heads", "3"),
    ("model.head_dim", "34"),
    ("model.intermediate_size", "500"),
    ("model.max_position_embeddings", "512"),
    ("model.rms_norm_eps", "1e-6"),
    ("model.model_type", "olmo2"),
    ("model.sliding_window", "17"),
    ("model.layer_types", "[\"full_attention\", \"sliding_attention\", \"full_attention\", \"full_attention\"]"),
    ("model.rope_local_base_freq", "500"),
    ("model.query_pre_attn_scalar", "20"),
    ("model.rope_theta", "500000"),
    ("model.rope_scaling", LLAMA3),
    ("model.attention_bias", "true"),
    ("model.mlp_bias", "true"),
    ("model.tie_word_embeddings", "true"),
    ("model.initializer_range", "0.01"),
    ("batch.rows", "24"),
    ("batch.microbatches", "2"),
    ("pipeline.stages", "3"),
    ("pipeline.cut", "[4, 6]"),
    ("pipeline.ranks", "[1, 0]"),
    ("pipeline.stages_per_rank", "1"),
    ("pipeline.schedule", "looped-bfs"),
    ("pipeline.backward", "split"),
    ("pipeline.vocabulary", "two-barriers"),
    ("pipeline.embedding", "sharded"),
    ("pipeline.post_validation", "invert"),
    ("pipeline.recompute", "[\"none\", \"full\"]"),
    ("pipeline.precision", "\"bf16\""),
    ("pipeline.cores", "3"),
    ("optimizer.learning_rate", "1e-2"),
    ("optimizer.minimum_learning_rate", "0"),
    ("optimizer.warmup_steps", "31"),
    ("optimizer.beta1", "0.8"),
    ("optimizer.beta2", "0.99"),
    ("optimizer.epsilon", "1e-10"),
    ("optimizer.weight_decay", "0"),
    ("optimizer.clip_norm", "off"),
    ("optimizer.not_finite", "skip"),
    ("validation.every", "end"),
    ("validation.rows", "63"),
    ("checkpoint.every", "end"),
    ("checkpoint.keep", "3"),
    ("sample.every", "9"),
    ("metrics.tensorboard", "false"),
    ("metrics.prometheus", "9464"),
    ("sample.prompt", "a \\\"quote\\\"\\n"),
    ("sample.tokens", "0"),
    ("sample.temperature", "0"),
    ("sample.top_k", "all"),
];

const LLAMA3: &str = "{ rope_type = \"llama3\", factor = 8, low_freq_factor = 1, high_freq_factor = 4, original_max_position_embeddings = 64 }";

/// Keys that mean nothing without another.
const BESIDE: &[(&str, &str)] = &[
    ("data.field", "data.paths=[\"Cargo.toml\"]"),
    ("data.tokens", "data.paths=[\"Cargo.toml\"]"),
    ("data.tokens", "tokenizer.file=Cargo.toml"),
    ("model.sliding_window", "model.model_type=mistral"),
    ("model.layer_types", "model.model_type=qwen3"),
    ("model.layer_types", "model.sliding_window=23"),
    ("model.rope_local_base_freq", "model.model_type=gemma3_text"),
    ("model.query_pre_attn_scalar", "model.model_type=gemma3_text"),
    ("pipeline.embedding", "pipeline.vocabulary=one-barrier"),
    ("pipeline.stages_per_rank", "pipeline.schedule=interleaved"),
];

fn default_with(sets: &[String]) -> Settings {
    resolve(&Request { sets: sets.to_vec(), ..Request::default() }).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Each key moves the settings, and what it moved them to survives writing and reading.
#[test]
fn every_key_counts_and_is_written() {
    let default = default_with(&[]);
    let mut seen = vec![default.clone()];
    for (key, value) in EVERY_KEY {
        let beside = BESIDE.iter().filter(|(known, _)| known == key).map(|(_, other)| (*other).to_owned());
        let sets: Vec<String> = beside.chain([format!("{key}={value}")]).collect();
        let settings = default_with(&sets);
        assert!(!seen.contains(&settings), "{key} = {value} changes nothing");
        assert_eq!(resolve_text(&write(&settings), &[]).as_ref(), Ok(&settings), "{key} = {value}");
        seen.push(settings);
    }
    let wsd = default_with(&["optimizer.decay=wsd".into(), "optimizer.decay_steps=20".into()]);
    assert!(!seen.contains(&wsd));
    assert_eq!(resolve_text(&write(&wsd), &[]), Ok(wsd.clone()));

    // Every key that is written stands in the table above, up to those that go together.
    for settings in seen.iter().chain([&wsd]) {
        let (table, _) = toml_file::parse("run.toml", &write(settings));
        for (name, entry) in &table {
            let keys: Vec<String> = match &entry.node.value {
                Value::Table(section) => section.keys().map(|key| format!("{name}.{key}")).collect(),
                _ => vec![name.clone()],
            };
            for key in keys {
                let together = ["optimizer.decay", "optimizer.decay_steps", "pipeline.devices"].contains(&key.as_str());
                assert!(together || EVERY_KEY.iter().any(|(known, _)| *known == key), "{key} is not tested");
            }
        }
    }
}

#[test]
fn every_key_is_documented() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/run-file.md");
    let document = fs::read_to_string(document).unwrap();
    for (key, _) in EVERY_KEY {
        let name = key.rsplit('.').next().unwrap();
        assert!(document.contains(&format!("`{name}`")), "docs/run-file.md does not name {key}");
    }
}

#[test]
fn presets_are_valid_and_survive_writing() {
    for preset in PRESETS {
        let settings = resolve_text(&format!("preset = \"{}\"", preset.name), &[]).unwrap();
        assert_eq!(resolve_text(&write(&settings), &[]), Ok(settings), "{}", preset.name);
        assert!(preset.purpose().ends_with('.'), "{}: {:?}", preset.name, preset.purpose());
    }
}

#[test]
fn layers() {
    // The file over its preset, options over the file, the last one first.
    let file = "preset = \"default\"\nsteps = 77\n[batch]\nrows = 32\n";
    let settings = resolve_text(file, &["batch.rows=48", "batch.rows=40"]).unwrap();
    assert_eq!((settings.steps, settings.batch.rows, settings.batch.microbatches), (77, 40, 4));
    // A preset named on the command line lies under the file, or in the place of the default one.
    let small = resolve_text("preset = \"small\"\nsteps = 77\n[batch]\nrows = 32\n", &[]);
    assert_eq!(resolve_text(file, &["preset=small"]), small);
    assert_eq!(default_with(&["preset=small".into()]), resolve_text("preset = \"small\"", &[]).unwrap());
    // One kind of tokenizer takes the other out.
    let settings = resolve_text(file, &["tokenizer.file=Cargo.toml"]).unwrap();
    assert_eq!(settings.tokenizer, train::TokenizerSource::File("Cargo.toml".into()));
    let settings = resolve_text(file, &["tokenizer.file=Cargo.toml", "tokenizer.vocab_size=700"]).unwrap();
    assert_eq!(settings.tokenizer, train::TokenizerSource::Train { vocab_size: 700 });
}

/// Several sources survive writing, and what is wrong with them is told in its place.
#[test]
fn sources() {
    let with = |sources: &str| LEAST.replace("sequence_length = 8\n", &format!("sequence_length = 8\n{sources}"));
    let two = "[[data.sources]]\nname = \"a\"\npaths = [\"Cargo.toml\"]\nweight = 3\n\
               [[data.sources]]\nname = \"b\"\npaths = [\"src\"]\nfield = \"body\"\nweight = 0.5\n";
    let settings = resolve_text(&with(two), &[]).unwrap();
    let weights: Vec<Option<f64>> = settings.data.sources.iter().map(|source| source.weight).collect();
    assert_eq!(weights, [Some(3.0), Some(0.5)]);
    assert_eq!(resolve_text(&write(&settings), &[]).as_ref(), Ok(&settings));
    // Paths laid over sources take their place.
    let only = resolve_text(&with(two), &["data.paths=[\"src\"]"]).unwrap();
    assert_eq!(only.data.sources.len(), 1);
    let refused = [
        (
            two.replace("weight = 3", "weight = 0"),
            "run.toml:7:10: `data.sources[0].weight` is 0, but must be a number above 0",
        ),
        (two.replace("weight = 3", "weight = -1.5"), "`data.sources[0].weight` is -1.5, but must be a number above 0"),
        (two.replace("weight = 3", "weight = nan"), "`data.sources[0].weight` is NaN, but must be a number above 0"),
        (two.replace("weight = 3\n", ""), "`data.sources[0].weight` is missing; it gives the source's share"),
        (two.replace("\"b\"", "\"a\""), "`data.sources[1].name` is \"a\", but another source is called so"),
        (two.replace("[\"src\"]", "[]"), "`data.sources[1].paths` is [], but a source has at least one file"),
        (
            two.replace("\"src\"", "\"nowhere\""),
            "an item of `data.sources[1].paths` is \"nowhere\", but must be a file",
        ),
        (two.replace("name = \"b\"\n", ""), "`data.sources[1].name` is missing; it gives what the source is called"),
        (two.replace("field", "tokens = \"u16\"\nfield"), "token ids have no fields; take out `field` or `tokens`"),
        (two.replace("field = \"body\"", "tokens = \"u16\""), "token ids need the tokenizer that made them; name it"),
        (two.replace("field", "feild"), "there is no key `data.sources[1].feild`; did you mean `field`?"),
        (format!("paths = [\"src\"]\n{two}"), "`data.paths` stands beside `data.sources`; write it into one of them"),
        ("sources = []\n".to_owned(), "`data.sources` is empty; write [[data.sources]] sections or take it out"),
        ("field = \"body\"\n".to_owned(), "`data.field` says what `data.paths` hold, but there are none; name files"),
    ];
    for (sources, expected) in refused {
        let problems = resolve_text(&with(&sources), &[]).unwrap_err();
        assert!(problems.contains(expected), "{problems}\ninstead of\n{expected}");
    }
}

/// A folder takes the place of the preset's sizes and brings its tokenizer; sizes given after it take its place.
#[test]
fn fine_tuning() {
    let folder = tempfile::tempdir().unwrap();
    let train::ModelSource::Fresh(architecture) = default_with(&[]).model else { panic!("the default is fresh") };
    let config = architecture::to_config_json(&architecture::Architecture { num_hidden_layers: 1, ..architecture });
    fs::write(folder.path().join("config.json"), config).unwrap();
    let from = Some(folder.path().to_path_buf());
    let request = Request { from: from.clone(), ..Request::default() };
    let problems = resolve(&request).unwrap_err().to_string();
    assert!(problems.contains("but it has no tokenizer.json; name one with `tokenizer.file`"), "{problems}");
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let settings = resolve(&request).unwrap();
    assert_eq!(settings.model, train::ModelSource::Folder(folder.path().into()));
    assert_eq!(settings.tokenizer, train::TokenizerSource::File(folder.path().join("tokenizer.json")));
    assert_eq!(resolve_text(&write(&settings), &[]).as_ref(), Ok(&settings));
    // The folder's 4 blocks bound the stages.
    let request = Request { from, sets: vec!["pipeline.stages=5".into()], ..Request::default() };
    let problems = resolve(&request).unwrap_err().to_string();
    assert!(
        problems.contains("--set pipeline.stages=5: `pipeline.stages` is 5, but the model has 4 blocks"),
        "{problems}"
    );
    let beside = format!("preset = \"default\"\n[model]\nfrom = \"{}\"\nhead_dim = 4\n", folder.path().display());
    let problems = resolve_text(&beside, &[]).unwrap_err();
    assert!(problems.contains("run.toml:4:12: `model.head_dim` is given beside `model.from`"), "{problems}");
}

#[test]
fn a_file_that_is_not_there() {
    let request = Request { file: Some(Path::new("no/such.toml").into()), ..Request::default() };
    let problems = resolve(&request).unwrap_err().to_string();
    assert!(problems.contains("no/such.toml: the file cannot be read: "), "{problems}");
}
