//! From `config.json` to a [`Description`].

use super::{Activation, Attention, Core, Cut, Description, Experts, Layer, Mlp, Product};
use crate::PlanError;
use architecture::Problem;
use serde_json::{Map, Value};

/// Families whose layers are put together here.
const FAMILIES: [&str; 18] = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "olmo2",
    "gpt2",
    "gpt_neox",
    "gptj",
    "opt",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
];

/// Largest width or count that is believed: products of two must fit 64 bits with room for sums.
const SIZE_MAX: u64 = 1 << 22;

/// Every layer is a value of its own: no model has so many, and a slip must not fill the memory.
const LAYERS_MAX: usize = 10_000;

impl Description {
    /// The model that a `config.json` describes, for planning. Fields that do not change what a step costs are not
    /// looked at. Absent fields have transformers' defaults where all versions agree on one.
    ///
    /// # Errors
    /// [`PlanError::ModelJson`] when the text is not a JSON object; [`PlanError::Model`] with every field that is missing
    /// or malformed, and for a family that is not known.
    pub fn from_config_json(text: &str) -> Result<Self, PlanError> {
        let value: Value = serde_json::from_str(text).map_err(|error| PlanError::ModelJson(error.to_string()))?;
        let Value::Object(mut fields) = value else {
            return Err(PlanError::ModelJson("it is not an object".to_owned()));
        };
        // Models that also see keep their language model's configuration in a field of its own.
        if let Some(Value::Object(text_config)) = fields.remove("text_config") {
            fields = text_config;
        }
        let mut reader = Reader { fields, problems: Vec::new() };
        let description = read(&mut reader);
        match (description, reader.problems) {
            (Some(description), problems) if problems.is_empty() => Ok(description),
            (_, problems) => Err(PlanError::Model(problems)),
        }
    }
}

/// What all layers of a model share.
struct Shape {
    hidden: usize,
    heads: usize,
    key_value_heads: usize,
    head_width: usize,
    feed_forward: usize,
}

fn read(reader: &mut Reader) -> Option<Description> {
    let family = reader.family()?;
    match family.as_str() {
        "gpt2" | "gptj" => read_gpt(reader, &family),
        "gpt_neox" | "opt" => read_biased(reader, &family),
        "deepseek_v2" | "deepseek_v3" => read_latent(reader, &family),
        _ => read_llama_like(reader, &family),
    }
}

/// Gated MLP, root-mean-square norms, rotary positions: Llama and its relatives.
fn read_llama_like(reader: &mut Reader, family: &str) -> Option<Description> {
    let shape = reader.shape()?;
    let n_layers = reader.layers("num_hidden_layers")?;
    let vocab_size = reader.size("vocab_size")?;
    let is_gemma = family.starts_with("gemma");
    let is_tied = reader.flag("tie_word_embeddings", is_gemma)?;
    // Everywhere but in Llama's relatives with an explicit switch, biases are fixed by the family.
    let (input_bias, output_bias) = match family {
        "qwen2" | "qwen2_moe" => (true, false),
        _ => {
            let bias = reader.flag("attention_bias", false)?;
            (bias, bias)
        }
    };
    let mlp_bias = family == "llama" && reader.flag("mlp_bias", false)?;
    let query_norms = match family {
        "qwen3" | "qwen3_moe" | "gemma3_text" => 2 * shape.head_width,
        "olmo2" => (shape.heads + shape.key_value_heads) * shape.head_width,
        _ => 0,
    };
    let norms = if matches!(family, "gemma2" | "gemma3_text") { 2 } else { 1 };
    let windows = reader.windows(family, n_layers)?;
    let experts = reader.experts(family)?;
    let mut layers = Vec::with_capacity(n_layers);
    for (n, window) in windows.into_iter().enumerate() {
        let attention = grouped_attention(&shape, window, norms * shape.hidden + query_norms, input_bias, output_bias);
        let mlp = match &experts {
            Some(experts) if experts.has(n) => experts.mlp(shape.hidden),
            _ => gated_mlp(shape.hidden, shape.feed_forward, norms * shape.hidden, mlp_bias),
        };
        layers.push(Layer { attention, mlp });
    }
    Some(Description {
        family: family.to_owned(),
        hidden_size: shape.hidden,
        vocab_size,
        position_rows: 0,
        is_tied,
        head_bias: 0,
        final_norm: shape.hidden,
        layers,
    })
}

