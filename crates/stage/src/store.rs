//! What a rank keeps of one stage: weights, gradients, moments.

use crate::training_state::TrainingState;
use model::Part;
use plan::Recompute;

/// One stage on its rank. Only the rank's thread touches it.
#[derive(Debug)]
pub(crate) struct Store {
    pub part: Part,
    pub recompute: Recompute,
    pub training: TrainingState,
}
