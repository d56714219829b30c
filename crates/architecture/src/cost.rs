//! What a block costs: floating-point operations, parameters, and what it keeps for its backward.

use crate::family::{Placement, QueryKeyNorm};
use crate::{Architecture, Block, Family, Norm, Positions, Role};

/// Costs of one block for one microbatch of `rows` rows of `tokens` tokens, `n = rows * tokens` in all. Counts are of
/// elements and of floating-point operations; a product `[m, k] x [k, n]` is `2 m n k` of them. Element-wise work is
/// not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCost {
    /// Forward products with weights: `2 n` per matrix element.
    pub forward_flops: u64,
    /// Products for the gradients of the inputs: as many.
    pub backward_input_flops: u64,
    /// Products for the gradients of the weights: as many.
    pub backward_weight_flops: u64,
    /// Forward of the attention core: queries with keys, probabilities with values.
    pub attention_forward: AttentionFlops,
    /// Backward of the attention core, all of it in the input pass: four products against the forward's two.
    pub attention_backward: AttentionFlops,
    /// Parameters of the block; a tied matrix counts in the embedding and in the head.
    pub weight_elements: u64,
    /// Elements kept from forward to backward, logits apart (see [`Architecture::cost`]).
    pub activation_elements: u64,
    /// Logits kept from forward to backward; their gradient takes their place.
    pub logit_elements: u64,
    /// Elements kept from the input pass to the weight pass: input and output gradient of every matrix product; a
    /// shared input counts once.
    pub weight_gradient_elements: u64,
    /// Elements live at once inside the block's forward beside those it keeps, at most.
    pub forward_elements: u64,
    /// Gradients live at once inside the block's backward, at most; for the embedding that of the rows looked up.
    pub backward_elements: u64,
    /// Elements of the carry that leaves the block, all kinds.
    pub carry_elements: u64,
}

/// Operations of the attention core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttentionFlops {
    /// Over all pairs of a row's tokens: `tokens^2`.
    pub full: u64,
    /// Over the pairs a causal mask leaves: `tokens (tokens + 1) / 2`, less with a window.
    pub causal: u64,
}

/// How many elements per token a block keeps or holds, as multiples of the model's widths.
#[derive(Clone, Copy)]
struct PerToken {
    /// Times `hidden_size`.
    hidden: usize,
    /// Times `num_attention_heads * head_dim`.
    queries: usize,
    /// Times `num_key_value_heads * head_dim`.
    key_values: usize,
    /// Times `intermediate_size`.
    feed_forward: usize,
    /// Times `num_attention_heads`.
    heads: usize,
    /// Single numbers.
    scalars: usize,
}

const NOTHING: PerToken = PerToken { hidden: 0, queries: 0, key_values: 0, feed_forward: 0, heads: 0, scalars: 0 };

/// Inputs: the projections', the core's output. Output gradients: queries, keys, values, the block's.
const ATTENTION_QUEUES: PerToken = PerToken { hidden: 2, queries: 2, key_values: 2, ..NOTHING };
/// Input: the norm's output. The output gradient is counted with the logits.
const HEAD_QUEUES: PerToken = PerToken { hidden: 1, ..NOTHING };

/// Widest moment: the residual's gradient, those of the core's result and of the queries, and of every head's keys and
/// values.
const ATTENTION_BACKWARD: PerToken = PerToken { hidden: 1, queries: 4, ..NOTHING };
/// Widest moment: the gradients of the product's input and of the norm's.
const HEAD_BACKWARD: PerToken = PerToken { hidden: 2, ..NOTHING };

