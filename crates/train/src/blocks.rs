//! Weights, gradients, updates and activations of every block at one step.

use crate::event::number_or_null;
use architecture::{Architecture, Block, Partition};
use kernels::Size;
use serde::{Deserialize, Serialize};
use stage::ParameterStatistics;
use std::collections::BTreeSet;

/// All blocks after one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlocksMetrics {
    /// After this step.
    pub step: u64,
    /// In the model's order.
    pub blocks: Vec<BlockMetrics>,
}

/// One half-layer block. Parameters that several blocks share count for the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockMetrics {
    /// Its name ("attention 3").
    pub block: String,
    /// The stage it lies on.
    pub stage: usize,
    /// Number of its parameters.
    pub parameters: u64,
    /// Root of the mean square of its parameters.
    #[serde(deserialize_with = "number_or_null")]
    pub weight_rms: f64,
    /// Largest magnitude among them.
    #[serde(deserialize_with = "number_or_null")]
    pub weight_max: f64,
    /// Root of the mean square of their gradients in the last step, before clipping.
    #[serde(deserialize_with = "number_or_null")]
    pub gradient_rms: f64,
    /// Largest magnitude among these.
    #[serde(deserialize_with = "number_or_null")]
    pub gradient_max: f64,
    /// Norm of the last update over the norm of the parameters.
    #[serde(deserialize_with = "number_or_null")]
    pub update_share: f64,
    /// Root of the mean square of the residual stream after the block, on the first validation batch; absent for the head.
    #[serde(default)]
    pub activation_rms: Option<f64>,
    /// Largest magnitude there.
    #[serde(default)]
    pub activation_max: Option<f64>,
}

impl BlocksMetrics {
    /// Puts parameters together by block.
    pub(crate) fn new(
        step: u64,
        architecture: &Architecture,
        partition: &Partition,
        parameters: &[ParameterStatistics],
        outputs: &[(Block, Size)],
    ) -> Self {
        let mut taken = BTreeSet::new();
        let mut blocks = Vec::new();
        for (stage, of_stage) in partition.stages().iter().enumerate() {
            for &block in of_stage {
                let names: Vec<String> = architecture.weights(block).into_iter().map(|weight| weight.name).collect();
                let own = names.into_iter().filter(|name| taken.insert(name.clone()));
                let own: Vec<&ParameterStatistics> =
                    own.filter_map(|name| parameters.iter().find(|one| one.name == name)).collect();
                let sum = |part: fn(&ParameterStatistics) -> Size| {
                    own.iter().map(|one| part(one)).fold(Size::default(), Size::and)
                };
                let (value, gradient, change) = (sum(|one| one.value), sum(|one| one.gradient), sum(|one| one.change));
                let output = outputs.iter().find(|(known, _)| *known == block).map(|(_, size)| *size);
                blocks.push(BlockMetrics {
                    block: block.to_string(),
                    stage,
                    parameters: value.n,
                    weight_rms: value.rms(),
                    weight_max: value.max_abs,
                    gradient_rms: gradient.rms(),
                    gradient_max: gradient.max_abs,
                    update_share: match value.sum_of_squares {
                        0.0 => 0.0,
                        squares => (change.sum_of_squares / squares).sqrt(),
                    },
                    activation_rms: output.map(|size| size.rms()),
                    activation_max: output.map(|size| size.max_abs),
                });
            }
        }
        Self { step, blocks }
    }
}
