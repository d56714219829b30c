//! What replicas do after the passes: sum gradients, update, share parameters.

use super::{OptimizerState, Over, StagePlan};
use crate::machine::{Collective, Path};
use crate::software::Exchange;

/// Seconds and bytes of one pipeline rank's exchange and update.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DataExchange {
    /// Summing gradients over replicas and gathering parameters, as far as passes do not hide it.
    pub exchange_s: f64,
    /// The update and what it needs: scaling, norm, clipping, copying, clearing.
    pub optimizer_s: f64,
    /// Bytes given to the exchange.
    pub bytes: f64,
    /// What they go over.
    pub over: Option<Over>,
}

impl StagePlan<'_> {
    /// Of the pipeline rank `rank`.
    pub fn data_exchange(&self, rank: usize) -> DataExchange {
        let (machine, software) = (&self.task.machine, &self.task.software);
        let degrees = self.layout.degrees;
        let first = self.first_device(rank);
        let elements = self.elements[rank];
        let replicas = degrees.data * degrees.context;
        let of_dense = machine.path(first, replicas, degrees.tensor);
        let of_experts = machine.path(first, degrees.per_stage() / degrees.expert, degrees.expert);
        let parts = [(elements.dense as f64, of_dense), (elements.expert as f64, of_experts)];
        let (gradient, weight) = (software.reduced_bytes as f64, software.precision.bytes());
        let sum = |of: &dyn Fn(f64, &Path) -> f64| parts.iter().map(|(n, path)| of(*n, path)).sum::<f64>();
        let (reduce_s, gather_s) = match self.layout.optimizer {
            OptimizerState::Replicated => {
                (sum(&|n, path| machine.collective_s(Collective::AllReduce, n * gradient, path)), 0.0)
            }
            OptimizerState::Sharded => (
                sum(&|n, path| machine.collective_s(Collective::ReduceScatter, n * gradient, path)),
                sum(&|n, path| machine.collective_s(Collective::AllGather, n * weight, path)),
            ),
        };
        let exchange_s = match software.exchange {
            Exchange::After => reduce_s + gather_s,
            Exchange::Overlapped => {
                let (forward_s, backward_s) = self.one_microbatch_s(rank);
                (reduce_s - backward_s).max(0.0) + (gather_s - forward_s).max(0.0)
            }
        };
        let bytes = sum(&|n, path| if path.ranks > 1 { n * (gradient + weight) } else { 0.0 });
        let over = parts.iter().filter(|(n, _)| *n > 0.0).filter_map(|(_, path)| Over::of(path.reach)).next();
        DataExchange { exchange_s: exchange_s + self.tied_s(rank), optimizer_s: self.optimizer_s(rank), bytes, over }
    }

    /// Element-wise work of an update: gradients scaled to a mean before they are summed; then on the part of the state
    /// that lies here their norm, clipping, the update itself, weights written back; all gradients cleared.
    fn optimizer_s(&self, rank: usize) -> f64 {
        let software = &self.task.software;
        let degrees = self.layout.degrees;
        let device = self.device(rank);
        let elements = self.elements[rank];
        let (dense, expert) = (elements.dense as f64, elements.expert as f64);
        let here = match self.layout.optimizer {
            OptimizerState::Replicated => dense + expert,
            OptimizerState::Sharded => {
                let expert_replicas = degrees.per_stage() / degrees.expert;
                dense / (degrees.data * degrees.context) as f64 + expert / expert_replicas as f64
            }
        };
        let (gradient, state, weight) =
            (software.gradient_bytes as f64, software.optimizer_bytes as f64, software.precision.bytes());
        let is_scaled = degrees.data * degrees.context > 1;
        let whole = (dense + expert) * (gradient + if is_scaled { 2.0 * gradient } else { 0.0 });
        // Norm, clipping, gradient and state into the update and the state out of it, master into weight.
        let shard = here * (gradient + 2.0 * gradient + gradient + 2.0 * state + 4.0 + weight);
        device.stream_s(whole + shard, device.efficiency.of_update())
    }

    /// The sum of a tied matrix's gradients on the first and the last stage.
    fn tied_s(&self, rank: usize) -> f64 {
        let last = self.rank_of[self.rank_of.len() - 1];
        let matrix = self.elements[last].tied as f64;
        if matrix <= 0.0 || (rank != last && rank != self.rank_of[0]) {
            return 0.0;
        }
        let (low, high) = (self.first_device(self.rank_of[0]), self.first_device(last));
        let path = self.task.machine.path(low, 2, high - low);
        let bytes = matrix * self.task.software.reduced_bytes as f64;
        self.task.machine.collective_s(Collective::AllReduce, bytes, &path)
    }

    /// Forward and backward seconds of a rank's stages for one microbatch.
    fn one_microbatch_s(&self, rank: usize) -> (f64, f64) {
        let stages = self.rank_of.iter().enumerate().filter(|&(_, &of)| of == rank);
        stages.fold((0.0, 0.0), |(forward, backward), (stage, _)| {
            let seconds = self.seconds(stage);
            (forward + seconds.forward, backward + seconds.input + seconds.weight + self.recompute_s(stage))
        })
    }
}
