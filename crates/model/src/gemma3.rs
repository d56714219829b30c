//! `Gemma3ForCausalLM` (Gemma team, 2025), text only: norms before and after the blocks and on every query and key head,
//! layers with a window and rotary angles of their own between layers without, GeGLU, a scaled embedding.
//!
//! Computes what transformers' `modeling_gemma3.py` computes. Shape letters as in `visit.rs`.

#![expect(non_snake_case, reason = "shape letters")]

use crate::llama::{at, gate_and_up};
use crate::qwen3::attend_to_normed_heads;
use crate::visit::Visit;
use burn::tensor::Tensor;

/// What was looked up, times the root of the width.
pub(crate) fn embedding(visit: &Visit, looked_up_ND: Tensor<2>) -> Tensor<2> {
    looked_up_ND.mul_scalar(visit.width().sqrt())
}

pub(crate) fn attention(visit: &mut Visit, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
    let x_ND = visit.norm(&at(layer, "input_layernorm"), hidden_ND.clone());
    let y = attend_to_normed_heads(visit, layer, x_ND);
    let y_ND = visit.linear(&at(layer, "self_attn.o_proj"), y);
    hidden_ND + visit.norm(&at(layer, "post_attention_layernorm"), y_ND)
}

pub(crate) fn mlp(visit: &mut Visit, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
    let x_ND = visit.norm(&at(layer, "pre_feedforward_layernorm"), hidden_ND.clone());
    let [gate, up] = gate_and_up(visit, layer, x_ND);
    let y_ND = visit.linear(&at(layer, "mlp.down_proj"), kernels::geglu(gate, up));
    hidden_ND + visit.norm(&at(layer, "post_feedforward_layernorm"), y_ND)
}
