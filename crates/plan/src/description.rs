//! A language model as the planner sees it: which matrix products a half-layer does, and what it holds.

mod config;

use architecture::Architecture;

/// A model by its half-layers. Wider than [`Architecture`]: also families that this program plans for and does not
/// train, mixtures of experts and latent attention among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// `model_type` of the configuration.
    pub family: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Rows of a learned table of positions; 0 where positions are rotary.
    pub position_rows: usize,
    /// Whether the head uses the embedding matrix.
    pub is_tied: bool,
    /// Elements of the head's bias, 0 mostly.
    pub head_bias: usize,
    /// Elements of the final norm.
    pub final_norm: usize,
    /// The layers in order.
    pub layers: Vec<Layer>,
}

/// A layer: two half-layers, each with its norms and its residual addition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The first.
    pub attention: Attention,
    /// The second.
    pub mlp: Mlp,
}

/// Norm, projections, attention core, output projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Elements of norms and other vectors that are no biases of products.
    pub vectors: usize,
    /// Matrix products in order of use.
    pub products: Vec<Product>,
    /// Queries, keys and values.
    pub core: Core,
}

/// What attention compares and adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub key_value_heads: usize,
    /// Width of a query and of a key.
    pub key_width: usize,
    /// Width of a value.
    pub value_width: usize,
    /// Most tokens that a query looks back on; `None` for all.
    pub window: Option<usize>,
    /// Elements of a token in the cache of a server: keys and values, or their latent form.
    pub cache_elements: usize,
}

/// Norm and a feed-forward network, or a router and experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mlp {
    /// Elements of norms and other vectors that are no biases of products.
    pub vectors: usize,
    /// Products that every token passes: a dense network, or a router and shared experts.
    pub products: Vec<Product>,
    /// Of the dense network or the shared experts, if there are any.
    pub activation: Option<Activation>,
    /// Experts of which every token passes a few.
    pub experts: Option<Experts>,
}

/// Experts of equal shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub n: usize,
    /// How many a token passes.
    pub per_token: usize,
    /// Products of one expert.
    pub products: Vec<Product>,
    /// Between them.
    pub activation: Activation,
}

/// The function between two products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Two inputs of this width, one output (SwiGLU, GeGLU).
    Gated(usize),
    /// One input of this width.
    Plain(usize),
}

/// A matrix product with a weight `[outputs, inputs]`. Projections that share their input are one product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// What it is for, in the field's words.
    pub name: &'static str,
    /// Width that goes in.
    pub inputs: usize,
    /// Width that comes out.
    pub outputs: usize,
    /// How tensor parallelism cuts it.
    pub cut: Cut,
    /// Elements of its bias.
    pub bias: usize,
}

/// How tensor parallelism cuts a weight (Shoeybi et al., 2019).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// By outputs; the input is whole on every rank.
    Columns,
    /// By inputs; the outputs are summed over ranks.
    Rows,
    /// Not at all.
    Whole,
}

impl Product {
    /// Elements of the weight, without the bias.
    pub fn weight_elements(&self) -> u64 {
        (self.inputs * self.outputs) as u64
    }

    /// Elements of weight and bias.
    pub fn n_elements(&self) -> u64 {
        self.weight_elements() + self.bias as u64
    }

    /// Elements of weight and bias on one of `tensor` ranks; what does not divide is rounded up.
    pub fn elements_on(&self, tensor: usize) -> u64 {
        let (inputs, outputs) = self.weight_on(tensor);
        let bias = match self.cut {
            Cut::Columns => self.bias.div_ceil(tensor),
            Cut::Rows | Cut::Whole => self.bias,
        };
        (inputs * outputs + bias) as u64
    }

    /// Inputs and outputs of the weight on one of `tensor` ranks; what does not divide is rounded up.
    pub fn weight_on(&self, tensor: usize) -> (usize, usize) {
        match self.cut {
            Cut::Columns => (self.inputs, self.outputs.div_ceil(tensor)),
            Cut::Rows => (self.inputs.div_ceil(tensor), self.outputs),
            Cut::Whole => (self.inputs, self.outputs),
        }
    }
}

impl Activation {
    /// Width of what goes in.
    pub fn inputs(self) -> usize {
        match self {
            Activation::Gated(width) => 2 * width,
            Activation::Plain(width) => width,
        }
    }

    /// Width of what comes out.
    pub fn outputs(self) -> usize {
        match self {
            Activation::Gated(width) | Activation::Plain(width) => width,
        }
    }
}

