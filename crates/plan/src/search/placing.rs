//! Which node takes which place, where links between nodes were measured one by one (Pipette's worker mapping).

use super::Found;
use crate::machine::Network;
use crate::mapping::anneal;
use crate::step::{Effort, StagePlan, Task};
use simulate::Communication;
use std::collections::BTreeSet;

/// Moves of an annealing, and how many are begun. Each is `n` steps of arithmetic for `n` nodes.
const MOVES: usize = 20_000;
const STARTS: u64 = 3;

/// `found` on nodes in a better order; `None` where none was found, where nodes differ in what they are, or where links do
/// not. What annealing compares is how long the slowest stage's replicas sum gradients, and what messages through the pipeline
/// and back take: once for every round of as many microbatches as there are stages (Pipette). Where ranks move them
/// themselves: once, and what the busiest rank has to do for every microbatch. What is found is then played.
pub(super) fn placed(task: &Task, found: &Found) -> Option<Found> {
    let Network::Pairs(pairs) = &task.machine.network else { return None };
    let [group] = task.machine.nodes.as_slice() else { return None };
    let n_nodes = task.machine.n_nodes();
    let plan = StagePlan::new(task, &found.layout).ok()?;
    let (p, per_stage) = (found.layout.degrees.pipeline, found.layout.degrees.per_stage());
    // Nodes of every stage; several stages may lie in one.
    let nodes_of: Vec<(usize, usize)> = (0..p)
        .map(|stage| (stage * per_stage / group.devices, ((stage + 1) * per_stage - 1) / group.devices))
        .collect();
    let both_ways = |a: usize, b: usize| pairs.bytes_per_s[a][b].min(pairs.bytes_per_s[b][a]);
    let ring = |order: &[usize], (first, last): (usize, usize)| -> f64 {
        let steps = (first..last).map(|at| (at, at + 1)).chain((first < last).then_some((last, first)));
        steps.map(|(a, b)| both_ways(order[a], order[b])).fold(f64::INFINITY, f64::min)
    };
    let given: Vec<usize> = (0..n_nodes).collect();
    // What is moved, from what it takes in the given order.
    let exchanged: Vec<f64> = (0..p)
        .map(|stage| match ring(&given, nodes_of[stage]) {
            slowest if slowest.is_finite() => plan.data_exchange(stage).exchange_s * slowest,
            _ => 0.0,
        })
        .collect();
    let mut own_s = vec![0.0_f64; p];
    for (stage, &rank) in plan.rank_of.iter().enumerate() {
        own_s[rank] += plan.seconds(stage).total() + plan.recompute_s(stage);
    }
    let hops: Vec<Hop> = plan
        .rank_of
        .windows(2)
        .map(|pair| (pair[0], pair[1]))
        .filter(|&(a, b)| nodes_of[a].0 != nodes_of[b].0)
        .map(|(a, b)| {
            let (seconds, latency_s) = plan.message_s(a, b);
            let nodes = [nodes_of[a].0, nodes_of[b].0];
            Hop { ranks: [a, b], nodes, bytes: (seconds - latency_s).max(0.0) * both_ways(nodes[0], nodes[1]) }
        })
        .collect();
    let (m, communication) = (plan.microbatches as f64, task.software.communication);
    let cost = |order: &[usize]| -> f64 {
        let exchange = exchanged.iter().zip(&nodes_of).map(|(bytes, nodes)| bytes / ring(order, *nodes));
        let seconds = |hop: &Hop| 2.0 * hop.bytes / both_ways(order[hop.nodes[0]], order[hop.nodes[1]]);
        let passes = match communication {
            Communication::Overlapped => (m / p as f64).max(1.0) * hops.iter().map(seconds).sum::<f64>(),
            Communication::Blocking => {
                let mut busy_s = own_s.clone();
                for hop in &hops {
                    // Both directions at once.
                    hop.ranks.iter().for_each(|&rank| busy_s[rank] += seconds(hop) / 2.0);
                }
                hops.iter().map(seconds).sum::<f64>() + m * busy_s.into_iter().fold(0.0, f64::max)
            }
        };
        exchange.fold(0.0, f64::max) + passes
    };
    let starts = (0..STARTS).map(|seed| anneal(n_nodes, MOVES, seed, &cost));
    // Costs are near each other without being exact, and those of an order and its reverse nearly the same: all are played.
    let both = starts.flat_map(|order| {
        let reverse: Vec<usize> = order.iter().rev().copied().collect();
        [order, reverse]
    });
    // Seeds often end alike.
    let mut known = BTreeSet::new();
    let played = both.filter(|order| known.insert(order.clone())).filter_map(|order| {
        let task = Task { machine: task.machine.in_order(&order), ..task.clone() };
        let prediction = StagePlan::new(&task, &found.layout).ok()?.predict(Effort::Full).ok()?;
        Some((prediction, order))
    });
    let fitting = played.filter(|(prediction, _)| prediction.missing_bytes() <= 0);
    let (prediction, order) = fitting.min_by(|a, b| a.0.step_s.total_cmp(&b.0.step_s))?;
    let is_better = prediction.step_s < found.prediction.step_s;
    is_better.then(|| Found { layout: found.layout.clone(), prediction, nodes: Some(order) })
}

/// A message between two ranks of the pipeline that are on different nodes.
struct Hop {
    ranks: [usize; 2],
    /// By place.
    nodes: [usize; 2],
    bytes: f64,
}
