//! The pass that lets no rank wait for the global norm before its update.
//!
//! Qi et al., *Zero Bubble Pipeline Parallelism* (2024), section 4. A rank updates as soon as its own gradients and the
//! norm of the ranks before it are there: a sum that travels down the ranks as they finish. When the norm over all ranks
//! arrives, the update stands if it was clipped alike, and is taken back and made again if not.
//!
//! We validate at the end of the step's own lists; the paper goes on into the next step's warm-up and validates there.

use crate::{Action, Schedule, StageOp};

/// The schedule with every `OPT` as `TRY_OPT` and, at the end of the rank's list, `VALIDATE`.
pub fn with_post_validation(schedule: &Schedule) -> Schedule {
    let ranks = schedule.ranks.iter().map(|list| {
        let mut with: Vec<Action> = Vec::with_capacity(list.len() + 1);
        let mut validated: Vec<Action> = Vec::new();
        for &action in list {
            match action {
                Action::Stage { op: StageOp::OptimizerStep, stage } => {
                    with.push(Action::Stage { op: StageOp::OptimisticStep, stage });
                    validated.push(Action::Stage { op: StageOp::PostValidate, stage });
                }
                action => with.push(action),
            }
        }
        with.append(&mut validated);
        with
    });
    schedule.with_ranks(ranks.collect())
}