impl Core {
    /// Width of all queries together.
    pub fn query_width(&self) -> usize {
        self.heads * self.key_width
    }

    /// Width of all keys and values together.
    pub fn key_value_width(&self) -> usize {
        self.key_value_heads * (self.key_width + self.value_width)
    }

    /// Width of what comes out.
    pub fn output_width(&self) -> usize {
        self.heads * self.value_width
    }

    /// Pairs of a query and a key in a row of `tokens` tokens under the causal mask and the window.
    pub fn causal_pairs(&self, tokens: usize) -> u64 {
        let (tokens, window) = (tokens as u64, self.window.unwrap_or(tokens).min(tokens) as u64);
        // The first `window` queries see one key more each, the others `window`.
        window * (window + 1) / 2 + (tokens - window) * window
    }
}

impl Attention {
    /// Parameters.
    pub fn n_elements(&self) -> u64 {
        self.vectors as u64 + sum(&self.products)
    }
}

impl Mlp {
    /// Parameters, of all experts.
    pub fn n_elements(&self) -> u64 {
        let experts = self.experts.as_ref().map_or(0, |experts| experts.n as u64 * sum(&experts.products));
        self.vectors as u64 + sum(&self.products) + experts
    }

    /// Parameters that a token passes.
    pub fn n_active_elements(&self) -> u64 {
        let experts = self.experts.as_ref().map_or(0, |experts| experts.per_token as u64 * sum(&experts.products));
        self.vectors as u64 + sum(&self.products) + experts
    }
}

fn sum(products: &[Product]) -> u64 {
    products.iter().map(Product::n_elements).sum()
}

impl Description {
    /// What `architecture` is to the planner.
    ///
    /// # Panics
    /// If the planner cannot read what [`architecture::to_config_json`] writes.
    pub fn of(architecture: &Architecture) -> Self {
        let json = architecture::to_config_json(architecture);
        Self::from_config_json(&json).expect("invariant: the planner knows every family that can be trained")
    }

    /// Parameters; a tied matrix counts once.
    pub fn n_parameters(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.attention.n_elements() + layer.mlp.n_elements()).sum();
        self.embedding_elements() + layers + self.head_elements()
    }

    /// Parameters that a token passes: all but the experts it is not sent to.
    pub fn n_active_parameters(&self) -> u64 {
        let layers: u64 =
            self.layers.iter().map(|layer| layer.attention.n_elements() + layer.mlp.n_active_elements()).sum();
        self.embedding_elements() + layers + self.head_elements()
    }

    /// Parameters of the embedding and of learned positions.
    pub fn embedding_elements(&self) -> u64 {
        ((self.vocab_size + self.position_rows) * self.hidden_size) as u64
    }

    /// Parameters of the final norm and of the head, without a tied matrix.
    pub fn head_elements(&self) -> u64 {
        let matrix = if self.is_tied { 0 } else { self.vocab_size * self.hidden_size };
        (self.final_norm + self.head_bias + matrix) as u64
    }

    /// Matrix-product operations per token of a forward over rows of `tokens` tokens: `2` per weight element, attention
    /// under its causal mask.
    pub fn forward_flops_per_token(&self, tokens: usize) -> f64 {
        let products = |products: &[Product]| products.iter().map(|p| 2.0 * p.weight_elements() as f64).sum::<f64>();
        let layer = |layer: &Layer| {
            let core = &layer.attention.core;
            let pairs = core.causal_pairs(tokens) as f64 / tokens as f64;
            let attention = 2.0 * (core.query_width() + core.output_width()) as f64 * pairs;
            let experts = layer.mlp.experts.as_ref();
            let experts = experts.map_or(0.0, |experts| experts.per_token as f64 * products(&experts.products));
            products(&layer.attention.products) + attention + products(&layer.mlp.products) + experts
        };
        self.layers.iter().map(layer).sum::<f64>() + 2.0 * (self.vocab_size * self.hidden_size) as f64
    }

    /// Operations per token of a training step without recomputation: a forward and two backwards.
    pub fn training_flops_per_token(&self, tokens: usize) -> f64 {
        3.0 * self.forward_flops_per_token(tokens)
    }

    /// Bytes of keys and values per token of a sequence that is being generated, `element_bytes` each.
    pub fn cache_bytes_per_token(&self, element_bytes: u64) -> u64 {
        self.layers.iter().map(|layer| layer.attention.core.cache_elements as u64).sum::<u64>() * element_bytes
    }
}
