//! What the stages of tied groups give each other.

use crate::{Costs, Link};
use mesh::Rank;
use schedule::{Action, Dependencies, Meeting, Schedule, StageOp};
use std::collections::{BTreeMap, HashMap};

/// The tied groups that a schedule reduces.
#[derive(Default)]
pub(crate) struct Tied {
    groups: BTreeMap<usize, Group>,
    /// The group whose share is complete on its rank when action `i` ends.
    shares: HashMap<usize, usize>,
    /// The group that action `i`, the first `REDUCE_GRAD` of it on its rank, sums.
    sums: HashMap<usize, usize>,
}

/// A tied group.
pub(crate) struct Group {
    /// Bytes that each rank gives to each of the others.
    pub given: BTreeMap<Rank, u64>,
    /// Bytes of the sum.
    pub sum_bytes: u64,
    /// From the moment the last share is complete until all are there.
    pub exchange_s: f64,
}

impl Tied {
    /// Those of a validated schedule.
    pub fn new(schedule: &Schedule, costs: &Costs, dependencies: &Dependencies) -> Self {
        let mut all = Self::default();
        for meeting in dependencies.meetings() {
            let Meeting::Tied(number) = *meeting else { continue };
            let stages = &schedule.tied[number];
            let mut given: BTreeMap<Rank, u64> = BTreeMap::new();
            for (i, (rank, action)) in schedule.actions().enumerate() {
                if let Action::Stage { op: StageOp::ReduceGradients, stage } = action
                    && stages.contains(&stage)
                {
                    if !given.contains_key(&rank) {
                        all.sums.insert(i, number);
                    }
                    *given.entry(rank).or_default() += costs.stages[stage.0].tied_bytes;
                }
            }
            for &rank in given.keys() {
                let position = schedule.tied_share(rank, stages);
                let share = position.map(|position| dependencies.actions_of(rank).start + position);
                all.shares.extend(share.map(|i| (i, number)));
            }
            let sum_bytes = stages.iter().map(|stage| costs.stages[stage.0].tied_bytes).max().unwrap_or(0);
            let exchange_s = exchange_s(&given, &costs.links);
            all.groups.insert(number, Group { given, sum_bytes, exchange_s });
        }
        all
    }

    /// The group of this number.
    pub fn group(&self, number: usize) -> &Group {
        &self.groups[&number]
    }

    /// The group whose share is complete when action `i` ends.
    pub fn share(&self, i: usize) -> Option<&Group> {
        // Most schedules tie nothing, and this is asked after every action.
        if self.groups.is_empty() { None } else { self.shares.get(&i).map(|number| &self.groups[number]) }
    }

    /// The group that action `i` sums.
    pub fn sum(&self, i: usize) -> Option<&Group> {
        self.sums.get(&i).map(|number| &self.groups[number])
    }
}

/// All links are at work at once; the slowest decides.
fn exchange_s(given: &BTreeMap<Rank, u64>, links: &[Link]) -> f64 {
    let at_work = links.iter().filter(|link| link.from != link.to && given.contains_key(&link.to));
    let of_link = |link: &Link| Some(link.latency_s + *given.get(&link.from)? as f64 / link.bytes_per_s);
    at_work.filter_map(of_link).fold(0.0, f64::max)
}
