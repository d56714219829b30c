//! The passes of a step, played by the simulator.

use super::{Over, Prediction, StagePlan, Traffic};
use crate::PlanError;
use crate::choice::{Choice, MOST_TRIES};
use crate::cost::pass_times;
use crate::latency_model::{ClosedForm, LatencyModel};
use mesh::{Grid, Rank, StageMap};
use schedule::{Backward, PassTimes, Schedule, ScheduleError};
use simulate::{Category, Costs, Link, StageCost, Timeline, bubbles, idle_fraction};

/// How exactly passes are played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effort {
    /// All of them, up to 250,000 actions; what is longer by the microbatches that fit and what every further round takes.
    Full,
    /// The same from 12,000 actions on, by at least two rounds of as many microbatches as there are ranks: for comparing.
    /// Nobody reads where idle time comes from, so that shares of it are left 0.
    Search,
}

/// Passes with more actions than this are played with fewer microbatches, and the time of those left out is added: in a
/// long step every further round of microbatches takes as long as the one before it. Two tenths of a second of simulation.
const ACTIONS_MAX: usize = 250_000;
/// The same while layouts are compared.
const SEARCHED_ACTIONS_MAX: usize = 12_000;

/// How often schedules that choose are made again for less memory while long steps are compared.
const SEARCHED_TRIES: usize = 3;

/// What is played.
#[derive(Clone, Debug)]
pub struct Playing {
    /// Stages, links, communication.
    pub costs: Costs,
    stage_map: StageMap,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Played {
    /// From the first forward to the last backward.
    pub seconds: f64,
    /// Share of it in which ranks do nothing.
    pub bubble: f64,
    /// Of these, the share in which ranks move messages between stages or wait for those on their way.
    pub messages: f64,
    /// Bytes by rank and category at the fullest moment of the rank.
    pub memory: Vec<[u64; 6]>,
    /// What was simulated: the whole step unless it is too long.
    pub timeline: Timeline,
}

impl StagePlan<'_> {
    /// Everything about a step, passes played as exactly as `effort` says.
    ///
    /// # Errors
    /// When the schedule does not exist for these stages and microbatches.
    pub fn predict(&self, effort: Effort) -> Result<Prediction, PlanError> {
        let played = self.play(effort)?;
        let n_ranks = self.layout.degrees.pipeline;
        let exchanges: Vec<_> = (0..n_ranks).map(|rank| self.data_exchange(rank)).collect();
        let slowest =
            exchanges.iter().max_by(|a, b| (a.exchange_s + a.optimizer_s).total_cmp(&(b.exchange_s + b.optimizer_s)));
        let slowest = slowest.copied().unwrap_or_default();
        let step_s = played.seconds + slowest.exchange_s + slowest.optimizer_s;
        let batch = self.task.batch;
        let tokens = (batch.rows * batch.tokens) as f64;
        let flops = self.task.model.training_flops_per_token(batch.tokens) * tokens;
        let peak = self.task.machine.peak(self.task.software.precision);
        let used = peak * self.layout.degrees.n_devices() as f64 / self.task.machine.n_devices() as f64;
        Ok(Prediction {
            step_s,
            closed_s: LatencyModel::ALL.map(|model| model.step_s(&self.closed_form())),
            passes_s: played.seconds,
            exchange_s: slowest.exchange_s,
            optimizer_s: slowest.optimizer_s,
            bubble: played.bubble,
            message_share: played.messages,
            collective_share: (0..n_ranks).map(|rank| self.collective_share(rank)).fold(0.0, f64::max),
            peak_share: flops / step_s / used,
            tokens_per_s: tokens / step_s,
            memory: played.memory,
            usable: (0..n_ranks).map(|rank| self.usable_bytes(rank)).collect(),
            traffic: self.traffic(),
            sizes: self.stages.iter().map(Vec::len).collect(),
            timeline: played.timeline,
            microbatches: self.microbatches,
        })
    }

