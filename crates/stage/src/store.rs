//! What a rank keeps of one stage: weights, gradients, moments.

use crate::training_state::TrainingState;
use kernels::AdamW;
use model::Part;

/// What a stage keeps between forward and backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Everything backward needs.
    None,
    /// Its input only; backward computes the forward again (GPipe's re-materialisation).
    Full,
}

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
