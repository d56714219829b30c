//! What a stage holds in memory.

use crate::{MicrobatchShape, Recompute};
use architecture::{Architecture, Block, BlockCost};
use simulate::{Category, StageCost};
use std::collections::BTreeMap;

/// Bytes of an element: f32, and 32-bit integers in the carry.
const ELEMENT_BYTES: u64 = 4;

/// A stage's costs in bytes; no times.
pub(crate) fn of_stage(
    architecture: &Architecture,
    blocks: &[Block],
    shape: MicrobatchShape,
    recompute: Recompute,
) -> StageCost {
    let MicrobatchShape { rows, tokens } = shape;
    let costs: Vec<BlockCost> = blocks.iter().map(|&block| architecture.cost(block, rows, tokens)).collect();
    let sum = |count: fn(&BlockCost) -> u64| costs.iter().map(count).sum::<u64>();
    let activations = sum(|cost| cost.activation_elements);
    let logits = sum(|cost| cost.logit_elements);
    let above_kept = widest_moment(&costs) - activations - logits;

    let (kept, kept_logits, scratch) = match recompute {
        Recompute::None => (activations, logits, vec![(Category::Buffers, above_kept)]),
        Recompute::Full => {
            let (input, shared) = input(architecture, blocks[0], rows, tokens);
            let again = activations.saturating_sub(shared);
            let scratch =
                vec![(Category::Activations, again), (Category::Logits, logits), (Category::Buffers, above_kept)];
            (input, 0, scratch)
        }
    };
    let parameters = n_parameters(architecture, blocks);
    let bytes = |list: Vec<(Category, u64)>| {
        list.into_iter()
            .filter(|(_, elements)| *elements > 0)
            .map(|(category, elements)| (category, elements * ELEMENT_BYTES))
            .collect()
    };
    StageCost {
        carry_bytes: costs.last().map_or(0, |last| last.carry_elements) * ELEMENT_BYTES,
        activation_bytes: kept * ELEMENT_BYTES,
        logit_bytes: kept_logits * ELEMENT_BYTES,
        weight_grad_bytes: sum(queued) * ELEMENT_BYTES,
        backward_scratch: bytes(scratch),
        resident: bytes(vec![
            (Category::Weights, parameters),
            (Category::Gradients, parameters),
            (Category::Optimizer, 2 * parameters),
        ]),
        ..StageCost::default()
    }
}

/// Parameters a stage holds; a matrix tied within the stage counts once.
fn n_parameters(architecture: &Architecture, blocks: &[Block]) -> u64 {
    let weights = blocks.iter().flat_map(|&block| architecture.weights(block));
    let by_name: BTreeMap<String, u64> = weights.map(|w| (w.name.clone(), w.n_elements() as u64)).collect();
    by_name.values().sum()
}

/// Elements of the carry that enters a stage, and how many of them its first block keeps anyway (the hidden states).
fn input(architecture: &Architecture, first: Block, rows: usize, tokens: usize) -> (u64, u64) {
    match first {
        Block::Embedding => (architecture.carry_in().n_elements(rows, tokens) as u64, 0),
        Block::Attention(_) | Block::Mlp(_) | Block::Head => {
            let carry = architecture.carry_after(Block::Embedding).n_elements(rows, tokens);
            (carry as u64, (rows * tokens * architecture.hidden_size) as u64)
        }
    }
}

/// Elements left by a block's input pass for its weight pass; the logits' gradient lies where the logits were.
fn queued(cost: &BlockCost) -> u64 {
    cost.weight_gradient_elements + cost.logit_elements
}

/// The most elements live during backward, which goes from the last block to the first: blocks not yet reached hold
/// what they keep, blocks passed hold what they queued, the one at work holds what it keeps and its own gradients.
fn widest_moment(costs: &[BlockCost]) -> u64 {
    let kept = |cost: &BlockCost| cost.activation_elements + cost.logit_elements;
    let moments = (0..costs.len()).map(|at| {
        let before: u64 = costs[..at].iter().map(kept).sum();
        let after: u64 = costs[at + 1..].iter().map(queued).sum();
        before + kept(&costs[at]) + costs[at].backward_elements + after
    });
    moments.max().unwrap_or(0)
}
