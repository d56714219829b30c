//! `Qwen3ForCausalLM` (Yang et al., 2025): Llama with a norm on every query and key head.
//!
//! Computes what transformers' `modeling_qwen3.py` computes. Shape letters as in `visit.rs`; the MLP is Llama's.

#![expect(non_snake_case, reason = "shape letters")]

use crate::llama::{at, queries_keys_values};
use crate::visit::Visit;
use burn::tensor::Tensor;

pub(crate) fn attention(visit: &mut Visit, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
    let x_ND = visit.norm(&at(layer, "input_layernorm"), hidden_ND.clone());
    let y = attend_to_normed_heads(visit, layer, x_ND);
    hidden_ND + visit.linear(&at(layer, "self_attn.o_proj"), y)
}

/// Projections, norms on the heads of queries and keys, rotation, attention.
pub(crate) fn attend_to_normed_heads(visit: &mut Visit, layer: usize, x_ND: Tensor<2>) -> Tensor<2> {
    let [q, k, v] = queries_keys_values(visit, layer, x_ND);
    let q = visit.norm_heads(&at(layer, "self_attn.q_norm"), q);
    let k = visit.norm_heads(&at(layer, "self_attn.k_norm"), k);
    let (q, k) = (visit.rotate(layer, q), visit.rotate(layer, k));
    visit.attend(layer, [q, k, v])
}
