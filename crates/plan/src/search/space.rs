//! Which layouts are looked at.

use crate::PlanError;
use crate::degrees::Degrees;
use crate::latency_model::LatencyModel;
use crate::software::{AttentionKernel, Software};
use crate::step::{Checkpointing, Granularity, Layout, OptimizerState, StagePlan, Task};
use schedule::{Backward, Kind, Placement, Spec};
use std::fmt;

/// Who will execute the plan: whose schedules and axes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trainer {
    /// Nobody in particular: every schedule.
    Any,
    /// Megatron-Core: 1F1B and interleaved 1F1B.
    Megatron,
    /// torchtitan on torch.distributed.pipelining.
    Torchtitan,
}

/// Choices that span the layouts. What is fixed has one choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    /// Degrees that are given; the others are tried.
    pub fixed: Fixed,
    /// Rows of a microbatch.
    pub microbatch_rows: Vec<usize>,
    /// Schedules.
    pub kinds: Vec<Kind>,
    /// Stages per rank for schedules that loop.
    pub chunks: Vec<usize>,
    /// What is computed again.
    pub recompute: Vec<Checkpointing>,
    /// Who holds the optimizer's state.
    pub optimizer: Vec<OptimizerState>,
    /// Whose step times layouts are compared by; `None` for the simulator's. The formulas know 1F1B alone, so that other
    /// schedules are left out; memory is the simulator's in any case.
    pub predictor: Option<LatencyModel>,
}

/// Degrees that are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Of the pipeline.
    pub pipeline: Option<usize>,
    /// Replicas.
    pub data: Option<usize>,
    /// Pieces of a sequence.
    pub context: Option<usize>,
    /// Ranks that share the experts.
    pub expert: Option<usize>,
    /// Pieces of a weight.
    pub tensor: Option<usize>,
}

impl Fixed {
    /// Those that are fixed, with their names.
    pub fn named(&self) -> Vec<(&'static str, usize)> {
        let all = [
            ("pipeline", self.pipeline),
            ("data", self.data),
            ("context", self.context),
            ("expert", self.expert),
            ("tensor", self.tensor),
        ];
        all.into_iter().filter_map(|(axis, degree)| Some((axis, degree?))).collect()
    }
}

impl fmt::Display for Fixed {
    /// ` with pipeline 4, tensor 8`; nothing when nothing is fixed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<String> = self.named().iter().map(|(axis, degree)| format!("{axis} {degree}")).collect();
        if named.is_empty() { Ok(()) } else { write!(f, " with {}", named.join(", ")) }
    }
}

/// Layouts that differ only in their schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Family {
    pub degrees: Degrees,
    pub microbatch_rows: usize,
    pub recompute: Checkpointing,
    pub optimizer: OptimizerState,
}

/// Sequences shorter than this are not cut: a piece would not fill a device's products.
const CONTEXT_TOKENS: usize = 2048;

impl Space {
    /// Everything that `trainer` can do with `software`.
    pub fn of(trainer: Trainer, software: &Software) -> Self {
        let kinds = match trainer {
            Trainer::Any => Kind::ALL.to_vec(),
            Trainer::Megatron => vec![Kind::OneFOneB, Kind::Interleaved],
            Trainer::Torchtitan => vec![
                Kind::OneFOneB,
                Kind::Interleaved,
                Kind::Gpipe,
                Kind::LoopedBfs,
                Kind::InterleavedZb,
                Kind::ZbV,
                Kind::DualPipeV,
            ],
        };
        let mut recompute = vec![Checkpointing::None, Checkpointing::Layers];
        if software.attention == AttentionKernel::Unfused {
            recompute.push(Checkpointing::Scores);
        }
        Self {
            fixed: Fixed::default(),
            microbatch_rows: vec![1, 2, 4, 8, 16],
            kinds,
            chunks: vec![2, 3, 4],
            recompute,
            optimizer: vec![OptimizerState::Sharded],
            predictor: None,
        }
    }

    /// Every fixed degree by itself.
    ///
    /// # Errors
    /// [`PlanError::FixedDegree`] naming the first that divides the devices in no way.
    pub(super) fn check_fixed(&self, task: &Task) -> Result<(), PlanError> {
        let n = task.machine.n_devices();
        for (axis, degree) in self.fixed.named() {
            if degree == 0 || !n.is_multiple_of(degree) {
                let machine = task.machine.name.clone();
                return Err(PlanError::FixedDegree {
                    axis,
                    degree,
                    devices: n,
                    machine,
                    choices: divisors(n).collect(),
                });
            }
        }
        Ok(())
    }

    /// Families that divide everything, and why the last that does not does not.
    pub(super) fn layouts(&self, task: &Task) -> (Vec<Family>, Option<PlanError>) {
        let mut families = Vec::new();
        let (degrees, refusal) = self.degrees(task);
        for degrees in degrees {
            for &microbatch_rows in &self.microbatch_rows {
                let per_replica = task.batch.rows / degrees.data;
                if microbatch_rows == 0 || !per_replica.is_multiple_of(microbatch_rows) {
                    continue;
                }
                for &recompute in &self.recompute {
                    for &optimizer in &self.optimizer {
                        families.push(Family { degrees, microbatch_rows, recompute, optimizer });
                    }
                }
            }
        }
        (families, refusal)
    }