/// The two GPTs whose fields have other names.
fn read_gpt(reader: &mut Reader, family: &str) -> Option<Description> {
    let hidden = reader.size("n_embd")?;
    let heads = reader.size("n_head")?;
    let n_layers = reader.layers("n_layer")?;
    let vocab_size = reader.size("vocab_size")?;
    let feed_forward = reader.optional_size("n_inner")?.unwrap_or(4 * hidden);
    let is_gpt2 = family == "gpt2";
    let position_rows = if is_gpt2 { reader.size("n_positions")? } else { 0 };
    let is_tied = reader.flag("tie_word_embeddings", is_gpt2)?;
    reader.divides("n_head", heads, "n_embd", hidden)?;
    let shape = Shape { hidden, heads, key_value_heads: heads, head_width: hidden / heads, feed_forward };
    // GPT-J has one norm for both halves, which run side by side.
    let norms = [2 * hidden, if is_gpt2 { 2 * hidden } else { 0 }];
    let layer = biased_layer(&shape, norms, is_gpt2);
    Some(Description {
        family: family.to_owned(),
        hidden_size: hidden,
        vocab_size,
        position_rows,
        is_tied,
        head_bias: if is_gpt2 { 0 } else { vocab_size },
        final_norm: 2 * hidden,
        layers: vec![layer; n_layers],
    })
}

/// Layer norms and biases everywhere: GPT-NeoX and OPT.
fn read_biased(reader: &mut Reader, family: &str) -> Option<Description> {
    let hidden = reader.size("hidden_size")?;
    let heads = reader.size("num_attention_heads")?;
    let n_layers = reader.layers("num_hidden_layers")?;
    let vocab_size = reader.size("vocab_size")?;
    let is_opt = family == "opt";
    let feed_forward = reader.size(if is_opt { "ffn_dim" } else { "intermediate_size" })?;
    // OPT's table has two rows that no position uses.
    let position_rows = if is_opt { reader.size("max_position_embeddings")? + 2 } else { 0 };
    let is_tied = reader.flag("tie_word_embeddings", is_opt)?;
    if let Some(found) = reader.optional_size("word_embed_proj_dim")?.filter(|&width| width != hidden) {
        reader.refuse("word_embed_proj_dim", found.to_string(), "embeddings of another width are not planned for");
        return None;
    }
    reader.divides("num_attention_heads", heads, "hidden_size", hidden)?;
    let shape = Shape { hidden, heads, key_value_heads: heads, head_width: hidden / heads, feed_forward };
    Some(Description {
        family: family.to_owned(),
        hidden_size: hidden,
        vocab_size,
        position_rows,
        is_tied,
        head_bias: 0,
        final_norm: 2 * hidden,
        layers: vec![biased_layer(&shape, [2 * hidden; 2], true); n_layers],
    })
}

/// Latent attention and experts: DeepSeek-V2 and V3.
fn read_latent(reader: &mut Reader, family: &str) -> Option<Description> {
    let hidden = reader.size("hidden_size")?;
    let heads = reader.size("num_attention_heads")?;
    let n_layers = reader.layers("num_hidden_layers")?;
    let vocab_size = reader.size("vocab_size")?;
    let feed_forward = reader.size("intermediate_size")?;
    let query_rank = reader.optional_size("q_lora_rank")?;
    let rank = reader.size("kv_lora_rank")?;
    let rotary = reader.size("qk_rope_head_dim")?;
    let plain = reader.size("qk_nope_head_dim")?;
    let value_width = reader.size("v_head_dim")?;
    let is_tied = reader.flag("tie_word_embeddings", false)?;
    let experts = reader.experts("deepseek")?;
    let key_width = plain + rotary;
    let queries = heads * key_width;
    let mut products = match query_rank {
        Some(rank) => vec![whole("q_down", hidden, rank), columns("q_up", rank, queries)],
        None => vec![columns("q", hidden, queries)],
    };
    products.extend([
        whole("kv_down", hidden, rank + rotary),
        columns("kv_up", rank, heads * (plain + value_width)),
        rows("out", heads * value_width, hidden),
    ]);
    let core =
        Core { heads, key_value_heads: heads, key_width, value_width, window: None, cache_elements: rank + rotary };
    let attention = Attention { vectors: hidden + query_rank.unwrap_or(0) + rank, products, core };
    let layer = |n: usize| {
        let mlp = match &experts {
            Some(experts) if experts.has(n) => experts.mlp(hidden),
            _ => gated_mlp(hidden, feed_forward, hidden, false),
        };
        Layer { attention: attention.clone(), mlp }
    };
    Some(Description {
        family: family.to_owned(),
        hidden_size: hidden,
        vocab_size,
        position_rows: 0,
        is_tied,
        head_bias: 0,
        final_norm: hidden,
        layers: (0..n_layers).map(layer).collect(),
    })
}

fn product(name: &'static str, inputs: usize, outputs: usize, cut: Cut) -> Product {
    Product { name, inputs, outputs, cut, bias: 0 }
}

fn columns(name: &'static str, inputs: usize, outputs: usize) -> Product {
    product(name, inputs, outputs, Cut::Columns)
}

