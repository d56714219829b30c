//! Published schedules under all that a simulation is told.

use super::{MemoryLimit, Setting, Simulation, VocabularyMode};
use mesh::{Rank, StageMap};
use plan::{Choice, MOST_TRIES};
use schedule::{Kind, Schedule, ScheduleError, Spec};
use simulate::Timeline;

impl Setting {
    /// The simulation of a published schedule; those that choose between orders do as [`Choice::best`] says, under the
    /// simulation's memory limit.
    ///
    /// # Errors
    /// When the schedule is not made for these numbers, or not for this treatment of the vocabulary.
    pub fn simulation(
        &self,
        kind: Kind,
        vocabulary: VocabularyMode,
        stage_map: StageMap,
    ) -> Result<Simulation, ScheduleError> {
        let mut planned = self.planned(vocabulary, &stage_map);
        // The vocabulary's passes will add a microbatch for each barrier, and there is no schedule with less than one.
        let n_added = vocabulary.n_barriers() as f64;
        planned.times.memory_limit = planned.times.memory_limit.map(|limit| (limit - n_added).max(limit.min(1.0)));
        let route = stage_map.route();
        let costs = self.costs(vocabulary, &planned);
        let simulation_of = |schedule: Schedule| self.simulation_from(schedule, &stage_map, &costs, &planned);
        let choice = Choice {
            spec: Spec { kind, backward: self.backward },
            route: &route,
            n_microbatches: self.n_microbatches,
            tied: &[],
            times: planned.times.clone(),
            costs: &costs,
            finish: &|schedule| self.with_vocabulary(schedule, vocabulary, &planned),
            most_tries: MOST_TRIES,
            above: &|schedule, timeline| self.above(&simulation_of(schedule.clone()), timeline),
        };
        Ok(simulation_of(choice.best()?.schedule))
    }

    /// By how much the fullest rank is above the memory limit, in microbatches.
    fn above(&self, simulation: &Simulation, timeline: &Timeline) -> f64 {
        let Some(limit) = self.memory_limit else { return 0.0 };
        let activations = simulation.peak_activations().into_iter().fold(0.0, f64::max);
        let bytes = (0..self.n_ranks).map(|rank| timeline.peak_bytes(Rank(rank))).max().unwrap_or(0);
        let above = limit.above(activations, bytes);
        match limit {
            MemoryLimit::Microbatches(_) => above,
            MemoryLimit::Bytes(_) => above / self.microbatch_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::simulation_file::{Request, Simulation, simulation};
    use mesh::Rank;

    /// What `sets` over equal passes mean.
    fn asked(sets: &[String]) -> Simulation {
        let options = sets.iter().map(|set| (format!("--set {set}"), set.clone())).collect();
        simulation(&Request { file: None, options }).unwrap_or_else(|problems| panic!("{sets:?}: {problems}"))
    }

    fn with(sets: &[String], further: &[&str]) -> Simulation {
        asked(&sets.iter().cloned().chain(further.iter().map(|set| (*set).to_owned())).collect::<Vec<String>>())
    }

    fn makespan_us(simulation: &Simulation) -> f64 {
        simulate::simulate(&simulation.schedule, &simulation.costs).unwrap().makespan_s() * 1e6
    }

    /// Numbers below `n`, the same in every run (the generator of Knuth's MMIX).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % n
        }

        fn list(&mut self, n: u64, below: u64, least: u64) -> String {
            let all: Vec<String> = (0..n).map(|_| (least + self.below(below)).to_string()).collect();
            format!("[{}]", all.join(","))
        }
    }

    /// Both limits in microbatches and none, all kinds of links: never slower than 1F1B with split backward wherever
    /// that keeps to the limit.
    #[test]
    fn zb_auto_is_no_slower_than_1f1b_under_any_links() {
        let mut numbers = Numbers(7);
        let (mut n_of_1f1b, mut n_compared) = (0, 0);
        for case in 0..1200 {
            let (p, m) = (2 + numbers.below(4), 1 + numbers.below(9));
            let mut sets = vec![format!("ranks={p}"), format!("microbatches={m}")];
            sets.push(format!("costs.forward_us={}", numbers.list(p, 4, 1)));
            sets.push(format!("costs.backward_input_us={}", numbers.list(p, 4, 1)));
            sets.push(format!("costs.backward_weight_us={}", numbers.list(p, 4, 0)));
            sets.push(format!("costs.message_bytes={}", 10_000 * numbers.below(5)));
            sets.push("links.gbytes_per_s=20".to_owned());
            let slow = numbers.below(p - 1);
            sets.push(format!("links.between=[{{ranks=[{slow},{}],latency_us={}}}]", slow + 1, numbers.below(5)));
            sets.push(format!("links.communication=\"{}\"", ["blocking", "overlapped"][case % 2]));
            let limit = 1 + numbers.below(2 * p);
            if case % 3 > 0 {
                sets.push(format!("memory_limit={limit}"));
            }
            let auto = with(&sets, &["schedule=\"zb-auto\""]);
            let plain = with(&sets, &["schedule=\"1f1b\"", "backward=\"split\""]);
            n_of_1f1b += u32::from(auto.schedule.name.contains("1F1B"));
            let fits = |simulation: &Simulation| {
                let peaks = simulation.peak_activations();
                case % 3 == 0 || peaks.iter().all(|&peak| peak <= limit as f64 + 1e-9)
            };
            assert!(fits(&auto), "{sets:?}");
            if fits(&plain) {
                n_compared += 1;
                let (auto_us, plain_us) = (makespan_us(&auto), makespan_us(&plain));
                assert!(auto_us <= plain_us * (1.0 + 1e-9), "{auto_us} {plain_us} {sets:?}");
            }
        }
        println!("1200 settings: 1F1B's order taken in {n_of_1f1b}; 1F1B kept to the limit in {n_compared}");
        assert!(n_of_1f1b > 0 && n_compared > 600);
    }

    /// Limits in bytes that logits, messages and shards take a part of.
    #[test]
    fn limits_in_bytes_are_kept() {
        for (ranks, limit, schedule, further) in [
            (4, 4_000_000, "zb-v", &["costs.logit_bytes=500_000", "costs.vocabulary_us=0.5"][..]),
            (4, 4_000_000, "zb-auto", &["costs.logit_bytes=500_000", "costs.vocabulary_us=0.5"]),
            (2, 3_050_000, "zb-auto", &["costs.message_bytes=100_000"]),
            (3, 5_000_000, "zb-v", &["costs.message_bytes=70_000", "costs.resident_bytes=1_300_000"]),
            (
                4,
                6_000_000,
                "zb-auto",
                &["costs.logit_bytes=300_000", "costs.vocabulary_us=0.5", "vocabulary=\"one-barrier\""],
            ),
        ] {
            let sets = [
                format!("ranks={ranks}"),
                "microbatches=8".to_owned(),
                "costs.activation_bytes=1_000_000".to_owned(),
                format!("memory_limit=\"{limit} B\""),
                format!("schedule=\"{schedule}\""),
            ];
            let made = with(&sets, further);
            let timeline = simulate::simulate(&made.schedule, &made.costs).unwrap();
            for rank in 0..ranks {
                let peak = timeline.peak_bytes(Rank(rank));
                assert!(peak <= limit, "{schedule} on {ranks}: rank {rank} holds {peak} of {limit}");
            }
        }
    }
}
