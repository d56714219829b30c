//! One pass over a part's blocks: what they share, and the pieces that families are wired from.
//!
//! Shape letters: N = rows x tokens, R rows, T tokens, D hidden size, H heads, G key and value heads, E head dim.

#![expect(non_snake_case, reason = "shape letters, legend above")]

use crate::attention::attention;
use crate::{Cache, Part, Rows, Tape, gemma3, gpt2, llama, olmo2, phi3, qwen3};
use architecture::{Block, Family, Norm, Role, Rope};
use burn::tensor::{Int, Tensor, TensorData};
use kernels::WeightPlace;
use packed::Matrix;

/// A pass over some blocks. Angles are made once for all blocks that share them.
pub(crate) struct Visit<'a> {
    part: &'a Part,
    rows: &'a Rows,
    tape: &'a mut Tape,
    cache: Option<&'a mut Cache>,
    /// Cosines and sines `[N, E / 2]` of every token's angles.
    angles: Vec<(Rope, [Tensor<2>; 2])>,
}

impl<'a> Visit<'a> {
    pub(crate) fn new(part: &'a Part, rows: &'a Rows, tape: &'a mut Tape, cache: Option<&'a mut Cache>) -> Self {
        Self { part, rows, tape, cache, angles: Vec::new() }
    }

    /// The blocks before the head. An embedding is handed what was looked up.
    pub(crate) fn apply(&mut self, hidden_ND: Tensor<2>) -> Tensor<2> {
        let blocks = self.part.blocks().iter().filter(|block| **block != Block::Head);
        blocks.fold(hidden_ND, |hidden, block| {
            let out = self.block(*block, hidden);
            self.tape.block(*block, &out);
            out
        })
    }

    fn block(&mut self, block: Block, hidden: Tensor<2>) -> Tensor<2> {
        match (block, self.part.architecture().family) {
            (Block::Embedding, Family::Gemma3) => gemma3::embedding(self, hidden),
            (Block::Embedding, Family::Gpt2) => gpt2::embedding(self, hidden),
            (Block::Embedding | Block::Head, _) => hidden,
            (Block::Attention(layer), Family::Llama | Family::Mistral | Family::Qwen2) => {
                llama::attention(self, layer, hidden)
            }
            (Block::Attention(layer), Family::Qwen3) => qwen3::attention(self, layer, hidden),
            (Block::Attention(layer), Family::Gemma3) => gemma3::attention(self, layer, hidden),
            (Block::Attention(layer), Family::Phi3) => phi3::attention(self, layer, hidden),
            (Block::Attention(layer), Family::Gpt2) => gpt2::attention(self, layer, hidden),
            (Block::Attention(layer), Family::Olmo2) => olmo2::attention(self, layer, hidden),
            (Block::Mlp(layer), Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3) => {
                llama::mlp(self, layer, hidden)
            }
            (Block::Mlp(layer), Family::Gemma3) => gemma3::mlp(self, layer, hidden),
            (Block::Mlp(layer), Family::Phi3) => phi3::mlp(self, layer, hidden),
            (Block::Mlp(layer), Family::Gpt2) => gpt2::mlp(self, layer, hidden),
            (Block::Mlp(layer), Family::Olmo2) => olmo2::mlp(self, layer, hidden),
        }
    }

    /// The norm before the head.
    pub(crate) fn final_norm(&mut self, hidden_ND: Tensor<2>) -> Tensor<2> {
        match self.part.architecture().family {
            Family::Gpt2 => self.norm("transformer.ln_f", hidden_ND),
            _ => self.norm("model.norm", hidden_ND),
        }
    }

    /// Final norm, then logits `[N, vocab_size]`.
    pub(crate) fn head(&mut self, hidden_ND: Tensor<2>) -> Tensor<2> {
        let x_ND = self.final_norm(hidden_ND);
        let matrix = self.part.architecture().vocabulary_matrix(Block::Head).expect("invariant: a head has a matrix");
        self.product(&matrix.name, x_ND)
    }

    /// The family's norm over the last dimension, with the parameters under `name`.
    pub(crate) fn norm(&mut self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let config = self.part.architecture();
        let scale = self.leaf(&format!("{name}.weight"));
        match config.family.norm() {
            Norm::Rms => kernels::rms_norm(x, scale, config.norm_eps),
            Norm::RmsAroundOne => kernels::rms_norm(x, scale.add_scalar(1.0), config.norm_eps),
            Norm::Layer => kernels::layer_norm(x, scale, self.leaf(&format!("{name}.bias")), config.norm_eps),
        }
    }

    /// The family's norm of each head by itself.
    ///
    /// # Shapes
    /// - x and result: `[N, heads E]`
    pub(crate) fn norm_heads(&mut self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let [n, width] = x.dims();
        let e = self.part.architecture().head_dim;
        self.norm(name, x.reshape([n * width / e, e])).reshape([n, width])
    }

    /// The product with the matrix under `name`, plus a bias where the model has one.
    pub(crate) fn linear(&mut self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let [y] = self.linear_each([name.to_owned()], x);
        y
    }

    /// As [`Visit::linear`], of several matrices with one input.
    pub(crate) fn linear_each<const N: usize>(&mut self, names: [String; N], x: Tensor<2>) -> [Tensor<2>; N] {
        let weights = names.each_ref().map(|name| format!("{name}.weight"));
        let packed: Vec<&Matrix> = weights.iter().filter_map(|weight| self.part.matrix(weight)).collect();
        let products = match <[&Matrix; N]>::try_from(packed) {
            Ok(packed) => kernels::packed_linears(x, packed),
            Err(_) => weights.map(|weight| self.product(&weight, x.clone())),
        };
        let mut names = names.iter().map(|name| format!("{name}.bias"));
        products.map(|y| {
            let bias = names.next().expect("invariant: a name for each product");
            if self.part.has(&bias) { y + self.bias(&bias) } else { y }
        })
    }

