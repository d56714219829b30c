//! A pipeline schedule as a printable value: for every rank the list of actions it plays, in order.
//!
//! Generators make schedules of compute actions, passes transform them (send and receive are inserted last), the
//! validator explains in words what is wrong. The simulator and the runtime read the same value.
//!
//! Does not know about costs, time, memory or tensors.

mod action;
mod dependency;
mod error;
mod forward_only;
mod generate;
mod gpipe;
mod index;
mod one_f_one_b;
mod schedule;
mod transfers;
mod validate;

pub use action::{Action, Op, StageOp};
pub use dependency::{Dependencies, dependencies};
pub use error::{Place, ScheduleError};
pub use forward_only::forward_only;
pub use generate::{Backward, Kind, Spec, generate};
pub use schedule::Schedule;
pub use transfers::with_transfers;
pub use validate::validate;
