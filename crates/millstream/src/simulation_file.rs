//! What `millstream simulate` is told: a schedule and costs. `docs/simulate.md` describes the file.

use crate::run_file::{BACKWARDS, SCHEDULES};
use crate::toml_file::{
    self, Node, NumberRange, Parsed, Place, Problem, Problems, Reader, Value, choice, list, number, or_word, whole,
};
use mesh::{Cores, Grid, Rank, StageMap};
use schedule::{Backward, Kind, Schedule, Spec};
use simulate::{Category, Costs, Link, StageCost};
use std::cell::RefCell;
use std::path::Path;

/// A schedule with its messages, where its stages lie, and what everything costs.
#[derive(Debug)]
pub struct Simulation {
    pub schedule: Schedule,
    pub stage_map: StageMap,
    pub costs: Costs,
}

/// Reads a file.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub fn read(path: &Path) -> Result<Simulation, Problems> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&name, &text),
        Err(error) => {
            let problem = Problem::new(Place::named(&name), format!("the file cannot be read: {error}"));
            Err(Problems::new("the simulation file", vec![problem]))
        }
    }
}

fn parse(name: &str, text: &str) -> Result<Simulation, Problems> {
    let (table, not_toml) = toml_file::parse(name, text);
    if !not_toml.is_empty() {
        return Err(Problems::new("the simulation file", not_toml));
    }
    let problems = RefCell::new(Vec::new());
    let simulation = simulation(&Reader::new(&table, Place::named(name), &problems));
    match (simulation, problems.into_inner()) {
        (Some(simulation), problems) if problems.is_empty() => Ok(simulation),
        (_, problems) => Err(Problems::new("the simulation file", problems)),
    }
}

fn simulation(file: &Reader) -> Option<Simulation> {
    let kind = file.or("schedule", Kind::OneFOneB, choice(SCHEDULES));
    let backward = file.or("backward", Backward::Fused, choice(BACKWARDS));
    let n_stages = file.required("stages", "the number of stages", whole(1));
    let n_microbatches = file.required("microbatches", "the number of microbatches", whole(1));
    let ranks = file.optional("ranks", list(whole(0)));
    let cores = file.or("cores", None, or_word("all", whole(1)));
    let costs = stage_costs(&file.section("costs"), n_stages);
    let link = link(&file.section("links"));

    let n_stages = n_stages?;
    let ranks: Vec<usize> = ranks?.unwrap_or_else(|| (0..n_stages).collect());
    if ranks.len() != n_stages {
        let wanted = format!("must have one rank for each stage, {n_stages} in all, not {}", ranks.len());
        file.refuse("ranks", "", &wanted, "change `ranks` or `stages`");
        return None;
    }
    let stage_map = StageMap::new(ranks.iter().map(|&rank| Grid::single(Rank(rank))).collect())
        .expect("invariant: at least one stage");
    let n_ranks = stage_map.n_ranks();
    let spec = Spec { kind: kind?, backward: backward? };
    let schedule = schedule::generate(spec, &stage_map.route(), n_microbatches?, &[])
        .expect("invariant: at least one microbatch, and no stage is tied");
    let pairs = (0..n_ranks).flat_map(|from| (0..n_ranks).map(move |to| (from, to))).filter(|(from, to)| from != to);
    let links = link?.map_or_else(Vec::new, |(latency_s, bytes_per_s)| {
        pairs.map(|(from, to)| Link { from: Rank(from), to: Rank(to), latency_s, bytes_per_s }).collect()
    });
    let cores = cores?.map(|n_cores| Cores::shared(n_ranks, n_cores)).into_iter().collect();
    let schedule = schedule::with_transfers(&schedule);
    Some(Simulation { schedule, stage_map, costs: Costs { stages: costs?, links, cores } })
}

/// Latency and bytes per second of every link; messages take no time where the section is absent.
fn link(section: &Reader) -> Option<Option<(f64, f64)>> {
    let latency_us = section.optional("latency_us", number(NumberRange::NotNegative));
    let gbytes_per_s = section.optional("gbytes_per_s", number(NumberRange::Positive));
    Some(match (latency_us?, gbytes_per_s?) {
        (None, None) => None,
        (latency_us, gbytes_per_s) => {
            Some((latency_us.unwrap_or(0.0) * 1e-6, gbytes_per_s.map_or(f64::INFINITY, |rate| rate * 1e9)))
        }
    })
}

