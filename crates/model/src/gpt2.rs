//! `GPT2LMHeadModel` (Radford et al., 2019): learned positions, layer norms, biases everywhere, an MLP without gate, and
//! matrices stored `[in, out]`.
//!
//! Computes what transformers' `modeling_gpt2.py` computes. Shape letters as in `visit.rs`.

#![expect(non_snake_case, reason = "shape letters")]

use crate::visit::Visit;
use burn::tensor::Tensor;

/// What was looked up, plus the vectors of the positions.
pub(crate) fn embedding(visit: &mut Visit, looked_up_ND: Tensor<2>) -> Tensor<2> {
    looked_up_ND + visit.at_positions("transformer.wpe")
}

pub(crate) fn attention(visit: &mut Visit, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
    let x_ND = visit.norm(&at(layer, "ln_1"), hidden_ND.clone());
    let [q, kv] = visit.head_widths();
    let heads = visit.linears(&at(layer, "attn.c_attn"), x_ND, [q, kv, kv]);
    let y = visit.attend(layer, heads);
    hidden_ND + visit.linear(&at(layer, "attn.c_proj"), y)
}

pub(crate) fn mlp(visit: &mut Visit, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
    let x_ND = visit.norm(&at(layer, "ln_2"), hidden_ND.clone());
    let x = visit.linear(&at(layer, "mlp.c_fc"), x_ND);
    hidden_ND + visit.linear(&at(layer, "mlp.c_proj"), kernels::gelu(x))
}

fn at(layer: usize, name: &str) -> String {
    format!("transformer.h.{layer}.{name}")
}
