//! From a model and a layout to numbers: where to cut, how long stages take, what they hold in memory.
//!
//! Everything here is arithmetic on shapes, for decisions before anything was measured; measured seconds replace it
//! wherever there are some. Does not know about tensors, clocks or devices.

mod balance;
mod cost;
mod description;
mod error;
mod memory;
mod redistribute;
mod shards;

pub use balance::{balance, partition, partition_by};
pub use cost::{MicrobatchShape, Recompute, stage_costs};
pub use description::{Activation, Attention, Core, Cut, Description, Experts, Layer, Mlp, Product};
pub use error::PlanError;
pub use redistribute::redistribute;
pub use shards::{Shards, block_cost, shard_costs};
