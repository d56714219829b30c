//! The best of all layouts.

mod orders;
mod placing;
mod space;

pub use orders::search;
pub use space::{Fixed, Space, Trainer};

use crate::PlanError;
use crate::degrees::Degrees;
use crate::latency_model::LatencyModel;
use crate::step::{Effort, Layout, Prediction, StagePlan, Task};
use placing::placed;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

/// A layout that fits, and what it takes.
#[derive(Clone, Debug)]
pub struct Found {
    /// How.
    pub layout: Layout,
    /// What it takes and holds.
    pub prediction: Prediction,
    /// The machine's nodes in the order in which they take places, where it is not the machine's.
    pub nodes: Option<Vec<usize>>,
}

/// Why the best layout of some degrees was not taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// It does not fit: bytes missing on the fullest rank, in the least of its layouts.
    Memory(i64),
    /// A step takes at least this long.
    Slower(f64),
}

/// Everything a search tells.
#[derive(Clone, Debug)]
pub struct Search {
    /// The best layouts, of different degrees each, best first; empty when nothing fits.
    pub best: Vec<Found>,
    /// Other degrees and why they lost, those that came nearest first.
    pub lost: Vec<(Degrees, Reason)>,
    /// Of those that do not fit, the layout that misses least.
    pub nearest: Option<(Layout, i64)>,
    /// Layouts looked at.
    pub n_layouts: usize,
    /// Of these, how many were simulated.
    pub n_simulated: usize,
}

/// A layout and what it takes at least; the heap gives the smallest first.
struct Waiting {
    step_s: f64,
    order: usize,
    layout: Layout,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        other.step_s.total_cmp(&self.step_s).then(other.order.cmp(&self.order))
    }
}

/// Layouts are alternatives to the best when they take at most a twentieth longer.
const NEAR: f64 = 1.05;

/// The best layouts with the machine's nodes in the order of its groups. Layouts are simulated in the order of lower bounds of
/// their step, until no bound is below the best: what is left out cannot be better. Long steps are compared by two rounds of
/// their microbatches and what every further round takes; the best are then played in full.
fn search_in_order(task: &Task, space: &Space, n_best: usize) -> Result<Search, PlanError> {
    let (layouts, refusal) = space.layouts(task);
    let mut run = Run {
        task,
        predictor: space.predictor,
        best: Vec::new(),
        n_best,
        memory: BTreeMap::new(),
        slower: BTreeMap::new(),
        nearest: None,
        n_simulated: 0,
    };
    let mut waiting = BinaryHeap::new();
    let mut why: Option<PlanError> = refusal;
    let mut n_layouts = 0;
    // Coarse first: what no schedule undercuts.
    let mut coarse: Vec<(f64, usize)> = Vec::with_capacity(layouts.len());
    for (order, group) in layouts.iter().enumerate() {
        match space.coarse_bound(task, group) {
            Ok(step_s) => coarse.push((step_s, order)),
            Err(error) => why = Some(error),
        }
    }
    coarse.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut order = 0;
    for (step_s, group) in coarse {
        // Everything whose bound is below this one's comes first.
        run.simulate(&mut waiting, step_s);
        if step_s >= run.last_of_best() {
            run.lose(layouts[group].degrees, Reason::Slower(step_s));
            continue;
        }
        let schedules = space.schedules(task, &layouts[group]);
        // Schedules that place stages alike differ in nothing else before they are played.
        let mut cuts: Vec<StagePlan> = Vec::new();
        for layout in &schedules {
            n_layouts += 1;
            let known = cuts.iter().position(|plan| plan.is_cut_for(layout));
            let plan = match known.map_or_else(|| StagePlan::new(task, layout), |at| Ok(cuts.swap_remove(at))) {
                Ok(plan) => StagePlan { layout, ..plan },
                Err(error) => {
                    why = Some(error);
                    continue;
                }
            };
            let mut bound = plan.bound();
            if let Some(model) = space.predictor {
                bound.step_s = model.step_s(&plan.closed_form());
            }
            if bound.missing_bytes > 0 {
                run.misses(layout, bound.missing_bytes);
            } else if bound.step_s >= run.last_of_best() {
                run.lose(layout.degrees, Reason::Slower(bound.step_s));
            } else {
                order += 1;
                waiting.push(Waiting { step_s: bound.step_s, order, layout: layout.clone() });
            }
            cuts.push(plan);
        }
    }
    run.simulate(&mut waiting, f64::INFINITY);
    let is_empty = run.best.is_empty() && run.nearest.is_none();
    match why {
        tried if is_empty => {
            let (devices, fixed) = (task.machine.n_devices(), space.fixed);
            Err(PlanError::NoLayout { devices, fixed, tried: tried.map(Box::new) })
        }
        _ => {
            run.play_in_full();
            Ok(run.finish(n_layouts))
        }
    }
}

