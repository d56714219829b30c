//! The way of one microbatch through the stages.

use crate::{Hop, Rank, Stage};
use std::sync::Arc;

/// One stop of a route: a stage, and the rank that holds the replica of it to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Visit {
    /// The stage whose blocks are applied.
    pub stage: Stage,
    /// Where.
    pub rank: Rank,
}

/// The stages a microbatch visits, in order. Visiting a stage twice, skipping one, or choosing among replicas are
/// all ordinary; the next hop is the next element and never `stage + 1`.
///
/// Clones share their visits: a step's microbatches usually take one route, and passes over schedules copy it for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    visits: Arc<[Visit]>,
    /// Whether any stage is visited more than once.
    comes_back: bool,
}

impl Route {
    /// A route over the given visits.
    ///
    /// # Panics
    /// If `visits` is empty: a microbatch that goes nowhere is our bug.
    pub fn new(visits: Vec<Visit>) -> Self {
        assert!(!visits.is_empty(), "a route visits at least one stage");
        let mut stages: Vec<Stage> = visits.iter().map(|visit| visit.stage).collect();
        stages.sort_unstable();
        let comes_back = stages.windows(2).any(|pair| pair[0] == pair[1]);
        Self { visits: visits.into(), comes_back }
    }

    /// The visits in order.
    pub fn visits(&self) -> &[Visit] {
        &self.visits
    }

    /// Number of visits.
    pub fn n_hops(&self) -> usize {
        self.visits.len()
    }

    /// Whether `stage` is visited more than once.
    pub fn comes_back_to(&self, stage: Stage) -> bool {
        self.comes_back && self.visits.iter().filter(|visit| visit.stage == stage).count() > 1
    }

    /// The visit at `hop`, if the route is that long.
    pub fn get(&self, hop: Hop) -> Option<Visit> {
        self.visits.get(hop.0).copied()
    }

    /// The visit before `hop`: where the carry comes from. `None` at the source.
    pub fn before(&self, hop: Hop) -> Option<Visit> {
        self.visits.get(hop.0.checked_sub(1)?).copied()
    }

    /// The visit after `hop`: where the carry goes. `None` at the end.
    pub fn after(&self, hop: Hop) -> Option<Visit> {
        self.visits.get(hop.0 + 1).copied()
    }

    /// Whether `hop` is the last one: where the loss is.
    pub fn is_last(&self, hop: Hop) -> bool {
        hop.0 + 1 == self.visits.len()
    }
}
