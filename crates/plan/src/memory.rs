//! What a stage holds in memory.

use crate::shards::{Shards, block_cost, sharded_blocks};
use crate::{MicrobatchShape, Recompute};
use architecture::{Architecture, Block, BlockCost, Partition};
use simulate::{Category, StageCost};
use std::collections::BTreeMap;

/// Bytes of an element: f32, and 32-bit integers in the carry.
pub(crate) const ELEMENT_BYTES: u64 = 4;

/// A stage's costs in bytes; no times.
pub(crate) fn of_stage(
    architecture: &Architecture,
    blocks: &[Block],
    shape: MicrobatchShape,
    recompute: Recompute,
    shards: Option<Shards>,
) -> StageCost {
    let costs: Vec<BlockCost> = blocks.iter().map(|&block| block_cost(architecture, block, shape, shards)).collect();
    let sum = |count: fn(&BlockCost) -> u64| costs.iter().map(count).sum::<u64>();
    let activations = sum(|cost| cost.activation_elements);
    let above_kept = widest_moment(&costs) - activations;
    let forward = widest_forward(&costs) - activations;
    // While a head is at work, all of its stage is kept.
    let at_head = at_head(architecture, blocks, shape, shards);
    let widest = if at_head > above_kept { (Category::Logits, at_head) } else { (Category::Buffers, above_kept) };
    let angles = angles(architecture, blocks, shape);
    let activations = activations + angles;

    let (kept, scratch) = match recompute {
        Recompute::None => (activations, vec![widest]),
        Recompute::Full => {
            let (input, shared) = input(architecture, blocks[0], shape, shards);
            let again = activations.saturating_sub(shared);
            let widest = if widest.1 > forward { widest } else { (Category::Buffers, forward) };
            (input, vec![(Category::Activations, again), widest])
        }
    };
    let weights = blocks.iter().flat_map(|&block| architecture.weights_beside_shards(block, sharded_blocks(shards)));
    let by_name: BTreeMap<String, u64> = weights.map(|w| (w.name.clone(), w.n_elements() as u64)).collect();
    StageCost {
        carry_bytes: costs.last().map_or(0, |last| last.carry_elements) * ELEMENT_BYTES,
        activation_bytes: kept * ELEMENT_BYTES,
        weight_grad_bytes: sum(queued) * ELEMENT_BYTES,
        forward_scratch: match recompute {
            Recompute::None => bytes(vec![(Category::Activations, forward)]),
            // Less than what its backward holds.
            Recompute::Full => Vec::new(),
        },
        backward_scratch: bytes(scratch),
        resident: resident(by_name.values().sum()),
        ..StageCost::default()
    }
}

/// By stage, bytes of the weights that it shares with other stages.
pub(crate) fn tied_bytes(architecture: &Architecture, partition: &Partition, shards: Option<Shards>) -> Vec<u64> {
    let of_stage = |blocks: &Vec<Block>| -> BTreeMap<String, u64> {
        let weights =
            blocks.iter().flat_map(|&block| architecture.weights_beside_shards(block, sharded_blocks(shards)));
        weights.map(|weight| (weight.name.clone(), weight.n_elements() as u64)).collect()
    };
    let stages: Vec<BTreeMap<String, u64>> = partition.stages().iter().map(of_stage).collect();
    let is_tied = |name: &String| stages.iter().filter(|stage| stage.contains_key(name)).count() > 1;
    let elements = |stage: &BTreeMap<String, u64>| -> u64 {
        stage.iter().filter(|(name, _)| is_tied(name)).map(|(_, elements)| elements).sum()
    };
    stages.iter().map(|stage| elements(stage) * ELEMENT_BYTES).collect()
}

/// Bytes of trained parameters: weights, gradients and two moments; a matrix tied within the holder counts once.
pub(crate) fn resident(n_parameters: u64) -> Vec<(Category, u64)> {
    bytes(vec![
        (Category::Weights, n_parameters),
        (Category::Gradients, n_parameters),
        (Category::Optimizer, 2 * n_parameters),
    ])
}

