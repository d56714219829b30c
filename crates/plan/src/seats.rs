//! Which devices hold which stages, and what their groups talk over.

use crate::search::Found;
use crate::step::{Over, StagePlan, Task};
use crate::{Machine, PlanError};
use architecture::Block;
use std::ops::Range;

/// What a rank of the pipeline is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Seat {
    /// Its devices, in their order on the axes (tensor fastest, then context, then data): by the group of the machine that they
    /// are in, numbered from the group's first.
    pub devices: Vec<(usize, Range<usize>)>,
    /// Half-layers of each of its stages; embedding and head are not among them.
    pub half_layers: Vec<usize>,
    /// What its tensor groups talk over; `None` where there is one piece.
    pub tensors_over: Option<Over>,
    /// What its gradients are summed over; `None` where there is one replica.
    pub gradients_over: Option<Over>,
}

impl Found {
    /// Of every rank of the pipeline.
    ///
    /// # Errors
    /// When `task` is not what this was found for.
    pub fn seats(&self, task: &Task) -> Result<Vec<Seat>, PlanError> {
        let order: Vec<usize> = match &self.nodes {
            Some(nodes) => nodes.clone(),
            None => (0..task.machine.n_nodes()).collect(),
        };
        let devices = devices(&task.machine, &order);
        let task = Task { machine: task.machine.in_order(&order), ..task.clone() };
        let plan = StagePlan::new(&task, &self.layout)?;
        let degrees = self.layout.degrees;
        let per_stage = degrees.per_stage();
        let seat = |rank: usize| {
            let first = rank * per_stage;
            let over = |ranks: usize, stride: usize| Over::of(task.machine.path(first, ranks, stride).reach);
            let stages = plan.rank_of.iter().zip(&plan.stages).filter(|(of, _)| **of == rank);
            let is_half = |block: &&Block| matches!(block, Block::Attention(_) | Block::Mlp(_));
            Seat {
                devices: joined(&devices[first..first + per_stage]),
                half_layers: stages.map(|(_, blocks)| blocks.iter().filter(is_half).count()).collect(),
                tensors_over: over(degrees.tensor, 1),
                gradients_over: over(degrees.data * degrees.context, degrees.tensor),
            }
        };
        Ok((0..degrees.pipeline).map(seat).collect())
    }
}

/// All devices by place: the group, and the number in it.
fn devices(machine: &Machine, order: &[usize]) -> Vec<(usize, usize)> {
    let mut firsts = Vec::with_capacity(machine.nodes.len());
    let mut n_nodes = 0;
    for group in &machine.nodes {
        firsts.push(n_nodes);
        n_nodes += group.count;
    }
    let of_node = |&node: &usize| {
        let group = firsts.partition_point(|&first| first <= node) - 1;
        let n = machine.nodes[group].devices;
        let first = (node - firsts[group]) * n;
        (first..first + n).map(move |device| (group, device))
    };
    order.iter().flat_map(of_node).collect()
}

/// Neighbours of one group as ranges.
fn joined(devices: &[(usize, usize)]) -> Vec<(usize, Range<usize>)> {
    let mut all: Vec<(usize, Range<usize>)> = Vec::new();
    for &(group, device) in devices {
        match all.last_mut() {
            Some((last, range)) if *last == group && range.end == device => range.end += 1,
            _ => all.push((group, device..device + 1)),
        }
    }
    all
}
