//! Which order a schedule that chooses between orders takes: played under all that costs, before it is taken.
//!
//! Generators know passes and one message time. They know neither single links, nor shared cores, nor what memory holds
//! beside activations, nor passes that are added after them.

use mesh::{Route, Stage};
use schedule::{Backward, Kind, PassTimes, Schedule, ScheduleError, Spec, generate_for, one_f_one_b_within};
use simulate::{Costs, SimulateError, Timeline, simulate};

/// How often a schedule is made again for less memory; a search over long steps tries less often.
pub const MOST_TRIES: usize = 16;
/// The least that a try gives back, in microbatches: a stage's activations of one are rarely a smaller part of a rank's.
const LEAST_STEP: f64 = 0.125;
/// What is faster by less is not faster.
const ROUNDING: f64 = 1e-9;

/// What there is to choose from and by.
#[derive(Clone)]
pub struct Choice<'a> {
    /// The schedule.
    pub spec: Spec,
    /// Of every microbatch.
    pub route: &'a Route,
    /// How many there are.
    pub n_microbatches: usize,
    /// Stages that share weights.
    pub tied: &'a [Vec<Stage>],
    /// What generators are told. Its memory limit is what they begin with.
    pub times: PassTimes,
    /// What candidates are played under.
    pub costs: &'a Costs,
    /// What becomes of a generated schedule: shards of the vocabulary, validation after the step.
    pub finish: &'a dyn Fn(Schedule) -> Result<Schedule, ScheduleError>,
    /// How often at most a schedule is made, again for less memory when more than activations did not fit.
    pub most_tries: usize,
    /// By how much a played step is above the memory limit, in the unit of `times.activation`; 0 where it is not.
    pub above: &'a dyn Fn(&Schedule, &Timeline) -> f64,
}

/// What was taken.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The schedule, finished.
    pub schedule: Schedule,
    /// As it was played; `None` where there was no choice, or the costs cannot be played.
    pub timeline: Option<Timeline>,
}

impl Chosen {
    /// As it was played, or is played now.
    ///
    /// # Errors
    /// When the costs cannot be played.
    pub fn played(self, costs: &Costs) -> Result<Timeline, SimulateError> {
        self.timeline.map_or_else(|| simulate(&self.schedule, costs), Ok)
    }
}

struct Candidate {
    chosen: Chosen,
    above: f64,
    makespan_s: f64,
}

impl Choice<'_> {
    /// The schedule that is taken.
    ///
    /// `zb-auto` is the fastest of what its generator makes, 1F1B with split backward under the same limit, and that as
    /// published where it keeps to the limit. When a memory limit is not kept, because messages and shards of the
    /// vocabulary take room too, `zb-auto` and `zb-v` are made again for less; if none of `most_tries`
    /// keeps to it, the one that is least above. Every other schedule is what its generator makes.
    ///
    /// # Errors
    /// When the schedule is not made for these numbers.
    pub fn best(&self) -> Result<Chosen, ScheduleError> {
        let Some(unlimited) = self.spec.kind.unlimited(self.n_ranks()) else {
            let schedule = (self.finish)(self.generated(self.spec, &self.times)?)?;
            return Ok(Chosen { schedule, timeline: None });
        };
        let mut times = self.times.clone();
        let microbatch = times.activation.iter().sum::<f64>() / self.n_ranks() as f64;
        let mut best: Option<Candidate> = None;
        for _ in 0..self.most_tries.max(1) {
            let candidates = match self.candidates(&times) {
                Ok(candidates) => candidates,
                // Less than one microbatch is left: the others were above the limit, and the best of them says so.
                Err(_) if best.is_some() => break,
                Err(error) => return Err(error),
            };
            for candidate in candidates {
                let schedule = (self.finish)(candidate)?;
                let Ok(timeline) = simulate(&schedule, self.costs) else {
                    return Ok(Chosen { schedule, timeline: None });
                };
                let (above, makespan_s) = ((self.above)(&schedule, &timeline), timeline.makespan_s());
                let played = Candidate { chosen: Chosen { schedule, timeline: Some(timeline) }, above, makespan_s };
                best = Some(match best {
                    Some(best) if !played.is_better_than(&best) => best,
                    _ => played,
                });
            }
            let above = best.as_ref().map_or(0.0, |best| best.above);
            if above <= 0.0 {
                break;
            }
            let most = unlimited as f64 * times.activation.iter().copied().fold(0.0, f64::max);
            *times.memory_limit.get_or_insert(most) -= above.max(LEAST_STEP * microbatch);
        }
        Ok(best.expect("invariant: the first try made one or returned").chosen)
    }

    fn n_ranks(&self) -> usize {
        self.route.visits().iter().map(|visit| visit.rank.0).max().map_or(1, |highest| highest + 1)
    }

    fn generated(&self, spec: Spec, times: &PassTimes) -> Result<Schedule, ScheduleError> {
        generate_for(spec, self.route, self.n_microbatches, self.tied, times)
    }

    /// What there is to choose from; of equals the first.
    fn candidates(&self, times: &PassTimes) -> Result<Vec<Schedule>, ScheduleError> {
        let made = self.generated(self.spec, times)?;
        if self.spec.kind != Kind::ZbAuto {
            return Ok(vec![made]);
        }
        let within = one_f_one_b_within(self.route, self.n_microbatches, self.tied, times)?;
        let published = self.generated(Spec { kind: Kind::OneFOneB, backward: Backward::Split }, times)?;
        // A reader sees whose order it is.
        let name = format!("{} (the order of 1F1B)", made.name);
        let renamed = |schedule| Schedule { name: name.clone(), ..schedule };
        Ok(vec![made, renamed(within), renamed(published)])
    }
}

impl Candidate {
    fn is_better_than(&self, other: &Self) -> bool {
        match self.above.total_cmp(&other.above) {
            std::cmp::Ordering::Equal => self.makespan_s < other.makespan_s * (1.0 - ROUNDING),
            order => order.is_lt(),
        }
    }
}