fn rows(name: &'static str, inputs: usize, outputs: usize) -> Product {
    product(name, inputs, outputs, Cut::Rows)
}

fn whole(name: &'static str, inputs: usize, outputs: usize) -> Product {
    product(name, inputs, outputs, Cut::Whole)
}

fn biased(mut product: Product, has_bias: bool) -> Product {
    product.bias = if has_bias { product.outputs } else { 0 };
    product
}

fn grouped_attention(
    shape: &Shape,
    window: Option<usize>,
    vectors: usize,
    input_bias: bool,
    output_bias: bool,
) -> Attention {
    let (queries, key_values) = (shape.heads * shape.head_width, shape.key_value_heads * shape.head_width);
    Attention {
        vectors,
        products: vec![
            biased(columns("qkv", shape.hidden, queries + 2 * key_values), input_bias),
            biased(rows("out", queries, shape.hidden), output_bias),
        ],
        core: Core {
            heads: shape.heads,
            key_value_heads: shape.key_value_heads,
            key_width: shape.head_width,
            value_width: shape.head_width,
            window,
            cache_elements: 2 * key_values,
        },
    }
}

fn gated_mlp(hidden: usize, width: usize, vectors: usize, has_bias: bool) -> Mlp {
    Mlp {
        vectors,
        products: vec![
            biased(columns("gate_up", hidden, 2 * width), has_bias),
            biased(rows("down", width, hidden), has_bias),
        ],
        activation: Some(Activation::Gated(width)),
        experts: None,
    }
}

fn biased_layer(shape: &Shape, norms: [usize; 2], attention_bias: bool) -> Layer {
    let mlp = Mlp {
        vectors: norms[1],
        products: vec![
            biased(columns("up", shape.hidden, shape.feed_forward), true),
            biased(rows("down", shape.feed_forward, shape.hidden), true),
        ],
        activation: Some(Activation::Plain(shape.feed_forward)),
        experts: None,
    };
    Layer { attention: grouped_attention(shape, None, norms[0], attention_bias, attention_bias), mlp }
}

/// Which layers have experts, and what these are.
struct ExpertFields {
    n: usize,
    per_token: usize,
    width: usize,
    /// Width of the experts that every token passes, 0 for none.
    shared_width: usize,
    /// Whether the shared experts' output is weighed by a product of its own.
    has_shared_gate: bool,
    first: usize,
    every: usize,
    dense: Vec<usize>,
}

impl ExpertFields {
    fn has(&self, layer: usize) -> bool {
        let turn = if self.first > 0 { layer } else { layer + 1 };
        layer >= self.first && turn.is_multiple_of(self.every) && !self.dense.contains(&layer)
    }

    fn mlp(&self, hidden: usize) -> Mlp {
        let mut products = vec![whole("router", hidden, self.n)];
        if self.shared_width > 0 {
            products.push(columns("shared_gate_up", hidden, 2 * self.shared_width));
            products.push(rows("shared_down", self.shared_width, hidden));
        }
        if self.has_shared_gate {
            products.push(whole("shared_gate", hidden, 1));
        }
        let (n, per_token, width) = (self.n, self.per_token, self.width);
        let experts = Experts {
            n,
            per_token,
            products: vec![columns("expert_gate_up", hidden, 2 * width), rows("expert_down", width, hidden)],
            activation: Activation::Gated(width),
        };
        let activation = (self.shared_width > 0).then_some(Activation::Gated(self.shared_width));
        Mlp { vectors: hidden, products, activation, experts: Some(experts) }
    }
}

/// Takes fields and collects what is wrong with them. Every read is `None` when it reported something.
struct Reader {
    fields: Map<String, Value>,
    problems: Vec<Problem>,
}

impl Reader {
    fn family(&mut self) -> Option<String> {
        match self.fields.get("model_type") {
            Some(Value::String(family)) if FAMILIES.contains(&family.as_str()) => Some(family.clone()),
            // A configuration of a bare language model, as some files of Gemma 3 have it.
            Some(Value::String(family)) if family == "gemma3" => Some("gemma3_text".to_owned()),
            found => {
                let found = found.map_or("nothing".to_owned(), Value::to_string);
                self.refuse("model_type", found, &format!("families that can be planned are {}", FAMILIES.join(", ")));
                None
            }
        }
    }

    fn shape(&mut self) -> Option<Shape> {
        let hidden = self.size("hidden_size");
        let heads = self.size("num_attention_heads");
        let feed_forward = self.size("intermediate_size");
        let (hidden, heads, feed_forward) = (hidden?, heads?, feed_forward?);
        let key_value_heads = self.optional_size("num_key_value_heads")?.unwrap_or(heads);
        let head_width = match self.optional_size("head_dim")? {
            Some(width) => width,
            None => {
                self.divides("num_attention_heads", heads, "hidden_size", hidden)?;
                hidden / heads
            }
        };
        self.divides("num_key_value_heads", key_value_heads, "num_attention_heads", heads)?;
        Some(Shape { hidden, heads, key_value_heads, head_width, feed_forward })
    }

