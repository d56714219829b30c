//! Clusters with different network cards: where pipelines may cross, and how layers are shared (Holmes).
//!
//! Source: Yang et al., "Holmes: Towards Distributed Training Across Clusters with Heterogeneous NIC Environment", 2024.

use crate::degrees::Degrees;
use crate::machine::{Machine, NicKind, Reach};

/// Layers of every stage in proportion to the stages' `speeds`, times `alpha` for all but the slowest, rounded down; the
/// slowest take what is left, evenly, the later ones the more. The published splits have `alpha` 1.
///
/// # Panics
/// If there is no stage or a speed is not positive.
pub fn layer_shares(n_layers: usize, speeds: &[f64], alpha: f64) -> Vec<usize> {
    assert!(!speeds.is_empty() && speeds.iter().all(|speed| *speed > 0.0), "speeds are positive: {speeds:?}");
    let (sum, slowest) = (speeds.iter().sum::<f64>(), speeds.iter().copied().fold(f64::INFINITY, f64::min));
    let mut left = n_layers;
    let mut shares: Vec<usize> = speeds
        .iter()
        .map(|&speed| {
            if speed <= slowest {
                return 0;
            }
            let share = ((alpha * n_layers as f64 * speed / sum) as usize).min(left);
            left -= share;
            share
        })
        .collect();
    let slow: Vec<usize> = (0..speeds.len()).filter(|&stage| speeds[stage] <= slowest).collect();
    for (i, &stage) in slow.iter().enumerate() {
        let share = left / (slow.len() - i);
        shares[stage] = share;
        left -= share;
    }
    shares
}

/// Groups whose members are in different clusters, by axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crossings {
    /// Groups of the tensor axis.
    pub tensor: usize,
    /// Groups of replicas.
    pub data: usize,
    /// Neighbouring stages.
    pub pipeline: usize,
}

impl Machine {
    /// Groups of `degrees` that leave a cluster. Devices are taken in order: tensor axis fastest, then context, data,
    /// pipeline.
    pub fn crossings(&self, degrees: Degrees) -> Crossings {
        let per_stage = degrees.per_stage();
        let cluster = |device: usize| self.group_of(device).cluster.as_str();
        let mut crossings = Crossings::default();
        for stage in 0..degrees.pipeline {
            let first = stage * per_stage;
            for start in (first..first + per_stage).step_by(degrees.tensor) {
                crossings.tensor += usize::from(cluster(start) != cluster(start + degrees.tensor - 1));
            }
            let last = first + per_stage - degrees.tensor;
            for rank in 0..degrees.tensor {
                crossings.data += usize::from(cluster(first + rank) != cluster(last + rank));
            }
            let is_border = stage + 1 < degrees.pipeline && cluster(first) != cluster(first + per_stage);
            crossings.pipeline += usize::from(is_border);
        }
        crossings
    }

    /// What gradients of `degrees` are summed over, on the worst stage; `None` where there are no replicas or the kind of card
    /// is not known.
    pub fn data_network(&self, degrees: Degrees) -> Option<NicKind> {
        let replicas = degrees.data * degrees.context;
        let reaches = (0..degrees.pipeline)
            .filter(|_| replicas > 1)
            .map(|stage| self.path(stage * degrees.per_stage(), replicas, degrees.tensor).reach);
        match reaches.max() {
            Some(Reach::Network(kind)) => kind,
            _ => None,
        }
    }
}
