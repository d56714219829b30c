//! What stages cost before anything was measured.

use crate::memory;
use crate::shards::{Shards, block_cost, sharded_blocks};
use architecture::{Architecture, Block, Partition};
use mesh::Route;
use schedule::PassTimes;
use simulate::StageCost;

/// The size of one microbatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicrobatchShape {
    /// Rows.
    pub rows: usize,
    /// Tokens per row.
    pub tokens: usize,
}

/// What a stage of this program computes again in its backward (activation checkpointing). Other trainers go by layers, see
/// [`Checkpointing`](crate::Checkpointing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Nothing: its forward keeps all that backward needs.
    None,
    /// The whole forward, from the stage's input.
    Full,
}

/// Costs of every stage for one microbatch: seconds from operations at `flops_per_s` on a stage's rank, attention under
/// a causal mask; bytes in f32, so that the simulator's memory curve is the prediction.
///
/// Optimizer and gradient reduction move memory and compute little; they take no time here.
///
/// Memory: weights, one gradient and two moments per parameter stay. Each microbatch in flight keeps what its blocks
/// keep ([`Architecture::cost`]), or with [`Recompute::Full`] its stage's input. A whole head makes all of its products
/// in its backward, [`HEAD_CHUNK`](crate::HEAD_CHUNK) tokens at a time, so that no logits are kept. From the input pass
/// to the weight pass stay the inputs and output gradients of the products. During backward comes what is recomputed,
/// and by how much the widest moment exceeds what is kept, found by walking the blocks from last to first.
///
/// What `shards` of the vocabulary do and hold is not the stages'; see [`shard_costs`](crate::shard_costs).
///
/// # Panics
/// If there is not one `recompute` per stage, or the rate is not positive.
pub fn stage_costs(
    architecture: &Architecture,
    partition: &Partition,
    shape: MicrobatchShape,
    recompute: &[Recompute],
    shards: Option<Shards>,
    flops_per_s: f64,
) -> Vec<StageCost> {
    assert_eq!(recompute.len(), partition.n_stages(), "one recompute per stage");
    assert!(flops_per_s > 0.0, "{flops_per_s} operations per second");
    let tied_bytes = memory::tied_bytes(architecture, partition, shards);
    let stages = partition.stages().iter().zip(recompute).zip(tied_bytes);
    stages
        .map(|((blocks, &recompute), tied_bytes)| {
            let mut forward = 0;
            let mut input = 0;
            let mut weight = 0;
            for &block in blocks {
                let cost = block_cost(architecture, block, shape, shards);
                forward += cost.total_forward_flops();
                input += cost.total_backward_input_flops();
                weight += cost.backward_weight_flops;
            }
            let seconds = |flops: u64| flops as f64 / flops_per_s;
            // A stage that ends with the head makes its forward in its backward, where the loss comes from.
            let ends_with_head = blocks.last() == Some(&Block::Head) && !sharded_blocks(shards).contains(&Block::Head);
            let is_made_later = recompute == Recompute::Full && ends_with_head;
            StageCost {
                forward_s: if is_made_later { 0.0 } else { seconds(forward) },
                backward_input_s: seconds(input),
                backward_weight_s: seconds(weight),
                backward_s: seconds(input + weight),
                recompute_s: match recompute {
                    Recompute::None => 0.0,
                    Recompute::Full => seconds(forward),
                },
                tied_bytes,
                ..memory::of_stage(architecture, blocks, shape, recompute, shards)
            }
        })
        .collect()
}

/// The passes of a route's hops, in seconds of their stages' costs; messages take no time.
pub fn pass_times(route: &Route, stages: &[StageCost]) -> PassTimes {
    let of_hops = |value: &dyn Fn(&StageCost) -> f64| -> Vec<f64> {
        route.visits().iter().map(|visit| value(&stages[visit.stage.0])).collect()
    };
    PassTimes {
        forward: of_hops(&|cost| cost.forward_s),
        backward_input: of_hops(&|cost| cost.backward_input_s + cost.recompute_s),
        backward_weight: of_hops(&|cost| cost.backward_weight_s),
        message: 0.0,
        activation: of_hops(&|cost| (cost.activation_bytes + cost.logit_bytes) as f64),
        // A stage that recomputes keeps more for its weight pass than its forward kept; generators take the part as part.
        kept_for_weight: of_hops(&|cost| cost.weight_grad_bytes.min(cost.activation_bytes) as f64),
        memory_limit: None,
    }
}
