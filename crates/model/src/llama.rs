//! `LlamaForCausalLM` (Touvron et al., 2023): norms before the blocks, rotary grouped-query attention, SwiGLU.
//!
//! Mistral (Jiang et al., 2023) is wired the same, with a window on its layers; so is Qwen2 (Yang et al., 2024), with
//! biases on queries, keys and values. Computes what transformers' `modeling_llama.py`, `modeling_mistral.py` and
//! `modeling_qwen2.py` compute. Shape letters as in `visit.rs`.

#![expect(non_snake_case, reason = "shape letters")]

use crate::visit::Visit;
use burn::tensor::Tensor;

pub(crate) fn attention(visit: &mut Visit, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
    let x_ND = visit.norm(&at(layer, "input_layernorm"), hidden_ND.clone());
    let [q, k, v] = queries_keys_values(visit, layer, x_ND);
    let (q, k) = (visit.rotate(layer, q), visit.rotate(layer, k));
    let y = visit.attend(layer, [q, k, v]);
    hidden_ND + visit.linear(&at(layer, "self_attn.o_proj"), y)
}

pub(crate) fn mlp(visit: &mut Visit, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
    let x_ND = visit.norm(&at(layer, "post_attention_layernorm"), hidden_ND.clone());
    let [gate, up] = gate_and_up(visit, layer, x_ND);
    hidden_ND + visit.linear(&at(layer, "mlp.down_proj"), kernels::swiglu(gate, up))
}

/// The three projections of an attention's input.
pub(crate) fn queries_keys_values(visit: &mut Visit, layer: usize, x_ND: Tensor<2>) -> [Tensor<2>; 3] {
    visit.linear_each(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(|name| at(layer, name)), x_ND)
}

/// The two projections of an MLP's input.
pub(crate) fn gate_and_up(visit: &mut Visit, layer: usize, x_ND: Tensor<2>) -> [Tensor<2>; 2] {
    visit.linear_each(["mlp.gate_proj", "mlp.up_proj"].map(|name| at(layer, name)), x_ND)
}

/// The full name of a layer's piece.
pub(crate) fn at(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}")
}
