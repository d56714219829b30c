//! What sharding the vocabulary takes from the stages, and what the shards cost (Vocabulary Parallelism).

use crate::MicrobatchShape;
use crate::memory::{ELEMENT_BYTES, resident};
use architecture::{Architecture, Block, BlockCost};
use mesh::Placement;
use schedule::{InputLayer, Vocabulary, VocabularyAlgorithm};
use simulate::ShardCost;
use std::collections::BTreeMap;

/// The vocabulary's matrices cut by rows over all ranks of a pipeline, as evenly as they can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    /// What is cut, and how its passes are.
    pub vocabulary: Vocabulary,
    /// Number of ranks.
    pub n_ranks: usize,
}

/// What `block` costs its stage: [`Architecture::cost`], less what is the shards'.
///
/// A sharded head is its norm, which keeps its input and one number per token. At its backward it holds what the shards
/// sent: a hidden gradient of each with two barriers; with one, a part of each, the target's rows twice (as sent and in
/// the tokens' order), and the sum.
pub fn block_cost(
    architecture: &Architecture,
    block: Block,
    shape: MicrobatchShape,
    shards: Option<Shards>,
) -> BlockCost {
    let MicrobatchShape { rows, tokens } = shape;
    let cost = architecture.cost(block, rows, tokens);
    let Some(shards) = shards.filter(|_| sharded_blocks(shards).contains(&block)) else {
        return if block == Block::Head { whole_head(architecture, shape, cost) } else { cost };
    };
    let matrix = architecture.vocabulary_matrix(block).map_or(0, |matrix| matrix.n_elements() as u64);
    let n = (rows * tokens) as u64;
    let hidden = n * architecture.hidden_size as u64;
    let weight_elements = cost.weight_elements - matrix;
    match block {
        Block::Head => BlockCost {
            weight_elements,
            activation_elements: hidden + n,
            // The norm's result, and a copy of it for a shard.
            forward_elements: 2 * hidden,
            backward_elements: match shards.vocabulary.algorithm {
                VocabularyAlgorithm::OneBarrier => (shards.n_ranks as u64 + 3) * hidden,
                VocabularyAlgorithm::TwoBarriers => (shards.n_ranks as u64 + 1) * hidden,
            },
            ..BlockCost::default()
        },
        Block::Embedding | Block::Attention(_) | Block::Mlp(_) => {
            BlockCost { weight_elements, backward_elements: hidden, ..cost }
        }
    }
}

/// A whole head does all of its products in its input pass, which keeps no logits: from its forward it has the norm's
/// input, one number per token, and the norm's result. In its backward lie the gradients of the norm's result and input.
fn whole_head(architecture: &Architecture, shape: MicrobatchShape, cost: BlockCost) -> BlockCost {
    let n = (shape.rows * shape.tokens) as u64;
    let hidden = n * architecture.hidden_size as u64;
    BlockCost {
        forward_flops: 0,
        backward_input_flops: cost.forward_flops + cost.backward_input_flops + cost.backward_weight_flops,
        backward_weight_flops: 0,
        activation_elements: 2 * hidden + n,
        logit_elements: 0,
        weight_gradient_elements: 0,
        forward_elements: 0,
        backward_elements: 2 * hidden,
        ..cost
    }
}

/// Costs of every rank's shard for one microbatch, as [`stage_costs`](crate::stage_costs) has them for stages. Of the
/// head's three products of training, `VS` makes two with one barrier and one with two. Looking rows up moves memory and
/// takes no time here. Kept are the hidden states and the exponentials of the logits; an empty shard keeps nothing.
///
/// Messages between a shard and the first and last hop, in f32: to every shard the hidden states with targets and
/// weights; from it three statistics of every token, its term of the hidden gradient, and rows of the tokens that lie in
/// it, as many as are to be expected of ids drawn evenly from the vocabulary.
///
/// # Panics
/// If there is no rank, or the rate is not positive.
pub fn shard_costs(
    architecture: &Architecture,
    shape: MicrobatchShape,
    shards: Shards,
    flops_per_s: f64,
) -> Vec<ShardCost> {
    assert!(flops_per_s > 0.0, "{flops_per_s} operations per second");
    let Placement::Shard { offsets, .. } = Placement::even(0, architecture.vocab_size, shards.n_ranks) else {
        unreachable!("an even cut is a shard")
    };
    let matrices = sharded_blocks(Some(shards)).iter().filter_map(|&block| architecture.vocabulary_matrix(block));
    let widths: BTreeMap<String, usize> = matrices.map(|matrix| (matrix.name, architecture.hidden_size)).collect();
    let width: usize = widths.values().sum();
    let n = shape.rows * shape.tokens;
    let product_s = |rows: usize| (2 * n * rows * architecture.hidden_size) as f64 / flops_per_s;
    let (forward, backward) = match shards.vocabulary.algorithm {
        VocabularyAlgorithm::OneBarrier => (2.0, 1.0),
        VocabularyAlgorithm::TwoBarriers => (1.0, 2.0),
    };
    let hidden = n * architecture.hidden_size;
    let bytes = |elements: usize| elements as u64 * ELEMENT_BYTES;
    // Of the tokens that lie in the shard.
    let looked_up = |rows: usize| hidden * rows / architecture.vocab_size;
    let is_input = shards.vocabulary.input == InputLayer::Sharded;
    let messages = |rows: usize| ShardCost {
        hidden_bytes: bytes(hidden + 2 * n),
        statistics_bytes: bytes(3 * n),
        hidden_gradient_bytes: match (shards.vocabulary.algorithm, rows) {
            (_, 0) => 0,
            (VocabularyAlgorithm::OneBarrier, rows) => bytes(hidden + looked_up(rows)),
            (VocabularyAlgorithm::TwoBarriers, _) => bytes(hidden),
        },
        embedded_bytes: if is_input { bytes(looked_up(rows)) } else { 0 },
        // With one barrier the averages, with two the term of the hidden gradient.
        forward_scratch_bytes: match (shards.vocabulary.algorithm, rows) {
            (VocabularyAlgorithm::TwoBarriers, _) | (_, 0) => 0,
            (VocabularyAlgorithm::OneBarrier, _) => bytes(hidden),
        },
        backward_scratch_bytes: match (shards.vocabulary.algorithm, rows) {
            (VocabularyAlgorithm::OneBarrier, _) | (_, 0) => 0,
            (VocabularyAlgorithm::TwoBarriers, _) => bytes(hidden),
        },
        ..ShardCost::default()
    };
    let of_rows = |rows: usize| ShardCost {
        forward_s: forward * product_s(rows),
        backward_s: backward * product_s(rows),
        logit_bytes: if rows == 0 { 0 } else { (n * (architecture.hidden_size + rows)) as u64 * ELEMENT_BYTES },
        resident: resident((rows * width) as u64),
        ..messages(rows)
    };
    offsets.windows(2).map(|pair| of_rows(pair[1] - pair[0])).collect()
}

/// The blocks whose vocabulary matrix is cut.
pub(crate) fn sharded_blocks(shards: Option<Shards>) -> &'static [Block] {
    match shards.map(|shards| shards.vocabulary.input) {
        None => &[],
        Some(InputLayer::FirstStage) => &[Block::Head],
        Some(InputLayer::Sharded) => &[Block::Head, Block::Embedding],
    }
}
