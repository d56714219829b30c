//! The first interpreter of a schedule: costs in, timeline and memory out.
//!
//! [`Timeline`] is also what the runtime measures, so prediction and measurement are compared line by line.
//! Does not know about tensors, threads or clocks: times are numbers.

mod bubble;
mod cost;
mod error;
mod memory;
mod simulate;
mod svg;
mod text;
mod tied;
mod timeline;
mod units;

pub use bubble::{Bubble, bubbles, idle_fraction};
pub use cost::{Communication, Costs, Link, MeetingCost, ShardCost, StageCost};
pub use error::SimulateError;
pub use simulate::simulate;
pub use svg::{svg, svg_until};
pub use text::text;
pub use timeline::{Category, MeetingSpan, MemorySample, Span, Timeline};
