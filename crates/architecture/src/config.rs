//! `config.json` as Hugging Face transformers reads and writes it.

use crate::error::Problem;
use crate::{Architecture, ArchitectureError, Family, Rope, RopeScaling};
use serde_json::{Map, Value, json};

/// The architecture that a `config.json` of `LlamaForCausalLM` describes. What is absent has the value that
/// `LlamaConfig` of transformers 5 gives it. Rotary embedding is understood as written by transformers 4
/// (`rope_theta` beside `rope_scaling`) and 5 (`rope_parameters`).
///
/// # Errors
/// [`ArchitectureError::Json`] when the text is not JSON. [`ArchitectureError::Config`] with every field that is
/// malformed, out of range, at odds with another, unknown, or set to something that would change the model's function
/// and is not supported. Nothing that could matter is ignored: an unknown field passes only when it is `null`.
pub fn from_config_json(text: &str) -> Result<Architecture, ArchitectureError> {
    let fields = match serde_json::from_str(text)? {
        Value::Object(fields) => fields,
        other => {
            let wanted = "a model's configuration is a JSON object";
            return Err(ArchitectureError::Config(vec![problem("(whole file)", Some(&other), wanted)]));
        }
    };
    let rope_spelling = if fields.contains_key("rope_parameters") { "rope_parameters." } else { "rope_scaling." };
    let mut reader = Reader { fields, problems: Vec::new(), unreadable: Vec::new() };
    let family = reader.family();
    let hidden_size = reader.size("hidden_size", 4096);
    let num_attention_heads = reader.size("num_attention_heads", 32);
    let max_position_embeddings = reader.size("max_position_embeddings", 2048);
    let architecture = Architecture {
        family,
        hidden_size,
        num_hidden_layers: reader.size("num_hidden_layers", 32),
        num_attention_heads,
        num_key_value_heads: reader.optional_size("num_key_value_heads").unwrap_or(num_attention_heads),
        head_dim: reader.head_dim(hidden_size, num_attention_heads),
        intermediate_size: reader.size("intermediate_size", 11008),
        vocab_size: reader.size("vocab_size", 32000),
        max_position_embeddings,
        rms_norm_eps: reader.number("rms_norm_eps", 1e-6),
        rope: reader.rope(max_position_embeddings),
        attention_bias: reader.flag("attention_bias"),
        mlp_bias: reader.flag("mlp_bias"),
        tie_word_embeddings: reader.flag("tie_word_embeddings"),
        initializer_range: reader.number("initializer_range", 0.02),
        bos_token_id: reader.token("bos_token_id", Some(1)),
        eos_token_id: reader.tokens("eos_token_id", &[2]),
        pad_token_id: reader.token("pad_token_id", None),
    };
    reader.fixed_fields();
    let Reader { fields, mut problems, unreadable } = reader;
    problems.extend(
        fields
            .iter()
            .filter(|(name, value)| !HARMLESS.contains(&name.as_str()) && !value.is_null())
            .map(|(name, value)| problem(name, Some(value), "this field is not supported")),
    );
    // A rule about a field that could not be read would complain about the default in its place.
    let readable = |field: &&str| !unreadable.contains(&field.to_string());
    let rules = architecture.rules().into_iter().filter(|rule| !rule.holds && rule.fields.iter().all(readable));
    problems.extend(rules.map(|rule| {
        let Problem { field, found, wanted } = rule.into_problem();
        Problem { field: field.replace("rope_parameters.", rope_spelling), found, wanted }
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
    let scaling = match a.rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    };
    let mut rope_parameters = if scaling.is_null() { json!({ "rope_type": "default" }) } else { scaling.clone() };
    rope_parameters["rope_theta"] = json!(a.rope.theta);
    let eos_token_id = match a.eos_token_id.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let (architectures, model_type) = match a.family {
        Family::Llama => (LLAMA_CLASS, LLAMA),
    };
    let config = json!({
        "architectures": [architectures],
        "model_type": model_type,
        "hidden_size": a.hidden_size,
        "num_hidden_layers": a.num_hidden_layers,
        "num_attention_heads": a.num_attention_heads,
        "num_key_value_heads": a.num_key_value_heads,
        "head_dim": a.head_dim,
        "intermediate_size": a.intermediate_size,
        "vocab_size": a.vocab_size,
        "max_position_embeddings": a.max_position_embeddings,
        "rms_norm_eps": a.rms_norm_eps,
        "rope_theta": a.rope.theta,
        "rope_scaling": scaling,
        "rope_parameters": rope_parameters,
        "hidden_act": "silu",
        "attention_bias": a.attention_bias,
        "attention_dropout": 0.0,
        "mlp_bias": a.mlp_bias,
        "tie_word_embeddings": a.tie_word_embeddings,
        "initializer_range": a.initializer_range,
        "bos_token_id": a.bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": a.pad_token_id,
    });
    let mut text = serde_json::to_string_pretty(&config).expect("invariant: a JSON value has string keys");
    text.push('\n');
    text
}

const LLAMA: &str = "llama";
const LLAMA_CLASS: &str = "LlamaForCausalLM";

/// Fields that say nothing about the function from token ids to logits: how the file was made, how weights are stored,
/// what a Python caller gets back.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "attn_implementation",
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

/// Fields that change the model's function, with the one value that is supported; `null` passes too.
fn fixed() -> [(&'static str, Value); 10] {
    [
        ("hidden_act", json!("silu")),
        ("attention_dropout", json!(0)),
        ("pretraining_tp", json!(1)),
        ("partial_rotary_factor", json!(1)),
        ("rope_interleaved", json!(false)),
        ("use_sliding_window", json!(false)),
        ("is_encoder_decoder", json!(false)),
        ("add_cross_attention", json!(false)),
        ("tie_encoder_decoder", json!(false)),
        ("chunk_size_feed_forward", json!(0)),
    ]
}

/// Takes fields out of the object, so that what is left over is unknown, and goes on after a problem with the default.
struct Reader {
    fields: Map<String, Value>,
    problems: Vec<Problem>,
    unreadable: Vec<String>,
}

impl Reader {
    fn family(&mut self) -> Family {
        let wanted = format!("only models of type \"{LLAMA}\" ({LLAMA_CLASS}) are supported");
        let model_type = self.fields.remove("model_type").filter(|value| !value.is_null());
        let classes = self.fields.remove("architectures").filter(|value| !value.is_null());
        if model_type.as_ref().is_some_and(|found| *found != json!(LLAMA))
            || (model_type.is_none() && classes.is_none())
        {
            self.problems.push(problem("model_type", model_type.as_ref(), &wanted));
        }
        if let Some(found) = classes.filter(|found| *found != json!([LLAMA_CLASS])) {
            self.problems.push(problem("architectures", Some(&found), &wanted));
        }
        Family::Llama
    }

    fn head_dim(&mut self, hidden_size: usize, heads: usize) -> usize {
        if let Some(head_dim) = self.optional_size("head_dim") {
            return head_dim;
        }
        let known = ["head_dim", "hidden_size", "num_attention_heads"].iter().all(|field| self.is_readable(field));
        if known && heads > 0 && !hidden_size.is_multiple_of(heads) {
            let wanted = format!("without `head_dim` it must be a multiple of `num_attention_heads`, which is {heads}");
            self.problems.push(problem("hidden_size", Some(&json!(hidden_size)), &wanted));
            self.unreadable.push("head_dim".into());
        }
        if heads == 0 || hidden_size == 0 {
            self.unreadable.push("head_dim".into());
        }
        hidden_size / heads.max(1)
    }

    /// Both spellings may be present when they say the same: `rope_scaling` and `rope_parameters` name the scaling, and
    /// the base stands beside them or inside.
    fn rope(&mut self, max_position_embeddings: usize) -> Rope {
        let beside = self.fields.remove("rope_theta").and_then(|value| self.read_number("rope_theta", value));
        let [old_json, new_json] = ["rope_scaling", "rope_parameters"].map(|name| self.fields.get(name).cloned());
        let old = self.rope_object("rope_scaling", max_position_embeddings);
        let new = self.rope_object("rope_parameters", max_position_embeddings);
        if let (Some((one, _)), Some((other, _)), Some(other_json)) = (&old, &new, &new_json)
            && one != other
        {
            let wanted = format!("`rope_parameters` beside it says {other_json}; keep one of them");
            self.problems.push(problem("rope_scaling", old_json.as_ref(), &wanted));
        }
        let inside = [&new, &old].map(|object| object.and_then(|(_, theta)| theta));
        let mut thetas = [beside, inside[0], inside[1]].into_iter().flatten();
        let theta = thetas.next().unwrap_or(10_000.0);
        if let Some(other) = thetas.find(|other| *other != theta) {
            let wanted = format!("the base is also given as {theta}; keep one of them");
            self.problems.push(problem("rope_theta", Some(&json!(other)), &wanted));
        }
        Rope { theta, scaling: new.or(old).map_or(RopeScaling::None, |(scaling, _)| scaling) }
    }

    /// Scaling and base that the object `name` gives, if there is one.
    fn rope_object(&mut self, name: &str, max_position_embeddings: usize) -> Option<(RopeScaling, Option<f64>)> {
        let fields = match self.fields.remove(name)? {
            Value::Null => return None,
            Value::Object(fields) if fields.is_empty() => return None,
            Value::Object(fields) => fields,
            other => {
                self.problems.push(problem(name, Some(&other), "it must be an object or null"));
                return None;
            }
        };
        let mut reader = Reader { fields, problems: Vec::new(), unreadable: Vec::new() };
        let theta = reader.fields.remove("rope_theta").and_then(|value| reader.read_number("rope_theta", value));
        let [new_type, old_type] = ["rope_type", "type"].map(|key| reader.fields.remove(key));
        if let (Some(new), Some(old)) = (&new_type, &old_type)
            && new != old
        {
            reader.problems.push(problem(
                "type",
                Some(old),
                &format!("`rope_type` beside it is {new}; keep one of them"),
            ));
        }
        let kind = new_type.or(old_type).unwrap_or(json!("default"));
        let scaling = match kind.as_str() {
            Some("default") => RopeScaling::None,
            Some("llama3") => RopeScaling::Llama3 {
                factor: reader.required_number("factor"),
                low_freq_factor: reader.required_number("low_freq_factor"),
                high_freq_factor: reader.required_number("high_freq_factor"),
                original_max_position_embeddings: reader
                    .optional_size("original_max_position_embeddings")
                    .unwrap_or(max_position_embeddings),
            },
            _ => {
                let wanted = "only \"default\" and \"llama3\" are supported";
                reader.problems.push(problem("rope_type", Some(&kind), wanted));
                reader.fields.clear();
                RopeScaling::None
            }
        };
        reader.fixed_field("partial_rotary_factor", &json!(1));
        let unknown = reader.fields.iter().filter(|(_, value)| !value.is_null());
        let wanted = format!("this field is not supported with `rope_type` {kind}");
        reader.problems.extend(unknown.map(|(key, value)| problem(key, Some(value), &wanted)));
        self.problems
            .extend(reader.problems.into_iter().map(|p| Problem { field: format!("{name}.{}", p.field), ..p }));
        // Rules name the fields by the new spelling.
        self.unreadable.extend(reader.unreadable.iter().map(|field| match field.as_str() {
            "rope_theta" => "rope_theta".into(),
            other => format!("rope_parameters.{other}"),
        }));
        Some((scaling, theta))
    }

    fn fixed_fields(&mut self) {
        for (name, supported) in fixed() {
            self.fixed_field(name, &supported);
        }
    }

    fn fixed_field(&mut self, name: &str, supported: &Value) {
        let found = self.fields.remove(name).filter(|found| {
            let same = match (found.as_f64(), supported.as_f64()) {
                (Some(found), Some(supported)) => found == supported,
                _ => found == supported,
            };
            !same && !found.is_null()
        });
        if let Some(found) = found {
            self.problems.push(problem(name, Some(&found), &format!("only {supported} is supported")));
        }
    }

    fn size(&mut self, name: &str, default: usize) -> usize {
        self.fields.remove(name).and_then(|value| self.read_size(name, value)).unwrap_or(default)
    }

    fn optional_size(&mut self, name: &str) -> Option<usize> {
        self.fields.remove(name).filter(|value| !value.is_null()).and_then(|value| self.read_size(name, value))
    }

    fn number(&mut self, name: &str, default: f64) -> f64 {
        self.fields.remove(name).and_then(|value| self.read_number(name, value)).unwrap_or(default)
    }

    /// 1 when it is absent or malformed, which is then a problem.
    fn required_number(&mut self, name: &str) -> f64 {
        let value = self.fields.remove(name).unwrap_or(Value::Null);
        self.read_number(name, value).unwrap_or(1.0)
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.fields.remove(name) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(other) => self.refuse(name, &other, "it must be true or false").unwrap_or_default(),
        }
    }

    fn token(&mut self, name: &str, default: Option<u32>) -> Option<u32> {
        match self.fields.remove(name) {
            None => default,
            Some(Value::Null) => None,
            Some(value) => as_token(&value).or_else(|| self.refuse(name, &value, "it must be a token id or null")),
        }
    }

    fn tokens(&mut self, name: &str, default: &[u32]) -> Vec<u32> {
        match self.fields.remove(name) {
            None => default.to_vec(),
            Some(Value::Null) => Vec::new(),
            Some(value) => {
                let ids: Option<Vec<u32>> = match &value {
                    Value::Array(values) => values.iter().map(as_token).collect(),
                    one => as_token(one).map(|id| vec![id]),
                };
                let wanted = "it must be a token id, a list of token ids or null";
                ids.or_else(|| self.refuse(name, &value, wanted)).unwrap_or_default()
            }
        }
    }

    fn read_size(&mut self, name: &str, value: Value) -> Option<usize> {
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.or_else(|| self.refuse(name, &value, "it must be a whole number of at least 1"))
    }

    fn read_number(&mut self, name: &str, value: Value) -> Option<f64> {
        value.as_f64().or_else(|| self.refuse(name, &value, "it must be a number"))
    }

    fn refuse<T>(&mut self, name: &str, found: &Value, wanted: &str) -> Option<T> {
        self.problems.push(problem(name, Some(found), wanted));
        self.unreadable.push(name.into());
        None
    }

    fn is_readable(&self, name: &str) -> bool {
        !self.unreadable.iter().any(|field| field == name)
    }
}

fn as_token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn problem(field: &str, found: Option<&Value>, wanted: &str) -> Problem {
    let found = found.map_or("nothing".into(), Value::to_string);
    Problem { field: field.into(), found, wanted: wanted.into() }
}
