//! A pipeline schedule as a printable value: for every rank the list of actions it plays, in order.
//!
//! Generators make schedules of compute actions, passes transform them (send and receive are inserted last), the
//! validator explains in words what is wrong. The simulator and the runtime read the same value.
//!
//! Does not know about clocks or tensors. What passes take and keep is known only to the generators and passes that weigh
//! them against each other ([`PassTimes`]), as bare numbers without units.

mod action;
mod backward;
mod candidate;
mod dependency;
mod dualpipe_v;
mod error;
mod forward_only;
mod generate;
mod gpipe;
mod index;
mod interleaved;
mod interleaved_zb;
mod kind;
mod list_scheduler;
mod looped_bfs;
mod moment;
mod one_f_one_b;
mod pass_times;
mod player;
mod post_validation;
pub mod pytorch;
mod reduce_gradients;
mod retime;
mod schedule;
mod squeeze;
mod transfers;
mod unshard;
mod v_half;
mod v_min;
mod v_pattern;
mod validate;
mod vocabulary;
mod zb_auto;
mod zb_h1;
mod zb_h2;
mod zb_v;

pub use action::{Action, LabelParts, Op, ShardOp, StageOp};
pub use backward::{fuse_backward, split_backward};
pub use dependency::{Dependencies, Meeting, dependencies};
pub use error::{Place, ScheduleError};
pub use forward_only::forward_only;
pub use generate::{Backward, Spec, generate, generate_for, one_f_one_b_within};
pub use kind::{Kind, Placement};
pub use moment::Moment;
pub use pass_times::PassTimes;
pub use post_validation::with_post_validation;
pub use reduce_gradients::with_reductions;
pub use retime::retime;
pub use schedule::{InputLayer, Schedule, Vocabulary, VocabularyAlgorithm};
pub use squeeze::squeeze;
pub use transfers::{with_transfers, with_transfers_in_lockstep};
pub use unshard::with_unshards;
pub use validate::validate;
pub use vocabulary::{interlaced, with_vocabulary};
