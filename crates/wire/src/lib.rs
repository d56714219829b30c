//! Messages between ranks: typed flat buffers, tagged, with deadlines and failures that name the peer.
//!
//! Threads of one process: ownership of a buffer moves, nothing is copied. Reductions add in rank order.
//! Does not know about shapes, models or schedules.

mod buffer;
mod endpoint;
mod error;

pub use buffer::Buffer;
pub use endpoint::{Channel, Endpoint, Pending, Tag, connect};
pub use error::WireError;
