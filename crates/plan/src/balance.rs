//! Stages of equal cost.

mod unequal;

pub use unequal::balance_unequal;

use crate::{MicrobatchShape, Shards, block_cost};
use architecture::{Architecture, ArchitectureError, Partition};
use std::cmp::Ordering;

/// The model cut into `n_stages` stages of equal training operations, as far as its blocks allow. Recomputation does
/// not move the cuts: it adds the same third to every stage that has it. What `shards` of the vocabulary do is no stage's.
///
/// # Errors
/// As [`partition_by`].
pub fn partition(
    architecture: &Architecture,
    shape: MicrobatchShape,
    n_stages: usize,
    shards: Option<Shards>,
) -> Result<Partition, ArchitectureError> {
    let cost = |block| block_cost(architecture, block, shape, shards).training_flops() as f64;
    let costs: Vec<f64> = architecture.blocks().into_iter().map(cost).collect();
    partition_by(architecture, &costs, n_stages)
}

/// The model cut into `n_stages` stages of equal cost, given what each of its blocks costs in any unit, such as
/// measured seconds.
///
/// # Errors
/// [`ArchitectureError::TooManyStages`] when there are fewer blocks than stages, [`ArchitectureError::Partition`] when
/// there is no stage.
///
/// # Panics
/// If there is not one cost per block, or one is negative or not finite.
pub fn partition_by(
    architecture: &Architecture,
    costs: &[f64],
    n_stages: usize,
) -> Result<Partition, ArchitectureError> {
    let blocks = architecture.blocks().len();
    assert_eq!(costs.len(), blocks, "one cost per block");
    match n_stages {
        0 => Partition::new(architecture, &[]),
        _ if n_stages > blocks => Err(ArchitectureError::TooManyStages { blocks, stages: n_stages }),
        _ => Partition::new(architecture, &balance(costs, n_stages)),
    }
}

/// Sizes of `n_stages` runs of consecutive blocks, every run at least one block, whose largest cost is smallest.
///
/// Among equals the second largest cost is smallest, then the third, and so on: the most even cut. Among cuts with the
/// same costs, early stages have the fewest blocks, because early stages keep the most microbatches alive.
///
/// The linear-partition dynamic programme over (stages, blocks), as GPipe (Huang et al., 2019) cuts its cells:
/// `n_stages * blocks^2 / 2` sums, and a comparison of up to `n_stages` costs where the largest tie. Adding a stage to
/// two cuts of the same blocks does not change which of them is more even, so the best cut has best beginnings.
///
/// # Panics
/// If there are fewer blocks than stages, no stages, or a cost that is negative or not finite.
pub fn balance(costs: &[f64], n_stages: usize) -> Vec<usize> {
    assert!((1..=costs.len()).contains(&n_stages), "{} blocks in {n_stages} stages", costs.len());
    assert!(costs.iter().all(|cost| cost.is_finite() && *cost >= 0.0), "costs are finite and not negative: {costs:?}");
    // best[i]: the first i blocks in as many stages as rounds have passed, where that is possible.
    let mut best: Vec<Option<Cut>> = vec![None; costs.len() + 1];
    best[0] = Some(Cut { descending: Vec::new(), sizes: Vec::new() });
    for _ in 0..n_stages {
        best = (0..=costs.len()).map(|end| best_ending_at(end, &best, costs)).collect();
    }
    let whole = best.pop().flatten();
    whole.expect("invariant: at least as many blocks as stages can be cut").sizes
}

/// A cut of the first blocks.
#[derive(Clone, Debug)]
struct Cut {
    /// Costs of its stages, largest first.
    descending: Vec<f64>,
    sizes: Vec<usize>,
}

impl Cut {
    fn with_stage(&self, cost: f64, size: usize) -> Self {
        let mut cut = self.clone();
        let place = cut.descending.partition_point(|&other| other > cost);
        cut.descending.insert(place, cost);
        cut.sizes.push(size);
        cut
    }

    fn largest(&self) -> f64 {
        self.descending.first().copied().unwrap_or(0.0)
    }

    fn compare(&self, other: &Self) -> Ordering {
        let costs = self.descending.iter().zip(&other.descending).map(|(a, b)| a.total_cmp(b));
        costs.fold(Ordering::Equal, Ordering::then).then_with(|| self.sizes.cmp(&other.sizes))
    }
}

/// The best way to add one stage to `before` so that the first `end` blocks are covered.
fn best_ending_at(end: usize, before: &[Option<Cut>], costs: &[f64]) -> Option<Cut> {
    let mut best: Option<Cut> = None;
    let mut cost = 0.0;
    for start in (0..end).rev() {
        cost += costs[start];
        let Some(head) = &before[start] else { continue };
        let worse = |best: &Cut| head.largest().max(cost) > best.largest();
        if best.as_ref().is_some_and(worse) {
            continue;
        }
        let cut = head.with_stage(cost, end - start);
        if best.as_ref().is_none_or(|best| cut.compare(best).is_lt()) {
            best = Some(cut);
        }
    }
    best
}