    /// As [`Visit::linear`], for a matrix that holds several projections, `widths` outputs each: one after the other, so
    /// that nothing has to be cut out of a common result.
    pub(crate) fn linears<const N: usize>(&mut self, name: &str, x: Tensor<2>, widths: [usize; N]) -> [Tensor<2>; N] {
        let mut next = 0;
        if self.part.matrix(&format!("{name}.weight")).is_some() {
            let y = self.linear(name, x);
            return widths.map(|width| {
                let first = next;
                next += width;
                y.clone().narrow(1, first, width)
            });
        }
        let (parameter, matrix) = self.matrix(&format!("{name}.weight"));
        let bias = format!("{name}.bias");
        let bias = self.part.has(&bias).then(|| self.bias(&bias));
        widths.map(|width| {
            let first = next;
            next += width;
            let rows = matrix.clone().narrow(0, first, width);
            let y = self.tape.linear(x.clone(), rows, WeightPlace { parameter, first });
            match &bias {
                Some(bias) => y + bias.clone().narrow(1, first, width),
                None => y,
            }
        })
    }

    /// Queries or keys turned by the angles of `layer`.
    pub(crate) fn rotate(&mut self, layer: usize, x: Tensor<2>) -> Tensor<2> {
        let rope = self.part.architecture().rope(layer).expect("invariant: the family's positions are rotary");
        let known = self.angles.iter().find(|(known, _)| *known == rope).map(|(_, angles)| angles.clone());
        let [cos, sin] = known.unwrap_or_else(|| {
            let angles = angles(self.part, self.rows, rope);
            self.angles.push((rope, angles.clone()));
            angles
        });
        kernels::rope(x, cos, sin)
    }

    /// Attention of `layer` over its queries, keys and values, and those of earlier tokens.
    ///
    /// # Shapes
    /// - q and result: `[N, H E]`; k, v: `[N, G E]`
    pub(crate) fn attend(&mut self, layer: usize, [q, k, v]: [Tensor<2>; 3]) -> Tensor<2> {
        let config = self.part.architecture();
        let (heads, kv_heads, e) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let (r, t) = (self.rows.n_rows, self.rows.n_tokens);
        let (window, scale) = (config.window(layer), config.attention_scale());
        let by_head = |x: Tensor<2>, n_heads| x.reshape([r, t, n_heads, e]).swap_dims(1, 2);
        let q_RHTE = by_head(q, heads);
        let new = [by_head(k, kv_heads), by_head(v, kv_heads)];
        let [k_RGTE, v_RGTE] = match &mut self.cache {
            Some(cache) => cache.append(layer, new, window),
            None => new,
        };
        let y_RHTE = attention([q_RHTE, k_RGTE, v_RGTE], self.rows, window, scale);
        y_RHTE.swap_dims(1, 2).reshape([r * t, heads * e])
    }

    /// The rows of the table under `name` that stand at the tokens' positions.
    ///
    /// # Shapes
    /// - result: `[N, D]`
    pub(crate) fn at_positions(&mut self, name: &str) -> Tensor<2> {
        let positions: Tensor<1, Int> =
            Tensor::from_data(TensorData::new(self.rows.positions.clone(), [self.rows.n()]), self.part.device());
        let d = self.part.architecture().hidden_size;
        let table = self.leaf(&format!("{name}.weight"));
        let [n] = table.dims();
        table.reshape([n / d, d]).select(0, positions).cast(self.part.dtype())
    }

    /// The model's width as a number.
    pub(crate) fn width(&self) -> f64 {
        self.part.architecture().hidden_size as f64
    }

    /// Width inside the MLP.
    pub(crate) fn mlp_width(&self) -> usize {
        self.part.architecture().intermediate_size
    }

    /// Widths of all query heads together, and of all key heads.
    pub(crate) fn head_widths(&self) -> [usize; 2] {
        let config = self.part.architecture();
        [config.num_attention_heads, config.num_key_value_heads].map(|heads| heads * config.head_dim)
    }

    fn product(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        if let Some(matrix) = self.part.matrix(name) {
            return kernels::packed_linear(x, matrix);
        }
        let (index, matrix) = self.matrix(name);
        self.tape.linear(x, matrix, WeightPlace { parameter: index, first: 0 })
    }

    /// Number and values `[out, in]` of a matrix, however it is stored.
    fn matrix(&self, name: &str) -> (usize, Tensor<2>) {
        let index = self.part.index(name);
        let parameter = &self.part.parameters()[index];
        match parameter.weight.role {
            Role::TransposedMatrix => (index, parameter.matrix().transpose().cast(self.part.dtype())),
            _ => (index, parameter.matrix().cast(self.part.dtype())),
        }
    }

    /// `[1, out]`
    fn bias(&mut self, name: &str) -> Tensor<2> {
        self.leaf(name).cast(self.part.dtype()).unsqueeze::<2>()
    }

    fn leaf(&mut self, name: &str) -> Tensor<1> {
        let index = self.part.index(name);
        self.tape.leaf(index, self.part.parameters()[index].value.clone())
    }
}

/// Cosines and sines of every token's rotary angles, `[N, E / 2]` each.
fn angles(part: &Part, rows: &Rows, rope: Rope) -> [Tensor<2>; 2] {
    let frequencies = rope.inverse_frequencies(part.architecture().head_dim);
    let shape = [rows.n(), frequencies.len()];
    let angles = rows.positions.iter().flat_map(|&position| frequencies.iter().map(move |f| f64::from(position) * f));
    let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip();
    [cos, sin].map(|data| Tensor::from_data(TensorData::new(data, shape), part.device()))
}
