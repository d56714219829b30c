//! The resolved description of a language model.

use crate::{Family, Positions, Rope};

/// Everything that determines a model's function apart from its weights. Field names are those of `config.json`
/// where it has them; what a family fixes for all its models is said by [`Family`].
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// The family.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of layers (an attention block and an MLP block each).
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; need not be `hidden_size / num_attention_heads`. Even where positions are rotary.
    pub head_dim: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Longest sequence the model is meant for.
    pub max_position_embeddings: usize,
    /// Added to the mean square, or the variance, before the root in norms.
    pub norm_eps: f64,
    /// How the places of tokens enter.
    pub positions: Positions,
    /// Which layers see only so many tokens; `None` where all see everything before them.
    pub sliding: Option<Sliding>,
    /// Scores of queries with keys are divided by its root: `head_dim`, but in Gemma 3 any number.
    pub query_pre_attn_scalar: f64,
    /// Biases on the query, key and value projections, and on the output's where the family has it there.
    pub attention_bias: bool,
    /// Biases on the projections of the MLP.
    pub mlp_bias: bool,
    /// Whether the head uses the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Standard deviation of freshly drawn matrices.
    pub initializer_range: f64,
    /// Token id that starts a text, if any.
    pub bos_token_id: Option<u32>,
    /// Token ids that end a text; may be empty.
    pub eos_token_id: Vec<u32>,
    /// Token id that fills rows, if any.
    pub pad_token_id: Option<u32>,
}

/// Attention that sees the last tokens only, in some of the layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sliding {
    /// Tokens seen, the query's own included (`sliding_window`).
    pub window: usize,
    /// Whether each layer is one of them (`layer_types`).
    pub layers: Vec<bool>,
}

impl Architecture {
    /// Tokens that the attention of `layer` sees, the query's own included; `None` for all before it.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding.as_ref().filter(|sliding| sliding.layers[layer]).map(|sliding| sliding.window)
    }

    /// The rotary embedding of `layer`, where positions are rotary.
    pub fn rope(&self, layer: usize) -> Option<Rope> {
        match self.positions {
            Positions::Rotary { full, sliding } => Some(if self.window(layer).is_some() { sliding } else { full }),
            Positions::Learned => None,
        }
    }

    /// What scores of queries with keys are multiplied by.
    pub fn attention_scale(&self) -> f64 {
        self.query_pre_attn_scalar.sqrt().recip()
    }
}
