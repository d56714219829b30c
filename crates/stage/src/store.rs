//! What a rank keeps of one stage: weights, gradients, moments.

use crate::training_state::TrainingState;
use kernels::AdamW;
use model::Part;
use plan::Recompute;

/// One stage on its rank. Only the rank's thread touches it.
#[derive(Debug)]
pub(crate) struct Store {
    pub part: Part,
    pub recompute: Recompute,
    pub training: TrainingState,
}

impl Store {
    /// One optimizer step on every parameter.
    pub fn update(&mut self, adamw: &AdamW) {
        self.training.update(self.part.parameters_mut(), adamw);
    }
}
