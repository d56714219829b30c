//! `Olmo2ForCausalLM` (OLMo team, 2025): Llama with norms after the blocks, and over all query heads and all key heads.
//!
//! Computes what transformers' `modeling_olmo2.py` computes. Shape letters as in `visit.rs`.

#![expect(non_snake_case, reason = "shape letters")]

use crate::llama::{at, gate_and_up, queries_keys_values};
use crate::visit::Visit;
use burn::tensor::Tensor;

pub(crate) fn attention(visit: &mut Visit, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
    let [q, k, v] = queries_keys_values(visit, layer, hidden_ND.clone());
    let q = visit.norm(&at(layer, "self_attn.q_norm"), q);
    let k = visit.norm(&at(layer, "self_attn.k_norm"), k);
    let (q, k) = (visit.rotate(layer, q), visit.rotate(layer, k));
    let y = visit.attend(layer, [q, k, v]);
    let y_ND = visit.linear(&at(layer, "self_attn.o_proj"), y);
    hidden_ND + visit.norm(&at(layer, "post_attention_layernorm"), y_ND)
}

pub(crate) fn mlp(visit: &mut Visit, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
    let [gate, up] = gate_and_up(visit, layer, hidden_ND.clone());
    let y_ND = visit.linear(&at(layer, "mlp.down_proj"), kernels::swiglu(gate, up));
    hidden_ND + visit.norm(&at(layer, "post_feedforward_layernorm"), y_ND)
}