fn stage_costs(section: &Reader, n_stages: Option<usize>) -> Option<Vec<StageCost>> {
    let seconds = |key, default: Option<Vec<f64>>| {
        let given = match default {
            None => section.required(key, "microseconds of a microbatch", each(number(NumberRange::NotNegative)))?,
            Some(default) => section.or(key, Each::Stage(default), each(number(NumberRange::NotNegative)))?,
        };
        given.of(section, key, n_stages?)
    };
    let bytes = |key| section.or(key, Each::Every(0), each(whole(0)))?.of(section, key, n_stages?);
    let zeros = || n_stages.map(|n_stages| vec![0.0; n_stages]);

    let forward_us = seconds("forward_us", None);
    let input_us = seconds("backward_input_us", None);
    let weight_us = seconds("backward_weight_us", None);
    let sum = input_us.as_ref().zip(weight_us.as_ref());
    let sum = sum.map(|(input, weight)| input.iter().zip(weight).map(|(input, weight)| input + weight).collect());
    // Without its parts the sum cannot be a default; they are reported already.
    let backward_us = seconds("backward_us", Some(sum.or_else(zeros).unwrap_or_default()));
    let recompute_us = seconds("recompute_us", Some(zeros().unwrap_or_default()));
    let optimizer_us = seconds("optimizer_us", Some(zeros().unwrap_or_default()));
    let message_bytes = bytes("message_bytes");
    let activation_bytes = bytes("activation_bytes");
    let weight_gradient_bytes = bytes("weight_gradient_bytes");
    let resident_bytes: Option<Vec<u64>> = bytes("resident_bytes");
    let (forward_us, input_us, weight_us, backward_us) = (forward_us?, input_us?, weight_us?, backward_us?);
    let (recompute_us, optimizer_us) = (recompute_us?, optimizer_us?);
    let (message_bytes, activation_bytes) = (message_bytes?, activation_bytes?);
    let (weight_gradient_bytes, resident_bytes) = (weight_gradient_bytes?, resident_bytes?);
    if let Some(stage) = (0..n_stages?).find(|&stage| weight_gradient_bytes[stage] > activation_bytes[stage]) {
        let wanted = format!("it is part of `activation_bytes`, which is {} on stage {stage}", activation_bytes[stage]);
        section.refuse("weight_gradient_bytes", "", &wanted, "use that much or less");
        return None;
    }
    let cost = |stage: usize| StageCost {
        forward_s: forward_us[stage] * 1e-6,
        backward_input_s: input_us[stage] * 1e-6,
        backward_weight_s: weight_us[stage] * 1e-6,
        backward_s: backward_us[stage] * 1e-6,
        recompute_s: recompute_us[stage] * 1e-6,
        optimizer_s: optimizer_us[stage] * 1e-6,
        reduce_s: 0.0,
        carry_bytes: message_bytes[stage],
        activation_bytes: activation_bytes[stage],
        logit_bytes: 0,
        weight_grad_bytes: weight_gradient_bytes[stage],
        backward_scratch: Vec::new(),
        resident: vec![(Category::Weights, resident_bytes[stage])],
    };
    Some((0..n_stages?).map(cost).collect())
}

/// One value for all stages, or one for each.
enum Each<T> {
    Every(T),
    Stage(Vec<T>),
}

fn each<T>(parse: impl Fn(&Node) -> Parsed<T>) -> impl Fn(&Node) -> Parsed<Each<T>> {
    move |node| match node.value {
        Value::List(_) => list(&parse)(node).map(Each::Stage),
        _ => parse(node).map(Each::Every),
    }
}

impl<T: Copy> Each<T> {
    fn of(self, section: &Reader, key: &'static str, n_stages: usize) -> Option<Vec<T>> {
        match self {
            Each::Every(value) => Some(vec![value; n_stages]),
            Each::Stage(values) if values.len() == n_stages => Some(values),
            Each::Stage(values) => {
                let wanted = format!("must have one value for each stage, {n_stages} in all, not {}", values.len());
                section.refuse(key, "", &wanted, "change it or write one value for all");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_at_once() {
        let text = r#"stages = 3
microbatch = 4
backward = "splitt"
ranks = [0, 1]

[costs]
forward_us = [1, 2]
backward_input_us = -1
backward_weight_us = 1
weight_gradient_bytes = 5

[links]
gbytes_per_s = 0
"#;
        let expected = r#"the simulation file cannot be used: 7 problems
  toy.toml: `microbatches` is missing; it gives the number of microbatches
  toy.toml:2:1: there is no key `microbatch`; did you mean `microbatches`?
  toy.toml:3:12: `backward` is "splitt", but must be "fused" or "split"; did you mean "split"?
  toy.toml:4:9: `ranks` is [0, 1], but must have one rank for each stage, 3 in all, not 2; change `ranks` or `stages`
  toy.toml:7:14: `costs.forward_us` is [1, 2], but must have one value for each stage, 3 in all, not 2; change it or write one value for all
  toy.toml:8:21: `costs.backward_input_us` is -1, but must be a number of at least 0
  toy.toml:13:16: `links.gbytes_per_s` is 0, but must be a number above 0"#;
        assert_eq!(parse("toy.toml", text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn everything_given_arrives() {
        let text = r#"
            schedule = "gpipe"
            backward = "split"
            stages = 3
            microbatches = 5
            ranks = [0, 1, 0]
            cores = 1
            [costs]
            forward_us = [1, 2, 3]
            backward_input_us = 4
            backward_weight_us = 5.5
            recompute_us = 6
            optimizer_us = 7
            message_bytes = 8
            activation_bytes = 9
            weight_gradient_bytes = 2
            resident_bytes = 11
            [links]
            latency_us = 12
            gbytes_per_s = 13"#;
        let Simulation { schedule, stage_map, costs } = parse("toy.toml", text).unwrap();
        assert_eq!(
            (schedule.name.as_str(), schedule.n_microbatches(), stage_map.n_ranks()),
            ("GPipe, split backward", 5, 2)
        );
        assert_eq!(costs.cores, [Cores::shared(2, 1)]);
        let stage = &costs.stages[2];
        let us = |s: f64| (s * 1e9).round() / 1e3;
        let times = [
            stage.forward_s,
            stage.backward_input_s,
            stage.backward_weight_s,
            stage.backward_s,
            stage.recompute_s,
            stage.optimizer_s,
        ];
        assert_eq!(times.map(us), [3.0, 4.0, 5.5, 9.5, 6.0, 7.0]);
        assert_eq!((stage.carry_bytes, stage.activation_bytes, stage.weight_grad_bytes), (8, 9, 2));
        assert_eq!(stage.resident, [(Category::Weights, 11)]);
        let directions: Vec<(usize, usize)> = costs.links.iter().map(|link| (link.from.0, link.to.0)).collect();
        assert_eq!(directions, [(0, 1), (1, 0)]);
        assert_eq!((costs.links[0].latency_s, costs.links[0].bytes_per_s), (12e-6, 13e9));
    }
}
