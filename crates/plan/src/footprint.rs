//! What half-layers hold in memory on one rank.

use crate::description::{Attention, Cut, Description, Layer, Mlp, Product};
use crate::software::{AttentionKernel, BetweenProducts, Dropout, DummyGradients};
use crate::work::Setting;
use std::collections::BTreeMap;

/// Bytes and parameters of a block on one rank, for one microbatch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Footprint {
    /// Parameters that every replica has.
    pub dense_elements: u64,
    /// Parameters of experts.
    pub expert_elements: u64,
    /// Bytes kept from forward to backward, the block's input included.
    pub kept_bytes: u64,
    /// Of these, the scores of an attention that is not fused.
    pub score_bytes: u64,
    /// Of these, the block's input.
    pub input_bytes: u64,
    /// Bytes live in backward beside what is kept, at most.
    pub backward_bytes: u64,
    /// Bytes of logits kept, apart from `kept_bytes`.
    pub logit_bytes: u64,
    /// Shapes of weights on the rank for which a dummy gradient is kept, with their bytes. Two products of one shape share it.
    pub dummy_gradients: BTreeMap<(usize, usize), u64>,
}

impl Setting<'_> {
    fn bytes(&self, elements: usize) -> u64 {
        (elements as f64 * self.software.precision.bytes()) as u64
    }

    /// What a norm, the products after it and the residual addition keep and hold: the input, the norm's output, a mask.
    fn around(&self, hidden: usize) -> Footprint {
        let between = self.tokens_between() * hidden;
        let normed = match self.software.between_products {
            BetweenProducts::Split => between,
            BetweenProducts::Replicated => self.tokens() * hidden,
        };
        let mask = match self.software.dropout {
            Dropout::Off => 0,
            Dropout::On => between as u64,
        };
        // The gathered input, and the gathered gradient of the output.
        let gathered = match self.software.between_products {
            BetweenProducts::Split if self.degrees.tensor > 1 => 2 * self.tokens() * hidden,
            BetweenProducts::Split | BetweenProducts::Replicated => 0,
        };
        Footprint {
            kept_bytes: self.bytes(between + normed) + mask,
            input_bytes: self.bytes(between),
            backward_bytes: self.bytes(gathered),
            ..Footprint::default()
        }
    }

    /// Of the attention half of a layer.
    pub fn attention_footprint(&self, attention: &Attention, hidden: usize) -> Footprint {
        let tensor = self.degrees.tensor;
        let core = &attention.core;
        let n = self.tokens();
        let mut footprint = self.around(hidden);
        footprint.dense_elements = attention.vectors as u64 + on_rank(&attention.products, tensor);
        // A latent form is kept before and after its norm.
        let latent: usize = attention.products.iter().filter(|p| p.cut == Cut::Whole).map(|p| 2 * n * p.outputs).sum();
        let queries_keys_values = n * (core.query_width() + core.key_value_width()) / tensor;
        let output = n * core.output_width() / tensor;
        footprint.kept_bytes += self.bytes(latent + queries_keys_values + output);
        footprint.backward_bytes += self.bytes(queries_keys_values + output);
        if self.software.attention == AttentionKernel::Unfused {
            let heads = core.heads / tensor;
            let scores = self.microbatch.rows * heads * self.microbatch.tokens * self.microbatch.tokens;
            footprint.score_bytes = match self.software.dropout {
                Dropout::Off => self.bytes(scores),
                // Before and after, and the mask.
                Dropout::On => self.bytes(2 * scores) + scores as u64,
            };
            footprint.kept_bytes += footprint.score_bytes;
            footprint.backward_bytes += self.bytes(2 * scores);
        }
        footprint.dummy_gradients = self.dummy_gradients(&attention.products, tensor);
        footprint
    }

    /// Of the MLP half of a layer.
    pub fn mlp_footprint(&self, mlp: &Mlp, hidden: usize) -> Footprint {
        let tensor = self.degrees.tensor;
        let mut footprint = self.around(hidden);
        footprint.dense_elements = mlp.vectors as u64 + on_rank(&mlp.products, tensor);
        if let Some(activation) = mlp.activation {
            let inside = self.tokens() * (activation.inputs() + activation.outputs()) / tensor;
            footprint.kept_bytes += self.bytes(inside);
            footprint.backward_bytes += self.bytes(inside);
        }
        footprint.dummy_gradients = self.dummy_gradients(&mlp.products, tensor);
        if let Some(experts) = &mlp.experts {
            let here = (experts.n / self.degrees.expert) as u64;
            footprint.expert_elements = here * experts.products.iter().map(Product::n_elements).sum::<u64>();
            let sent = self.tokens_between() * experts.per_token;
            let inside = sent * (experts.activation.inputs() + experts.activation.outputs());
            // The router's numbers are in 32 bits: before and after their softmax.
            let router = 8 * (self.tokens_between() * experts.n) as u64;
            footprint.kept_bytes += self.bytes(sent * hidden + inside) + router;
            footprint.backward_bytes += self.bytes(sent * hidden + inside);
            // Experts are whole on their ranks.
            footprint.dummy_gradients.extend(self.dummy_gradients(&experts.products, 1));
        }
        footprint
    }

    /// Of the embedding.
    pub fn embedding_footprint(&self, model: &Description) -> Footprint {
        let rows = self.software.vocabulary_on(model.vocab_size, self.degrees.tensor) + model.position_rows;
        let ids = 8 * self.tokens() as u64;
        Footprint {
            dense_elements: (rows * model.hidden_size) as u64,
            kept_bytes: ids,
            input_bytes: ids,
            ..Footprint::default()
        }
    }

    /// Of the final norm and the head. `holds_matrix` is false where a tied matrix lies on the same rank already.
    pub fn head_footprint(&self, model: &Description) -> Footprint {
        let hidden = model.hidden_size;
        let rows = self.software.vocabulary_on(model.vocab_size, self.degrees.tensor);
        let mut footprint = self.around(hidden);
        footprint.dense_elements =
            (model.final_norm + model.head_bias.div_ceil(self.degrees.tensor) + rows * hidden) as u64;
        let logits = self.bytes(self.tokens() * rows);
        footprint.logit_bytes = logits;
        footprint.backward_bytes += logits;
        if self.software.dummy_gradients == DummyGradients::PerShape {
            footprint.backward_bytes += self.bytes(rows * hidden);
        }
        footprint
    }

    /// Of products whose weights `tensor` ranks share.
    fn dummy_gradients(&self, products: &[Product], tensor: usize) -> BTreeMap<(usize, usize), u64> {
        let of_product = |product: &Product| {
            let (inputs, outputs) = product.weight_on(tensor);
            ((inputs, outputs), self.bytes(inputs * outputs))
        };
        match self.software.dummy_gradients {
            DummyGradients::None => BTreeMap::new(),
            DummyGradients::PerShape => products.iter().map(of_product).collect(),
        }
    }
}

/// Parameters of `products` on one of `tensor` ranks.
fn on_rank(products: &[Product], tensor: usize) -> u64 {
    products.iter().map(|product| product.elements_on(tensor)).sum()
}

/// Which layers are alike: for each layer the first that equals it.
pub(crate) fn kinds(layers: &[Layer]) -> Vec<usize> {
    let mut firsts: Vec<usize> = Vec::new();
    let mut kinds = Vec::with_capacity(layers.len());
    for (n, layer) in layers.iter().enumerate() {
        let first = firsts.iter().copied().find(|&first| layers[first] == *layer).unwrap_or(n);
        if first == n {
            firsts.push(n);
        }
        kinds.push(first);
    }
    kinds
}