impl Architecture {
    /// What `block` costs for `rows` rows of `tokens` tokens.
    ///
    /// Operations and parameters follow from the shapes alone. Kept elements are those of a plain automatic
    /// differentiation in which products keep their input, norms their input and one or two numbers per row, activations
    /// their inputs and attention its inputs and its result; this file says so term by term. Ids travel in the carry and
    /// are not counted.
    pub fn cost(&self, block: Block, rows: usize, tokens: usize) -> BlockCost {
        let n = (rows * tokens) as u64;
        let weights = self.weights(block);
        let elements = |role| weights.iter().filter(|w| w.role == role).map(|w| w.n_elements() as u64).sum::<u64>();
        let products = 2 * n * (elements(Role::Matrix) + elements(Role::TransposedMatrix));
        let (keeps, queues, backward) = match block {
            Block::Embedding => (self.embedding_keeps(), NOTHING, NOTHING),
            Block::Attention(_) => (self.attention_keeps(), ATTENTION_QUEUES, ATTENTION_BACKWARD),
            Block::Mlp(_) => (self.mlp_keeps(), self.mlp_queues(), self.mlp_backward()),
            Block::Head => (self.head_keeps(), HEAD_QUEUES, HEAD_BACKWARD),
        };
        let core = match block {
            Block::Attention(layer) => self.attention_product(self.window(layer), rows, tokens),
            Block::Embedding | Block::Mlp(_) | Block::Head => AttentionFlops::default(),
        };
        let weight_elements = weights.iter().map(|w| w.n_elements() as u64).sum();
        BlockCost {
            forward_flops: products,
            backward_input_flops: products,
            backward_weight_flops: products,
            attention_forward: core.times(2),
            attention_backward: core.times(4),
            weight_elements,
            activation_elements: n * self.per_token(keeps),
            logit_elements: if block == Block::Head { n * self.vocab_size as u64 } else { 0 },
            weight_gradient_elements: n * self.per_token(queues),
            forward_elements: match block {
                Block::Embedding => n * self.hidden_size as u64,
                Block::Attention(_) | Block::Mlp(_) => n * self.last_product(),
                Block::Head => 0,
            },
            backward_elements: match block {
                // The table's own gradient is added to the sum in place, row by row; that of positions comes whole.
                Block::Embedding => n * self.hidden_size as u64 + 2 * self.learned_positions(),
                Block::Attention(_) | Block::Mlp(_) | Block::Head => n * self.per_token(backward),
            },
            carry_elements: self.carry_after(block).n_elements(rows, tokens) as u64,
        }
    }

    /// Training operations per token for rows of `tokens` tokens: forward, input and weight gradients of all products,
    /// attention under a causal mask: `6 (matrix elements) + 6 layers heads head_dim (tokens + 1)`.
    ///
    /// Appendix B of PaLM (Chowdhery et al., 2022) counts the same without the mask (`12 layers heads head_dim tokens`).
    pub fn training_flops_per_token(&self, tokens: usize) -> f64 {
        let total: u64 = self.blocks().into_iter().map(|block| self.cost(block, 1, tokens).training_flops()).sum();
        total as f64 / tokens as f64
    }

    /// One product of the attention core over all heads.
    fn attention_product(&self, window: Option<usize>, rows: usize, tokens: usize) -> AttentionFlops {
        let pairs = |pairs: usize| (2 * rows * self.num_attention_heads * self.head_dim * pairs) as u64;
        let triangle = |tokens: usize| tokens * (tokens + 1) / 2;
        let outside = window.map_or(0, |window| triangle(tokens.saturating_sub(window)));
        AttentionFlops { full: pairs(tokens * tokens), causal: pairs(triangle(tokens) - outside) }
    }

    /// Elements of the table of positions: its gradient lies in memory twice while rows are added to zeros.
    fn learned_positions(&self) -> u64 {
        match self.positions {
            Positions::Learned => (self.max_position_embeddings * self.hidden_size) as u64,
            Positions::Rotary { .. } => 0,
        }
    }

    /// What was looked up, where that is not yet the residual stream: Gemma 3 scales it, GPT-2 adds positions.
    fn embedding_keeps(&self) -> PerToken {
        match self.family {
            Family::Gemma3 | Family::Gpt2 => PerToken { hidden: 1, ..NOTHING },
            _ => NOTHING,
        }
    }

