//! From a model and a layout to numbers: where to cut, how long stages take, what they hold in memory.
//!
//! Everything here is arithmetic on shapes, for decisions before anything was measured; measured seconds replace it
//! wherever there are some. Does not know about tensors, clocks or devices.

mod balance;
mod calibrate;
mod choice;
mod cost;
mod degrees;
mod description;
pub mod emit;
mod error;
mod footprint;
mod latency_model;
mod local;
pub mod machine;
mod mapping;
mod memory;
mod redistribute;
mod search;
mod seats;
mod shards;
mod software;
mod step;
mod tensor_layout;
mod trace;
mod work;

pub use balance::{balance, balance_unequal, partition, partition_by};
pub use calibrate::{Calibration, FittedClass, calibrate};
pub use choice::{Choice, Chosen, MOST_TRIES};
pub use cost::{MicrobatchShape, Recompute, pass_times, stage_costs};
pub use degrees::{Batch, Degrees};
pub use description::{Activation, Attention, Core, Cut, Description, Experts, Layer, Mlp, Product};
pub use error::PlanError;
pub use latency_model::{ClosedForm, LatencyModel};
pub use local::{LocalPlan, LocalRates, LocalTask, local_plans};
pub use machine::Machine;
pub use mapping::anneal;
pub use memory::HEAD_CHUNK;
pub use redistribute::redistribute;
pub use search::{Fixed, Found, Reason, Search, Space, Trainer, search};
pub use seats::Seat;
pub use shards::{Shards, block_cost, shard_costs};
pub use software::{AttentionKernel, BetweenProducts, Dropout, DummyGradients, Exchange, Hops, Software};
pub use step::{
    Bound, Checkpointing, DataExchange, Effort, Granularity, Layout, OptimizerState, Over, Played, Playing, Prediction,
    StagePlan, Task, Traffic, predict,
};
pub use tensor_layout::{Along, NamedWeight, Placement, tensor_layout};
pub use trace::{Class, TracedStep};
