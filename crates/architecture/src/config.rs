//! `config.json` as Hugging Face transformers reads and writes it.

mod defaults;
mod reader;
mod rope;
mod sliding;

use crate::error::Problem;
use crate::{Architecture, ArchitectureError, Biases, Family, LAYERS_MOST};
use defaults::Defaults;
use reader::{Reader, problem, whole_or_float};
use serde_json::{Map, Value, json};

/// The architecture that a `config.json` describes. What is absent has the value that the family's configuration of
/// transformers 5 gives it. Rotary embedding is understood as written by transformers 4 (`rope_theta` beside
/// `rope_scaling`) and 5 (`rope_parameters`), windows as numbers of layers or as `layer_types`.
///
/// # Errors
/// [`ArchitectureError::Json`] when the text is not JSON. [`ArchitectureError::Config`] with every field that is
/// malformed, out of range, at odds with another, unknown, or set to something that would change the model's function
/// and is not supported. Nothing that could matter is ignored: an unknown field passes only when it is `null`. GPT-2's
/// dropout, 0.1 in every published folder, acts in training alone, where this program has none; it passes.
pub fn from_config_json(text: &str) -> Result<Architecture, ArchitectureError> {
    let fields = match serde_json::from_str(text)? {
        Value::Object(fields) => fields,
        other => {
            let wanted = "a model's configuration is a JSON object";
            return Err(ArchitectureError::Config(vec![problem("(whole file)", Some(&other), wanted)]));
        }
    };
    let rope_spelling = match fields.get("rope_parameters") {
        None => "rope_scaling.",
        Some(parameters) if parameters.get(rope::FULL).is_some() => "rope_parameters.full_attention.",
        Some(_) => "rope_parameters.",
    };
    let mut reader = Reader::new(fields);
    let Some(family) = family(&mut reader) else { return Err(ArchitectureError::Config(reader.problems)) };
    let architecture = architecture(&mut reader, family);
    for (name, supported) in fixed(family) {
        reader.fixed(name, &supported);
    }
    let Reader { fields, mut problems, unreadable } = reader;
    problems.extend(
        fields
            .iter()
            .filter(|(name, value)| !is_harmless(family, name, value))
            .map(|(name, value)| problem(name, Some(value), "this field is not supported")),
    );
    // A rule about a field that could not be read would complain about the default in its place.
    let readable = |field: &&'static str| !unreadable.iter().any(|name| name == family.spelling(field));
    let rules = architecture.rules().into_iter().filter(|rule| !rule.holds && rule.fields.iter().all(readable));
    problems.extend(rules.map(|rule| {
        let field = family.spelling(rule.fields[0]).replace("rope_parameters.", rope_spelling);
        Problem { field, ..rule.into_problem() }
    }));
    if problems.is_empty() { Ok(architecture) } else { Err(ArchitectureError::Config(problems)) }
}

/// The architecture as `config.json`, indented, with a newline at the end; every field is written out.
///
/// Rotary embedding is written twice: `rope_theta` and `rope_scaling` for transformers 4, `rope_parameters` for
/// transformers 5, which finds the same values in both.
///
/// [`from_config_json`] gives the same architecture back, provided that its numbers have at most 15 significant digits.
pub fn to_config_json(architecture: &Architecture) -> String {
    let a = architecture;
    let family = a.family;
    let eos_token_id = match a.eos_token_id.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let mut config = Map::new();
    let mut put = |field: &'static str, value: Value| drop(config.insert(family.spelling(field).into(), value));
    put("architectures", json!([family.class()]));
    put("model_type", json!(family.model_type()));
    put("hidden_size", json!(a.hidden_size));
    put("num_hidden_layers", json!(a.num_hidden_layers));
    put("num_attention_heads", json!(a.num_attention_heads));
    let is_default = family == Family::Gpt2 && a.intermediate_size == 4 * a.hidden_size;
    put("intermediate_size", if is_default { Value::Null } else { json!(a.intermediate_size) });
    put("vocab_size", json!(a.vocab_size));
    put("max_position_embeddings", json!(a.max_position_embeddings));
    put("rms_norm_eps", json!(a.norm_eps));
    put("hidden_act", json!(activation(family)));
    put("tie_word_embeddings", json!(a.tie_word_embeddings));
    put("initializer_range", json!(a.initializer_range));
    put("bos_token_id", json!(a.bos_token_id));
    put("eos_token_id", eos_token_id);
    put("pad_token_id", json!(a.pad_token_id));
    for name in dropouts(family) {
        put(name, json!(0.0));
    }
    if family.is_rotary() {
        put("num_key_value_heads", json!(a.num_key_value_heads));
        // Three families know the field only where it is needed.
        let is_known = !matches!(family, Family::Qwen2 | Family::Phi3 | Family::Olmo2);
        if is_known || a.head_dim * a.num_attention_heads != a.hidden_size {
            put("head_dim", json!(a.head_dim));
        }
    }
    if family.attention_bias() == Biases::Chosen {
        put("attention_bias", json!(a.attention_bias));
    }
    if family.mlp_bias() == Biases::Chosen {
        put("mlp_bias", json!(a.mlp_bias));
    }
    if family == Family::Gemma3 {
        put("query_pre_attn_scalar", whole_or_float(a.query_pre_attn_scalar));
    }
    rope::write(&mut config, family, a.positions);
    sliding::write(&mut config, family, a.sliding.as_ref(), a.num_hidden_layers);
    let mut text = serde_json::to_string_pretty(&config).expect("invariant: a JSON value has string keys");
    text.push('\n');
    text
}