    /// How far every layer looks back.
    fn windows(&mut self, family: &str, n_layers: usize) -> Option<Vec<Option<usize>>> {
        let window = self.optional_size("sliding_window")?;
        if family.starts_with("qwen") && !self.flag("use_sliding_window", false)? {
            return Some(vec![None; n_layers]);
        }
        // Gemma 2 looks far in every second layer, Gemma 3 in every sixth.
        let period = match family {
            "gemma2" => 2,
            "gemma3_text" => self.optional_size("sliding_window_pattern")?.unwrap_or(6),
            _ => 0,
        };
        let looks_far = |layer: usize| period > 0 && (layer + 1).is_multiple_of(period);
        Some((0..n_layers).map(|layer| window.filter(|_| !looks_far(layer))).collect())
    }

    /// `Some(None)` for a dense model.
    fn experts(&mut self, family: &str) -> Option<Option<ExpertFields>> {
        let (n, width) = match family {
            "mixtral" => ("num_local_experts", "intermediate_size"),
            "qwen2_moe" | "qwen3_moe" => ("num_experts", "moe_intermediate_size"),
            "deepseek" => ("n_routed_experts", "moe_intermediate_size"),
            _ => return Some(None),
        };
        let n_name = n;
        let n = self.size(n);
        let per_token = self.size("num_experts_per_tok");
        let width = self.size(width);
        let (n, per_token, width) = (n?, per_token?, width?);
        if per_token > n {
            self.refuse("num_experts_per_tok", per_token.to_string(), &format!("`{n_name}` is {n}"));
            return None;
        }
        let shared_width = match family {
            "qwen2_moe" => self.optional_size("shared_expert_intermediate_size")?.unwrap_or(0),
            "deepseek" => self.optional_size("n_shared_experts")?.unwrap_or(0) * width,
            _ => 0,
        };
        let first = if family == "deepseek" { self.count("first_k_dense_replace", 0)? } else { 0 };
        let every = self.optional_size("decoder_sparse_step")?.unwrap_or(1);
        let dense = match self.fields.get("mlp_only_layers") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(layers)) if layers.iter().all(Value::is_u64) => {
                layers.iter().filter_map(Value::as_u64).map(|layer| layer as usize).collect()
            }
            Some(found) => {
                self.refuse("mlp_only_layers", found.to_string(), "it must be a list of layers");
                return None;
            }
        };
        let has_shared_gate = family == "qwen2_moe";
        Some(Some(ExpertFields { n, per_token, width, shared_width, has_shared_gate, first, every, dense }))
    }

    fn layers(&mut self, name: &str) -> Option<usize> {
        let found = self.size(name)?;
        if found > LAYERS_MAX {
            self.refuse(name, found.to_string(), &format!("at most {LAYERS_MAX} layers are planned for"));
            return None;
        }
        Some(found)
    }

    fn size(&mut self, name: &str) -> Option<usize> {
        match self.optional_size(name)? {
            Some(size) => Some(size),
            None => {
                self.refuse(name, "nothing".to_owned(), "it must be a whole number of at least 1");
                None
            }
        }
    }

    /// `Some(None)` when it is absent or null.
    fn optional_size(&mut self, name: &str) -> Option<Option<usize>> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(value) => match value.as_u64() {
                Some(size @ 1..=SIZE_MAX) => Some(Some(size as usize)),
                _ => {
                    let wanted = format!("it must be a whole number from 1 to {SIZE_MAX}");
                    self.refuse(name, value.to_string(), &wanted);
                    None
                }
            },
        }
    }

    /// A number that may be 0.
    fn count(&mut self, name: &str, default: usize) -> Option<usize> {
        match self.fields.get(name) {
            Some(value) if value.as_u64() == Some(0) => Some(0),
            _ => Some(self.optional_size(name)?.unwrap_or(default)),
        }
    }

    fn flag(&mut self, name: &str, default: bool) -> Option<bool> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Some(default),
            Some(Value::Bool(flag)) => Some(*flag),
            Some(found) => {
                self.refuse(name, found.to_string(), "it must be true or false");
                None
            }
        }
    }

    fn divides(&mut self, name: &str, part: usize, of: &str, whole: usize) -> Option<()> {
        if whole.is_multiple_of(part) {
            return Some(());
        }
        self.refuse(name, part.to_string(), &format!("it must divide `{of}`, which is {whole}"));
        None
    }

    fn refuse(&mut self, field: &str, found: String, wanted: &str) {
        self.problems.push(Problem { field: field.to_owned(), found, wanted: wanted.to_owned() });
    }
}
