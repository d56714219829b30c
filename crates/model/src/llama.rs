//! `LlamaForCausalLM` (Touvron et al., 2023): pre-norm blocks of rotary grouped-query attention and SwiGLU.
//!
//! Computes what transformers' `modeling_llama.py` computes. Shape letters: N = rows x tokens, R rows, T tokens,
//! D hidden size, H heads, G key and value heads, E head dim.

#![expect(non_snake_case, reason = "shape letters, legend above")]

use crate::attention::{attention, hidden_keys};
use crate::{Cache, Part, Rows, Tape};
use architecture::Block;
use burn::tensor::{Bool, Tensor, TensorData};

/// One pass over a part's blocks, with what they share.
pub(crate) struct Visit<'a> {
    part: &'a Part,
    rows: &'a Rows,
    tape: &'a mut Tape,
    cache: Option<&'a mut Cache>,
    hidden_keys: Tensor<4, Bool>,
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl<'a> Visit<'a> {
    pub(crate) fn new(part: &'a Part, rows: &'a Rows, tape: &'a mut Tape, cache: Option<&'a mut Cache>) -> Self {
        let n_past = cache.as_ref().map_or(0, |cache| cache.n_tokens());
        let hidden_keys = hidden_keys(rows, n_past, part.device());
        let (cos, sin) = angles(part, rows);
        Self { part, rows, tape, cache, hidden_keys, cos, sin }
    }

    /// All blocks but embedding and head.
    pub(crate) fn apply(mut self, hidden_ND: Tensor<2>) -> Tensor<2> {
        let mut attention_block = 0;
        self.part.blocks().iter().fold(hidden_ND, |hidden, block| match *block {
            Block::Embedding | Block::Head => hidden,
            Block::Attention(layer) => {
                let out = self.attention(layer, attention_block, hidden);
                attention_block += 1;
                out
            }
            Block::Mlp(layer) => self.mlp(layer, hidden),
        })
    }

    fn attention(&mut self, layer: usize, nth: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
        let config = self.part.architecture();
        let (heads, kv_heads, e) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let (r, t) = (self.rows.n_rows, self.rows.n_tokens);
        let prefix = format!("model.layers.{layer}.self_attn");
        let x_ND =
            norm(self.part, &format!("model.layers.{layer}.input_layernorm.weight"), hidden_ND.clone(), self.tape);
        let mut project = |name: &str| linear(self.part, &format!("{prefix}.{name}"), x_ND.clone(), self.tape);
        let (q, k, v) = (project("q_proj"), project("k_proj"), project("v_proj"));
        let rotate = |x| kernels::rope(x, self.cos.clone(), self.sin.clone());
        let by_head = |x: Tensor<2>, n_heads| x.reshape([r, t, n_heads, e]).swap_dims(1, 2);
        let q_RHTE = by_head(rotate(q), heads);
        let (k_RGTE, v_RGTE) = (by_head(rotate(k), kv_heads), by_head(v, kv_heads));
        let (k_RGTE, v_RGTE) = match &mut self.cache {
            Some(cache) => cache.append(nth, k_RGTE, v_RGTE),
            None => (k_RGTE, v_RGTE),
        };
        let y_RHTE = attention(q_RHTE, k_RGTE, v_RGTE, self.hidden_keys.clone());
        let y = y_RHTE.swap_dims(1, 2).reshape([r * t, heads * e]);
        hidden_ND + linear(self.part, &format!("{prefix}.o_proj"), y, self.tape)
    }

    fn mlp(&mut self, layer: usize, hidden_ND: Tensor<2>) -> Tensor<2> {
        let prefix = format!("model.layers.{layer}");
        let x_ND = norm(self.part, &format!("{prefix}.post_attention_layernorm.weight"), hidden_ND.clone(), self.tape);
        let gate = linear(self.part, &format!("{prefix}.mlp.gate_proj"), x_ND.clone(), self.tape);
        let up = linear(self.part, &format!("{prefix}.mlp.up_proj"), x_ND, self.tape);
        hidden_ND + linear(self.part, &format!("{prefix}.mlp.down_proj"), kernels::swiglu(gate, up), self.tape)
    }
}

/// The norm before the head.
pub(crate) fn final_norm(part: &Part, hidden_ND: Tensor<2>, tape: &mut Tape) -> Tensor<2> {
    norm(part, "model.norm.weight", hidden_ND, tape)
}

/// Final norm, then logits `[N, vocab_size]`.
pub(crate) fn head(part: &Part, hidden_ND: Tensor<2>, tape: &mut Tape) -> Tensor<2> {
    let x_ND = final_norm(part, hidden_ND, tape);
    let weights = part.architecture().weights(Block::Head);
    let matrix = part.index(&weights.last().expect("invariant: a head has a matrix").name);
    tape.linear(x_ND, part.parameters()[matrix].matrix(), matrix)
}

fn norm(part: &Part, name: &str, x: Tensor<2>, tape: &mut Tape) -> Tensor<2> {
    let index = part.index(name);
    let scale = tape.leaf(index, part.parameters()[index].value.clone());
    kernels::rms_norm(x, scale, part.architecture().rms_norm_eps)
}

/// `x w^T`, plus a bias where the architecture has one.
fn linear(part: &Part, name: &str, x: Tensor<2>, tape: &mut Tape) -> Tensor<2> {
    let matrix = part.index(&format!("{name}.weight"));
    let y = tape.linear(x, part.parameters()[matrix].matrix(), matrix);
    let bias = format!("{name}.bias");
    match part.parameters().iter().position(|parameter| parameter.weight.name == bias) {
        Some(index) => y + tape.leaf(index, part.parameters()[index].value.clone()).unsqueeze::<2>(),
        None => y,
    }
}

/// Cosines and sines of every token's rotary angles, `[N, E / 2]` each.
fn angles(part: &Part, rows: &Rows) -> (Tensor<2>, Tensor<2>) {
    let config = part.architecture();
    let frequencies = config.rope.inverse_frequencies(config.head_dim);
    let shape = [rows.n(), frequencies.len()];
    let angles = rows.positions.iter().flat_map(|&position| frequencies.iter().map(move |f| f64::from(position) * f));
    let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip();
    let tensor = |data: Vec<f32>| Tensor::from_data(TensorData::new(data, shape), part.device());
    (tensor(cos), tensor(sin))
}