/// Elements as bytes, without what is nothing.
fn bytes(list: Vec<(Category, u64)>) -> Vec<(Category, u64)> {
    let something = list.into_iter().filter(|(_, elements)| *elements > 0);
    something.map(|(category, elements)| (category, elements * ELEMENT_BYTES)).collect()
}

/// Elements of the carry that enters a stage, and how many of them its first block keeps anyway (the hidden states).
/// Where the embedding is sharded, its stage is handed what was looked up.
fn input(architecture: &Architecture, first: Block, shape: MicrobatchShape, shards: Option<Shards>) -> (u64, u64) {
    let MicrobatchShape { rows, tokens } = shape;
    let hidden = (rows * tokens * architecture.hidden_size) as u64;
    match first {
        Block::Embedding => {
            let ids = architecture.carry_in().n_elements(rows, tokens) as u64;
            if sharded_blocks(shards).contains(&Block::Embedding) { (ids + hidden, hidden) } else { (ids, 0) }
        }
        Block::Attention(_) | Block::Mlp(_) | Block::Head => {
            (architecture.carry_after(Block::Embedding).n_elements(rows, tokens) as u64, hidden)
        }
    }
}

/// Elements of the rotary angles' cosines and sines, which a stage's attention blocks share and keep.
fn angles(architecture: &Architecture, blocks: &[Block], shape: MicrobatchShape) -> u64 {
    let ropes = distinct(blocks, |layer| architecture.rope(layer));
    let n_kinds = ropes.iter().flatten().count();
    (n_kinds * shape.rows * shape.tokens * architecture.head_dim) as u64
}

/// What the attention blocks have, each kind once.
fn distinct<T: PartialEq>(blocks: &[Block], of_layer: impl Fn(usize) -> T) -> Vec<T> {
    let mut kinds = Vec::new();
    for block in blocks {
        if let Block::Attention(layer) = block {
            let kind = of_layer(*layer);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
    kinds
}

/// Tokens whose logits a head holds at once: as many as `kernels` takes at a time.
pub const HEAD_CHUNK: usize = 512;

/// Elements live while a whole head is at work, beside what is kept: the logits of a chunk and its input's gradient. 0
/// without one.
fn at_head(architecture: &Architecture, blocks: &[Block], shape: MicrobatchShape, shards: Option<Shards>) -> u64 {
    if blocks.last() != Some(&Block::Head) || sharded_blocks(shards).contains(&Block::Head) {
        return 0;
    }
    let n = shape.rows * shape.tokens;
    (HEAD_CHUNK.min(n) * architecture.vocab_size + n * architecture.hidden_size) as u64
}

/// Elements left by a block's input pass for its weight pass.
fn queued(cost: &BlockCost) -> u64 {
    cost.weight_gradient_elements
}

/// The most elements live during backward, which goes from the last block to the first: blocks not yet reached hold
/// what they keep, blocks passed hold what they queued, the one at work holds what it keeps and its own gradients.
fn widest_moment(costs: &[BlockCost]) -> u64 {
    let kept = |cost: &BlockCost| cost.activation_elements;
    let moments = (0..costs.len()).map(|at| {
        let before: u64 = costs[..at].iter().map(kept).sum();
        let after: u64 = costs[at + 1..].iter().map(queued).sum();
        before + kept(&costs[at]) + costs[at].backward_elements + after
    });
    moments.max().unwrap_or(0)
}

/// The most elements live during forward: what the blocks passed keep, and what the one at work holds.
fn widest_forward(costs: &[BlockCost]) -> u64 {
    let kept = |cost: &BlockCost| cost.activation_elements;
    let moments = (0..costs.len()).map(|at| costs[..=at].iter().map(kept).sum::<u64>() + costs[at].forward_elements);
    moments.chain([costs.iter().map(kept).sum()]).max().unwrap_or(0)
}
