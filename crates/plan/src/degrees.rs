//! How a model and its tokens are divided.

use crate::PlanError;
use crate::description::Description;
use mesh::Axis;
use std::fmt;

/// Ranks along every axis. Experts lie on the ranks of the data, context and tensor axes, `expert` neighbours together
/// holding all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Degrees {
    /// Of the pipeline.
    pub pipeline: usize,
    /// Replicas.
    pub data: usize,
    /// Pieces of a sequence.
    pub context: usize,
    /// Ranks that share the experts.
    pub expert: usize,
    /// Pieces of a weight.
    pub tensor: usize,
}

/// Tokens of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Batch {
    /// Rows (sequences) of a step, over all replicas.
    pub rows: usize,
    /// Tokens of a row.
    pub tokens: usize,
}

impl Degrees {
    /// Everything on one device.
    pub const ONE: Degrees = Degrees { pipeline: 1, data: 1, context: 1, expert: 1, tensor: 1 };

    /// Devices in all; experts use those of the other axes.
    pub fn n_devices(&self) -> usize {
        self.pipeline * self.per_stage()
    }

    /// Devices that hold one stage.
    pub fn per_stage(&self) -> usize {
        self.data * self.context * self.tensor
    }

    /// The degree along `axis`.
    pub fn of(&self, axis: Axis) -> usize {
        match axis {
            Axis::Pipeline => self.pipeline,
            Axis::Data => self.data,
            Axis::Context => self.context,
            Axis::Expert => self.expert,
            Axis::Tensor => self.tensor,
        }
    }

    /// Whether `model` can be divided so.
    ///
    /// # Errors
    /// [`PlanError::Degrees`] saying what does not divide what.
    pub fn check(&self, model: &Description, batch: Batch) -> Result<(), PlanError> {
        let refuse = |text: String| Err(PlanError::Degrees { degrees: *self, problem: text });
        if Axis::ALL.into_iter().any(|axis| self.of(axis) == 0) {
            return refuse("degrees are at least 1".to_owned());
        }
        for layer in &model.layers {
            let core = &layer.attention.core;
            let cuts = self.tensor * self.context;
            if !core.heads.is_multiple_of(cuts) {
                let heads = core.heads;
                return refuse(format!("{heads} attention heads do not divide over tensor x context = {cuts} ranks"));
            }
            if let Some(experts) = &layer.mlp.experts {
                if !experts.n.is_multiple_of(self.expert) {
                    return refuse(format!("{} experts do not divide over {} ranks", experts.n, self.expert));
                }
                if !self.per_stage().is_multiple_of(self.expert) {
                    let per_stage = self.per_stage();
                    return refuse(format!(
                        "{} expert ranks do not divide the {per_stage} ranks of a stage",
                        self.expert
                    ));
                }
            } else if self.expert > 1 && model.layers.iter().all(|layer| layer.mlp.experts.is_none()) {
                return refuse("the model has no experts".to_owned());
            }
        }
        if !batch.tokens.is_multiple_of(self.context * self.tensor) {
            let pieces = self.context * self.tensor;
            return refuse(format!("{} tokens do not divide over tensor x context = {pieces} ranks", batch.tokens));
        }
        if !batch.rows.is_multiple_of(self.data) {
            return refuse(format!("{} rows do not divide over {} replicas", batch.rows, self.data));
        }
        Ok(())
    }
}

impl fmt::Display for Degrees {
    /// `pipeline 4 x data 2 x tensor 8`; axes of degree 1 are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            ("pipeline", self.pipeline),
            ("data", self.data),
            ("context", self.context),
            ("expert", self.expert),
            ("tensor", self.tensor),
        ];
        let named: Vec<String> =
            named.iter().filter(|(_, degree)| *degree > 1).map(|(name, degree)| format!("{name} {degree}")).collect();
        if named.is_empty() { f.write_str("one device") } else { f.write_str(&named.join(" x ")) }
    }
}