struct Run<'a> {
    task: &'a Task,
    predictor: Option<LatencyModel>,
    best: Vec<Found>,
    n_best: usize,
    memory: BTreeMap<Degrees, i64>,
    slower: BTreeMap<Degrees, f64>,
    nearest: Option<(Layout, i64)>,
    n_simulated: usize,
}

impl Run<'_> {
    fn step_s(&self, found: &Found) -> f64 {
        found.prediction.by(self.predictor)
    }

    /// What is not better than this is not of interest.
    fn last_of_best(&self) -> f64 {
        let Some(first) = self.best.first() else { return f64::INFINITY };
        let last = self.best.get(self.n_best - 1).map_or(f64::INFINITY, |found| self.step_s(found));
        let near = if self.n_best > 1 { NEAR } else { 1.0 };
        last.min(self.step_s(first) * near)
    }

    /// Simulates what may be better than `until_s`, in order of bounds.
    fn simulate(&mut self, waiting: &mut BinaryHeap<Waiting>, until_s: f64) {
        while let Some(next) = waiting.peek() {
            if next.step_s > until_s {
                break;
            }
            let Some(Waiting { step_s, layout, .. }) = waiting.pop() else { break };
            if step_s >= self.last_of_best() {
                self.lose(layout.degrees, Reason::Slower(step_s));
                continue;
            }
            // A schedule may not exist for so few microbatches: then it is none.
            let prediction = StagePlan::new(self.task, &layout).and_then(|plan| plan.predict(Effort::Search));
            self.n_simulated += 1;
            let Ok(prediction) = prediction else { continue };
            let missing = prediction.missing_bytes();
            if missing > 0 {
                self.misses(&layout, missing);
            } else {
                self.take(Found { layout, prediction, nodes: None });
            }
        }
    }

    /// Keeps the best of each degrees.
    fn take(&mut self, found: Found) {
        let degrees = found.layout.degrees;
        match self.best.iter().position(|other| other.layout.degrees == degrees) {
            Some(at) if self.step_s(&self.best[at]) <= self.step_s(&found) => return,
            Some(at) => {
                self.best.remove(at);
            }
            None => {}
        }
        let at = self.best.partition_point(|other| self.step_s(other) <= self.step_s(&found));
        self.best.insert(at, found);
        for beaten in self.best.drain(self.n_best.min(self.best.len())..).collect::<Vec<Found>>() {
            self.lose(beaten.layout.degrees, Reason::Slower(self.step_s(&beaten)));
        }
    }

    fn play_in_full(&mut self) {
        for found in std::mem::take(&mut self.best) {
            let Found { layout, prediction, .. } = found;
            // What could be played shorter can be played.
            let prediction = StagePlan::new(self.task, &layout).and_then(|plan| plan.in_full(prediction));
            let Ok(prediction) = prediction else { continue };
            match prediction.missing_bytes() {
                missing if missing > 0 => self.misses(&layout, missing),
                _ => {
                    let found = Found { layout, prediction, nodes: None };
                    self.take(placed(self.task, &found).unwrap_or(found));
                }
            }
        }
    }

    fn misses(&mut self, layout: &Layout, missing: i64) {
        self.lose(layout.degrees, Reason::Memory(missing));
        if self.nearest.as_ref().is_none_or(|(_, least)| missing < *least) {
            self.nearest = Some((layout.clone(), missing));
        }
    }

    fn lose(&mut self, degrees: Degrees, reason: Reason) {
        match reason {
            Reason::Memory(missing) => {
                let least = self.memory.entry(degrees).or_insert(missing);
                *least = missing.min(*least);
            }
            Reason::Slower(step_s) => {
                let least = self.slower.entry(degrees).or_insert(step_s);
                *least = step_s.min(*least);
            }
        }
    }

    fn finish(self, n_layouts: usize) -> Search {
        let is_best = |degrees: &Degrees| self.best.iter().any(|found| found.layout.degrees == *degrees);
        let mut slower: Vec<(Degrees, Reason)> = self
            .slower
            .iter()
            .filter(|(degrees, _)| !is_best(degrees))
            .map(|(d, s)| (*d, Reason::Slower(*s)))
            .collect();
        let misses = self.memory.iter().filter(|(degrees, _)| !is_best(degrees) && !self.slower.contains_key(degrees));
        let mut misses: Vec<(Degrees, Reason)> = misses.map(|(d, m)| (*d, Reason::Memory(*m))).collect();
        let size = |reason: &Reason| match reason {
            Reason::Memory(missing) => *missing as f64,
            Reason::Slower(step_s) => *step_s,
        };
        slower.sort_by(|a, b| size(&a.1).total_cmp(&size(&b.1)));
        misses.sort_by(|a, b| size(&a.1).total_cmp(&size(&b.1)));
        let lost = slower.into_iter().chain(misses).collect();
        Search { best: self.best, lost, nearest: self.nearest, n_layouts, n_simulated: self.n_simulated }
    }
}
