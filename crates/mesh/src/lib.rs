//! Names of places and the geometry of distribution: ranks, stages, microbatches, routes, axes and groups,
//! layouts of a tensor over ranks and the transfers between two layouts.
//!
//! Pure values. Does not know about tensors, devices, files, threads or time.

mod cores;
mod error;
mod id;
mod layout;
mod mesh;
mod reshard;
mod route;
mod stage_map;

pub use cores::Cores;
pub use error::MeshError;
pub use id::{Hop, Key, Microbatch, Rank, Segment, Stage};
pub use layout::{Layout, Placement, Reduction};
pub use mesh::{Axis, Mesh};
pub use reshard::{Region, Transfer, reshard};
pub use route::{Route, Visit};
pub use stage_map::{Grid, StageMap};
