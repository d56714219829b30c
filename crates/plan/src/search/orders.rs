//! The best over the orders in which clusters and kinds of nodes can take their places.

use super::{Found, NEAR, Reason, Search, Space, search_in_order};
use crate::PlanError;
use crate::degrees::Degrees;
use crate::step::Task;
use std::collections::BTreeMap;

/// The best layout in `space`, and up to `n_best - 1` of other degrees that come near it.
///
/// Nodes of a cluster stay together, as Holmes orders them, so that tensors and gradients stay on its network wherever stages
/// fill whole clusters; which cluster and which kind of node comes first is tried, so that the order of the machine's groups does
/// not matter while there are up to four ([`Machine::orders`](crate::Machine::orders)). [`Found::nodes`] is the order, where it is not
/// the machine's. Of orders that take as long the machine's wins, where it
/// keeps clusters together.
///
/// # Errors
/// When the machine cannot be planned for, or no layout of the space divides the model, the batch and the devices.
pub fn search(task: &Task, space: &Space, n_best: usize) -> Result<Search, PlanError> {
    task.machine.check()?;
    space.check_fixed(task)?;
    let mut all: Option<Search> = None;
    let mut why = None;
    for order in task.machine.orders() {
        let found = if order.is_sorted() {
            search_in_order(task, space, n_best)
        } else {
            let task = Task { machine: task.machine.in_order(&order), ..task.clone() };
            search_in_order(&task, space, n_best).map(|search| search.of_nodes(&order))
        };
        match (found, all.take()) {
            (Ok(found), None) => all = Some(found),
            (Ok(found), Some(before)) => all = Some(before.or_better(found, space, n_best)),
            (Err(error), before) => {
                all = before;
                why.get_or_insert(error);
            }
        }
    }
    match (all, why) {
        (Some(all), _) => Ok(all),
        (None, Some(error)) => Err(error),
        (None, None) => unreachable!("a checked machine has nodes, and so an order"),
    }
}

impl Search {
    /// Found on a machine whose node `i` is node `order[i]` of another.
    fn of_nodes(self, order: &[usize]) -> Self {
        let renamed = |found: Found| {
            let nodes = match &found.nodes {
                Some(nodes) => nodes.iter().map(|&node| order[node]).collect(),
                None => order.to_vec(),
            };
            Found { nodes: Some(nodes), ..found }
        };
        Self { best: self.best.into_iter().map(renamed).collect(), ..self }
    }

    /// With what another order found, by degrees.
    fn or_better(self, other: Self, space: &Space, n_best: usize) -> Self {
        let mut best: Vec<Found> = Vec::new();
        let mut beaten: Vec<(Degrees, Reason)> = Vec::new();
        let mut found: Vec<Found> = self.best.into_iter().chain(other.best).collect();
        // Stable: of equals the earlier order's.
        let step_s = |found: &Found| found.prediction.by(space.predictor);
        found.sort_by(|a, b| step_s(a).total_cmp(&step_s(b)));
        for found in found {
            let degrees = found.layout.degrees;
            if best.iter().any(|other| other.layout.degrees == degrees) {
                continue;
            }
            let is_near = best.first().is_none_or(|first| step_s(&found) <= NEAR * step_s(first));
            if best.len() < n_best && is_near {
                best.push(found);
            } else {
                beaten.push((degrees, Reason::Slower(step_s(&found))));
            }
        }
        let mut lost: BTreeMap<Degrees, Reason> = BTreeMap::new();
        let all = self.lost.into_iter().chain(other.lost).chain(beaten);
        for (degrees, reason) in all.filter(|(degrees, _)| !best.iter().any(|found| found.layout.degrees == *degrees)) {
            let least = lost.entry(degrees).or_insert(reason);
            if reason.order() < least.order() {
                *least = reason;
            }
        }
        let mut lost: Vec<(Degrees, Reason)> = lost.into_iter().collect();
        lost.sort_by(|a, b| a.1.order().partial_cmp(&b.1.order()).unwrap_or(std::cmp::Ordering::Equal));
        let nearest = [self.nearest, other.nearest].into_iter().flatten().min_by_key(|(_, missing)| *missing);
        let n_layouts = self.n_layouts + other.n_layouts;
        Self { best, lost, nearest, n_layouts, n_simulated: self.n_simulated + other.n_simulated }
    }
}

impl Reason {
    /// Those that came nearest first: what fits before what does not.
    fn order(self) -> (u8, f64) {
        match self {
            Reason::Slower(step_s) => (0, step_s),
            Reason::Memory(missing) => (1, missing as f64),
        }
    }
}