    /// What closed formulas are told: the slowest rank's passes, the mean hop.
    pub(crate) fn closed_form(&self) -> ClosedForm {
        let n_ranks = self.layout.degrees.pipeline;
        let (mut forward, mut backward) = (vec![0.0_f64; n_ranks], vec![0.0_f64; n_ranks]);
        for (stage, &rank) in self.rank_of.iter().enumerate() {
            let seconds = self.seconds(stage);
            forward[rank] += seconds.forward;
            backward[rank] += seconds.input + seconds.weight + self.recompute_s(stage);
        }
        let slowest = (0..n_ranks).max_by(|&a, &b| (forward[a] + backward[a]).total_cmp(&(forward[b] + backward[b])));
        let slowest = slowest.unwrap_or(0);
        let hops = self.rank_of.windows(2).filter(|pair| pair[0] != pair[1]);
        let hops: Vec<f64> = hops.map(|pair| self.message_s(pair[0], pair[1]).0).collect();
        let after = (0..n_ranks).map(|rank| {
            let exchange = self.data_exchange(rank);
            exchange.exchange_s + exchange.optimizer_s
        });
        ClosedForm {
            stages: n_ranks,
            microbatches: self.microbatches,
            forward_s: forward[slowest],
            backward_s: backward[slowest],
            message_s: hops.iter().sum::<f64>() / hops.len().max(1) as f64,
            exchange_s: after.fold(0.0, f64::max),
        }
    }

    /// Bytes that every device of a pipeline rank may hold.
    pub fn usable_bytes(&self, rank: usize) -> u64 {
        let first = self.first_device(rank);
        let mut begin = 0;
        let mut least = u64::MAX;
        for group in &self.task.machine.nodes {
            let end = begin + group.count * group.devices;
            if begin < first + self.layout.degrees.per_stage() && end > first {
                least = least.min(group.device.usable_bytes());
            }
            begin = end;
        }
        least
    }

    /// What a search found, with all of it played. What was played whole is not played again: it fits, so that more tries for
    /// less memory would have ended with the same.
    ///
    /// # Errors
    /// As [`StagePlan::predict`].
    pub(crate) fn in_full(&self, found: Prediction) -> Result<Prediction, PlanError> {
        if self.n_played(Effort::Search) < self.microbatches || found.missing_bytes() > 0 {
            return self.predict(Effort::Full);
        }
        let (bubble, message_share) = idle_shares(&found.timeline, &self.playing().costs);
        Ok(Prediction { bubble, message_share, ..found })
    }

    /// Microbatches that are played: all, or those at the beginning of a long step.
    fn n_played(&self, effort: Effort) -> usize {
        let (m, n_ranks) = (self.microbatches, self.layout.degrees.pipeline);
        let (actions_max, least_rounds) = match effort {
            Effort::Full => (ACTIONS_MAX, 3),
            Effort::Search => (SEARCHED_ACTIONS_MAX, 2),
        };
        if m * self.actions_per_microbatch() <= actions_max || m <= (least_rounds + 1) * n_ranks {
            return m;
        }
        // As many as fit, as many more than whole rounds as in the real step.
        let rounds = (actions_max / self.actions_per_microbatch() / n_ranks).max(least_rounds);
        (rounds * n_ranks + m % n_ranks).min(m)
    }

    fn actions_per_microbatch(&self) -> usize {
        self.stages.len() * if self.splits_backward() { 7 } else { 6 }
    }

    fn play(&self, effort: Effort) -> Result<Played, PlanError> {
        let playing = self.playing();
        let (m, n_ranks) = (self.microbatches, self.layout.degrees.pipeline);
        // What is short is played alike, so that a search compares what a prediction then says.
        let is_short = m * self.actions_per_microbatch() <= SEARCHED_ACTIONS_MAX;
        let most_tries = if effort == Effort::Full || is_short { MOST_TRIES } else { SEARCHED_TRIES };
        let long = self.n_played(effort);
        if long == m {
            return playing.play(self, m, effort, most_tries);
        }
        let short = long - n_ranks;
        let (short, mut long, left) = (
            playing.play(self, short, effort, most_tries)?,
            playing.play(self, long, effort, most_tries)?,
            (m - long) as f64,
        );
        let per_further = (long.seconds - short.seconds) / n_ranks as f64;
        if effort == Effort::Search {
            long.seconds += per_further * left;
            return Ok(long);
        }
        let busy = (1.0 - long.bubble) * long.seconds;
        let short_busy = (1.0 - short.bubble) * short.seconds;
        let all_busy = busy + (busy - short_busy) / n_ranks as f64 * left;
        let messages_s = long.messages * long.seconds;
        let further_s = (messages_s - short.messages * short.seconds) / n_ranks as f64 * left;
        long.seconds += per_further * left;
        long.bubble = 1.0 - all_busy / long.seconds;
        long.messages = (messages_s + further_s.max(0.0)) / long.seconds;
        Ok(long)
    }

