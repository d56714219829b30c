//! Which weights a model has: names, shapes and roles as in the ecosystem's files.

use crate::family::{Activation, Placement, QueryKeyNorm};
use crate::{Architecture, Block, Family, Role, Weight};
use std::collections::HashSet;

impl Architecture {
    /// The model as ordered blocks: embedding, (attention, MLP) per layer, head.
    pub fn blocks(&self) -> Vec<Block> {
        let layers = (0..self.num_hidden_layers).flat_map(|n| [Block::Attention(n), Block::Mlp(n)]);
        std::iter::once(Block::Embedding).chain(layers).chain([Block::Head]).collect()
    }

    /// The weights of a block, in the order they are used. A tied head lists the embedding matrix under the
    /// embedding's name: two stages that hold it hold two leaves of one parameter.
    pub fn weights(&self, block: Block) -> Vec<Weight> {
        match self.family {
            Family::Gpt2 => self.gpt2_weights(block),
            Family::Phi3 => self.phi3_weights(block),
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 | Family::Gemma3 | Family::Olmo2 => {
                self.llama_weights(block)
            }
        }
    }

    /// The matrix of `block` that has a row per token of the vocabulary, if it has one.
    pub fn vocabulary_matrix(&self, block: Block) -> Option<Weight> {
        let weights = self.weights(block);
        match block {
            Block::Embedding => weights.into_iter().next(),
            Block::Head => weights.into_iter().next_back(),
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
        let mut known = HashSet::new();
        let weights = self.blocks().into_iter().flat_map(|block| self.weights(block));
        weights.filter(|weight| known.insert(weight.name.clone())).collect()
    }

    /// Number of parameters; a tied matrix counts once.
    pub fn n_parameters(&self) -> usize {
        self.all_weights().iter().map(Weight::n_elements).sum()
    }

    /// Widths of all query heads together, and of all key heads.
    pub(crate) fn head_widths(&self) -> [usize; 2] {
        [self.num_attention_heads, self.num_key_value_heads].map(|heads| heads * self.head_dim)
    }

    /// Llama's names, and those of the norms that others of its line have beside them.
    fn llama_weights(&self, block: Block) -> Vec<Weight> {
        let (d, ff, v) = (self.hidden_size, self.intermediate_size, self.vocab_size);
        let [q, kv] = self.head_widths();
        let norm = |name: String| norm(name, d);
        match block {
            Block::Embedding => vec![table(EMBEDDING, v, d)],
            Block::Attention(n) => {
                let layer = format!("model.layers.{n}");
                let attention = |name: &str| format!("{layer}.self_attn.{name}");
                let [before, after] = match self.family.placement() {
                    Placement::Before => [Some("input_layernorm"), None],
                    Placement::After => [None, Some("post_attention_layernorm")],
                    Placement::Around => [Some("input_layernorm"), Some("post_attention_layernorm")],
                };
                let output_bias = self.attention_bias && self.family != Family::Qwen2;
                let of_heads = match self.family.query_key_norm() {
                    QueryKeyNorm::None => None,
                    QueryKeyNorm::Head => Some([self.head_dim; 2]),
                    QueryKeyNorm::Projection => Some([q, kv]),
                };
                let of_heads = of_heads.map(|[q, k]| [("q_norm", q), ("k_norm", k)]).into_iter().flatten();
                let mut weights: Vec<Weight> = before.iter().map(|name| norm(format!("{layer}.{name}"))).collect();
                weights.extend(linear(attention("q_proj"), [q, d], self.attention_bias));
                weights.extend(linear(attention("k_proj"), [kv, d], self.attention_bias));
                weights.extend(linear(attention("v_proj"), [kv, d], self.attention_bias));
                weights.extend(of_heads.map(|(name, width)| self::norm(attention(name), width)));
                weights.extend(linear(attention("o_proj"), [d, q], output_bias));
                weights.extend(after.iter().map(|name| norm(format!("{layer}.{name}"))));
                weights
            }
            Block::Mlp(n) => {
                let layer = format!("model.layers.{n}");
                let mlp = |name: &str| format!("{layer}.mlp.{name}");
                let [before, after] = match self.family.placement() {
                    Placement::Before => [Some("post_attention_layernorm"), None],
                    Placement::After => [None, Some("post_feedforward_layernorm")],
                    Placement::Around => [Some("pre_feedforward_layernorm"), Some("post_feedforward_layernorm")],
                };
                let mut weights: Vec<Weight> = before.iter().map(|name| norm(format!("{layer}.{name}"))).collect();
                weights.extend(linear(mlp("gate_proj"), [ff, d], self.mlp_bias));
                weights.extend(linear(mlp("up_proj"), [ff, d], self.mlp_bias));
                weights.extend(linear(mlp("down_proj"), [d, ff], self.mlp_bias));
                weights.extend(after.iter().map(|name| norm(format!("{layer}.{name}"))));
                weights
            }
            Block::Head => {
                let head = if self.tie_word_embeddings { EMBEDDING } else { HEAD };
                let mut weights = vec![norm("model.norm".into())];
                weights.extend(linear(head.into(), [v, d], false));
                weights
            }
        }
    }

    /// Llama's, with queries, keys and values in one matrix, and gate and up in one.
    fn phi3_weights(&self, block: Block) -> Vec<Weight> {
        let (d, ff) = (self.hidden_size, self.intermediate_size);
        let [q, kv] = self.head_widths();
        match block {
            Block::Embedding | Block::Head => self.llama_weights(block),
            Block::Attention(n) => {
                let layer = format!("model.layers.{n}");
                let mut weights = vec![norm(format!("{layer}.input_layernorm"), d)];
                weights.extend(linear(format!("{layer}.self_attn.qkv_proj"), [q + 2 * kv, d], false));
                weights.extend(linear(format!("{layer}.self_attn.o_proj"), [d, q], false));
                weights
            }
            Block::Mlp(n) => {
                let layer = format!("model.layers.{n}");
                let mut weights = vec![norm(format!("{layer}.post_attention_layernorm"), d)];
                weights.extend(linear(format!("{layer}.mlp.gate_up_proj"), [2 * ff, d], false));
                weights.extend(linear(format!("{layer}.mlp.down_proj"), [d, ff], false));
                weights
            }
        }
    }

    fn gpt2_weights(&self, block: Block) -> Vec<Weight> {
        let (d, ff, v) = (self.hidden_size, self.intermediate_size, self.vocab_size);
        let layer_norm = |name: String| [norm(name.clone(), d), bias(name, d)];
        let conv1d = |name: String, [input, out]: [usize; 2]| {
            let matrix =
                Weight { name: format!("{name}.weight"), shape: vec![input, out], role: Role::TransposedMatrix };
            [matrix, bias(name, out)]
        };
        match block {
            Block::Embedding => {
                vec![table(GPT2_EMBEDDING, v, d), table("transformer.wpe", self.max_position_embeddings, d)]
            }
            Block::Attention(n) => {
                let layer = format!("transformer.h.{n}");
                let attention = |name: &str| format!("{layer}.attn.{name}");
                [
                    layer_norm(format!("{layer}.ln_1")),
                    conv1d(attention("c_attn"), [d, 3 * d]),
                    conv1d(attention("c_proj"), [d, d]),
                ]
                .concat()
            }
            Block::Mlp(n) => {
                let layer = format!("transformer.h.{n}");
                let mlp = |name: &str| format!("{layer}.mlp.{name}");
                [layer_norm(format!("{layer}.ln_2")), conv1d(mlp("c_fc"), [d, ff]), conv1d(mlp("c_proj"), [ff, d])]
                    .concat()
            }
            Block::Head => {
                let head = if self.tie_word_embeddings { GPT2_EMBEDDING } else { HEAD };
                let mut weights = layer_norm("transformer.ln_f".into()).to_vec();
                weights.extend(linear(head.into(), [v, d], false));
                weights
            }
        }
    }

    /// Products of the MLP that share its input.
    pub(crate) fn n_mlp_inputs(&self) -> usize {
        match self.family.activation() {
            Activation::SwiGlu | Activation::GeGlu => 2,
            Activation::Gelu => 1,
        }
    }
}

/// The embedding matrix; with a tied head it is also the head's.
const EMBEDDING: &str = "model.embed_tokens";
const GPT2_EMBEDDING: &str = "transformer.wte";
const HEAD: &str = "lm_head";

fn table(name: &str, rows: usize, width: usize) -> Weight {
    Weight { name: format!("{name}.weight"), shape: vec![rows, width], role: Role::Embedding }
}

fn norm(name: String, width: usize) -> Weight {
    Weight { name: format!("{name}.weight"), shape: vec![width], role: Role::Norm }
}

fn bias(name: String, width: usize) -> Weight {
    Weight { name: format!("{name}.bias"), shape: vec![width], role: Role::Bias }
}

/// A matrix `[out, in]`, and its bias where there is one.
fn linear(name: String, [out, input]: [usize; 2], has_bias: bool) -> impl Iterator<Item = Weight> {
    let matrix = Weight { name: format!("{name}.weight"), shape: vec![out, input], role: Role::Matrix };
    std::iter::once(matrix).chain(has_bias.then(|| bias(name, out)))
}
