//! `Phi3ForCausalLM` (Abdin et al., 2024): Llama with projections of one input in one matrix.
//!
//! Computes what transformers' `modeling_phi3.py` computes. Shape letters as in `visit.rs`.

#![expect(non_snake_case, reason = "shape letters")]

use crate::llama::at;
use crate::visit::Visit;
use burn::tensor::Tensor;

pub(crate) fn attention(visit: &mut Visit, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
    let x_ND = visit.norm(&at(layer, "input_layernorm"), hidden_ND.clone());
    let [q, kv] = visit.head_widths();
    let [q, k, v] = visit.linears(&at(layer, "self_attn.qkv_proj"), x_ND, [q, kv, kv]);
    let (q, k) = (visit.rotate(layer, q), visit.rotate(layer, k));
    let y = visit.attend(layer, [q, k, v]);
    hidden_ND + visit.linear(&at(layer, "self_attn.o_proj"), y)
}

pub(crate) fn mlp(visit: &mut Visit, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
    let x_ND = visit.norm(&at(layer, "post_attention_layernorm"), hidden_ND.clone());
    let width = visit.mlp_width();
    let [gate, up] = visit.linears(&at(layer, "mlp.gate_up_proj"), x_ND, [width; 2]);
    hidden_ND + visit.linear(&at(layer, "mlp.down_proj"), kernels::swiglu(gate, up))
}
