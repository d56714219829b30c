//! A model as a value: its configuration (`config.json` in and out), its ordered half-layer blocks, the names and
//! shapes of its weights, and what each block costs. The only source of these for planner, model and checkpoint.
//!
//! Does not know about tensors, files or devices: configuration comes and goes as JSON text.

mod architecture;
mod block;
mod carry;
mod check;
mod config;
mod cost;
mod error;
mod family;
mod partition;
mod rope;
mod weights;

pub use architecture::{Architecture, Sliding};
pub use block::{Block, Role, Weight};
pub use carry::{Carry, CarryTensor, Element, State, StateTensor};
pub use check::LAYERS_MOST;
pub use config::{from_config_json, to_config_json};
pub use cost::{AttentionFlops, BlockCost};
pub use error::{ArchitectureError, Problem};
pub use family::{Biases, Family, Norm, Windows};
pub use partition::Partition;
pub use rope::{Positions, Rope, RopeScaling};