    pub(crate) fn splits_backward(&self) -> bool {
        self.layout.spec.backward == Backward::Split || self.layout.spec.kind.places_weight_passes()
    }

    /// Costs of the stages, with what is resident on every rank, and of the links between ranks.
    pub fn playing(&self) -> Playing {
        let mut stages: Vec<StageCost> = (0..self.stages.len()).map(|stage| self.stage_cost(stage)).collect();
        for rank in 0..self.layout.degrees.pipeline {
            let first = self.rank_of.iter().position(|&of| of == rank);
            stages[first.expect("invariant: every rank has a stage")].resident = self.resident(rank);
        }
        let mut links: Vec<Link> = Vec::new();
        for pair in self.rank_of.windows(2).filter(|pair| pair[0] != pair[1]) {
            for (from, to) in [(pair[0], pair[1]), (pair[1], pair[0])] {
                if links.iter().any(|link| link.from.0 == from && link.to.0 == to) {
                    continue;
                }
                let (seconds, latency_s) = self.message_s(from, to);
                let bytes_per_s = self.carry_bytes as f64 / (seconds - latency_s).max(f64::MIN_POSITIVE);
                links.push(Link { from: Rank(from), to: Rank(to), latency_s, bytes_per_s });
            }
        }
        let grids = self.rank_of.iter().map(|&rank| Grid::single(Rank(rank))).collect();
        let costs = Costs { stages, links, communication: self.task.software.communication, ..Costs::default() };
        Playing { costs, stage_map: StageMap::new(grids).expect("invariant: at least one stage") }
    }

    fn traffic(&self) -> Traffic {
        let degrees = self.layout.degrees;
        let m = self.microbatches as f64;
        let machine = &self.task.machine;
        let ranks = || 0..degrees.pipeline;
        let busiest = |of: &dyn Fn(usize) -> f64| ranks().map(of).fold(0.0, f64::max);
        let within = ranks().find(|_| degrees.tensor * degrees.context * degrees.expert > 1).and_then(|rank| {
            let span = degrees.expert.max(degrees.tensor * degrees.context);
            Over::of(machine.path(self.first_device(rank), span, 1).reach)
        });
        let hops = self.rank_of.windows(2).filter(|pair| pair[0] != pair[1]);
        let between = hops.map(|pair| {
            let (low, high) = (self.first_device(pair[0].min(pair[1])), self.first_device(pair[0].max(pair[1])));
            machine.path(low, 2, high - low).reach
        });
        let exchange = ranks().map(|rank| self.data_exchange(rank)).max_by(|a, b| a.bytes.total_cmp(&b.bytes));
        let exchange = exchange.unwrap_or_default();
        let sends = |rank: usize| {
            let of_rank = self.rank_of.windows(2).filter(|pair| pair[0] != pair[1] && pair.contains(&rank));
            of_rank.count() as f64 * self.carry_bytes as f64 * m
        };
        Traffic {
            within_layers: busiest(&|rank| self.traffic_bytes(rank)) * m,
            between_stages: busiest(&sends),
            between_replicas: exchange.bytes,
            over: [within, between.max().and_then(Over::of), exchange.over],
        }
    }
}