/// Reads `model_type` and `architectures`; `None` when no family is named, which is reported.
fn family(reader: &mut Reader) -> Option<Family> {
    let [model_type, classes] = ["model_type", "architectures"].map(|name| reader.take(name));
    let named = |family: &Family| match (&model_type, &classes) {
        (Some(model_type), _) => *model_type == json!(family.model_type()),
        (None, classes) => *classes == Some(json!([family.class()])),
    };
    let Some(family) = Family::ALL.into_iter().find(named) else {
        let known: Vec<String> = Family::ALL.iter().map(|family| format!("\"{}\"", family.model_type())).collect();
        let wanted = format!("the supported types are {}", known.join(", "));
        reader.problems.push(problem("model_type", model_type.as_ref(), &wanted));
        return None;
    };
    if let Some(found) = classes.filter(|found| *found != json!([family.class()])) {
        let wanted =
            format!("of models of type \"{}\", only {} is supported", family.model_type(), json!([family.class()]));
        reader.problems.push(problem("architectures", Some(&found), &wanted));
    }
    Some(family)
}

fn architecture(reader: &mut Reader, family: Family) -> Architecture {
    let defaults = Defaults::of(family);
    let name = |field| family.spelling(field);
    let hidden_size = reader.size(name("hidden_size"), defaults.hidden_size);
    let num_hidden_layers = reader.size(name("num_hidden_layers"), defaults.num_hidden_layers);
    let num_attention_heads = reader.size(name("num_attention_heads"), defaults.num_attention_heads);
    let max_position_embeddings = reader.size(name("max_position_embeddings"), defaults.max_position_embeddings);
    let vocab_size = reader.size("vocab_size", defaults.vocab_size);
    let num_key_value_heads = if family.is_rotary() { key_value_heads(reader, &defaults) } else { None };
    let head_dim = head_dim(reader, family, &defaults, [hidden_size, num_attention_heads]);
    let intermediate_size = match defaults.intermediate_size {
        Some(default) => reader.size(name("intermediate_size"), default),
        None => reader.optional_size(name("intermediate_size")).unwrap_or(4 * hidden_size),
    };
    let attention_bias = bias(reader, "attention_bias", family.attention_bias());
    let mlp_bias = bias(reader, "mlp_bias", family.mlp_bias());
    let query_pre_attn_scalar = match family {
        Family::Gemma3 => reader.number("query_pre_attn_scalar", 256.0),
        _ => head_dim as f64,
    };
    // The default token ids are those of the published vocabularies.
    let known = |id: Option<u32>| id.filter(|&id| (id as usize) < vocab_size);
    Architecture {
        family,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: num_key_value_heads.unwrap_or(num_attention_heads),
        head_dim,
        intermediate_size,
        vocab_size,
        max_position_embeddings,
        norm_eps: reader.number(name("rms_norm_eps"), defaults.norm_eps),
        positions: rope::read(reader, family, max_position_embeddings),
        sliding: sliding::read(reader, family, &defaults, num_hidden_layers.min(LAYERS_MOST)),
        query_pre_attn_scalar,
        attention_bias,
        mlp_bias,
        tie_word_embeddings: reader.flag("tie_word_embeddings", defaults.tie_word_embeddings),
        initializer_range: reader.number("initializer_range", 0.02),
        bos_token_id: reader.token("bos_token_id", known(defaults.bos_token_id)),
        eos_token_id: reader.tokens("eos_token_id", known(defaults.eos_token_id)),
        pad_token_id: reader.token("pad_token_id", known(defaults.pad_token_id)),
    }
}

