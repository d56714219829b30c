//! The way of one microbatch through the stages.

use crate::{Hop, Rank, Stage};

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route(Vec<Visit>);

impl Route {
    /// A route over the given visits.
    ///
    /// # Panics
    /// If `visits` is empty: a microbatch that goes nowhere is our bug.
    pub fn new(visits: Vec<Visit>) -> Self {
        assert!(!visits.is_empty(), "a route visits at least one stage");
        Self(visits)
    }

    /// The visits in order.
    pub fn visits(&self) -> &[Visit] {
        &self.0
    }

    /// Number of visits.
    pub fn n_hops(&self) -> usize {
        self.0.len()
    }

    /// The visit at `hop`, if the route is that long.
    pub fn get(&self, hop: Hop) -> Option<Visit> {
        self.0.get(hop.0).copied()
    }

    /// The visit before `hop`: where the carry comes from. `None` at the source.
    pub fn before(&self, hop: Hop) -> Option<Visit> {
        self.0.get(hop.0.checked_sub(1)?).copied()
    }

    /// The visit after `hop`: where the carry goes. `None` at the end.
    pub fn after(&self, hop: Hop) -> Option<Visit> {
        self.0.get(hop.0 + 1).copied()
    }

    /// Whether `hop` is the last one: where the loss is.
    pub fn is_last(&self, hop: Hop) -> bool {
        hop.0 + 1 == self.0.len()
    }
}