    /// Every way to give all devices a place on the axes, and why the last that is none is none.
    fn degrees(&self, task: &Task) -> (Vec<Degrees>, Option<PlanError>) {
        let mut refusal = None;
        let machine = &task.machine;
        let n = machine.n_devices();
        let node = machine.nodes.iter().map(|group| group.devices).min().unwrap_or(1);
        let fits = |fixed: Option<usize>, degree: usize| fixed.is_none_or(|fixed| fixed == degree);
        let mut found = Vec::new();
        let experts =
            task.model.layers.iter().find_map(|layer| layer.mlp.experts.as_ref()).map_or(1, |experts| experts.n);
        let n_pieces = match task.granularity {
            Granularity::HalfLayers => 2 * task.model.layers.len() + 2,
            Granularity::Layers => task.model.layers.len() + 2,
            Granularity::WholeLayers => task.model.layers.len(),
        };
        for pipeline in divisors(n).filter(|&p| fits(self.fixed.pipeline, p) && p <= n_pieces) {
            let per_stage = n / pipeline;
            // A stage's block of devices begins where a node does, or nodes hold whole blocks.
            let is_aligned = machine
                .nodes
                .iter()
                .all(|group| per_stage.is_multiple_of(group.devices) || group.devices.is_multiple_of(per_stage));
            if !is_aligned && machine.nodes.len() > 1 {
                continue;
            }
            for tensor in divisors(per_stage).filter(|&t| fits(self.fixed.tensor, t)) {
                // Tensor parallelism over a network is slower than anything else, unless it is asked for.
                let is_within = machine.nodes.iter().all(|group| group.devices.is_multiple_of(tensor));
                if !is_within && self.fixed.tensor.is_none() || tensor > node && self.fixed.tensor.is_none() {
                    continue;
                }
                for context in divisors(per_stage / tensor).filter(|&c| fits(self.fixed.context, c)) {
                    let is_long = task.batch.tokens / context >= CONTEXT_TOKENS && context.is_power_of_two();
                    if context > 1 && !is_long && self.fixed.context.is_none() {
                        continue;
                    }
                    let data = per_stage / tensor / context;
                    if !fits(self.fixed.data, data) {
                        continue;
                    }
                    let choices = divisors(experts).filter(|&e| per_stage.is_multiple_of(e));
                    for expert in choices.filter(|&e| fits(self.fixed.expert, e)) {
                        let degrees = Degrees { pipeline, data, context, expert, tensor };
                        match degrees.check(&task.model, task.batch) {
                            Ok(()) => found.push(degrees),
                            Err(error) => refusal = Some(error),
                        }
                    }
                }
            }
        }
        (found, refusal)
    }

    /// The schedules of a family.
    pub(super) fn schedules(&self, task: &Task, family: &Family) -> Vec<Layout> {
        let Family { degrees, microbatch_rows, recompute, optimizer } = *family;
        let microbatches = task.batch.rows / degrees.data / microbatch_rows;
        let mut layouts = Vec::new();
        let mut push = |kind: Kind, backward: Backward, chunks: usize| {
            let spec = Spec { kind, backward };
            layouts.push(Layout { degrees, microbatch_rows, spec, chunks, recompute, optimizer, sizes: None });
        };
        if degrees.pipeline == 1 {
            push(Kind::OneFOneB, Backward::Fused, 1);
            return layouts;
        }
        let is_known = |kind: &&Kind| self.predictor.is_none() || **kind == Kind::OneFOneB;
        for &kind in self.kinds.iter().filter(is_known) {
            let backward = if kind.places_weight_passes() { Backward::Split } else { Backward::Fused };
            match kind.placement() {
                Placement::Looped => {
                    // Interleaving asks for whole rounds of microbatches.
                    for &chunks in self.chunks.iter().filter(|_| microbatches.is_multiple_of(degrees.pipeline)) {
                        push(kind, backward, chunks);
                    }
                }
                Placement::V => push(kind, backward, 2),
                Placement::Any | Placement::OnePerRank => push(kind, backward, 1),
            }
        }
        layouts
    }

    /// What no schedule of the family undercuts: all work spread evenly over the ranks, and nothing after it.
    pub(super) fn coarse_bound(&self, task: &Task, family: &Family) -> Result<f64, PlanError> {
        if self.predictor.is_some() {
            // A formula may be below what any schedule takes.
            return Ok(0.0);
        }
        let layout = Layout {
            degrees: family.degrees,
            microbatch_rows: family.microbatch_rows,
            spec: Spec { kind: Kind::OneFOneB, backward: Backward::Fused },
            chunks: 1,
            recompute: family.recompute,
            optimizer: family.optimizer,
            sizes: None,
        };
        StagePlan::even_bound(task, &layout)
    }
}

/// Divisors in ascending order.
fn divisors(n: usize) -> impl Iterator<Item = usize> {
    let mut all: Vec<usize> = (1..).take_while(|i| i * i <= n).filter(|i| n.is_multiple_of(*i)).collect();
    let large: Vec<usize> = all.iter().rev().map(|i| n / i).filter(|i| i * i > n).collect();
    all.extend(large);
    all.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_of() {
        for (n, wanted) in [(1, vec![1]), (12, vec![1, 2, 3, 4, 6, 12]), (49, vec![1, 7, 49]), (13, vec![1, 13])] {
            assert_eq!(divisors(n).collect::<Vec<usize>>(), wanted);
        }
    }
}
