//! Model families: what all models of one have in common.

use std::fmt;

/// A model family: which blocks are wired how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `LlamaForCausalLM` (Touvron et al., 2023): norms before the blocks, rotary grouped-query attention, SwiGLU.
    Llama,
    /// `MistralForCausalLM` (Jiang et al., 2023): Llama with a window on all layers.
    Mistral,
    /// `Qwen2ForCausalLM` (Yang et al., 2024): Llama with biases on queries, keys and values, and a window on some
    /// layers.
    Qwen2,
    /// `Qwen3ForCausalLM` (Yang et al., 2025): Llama with a norm on every query and key head, and a window on some layers.
    Qwen3,
    /// `Gemma3ForCausalLM` (Gemma team, 2025), text only: norms before and after the blocks and on every query and key
    /// head, layers with a window between layers without and rotary angles of their own, GeGLU, a scaled embedding.
    Gemma3,
    /// `Phi3ForCausalLM` (Abdin et al., 2024): Llama with projections of one input in one matrix.
    Phi3,
    /// `GPT2LMHeadModel` (Radford et al., 2019): learned positions, layer norms, an MLP without gate, matrices stored
    /// `[in, out]`.
    Gpt2,
    /// `Olmo2ForCausalLM` (OLMo team, 2025): norms after the blocks, and over all query heads and all key heads.
    Olmo2,
}

/// Kinds of norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Divided by the root mean square, times a scale.
    Rms,
    /// The same, with the scale stored less 1.
    RmsAroundOne,
    /// Less the mean, divided by the deviation, times a scale, plus a bias.
    Layer,
}

/// Where a block has norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// On its input.
    Before,
    /// On what it adds to the residual stream.
    After,
    /// On both.
    Around,
}

/// Norms on queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueryKeyNorm {
    None,
    /// Of each head by itself, with one scale for all.
    Head,
    /// Of all heads together.
    Projection,
}

/// The MLP between its first and its last product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `silu(gate) up`.
    SwiGlu,
    /// `gelu(gate) up`.
    GeGlu,
    /// `gelu(x)`.
    Gelu,
}

/// Whether projections have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Biases {
    /// In no model of the family.
    Never,
    /// In all.
    Always,
    /// As the configuration says.
    Chosen,
}

/// Which layers may have a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// None.
    Never,
    /// All or none.
    AllLayers,
    /// Each as the configuration says.
    ByLayer,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 8] = [
        Family::Llama,
        Family::Mistral,
        Family::Qwen2,
        Family::Qwen3,
        Family::Gemma3,
        Family::Phi3,
        Family::Gpt2,
        Family::Olmo2,
    ];

    /// `model_type` of `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Gemma3 => "gemma3_text",
            Family::Phi3 => "phi3",
            Family::Gpt2 => "gpt2",
            Family::Olmo2 => "olmo2",
        }
    }

    /// `architectures` of `config.json`.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Family::Llama => "LlamaForCausalLM",
            Family::Mistral => "MistralForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
            Family::Gemma3 => "Gemma3ForCausalLM",
            Family::Phi3 => "Phi3ForCausalLM",
            Family::Gpt2 => "GPT2LMHeadModel",
            Family::Olmo2 => "Olmo2ForCausalLM",
        }
    }

    /// The norms of the residual stream, queries and keys.
    pub fn norm(self) -> Norm {
        match self {
            Family::Gemma3 => Norm::RmsAroundOne,
            Family::Gpt2 => Norm::Layer,
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 | Family::Phi3 | Family::Olmo2 => Norm::Rms,
        }
    }

    /// Biases of the attention's projections.
    pub fn attention_bias(self) -> Biases {
        match self {
            Family::Mistral | Family::Phi3 => Biases::Never,
            Family::Qwen2 | Family::Gpt2 => Biases::Always,
            Family::Llama | Family::Qwen3 | Family::Gemma3 | Family::Olmo2 => Biases::Chosen,
        }
    }

    /// Biases of the MLP's projections.
    pub fn mlp_bias(self) -> Biases {
        match self {
            Family::Llama => Biases::Chosen,
            Family::Gpt2 => Biases::Always,
            Family::Mistral | Family::Qwen2 | Family::Qwen3 | Family::Gemma3 | Family::Phi3 | Family::Olmo2 => {
                Biases::Never
            }
        }
    }

    /// Layers with a window.
    pub fn windows(self) -> Windows {
        match self {
            Family::Mistral | Family::Phi3 => Windows::AllLayers,
            Family::Qwen2 | Family::Qwen3 | Family::Gemma3 => Windows::ByLayer,
            Family::Llama | Family::Gpt2 | Family::Olmo2 => Windows::Never,
        }
    }

    /// Whether queries and keys are turned; else positions are learned.
    pub fn is_rotary(self) -> bool {
        self != Family::Gpt2
    }

    pub(crate) fn placement(self) -> Placement {
        match self {
            Family::Gemma3 => Placement::Around,
            Family::Olmo2 => Placement::After,
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 | Family::Phi3 | Family::Gpt2 => {
                Placement::Before
            }
        }
    }

    pub(crate) fn query_key_norm(self) -> QueryKeyNorm {
        match self {
            Family::Qwen3 | Family::Gemma3 => QueryKeyNorm::Head,
            Family::Olmo2 => QueryKeyNorm::Projection,
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Phi3 | Family::Gpt2 => QueryKeyNorm::None,
        }
    }

    pub(crate) fn activation(self) -> Activation {
        match self {
            Family::Gemma3 => Activation::GeGlu,
            Family::Gpt2 => Activation::Gelu,
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 | Family::Phi3 | Family::Olmo2 => {
                Activation::SwiGlu
            }
        }
    }

    /// The name in this family's `config.json` of a field that has another in most.
    pub(crate) fn spelling(self, field: &'static str) -> &'static str {
        match (self, field) {
            (Family::Gpt2, "hidden_size") => "n_embd",
            (Family::Gpt2, "num_hidden_layers") => "n_layer",
            (Family::Gpt2, "num_attention_heads") => "n_head",
            (Family::Gpt2, "intermediate_size") => "n_inner",
            (Family::Gpt2, "max_position_embeddings") => "n_positions",
            (Family::Gpt2, "rms_norm_eps") => "layer_norm_epsilon",
            (Family::Gpt2, "hidden_act") => "activation_function",
            (Family::Gemma3, "hidden_act") => "hidden_activation",
            _ => field,
        }
    }
}

/// The name in papers.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Llama => "Llama",
            Family::Mistral => "Mistral",
            Family::Qwen2 => "Qwen2",
            Family::Qwen3 => "Qwen3",
            Family::Gemma3 => "Gemma 3",
            Family::Phi3 => "Phi-3",
            Family::Gpt2 => "GPT-2",
            Family::Olmo2 => "OLMo 2",
        })
    }
}
