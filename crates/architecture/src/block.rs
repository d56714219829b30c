//! Half-layer blocks: the pieces a model may be cut between.

use crate::Architecture;
use std::fmt;

/// One piece of a model that is never cut further. A stage is a run of consecutive blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    /// Token ids to the residual stream.
    Embedding,
    /// Norm, attention, residual addition of layer `n`.
    Attention(usize),
    /// Norm, MLP, residual addition of layer `n`.
    Mlp(usize),
    /// Final norm and the product with the vocabulary.
    Head,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Block::Embedding => f.write_str("embedding"),
            Block::Attention(layer) => write!(f, "attention {layer}"),
            Block::Mlp(layer) => write!(f, "mlp {layer}"),
            Block::Head => f.write_str("head"),
        }
    }
}

/// What a weight is to the optimizer and to the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `[out, in]` of a matrix product: its gradient belongs to the weight pass.
    Matrix,
    /// Rows that are looked up.
    Embedding,
    /// Scale of a norm.
    Norm,
    /// Added vector.
    Bias,
}

/// A named parameter of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Name as in the ecosystem's files (`model.layers.0.self_attn.q_proj.weight`).
    pub name: String,
    /// Shape as in the files (`[out, in]` for matrices).
    pub shape: Vec<usize>,
    /// What it is.
    pub role: Role,
}

impl Weight {
    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Name of the embedding matrix; with a tied head it is also the head's.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

impl Architecture {
    /// The model as ordered blocks: embedding, (attention, MLP) per layer, head.
    pub fn blocks(&self) -> Vec<Block> {
        let layers = (0..self.num_hidden_layers).flat_map(|n| [Block::Attention(n), Block::Mlp(n)]);
        std::iter::once(Block::Embedding).chain(layers).chain([Block::Head]).collect()
    }

    /// The weights of a block, in the order they are used. A tied head lists the embedding matrix under the
    /// embedding's name: two stages that hold it hold two leaves of one parameter.
    pub fn weights(&self, block: Block) -> Vec<Weight> {
        let (d, ff, v) = (self.hidden_size, self.intermediate_size, self.vocab_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        let weight = |name: String, shape: Vec<usize>, role| Weight { name, shape, role };
        let linear = |prefix: String, out: usize, input: usize, bias: bool| {
            let matrix = weight(format!("{prefix}.weight"), vec![out, input], Role::Matrix);
            let bias = bias.then(|| weight(format!("{prefix}.bias"), vec![out], Role::Bias));
            std::iter::once(matrix).chain(bias)
        };
        match block {
            Block::Embedding => vec![weight(EMBEDDING.into(), vec![v, d], Role::Embedding)],
            Block::Attention(n) => {
                let layer = format!("model.layers.{n}");
                let projection = |name: &str| format!("{layer}.self_attn.{name}_proj");
                let b = self.attention_bias;
                std::iter::once(weight(format!("{layer}.input_layernorm.weight"), vec![d], Role::Norm))
                    .chain(linear(projection("q"), q, d, b))
                    .chain(linear(projection("k"), kv, d, b))
                    .chain(linear(projection("v"), kv, d, b))
                    .chain(linear(projection("o"), d, q, b))
                    .collect()
            }
            Block::Mlp(n) => {
                let layer = format!("model.layers.{n}");
                let projection = |name: &str| format!("{layer}.mlp.{name}_proj");
                let b = self.mlp_bias;
                std::iter::once(weight(format!("{layer}.post_attention_layernorm.weight"), vec![d], Role::Norm))
                    .chain(linear(projection("gate"), ff, d, b))
                    .chain(linear(projection("up"), ff, d, b))
                    .chain(linear(projection("down"), d, ff, b))
                    .collect()
            }
            Block::Head => {
                let head = if self.tie_word_embeddings { EMBEDDING } else { "lm_head.weight" };
                vec![
                    weight("model.norm.weight".into(), vec![d], Role::Norm),
                    weight(head.into(), vec![v, d], Role::Matrix),
                ]
            }
        }
    }

    /// The matrix of `block` that has a row per token of the vocabulary, if it has one.
    pub fn vocabulary_matrix(&self, block: Block) -> Option<Weight> {
        match block {
            Block::Embedding | Block::Head => self.weights(block).pop(),
            Block::Attention(_) | Block::Mlp(_) => None,
        }
    }

    /// The weights of `block` in a model in which the vocabulary matrices of the blocks `sharded` lie elsewhere, cut by
    /// rows.
    pub fn weights_beside_shards(&self, block: Block, sharded: &[Block]) -> Vec<Weight> {
        let mut weights = self.weights(block);
        if let Some(matrix) = self.vocabulary_matrix(block).filter(|_| sharded.contains(&block)) {
            weights.retain(|weight| *weight != matrix);
        }
        weights
    }

    /// All weights, each name once, in file order (embedding first, head last).
    pub fn all_weights(&self) -> Vec<Weight> {
        let mut all: Vec<Weight> = Vec::new();
        for weight in self.blocks().into_iter().flat_map(|block| self.weights(block)) {
            if all.iter().all(|known| known.name != weight.name) {
                all.push(weight);
            }
        }
        all
    }

    /// Number of parameters; a tied matrix counts once.
    pub fn n_parameters(&self) -> usize {
        self.all_weights().iter().map(Weight::n_elements).sum()
    }
}