fn bias(reader: &mut Reader, name: &str, biases: Biases) -> bool {
    match biases {
        Biases::Never => {
            reader.fixed(name, &json!(false));
            false
        }
        Biases::Always => {
            reader.fixed(name, &json!(true));
            true
        }
        Biases::Chosen => reader.flag(name, false),
    }
}

/// `null` means as many as query heads.
fn key_value_heads(reader: &mut Reader, defaults: &Defaults) -> Option<usize> {
    let name = "num_key_value_heads";
    if reader.fields.contains_key(name) { reader.optional_size(name) } else { defaults.num_key_value_heads }
}

fn head_dim(reader: &mut Reader, family: Family, defaults: &Defaults, [hidden_size, heads]: [usize; 2]) -> usize {
    let is_given = reader.fields.contains_key("head_dim");
    let given = if family.is_rotary() { reader.optional_size("head_dim") } else { None };
    if let Some(head_dim) = given.or(defaults.head_dim.filter(|_| !is_given)) {
        return head_dim;
    }
    let [hidden_name, heads_name] = ["hidden_size", "num_attention_heads"].map(|field| family.spelling(field));
    let known = ["head_dim", hidden_name, heads_name].iter().all(|field| reader.is_readable(field));
    if known && heads > 0 && !hidden_size.is_multiple_of(heads) {
        let without = if family.is_rotary() { "without `head_dim` " } else { "" };
        let wanted = format!("{without}it must be a multiple of `{heads_name}`, which is {heads}");
        reader.problems.push(problem(hidden_name, Some(&json!(hidden_size)), &wanted));
        reader.unreadable.push("head_dim".into());
    }
    if heads == 0 || hidden_size == 0 {
        reader.unreadable.push("head_dim".into());
    }
    hidden_size / heads.max(1)
}

/// Fields that say nothing about the function from token ids to logits: how the file was made, how weights are stored,
/// what a Python caller gets back.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "attn_implementation",
    "cache_implementation",
    "dtype",
    "finetuning_task",
    "id2label",
    "is_llama_config",
    "label2id",
    "max_sequence_length",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

fn is_harmless(family: Family, name: &str, value: &Value) -> bool {
    let in_family = match family {
        // Other heads than the language model's; the length once more; dropout (see `from_config_json`).
        Family::Gpt2 => {
            let is_share = value.as_f64().is_some_and(|x| (0.0..1.0).contains(&x));
            ["task_specific_params", "n_ctx"].contains(&name)
                || name.starts_with("summary_")
                || dropouts(family).contains(&name) && is_share
        }
        // From which `layer_types` came, which stand beside it.
        Family::Gemma3 => name == "_sliding_window_pattern",
        // Counts with a rotary scaling that is refused; and the code of before the family was in transformers.
        Family::Phi3 => {
            let code = json!({"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"});
            name == "original_max_position_embeddings" && value.is_u64() || name == "auto_map" && *value == code
        }
        _ => false,
    };
    in_family || value.is_null() || HARMLESS.contains(&name)
}

/// Shares of numbers that training sets to 0.
fn dropouts(family: Family) -> &'static [&'static str] {
    match family {
        Family::Gpt2 => &["attn_pdrop", "embd_pdrop", "resid_pdrop"],
        Family::Phi3 => &["attention_dropout", "embd_pdrop", "resid_pdrop"],
        _ => &["attention_dropout"],
    }
}

/// The name of the activation in the MLP.
fn activation(family: Family) -> &'static str {
    match family {
        Family::Gpt2 => "gelu_new",
        Family::Gemma3 => "gelu_pytorch_tanh",
        _ => "silu",
    }
}

/// Fields that change the model's function, with the one value that is supported; `null` passes too.
fn fixed(family: Family) -> Vec<(&'static str, Value)> {
    let mut fields = vec![
        (family.spelling("hidden_act"), json!(activation(family))),
        ("partial_rotary_factor", json!(1)),
        ("is_encoder_decoder", json!(false)),
        ("add_cross_attention", json!(false)),
        ("tie_encoder_decoder", json!(false)),
        ("chunk_size_feed_forward", json!(0)),
        ("pretraining_tp", json!(1)),
        ("rope_interleaved", json!(false)),
        ("use_sliding_window", json!(false)),
        ("use_bidirectional_attention", json!(false)),
    ];
    if family == Family::Gpt2 {
        fields.extend([
            ("scale_attn_weights", json!(true)),
            ("scale_attn_by_inverse_layer_idx", json!(false)),
            ("reorder_and_upcast_attn", json!(false)),
        ]);
    } else {
        fields.extend(dropouts(family).iter().map(|name| (*name, json!(0))));
    }
    fields
}
