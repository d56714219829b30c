//! What `config.json` means where it is silent.

use crate::Family;

/// The values that a family's class of configuration has in transformers 5.
pub(super) struct Defaults {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// As many as query heads where none.
    pub num_key_value_heads: Option<usize>,
    /// An equal share of the hidden size where none.
    pub head_dim: Option<usize>,
    /// Four times the hidden size where none.
    pub intermediate_size: Option<usize>,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub norm_eps: f64,
    pub sliding_window: Option<usize>,
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
}

impl Defaults {
    pub fn of(family: Family) -> Self {
        let llama = Self {
            hidden_size: 4096,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            intermediate_size: Some(11008),
            vocab_size: 32000,
            max_position_embeddings: 2048,
            norm_eps: 1e-6,
            sliding_window: None,
            tie_word_embeddings: false,
            bos_token_id: Some(1),
            eos_token_id: Some(2),
            pad_token_id: None,
        };
        let qwen = |llama| Self {
            num_key_value_heads: Some(32),
            intermediate_size: Some(22016),
            vocab_size: 151_936,
            max_position_embeddings: 32768,
            sliding_window: Some(4096),
            bos_token_id: None,
            eos_token_id: None,
            ..llama
        };
        match family {
            Family::Llama => llama,
            Family::Mistral => Self {
                num_key_value_heads: Some(8),
                intermediate_size: Some(14336),
                max_position_embeddings: 131_072,
                sliding_window: Some(4096),
                ..llama
            },
            Family::Qwen2 => qwen(llama),
            Family::Qwen3 => Self { head_dim: Some(128), ..qwen(llama) },
            Family::Gemma3 => Self {
                hidden_size: 2304,
                num_hidden_layers: 26,
                num_attention_heads: 8,
                num_key_value_heads: Some(4),
                head_dim: Some(256),
                intermediate_size: Some(9216),
                vocab_size: 262_208,
                max_position_embeddings: 131_072,
                sliding_window: Some(4096),
                tie_word_embeddings: true,
                bos_token_id: Some(2),
                eos_token_id: Some(1),
                pad_token_id: Some(0),
                ..llama
            },
            Family::Phi3 => Self {
                hidden_size: 3072,
                intermediate_size: Some(8192),
                vocab_size: 32064,
                max_position_embeddings: 4096,
                norm_eps: 1e-5,
                eos_token_id: Some(32000),
                pad_token_id: Some(32000),
                ..llama
            },
            Family::Gpt2 => Self {
                hidden_size: 768,
                num_hidden_layers: 12,
                num_attention_heads: 12,
                intermediate_size: None,
                vocab_size: 50257,
                max_position_embeddings: 1024,
                norm_eps: 1e-5,
                tie_word_embeddings: true,
                bos_token_id: Some(50256),
                eos_token_id: Some(50256),
                ..llama
            },
            Family::Olmo2 => Self {
                vocab_size: 50304,
                norm_eps: 1e-5,
                bos_token_id: None,
                eos_token_id: Some(50279),
                pad_token_id: Some(1),
                ..llama
            },
        }
    }
}