    /// Norms of the residual stream: their inputs, and of each row the inverse root, with layer norm the mean too.
    /// Projections: their shared input. Core: rotated queries and keys, values, and of each head two numbers of the scores'
    /// sum. Output projection: its input, the core's result. Norms of queries and keys: their inputs, and numbers as above.
    fn attention_keeps(&self) -> PerToken {
        let (n_norms, of_row) = (self.n_block_norms(), self.numbers_of_norm());
        let [of_heads, rows] = match self.family.query_key_norm() {
            QueryKeyNorm::None => [0, 0],
            QueryKeyNorm::Head => [1, self.num_attention_heads + self.num_key_value_heads],
            QueryKeyNorm::Projection => [1, 2],
        };
        PerToken {
            hidden: 1 + n_norms,
            queries: 2 + of_heads,
            key_values: 2 + of_heads,
            feed_forward: 0,
            heads: 2,
            scalars: (n_norms + rows) * of_row,
        }
    }

    /// Norms as above; the projections' shared input; the activation's inputs; the down projection's input.
    fn mlp_keeps(&self) -> PerToken {
        let n_norms = self.n_block_norms();
        let scalars = n_norms * self.numbers_of_norm();
        PerToken { hidden: 1 + n_norms, feed_forward: self.n_mlp_inputs() + 1, scalars, ..NOTHING }
    }

    /// Norm as above; the product's input; the logarithm of the softmax's denominator. Logits are counted apart.
    fn head_keeps(&self) -> PerToken {
        PerToken { hidden: 2, scalars: 1 + self.numbers_of_norm(), ..NOTHING }
    }

    /// Inputs: the projections', the activation's result. Output gradients: the activation's inputs, the block's.
    fn mlp_queues(&self) -> PerToken {
        PerToken { hidden: 2, feed_forward: self.n_mlp_inputs() + 1, ..NOTHING }
    }

    /// The result of a block's last product, to which the residual is added.
    fn last_product(&self) -> u64 {
        self.per_token(PerToken { hidden: 1, ..NOTHING })
    }

    /// Widest moment: the residual's gradient, those of the activation's result and inputs.
    fn mlp_backward(&self) -> PerToken {
        PerToken { hidden: 1, feed_forward: self.n_mlp_inputs() + 1, ..NOTHING }
    }

    /// Norms of the residual stream in an attention or MLP block.
    fn n_block_norms(&self) -> usize {
        match self.family.placement() {
            Placement::Before | Placement::After => 1,
            Placement::Around => 2,
        }
    }

    /// Numbers that a norm keeps of a row.
    fn numbers_of_norm(&self) -> usize {
        match self.family.norm() {
            Norm::Rms | Norm::RmsAroundOne => 1,
            Norm::Layer => 2,
        }
    }

    fn per_token(&self, count: PerToken) -> u64 {
        let elements = count.hidden * self.hidden_size
            + count.queries * self.num_attention_heads * self.head_dim
            + count.key_values * self.num_key_value_heads * self.head_dim
            + count.feed_forward * self.intermediate_size
            + count.heads * self.num_attention_heads
            + count.scalars;
        elements as u64
    }
}

impl BlockCost {
    /// Operations of a forward, attention under a causal mask.
    pub fn total_forward_flops(&self) -> u64 {
        self.forward_flops + self.attention_forward.causal
    }

    /// Operations of the input pass, attention under a causal mask.
    pub fn total_backward_input_flops(&self) -> u64 {
        self.backward_input_flops + self.attention_backward.causal
    }

    /// Operations of forward, input pass and weight pass, attention under a causal mask.
    pub fn training_flops(&self) -> u64 {
        self.total_forward_flops() + self.total_backward_input_flops() + self.backward_weight_flops
    }
}

impl AttentionFlops {
    fn times(self, n: u64) -> Self {
        Self { full: self.full * n, causal: self.causal * n }
    }
}
