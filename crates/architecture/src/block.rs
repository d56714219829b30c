//! Half-layer blocks: the pieces a model may be cut between.

use std::fmt;

/// One piece of a model that is never cut further. A stage is a run of consecutive blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    /// Token ids, and learned positions, to the residual stream.
    Embedding,
    /// Attention of layer `n` with its norms and the residual addition.
    Attention(usize),
    /// MLP of layer `n` with its norms and the residual addition.
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
    /// `[in, out]` of a matrix product (GPT-2's `Conv1D`).
    TransposedMatrix,
    /// Rows that are looked up, by token or by position.
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
    /// Shape as in the files.
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