impl Playing {
    /// Makes the schedule of `microbatches` and simulates it.
    fn play(
        &self,
        plan: &StagePlan,
        microbatches: usize,
        effort: Effort,
        most_tries: usize,
    ) -> Result<Played, PlanError> {
        let route = self.stage_map.route();
        let message = self.costs.links.iter().map(|link| link.latency_s + plan.carry_bytes as f64 / link.bytes_per_s);
        let mut times = pass_times(&route, &self.costs.stages);
        times.message = message.fold(0.0, f64::max);
        times.memory_limit = self.memory_limit(plan);
        let ranks = 0..plan.layout.degrees.pipeline;
        let usable: Vec<u64> = ranks.clone().map(|rank| plan.usable_bytes(rank)).collect();
        let above = |_: &Schedule, timeline: &Timeline| {
            let peaks = fullest(timeline).into_iter().map(|bytes| bytes.iter().sum::<u64>());
            peaks.zip(&usable).map(|(peak, usable)| peak.saturating_sub(*usable)).max().unwrap_or(0) as f64
        };
        let choice = Choice {
            spec: plan.layout.spec,
            route: &route,
            n_microbatches: microbatches,
            tied: &[],
            times,
            costs: &self.costs,
            finish: &Ok,
            most_tries,
            above: &above,
        };
        let chosen = match choice.best() {
            // Less than a microbatch fits. Played as if more did, so that it can be told by how much it does not.
            Err(ScheduleError::MemoryLimit { .. }) => {
                let times = PassTimes { memory_limit: None, ..choice.times.clone() };
                Choice { times, ..choice }.best()?
            }
            chosen => chosen?,
        };
        let timeline = chosen.played(&self.costs)?;
        let (bubble, messages) = match effort {
            Effort::Full => idle_shares(&timeline, &self.costs),
            Effort::Search => (0.0, 0.0),
        };
        let memory = fullest(&timeline);
        Ok(Played { seconds: timeline.makespan_s(), bubble, messages, memory, timeline })
    }

    /// Bytes of activations that every rank has room for, where a schedule that asks for a limit would take more.
    fn memory_limit(&self, plan: &StagePlan) -> Option<f64> {
        let n_ranks = plan.layout.degrees.pipeline;
        let stages = || self.costs.stages.iter().zip(&plan.rank_of);
        let largest = stages().map(|(stage, _)| stage.activation_bytes + stage.logit_bytes).max().unwrap_or(0);
        let wanted = plan.layout.spec.kind.unlimited(n_ranks)? as u64 * largest;
        let room = (0..n_ranks).map(|rank| {
            let own = || stages().filter(|(_, of)| **of == rank).map(|(stage, _)| stage);
            let sum = |list: &[(Category, u64)]| list.iter().map(|(_, bytes)| bytes).sum::<u64>();
            let resident: u64 = own().map(|stage| sum(&stage.resident)).sum();
            let scratch = own().map(|stage| sum(&stage.backward_scratch)).max().unwrap_or(0);
            plan.usable_bytes(rank).saturating_sub(resident + scratch)
        });
        let room = room.min().unwrap_or(0);
        (room < wanted).then_some(room as f64)
    }
}

/// Shares of the passes in which ranks do nothing, and of these in which they move messages or wait for them.
fn idle_shares(timeline: &Timeline, costs: &Costs) -> (f64, f64) {
    let of_ranks = bubbles(timeline, costs);
    let messages_s: f64 = of_ranks.iter().map(|rank| rank.communication_s).sum();
    let all_s = timeline.makespan_s() * timeline.n_ranks as f64;
    (idle_fraction(&of_ranks), messages_s / all_s.max(f64::MIN_POSITIVE))
}

/// What is live at every rank's fullest moment, of equals the last.
fn fullest(timeline: &Timeline) -> Vec<[u64; 6]> {
    let mut fullest = vec![(0, [0; 6]); timeline.n_ranks];
    for sample in &timeline.memory {
        let (bytes, most) = (sample.bytes.iter().sum::<u64>(), &mut fullest[sample.rank.0]);
        if bytes >= most.0 {
            *most = (bytes, sample.bytes);
        }
    }
    fullest.into_iter().map(|(_, bytes)| bytes).collect()
}
