//! What `millstream simulate` and `millstream schedules` are told: a schedule, costs and links, in a file, in options
//! laid over it, or in options alone. `docs/simulate.md` describes the keys.

mod choice;
mod costs;
mod links;
mod setting;
mod shape;

pub use links::Links;
pub use setting::{Activation, MemoryLimit, Setting, ShardPasses, VocabularyMode};

use crate::run_file::{BACKWARDS, SCHEDULES};
use crate::toml_file::{
    self, Node, NumberRange, Parsed, Place, Problem, Problems, Reader, Table, Value, Wrong, choice, number, or_word,
    whole,
};
use crate::units;
use mesh::StageMap;
use schedule::{Action, Backward, InputLayer, Kind, Op, Schedule, VocabularyAlgorithm, pytorch};
use shape::Shape;
use simulate::Costs;
use std::cell::RefCell;
use std::path::PathBuf;

/// Of microbatches to stages. Listing all schedules of so many takes some ten seconds, and more tell no more.
const MOST_VISITS: usize = 200_000;
/// In seconds.
const MICROSECOND: f64 = 1e-6;

/// Names of the ways to treat the vocabulary.
pub const VOCABULARIES: &[(&str, VocabularyMode)] = &[
    ("none", VocabularyMode::Whole),
    ("in-backward", VocabularyMode::InBackward),
    ("one-barrier", VocabularyMode::Sharded(VocabularyAlgorithm::OneBarrier)),
    ("two-barriers", VocabularyMode::Sharded(VocabularyAlgorithm::TwoBarriers)),
    ("interlaced", VocabularyMode::Interlaced),
];
const INPUTS: &[(&str, InputLayer)] = &[("first-stage", InputLayer::FirstStage), ("sharded", InputLayer::Sharded)];

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The simulation file; without one, every pass takes a microsecond.
    pub file: Option<PathBuf>,
    /// Options as they were written (`--ranks 4`) with the assignment that each means (`ranks=4`), laid over the file
    /// in order.
    pub options: Vec<(String, String)>,
}

/// A schedule, where its stages lie, and what everything costs.
#[derive(Clone, Debug)]
pub struct Simulation {
    pub schedule: Schedule,
    pub stage_map: StageMap,
    pub costs: Costs,
    /// By stage.
    pub activations: Vec<Activation>,
    pub memory_limit: Option<MemoryLimit>,
}

impl Simulation {
    /// For each rank the peak of its activations, in microbatches of a rank's equal part of the model.
    pub fn peak_activations(&self) -> Vec<f64> {
        let peak = |list: &Vec<Action>| {
            let (mut live, mut peak) = (0.0, 0.0_f64);
            for &action in list {
                let Action::Visit { op, .. } = action else { continue };
                let of = self.activations[self.schedule.stage(action).0];
                live += match op {
                    Op::Forward => of.whole,
                    Op::Backward => -of.whole,
                    Op::BackwardInput => of.for_weight - of.whole,
                    Op::BackwardWeight => -of.for_weight,
                    _ => 0.0,
                };
                peak = peak.max(live);
            }
            peak
        };
        self.schedule.ranks.iter().map(peak).collect()
    }
}

/// The simulation that is asked for.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn simulation(request: &Request) -> Result<Simulation, Problems> {
    read(request, |file| {
        let asked = asked(file);
        let given = match asked.as_ref().map(|asked| &asked.schedule) {
            Some(Played::File(path)) => Some(csv(file, path)),
            _ => None,
        };
        let shape = match (asked.as_ref().map(|asked| &asked.schedule), &given) {
            (Some(Played::Kind(kind)), _) => Shape::of_kind(file, *kind),
            (Some(Played::File(_)), Some(Some(schedule))) => Shape::of_schedule(file, schedule),
            (Some(Played::File(_)), _) => Shape::unknown(file),
            // The numbers may be wrong as well.
            (None, _) => Shape::of_any(file).and(None),
        };
        let setting = setting(file, shape.as_ref().map(|(shape, _)| *shape));
        let (asked, (_, stage_map), setting) = (asked?, shape?, setting?);
        if asked.vocabulary != VocabularyMode::Whole && setting.shards.is_none() {
            let wanted = "nothing says what a shard of the vocabulary costs";
            file.refuse("vocabulary", "", wanted, "give `costs.vocabulary_us`, such as --set costs.vocabulary_us=1");
            return None;
        }
        asked.check(file)?;
        let made = match asked.schedule {
            Played::Kind(kind) => setting.simulation(kind, asked.vocabulary, stage_map),
            Played::File(_) => setting.simulation_of(given??, asked.vocabulary, stage_map),
        };
        made.map_err(|error| file.complain("schedule", error.to_string())).ok()
    })
}

/// Everything but the schedule, for comparing all of them. What the file says of one is checked and not
/// used; an option that does is refused.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn comparison(request: &Request) -> Result<Setting, Problems> {
    read(request, |file| {
        let asked = asked(file);
        let setting = setting(file, Shape::of_any(file));
        let (_, setting) = (asked?, setting?);
        for key in ["schedule", "vocabulary"] {
            // A file may serve both commands; an option is meant for this one.
            if request.options.iter().any(|(_, option)| option.split('=').next().map(str::trim) == Some(key)) {
                let way_out = "leave it out, or play one with `millstream simulate`";
                file.refuse(key, "", "all of them are compared", way_out);
                return None;
            }
        }
        if setting.input == InputLayer::Sharded && setting.shards.is_none() {
            let wanted = "nothing says what a shard of the vocabulary costs";
            file.refuse("embedding", "", wanted, "give `costs.vocabulary_us`, or leave it out");
            return None;
        }
        Some(setting)
    })
}

fn read<T>(request: &Request, read: impl Fn(&Reader) -> Option<T>) -> Result<T, Problems> {
    let what = if request.file.is_some() { "the simulation file" } else { "the simulation" };
    let (table, place) = layers(request).map_err(|problems| Problems::new(what, problems))?;
    let problems = RefCell::new(Vec::new());
    let result = read(&Reader::new(&table, place, &problems));
    match (result, problems.into_inner()) {
        (Some(result), problems) if problems.is_empty() => Ok(result),
        (_, problems) => {
            assert!(!problems.is_empty(), "a value that could not be read was reported");
            Err(Problems::new(what, problems))
        }
    }
}

/// All layers as one table, and the place to name when something is missing.
fn layers(request: &Request) -> Result<(Table, Place), Vec<Problem>> {
    const EQUAL: &str = "costs = { forward_us = 1, backward_input_us = 1, backward_weight_us = 1 }";
    let (name, text) = match &request.file {
        None => ("the command line".to_owned(), EQUAL.to_owned()),
        Some(path) => {
            let name = path.display().to_string();
            let failed = |error| vec![Problem::new(Place::named(&name), format!("the file cannot be read: {error}"))];
            (name.clone(), std::fs::read_to_string(path).map_err(failed)?)
        }
    };
    let (mut table, mut problems) = toml_file::parse(&name, &text);
    for (option, assignment) in &request.options {
        match toml_file::parse_option(Place::named(option), assignment) {
            Ok(upper) => toml_file::lay_over(&mut table, upper),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok((table, Place::named(&name))) } else { Err(problems) }
}

/// The keys that say what is played.
struct Asked {
    schedule: Played,
    vocabulary: VocabularyMode,
}

#[derive(Clone)]
enum Played {
    Kind(Kind),
    /// A pipeline file of PyTorch.
    File(String),
}

impl Asked {
    /// Whether nothing is asked for that would change nothing.
    fn check(&self, file: &Reader) -> Option<()> {
        let is_sharded = matches!(self.vocabulary, VocabularyMode::Sharded(_) | VocabularyMode::Interlaced);
        if !is_sharded && file.or("embedding", InputLayer::FirstStage, choice(INPUTS))? == InputLayer::Sharded {
            let wanted = match self.vocabulary {
                VocabularyMode::InBackward => "with `vocabulary = \"in-backward\"` it is part of every rank's backward",
                _ => "the embedding is sharded together with the head only",
            };
            let way_out = "leave it out, or set `vocabulary` to \"one-barrier\", \"two-barriers\" or \"interlaced\"";
            file.refuse("embedding", "", wanted, way_out);
            return None;
        }
        let backward = file.optional("backward", choice(BACKWARDS))?;
        match (&self.schedule, backward) {
            (Played::File(path), Some(_)) => {
                file.refuse("backward", "", &format!("{path} says itself how backward is played"), "leave it out");
                None
            }
            (Played::Kind(kind), Some(Backward::Fused)) if kind.places_weight_passes() => {
                file.refuse("backward", "", &format!("{kind} always splits it"), "leave it out");
                None
            }
            _ => Some(()),
        }
    }
}

fn asked(file: &Reader) -> Option<Asked> {
    let schedule = file.or("schedule", Played::Kind(Kind::OneFOneB), played);
    let vocabulary = file.or("vocabulary", VocabularyMode::Whole, choice(VOCABULARIES));
    Some(Asked { schedule: schedule?, vocabulary: vocabulary? })
}

/// The name of a published schedule, or a file that PyTorch reads and writes.
fn played(node: &Node) -> Parsed<Played> {
    match &node.value {
        Value::Text(path) if path.ends_with(".csv") => Ok(Played::File(path.clone())),
        _ => choice(SCHEDULES)(node).map(Played::Kind),
    }
}

/// The compute actions of a pipeline file. PyTorch begins a receive where the file says and waits for it where it is
/// needed, which is where the simulator puts one.
fn csv(file: &Reader, path: &str) -> Option<Schedule> {
    let read = || -> anyhow::Result<Schedule> {
        let schedule = std::fs::read_to_string(path)?.parse::<pytorch::Table>()?.schedule(path)?;
        schedule::validate(&schedule).map_err(|problems| problems[0].clone())?;
        let compute = |list: &Vec<Action>| list.iter().copied().filter(|action| action.is_compute()).collect();
        Ok(Schedule { ranks: schedule.ranks.iter().map(compute).collect(), ..schedule })
    };
    let way_out = "give a pipeline file of PyTorch, or a name that `millstream schedules` lists";
    read().map_err(|error| file.refuse("schedule", "", &format!("it cannot be played: {error}"), way_out)).ok()
}

fn setting(file: &Reader, shape: Option<Shape>) -> Option<Setting> {
    let backward = file.or("backward", Backward::Fused, choice(BACKWARDS));
    let input = file.or("embedding", InputLayer::FirstStage, choice(INPUTS));
    let cores = file.or("cores", None, or_word("all", whole(1)));
    let memory_limit = file.optional("memory_limit", memory_limit);
    let n_ranks = shape.map(|shape| shape.n_ranks);
    let costs = file.section("costs");
    // Where the numbers do not agree, lists can still be held against the one they are for.
    let n_pieces = shape.map(|shape| shape.n_pieces).or_else(|| file.optional("stages", whole(1)).flatten());
    let n_pieces = n_pieces.filter(|&n| n <= MOST_VISITS);
    let pieces = costs::pieces(&costs, n_pieces);
    let shards = costs::shards(&costs, n_ranks);
    let collectives = costs::collectives(&file.section("collectives"));
    let links = links::links(&file.section("links"), n_ranks);

    let (shape, pieces, memory_limit) = (shape?, pieces?, memory_limit?);
    let n_visits = [shape.n_microbatches, shape.n_chunks].into_iter().fold(shape.n_ranks, usize::saturating_mul);
    if n_visits > MOST_VISITS {
        let wanted = format!("on {} ranks that makes more than {MOST_VISITS} visits to stages", shape.n_ranks);
        file.refuse("microbatches", "", &wanted, "use fewer microbatches or ranks");
        return None;
    }
    if let Some(MemoryLimit::Bytes(_)) = memory_limit
        && pieces.iter().all(|piece| piece.activation_bytes == 0)
    {
        let wanted = "nothing says how many bytes activations are";
        file.refuse("memory_limit", "", wanted, "give `costs.activation_bytes`, or a limit in microbatches, such as 4");
        return None;
    }
    Some(Setting {
        n_ranks: shape.n_ranks,
        n_microbatches: shape.n_microbatches,
        n_chunks: shape.n_chunks,
        backward: backward?,
        pieces,
        shards: shards?,
        input: input?,
        collectives: collectives?,
        links: links?,
        n_cores: cores?,
        memory_limit,
    })
}

/// A number of microbatches (`4`), or bytes (`"20 GB"`).
fn memory_limit(node: &Node) -> Parsed<MemoryLimit> {
    let wanted = "a number of microbatches, such as 4, or bytes, such as \"20 GB\"";
    match &node.value {
        Value::Text(text) => units::parse_bytes(text).map(MemoryLimit::Bytes).ok_or_else(|| Wrong::new(node, wanted)),
        _ => match number(NumberRange::Positive)(node) {
            Ok(found) => Ok(MemoryLimit::Microbatches(found)),
            Err(_not_positive) => Err(Wrong::new(node, wanted)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::Cores;
    use simulate::{Category, Communication};

    /// What a file `toy.toml` with this text means.
    fn parse(text: &str) -> Result<Simulation, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("toy.toml");
        std::fs::write(&path, text).unwrap();
        let name = path.display().to_string();
        let request = Request { file: Some(path), options: Vec::new() };
        simulation(&request).map_err(|problems| problems.to_string().replace(&name, "toy.toml"))
    }

    #[test]
    fn problems_are_told_at_once() {
        let text = r#"stages = 3
microbatch = 4
backward = "splitt"
ranks = [0, 1]
memory_limit = "4 GX"

[costs]
forward_us = [1, 2]
backward_input_us = -1
backward_weight_us = 1
weight_gradient_bytes = 5
vocabulary_forward_us = 3

[links]
gbytes_per_s = 0
between = [{ ranks = [0, 1], latency = 3 }, 7]
"#;
        let expected = r#"the simulation file cannot be used: 10 problems
  toy.toml: `microbatches` is missing; it gives the number of microbatches
  toy.toml:2:1: there is no key `microbatch`; did you mean `microbatches`?
  toy.toml:3:12: `backward` is "splitt", but must be "fused" or "split"; did you mean "split"?
  toy.toml:4:9: `ranks` is [0, 1], but must have one rank for each stage, 3 in all, not 2; change `ranks` or `stages`
  toy.toml:5:16: `memory_limit` is "4 GX", but must be a number of microbatches, such as 4, or bytes, such as "20 GB"
  toy.toml:8:14: `costs.forward_us` is [1, 2], but must have one value for each stage, 3 in all, not 2; change it or write one value for all
  toy.toml:9:21: `costs.backward_input_us` is -1, but must be a number of at least 0
  toy.toml:15:16: `links.gbytes_per_s` is 0, but must be a number above 0
  toy.toml:16:30: there is no key `links.between[0].latency`; did you mean `latency_us`?
  toy.toml:16:45: `links.between` is 7, but must be a section [[links.between]]"#;
        assert_eq!(parse(text).unwrap_err(), expected);
    }

    #[test]
    fn a_comparison_refuses_options_of_one_schedule() {
        let options = |set: &str| {
            let sets = ["ranks=2", "microbatches=3", set];
            sets.iter().map(|set| (format!("--set {set}"), (*set).to_owned())).collect()
        };
        for (set, is_refused) in
            [("schedule=\"zb-v\"", true), ("vocabulary=\"one-barrier\"", true), ("backward=\"split\"", false)]
        {
            let found = comparison(&Request { file: None, options: options(set) });
            assert_eq!(found.is_err(), is_refused, "{set}");
            if let Err(problems) = found {
                assert!(problems.to_string().contains("all of them are compared"), "{problems}");
            }
        }
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
            vocabulary = "two-barriers"
            embedding = "sharded"
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
            vocabulary_us = [30, 60]
            embedding_forward_us = 21
            embedding_backward_us = 22
            logit_bytes = 23
            vocabulary_resident_bytes = 24
            [collectives]
            hidden_us = 31
            softmax_us = 32
            hidden_gradient_us = 33
            embedded_us = 34
            embedded_gradient_us = 35
            norm_us = 36
            [links]
            communication = "blocking"
            latency_us = 12
            gbytes_per_s = 13
            [[links.between]]
            ranks = [1, 0]
            gbytes_per_s = 14"#;
        let Simulation { schedule, stage_map, costs, activations, .. } = parse(text).unwrap();
        assert_eq!(
            (schedule.name.as_str(), schedule.n_microbatches(), stage_map.n_ranks()),
            ("GPipe, split backward, Vocab-1, sharded embedding", 5, 2)
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
        let shard = &costs.shards[1];
        let times = [shard.forward_s, shard.backward_s, shard.embed_forward_s, shard.embed_backward_s];
        assert_eq!((times.map(us), shard.logit_bytes), ([20.0, 40.0, 21.0, 22.0], 23));
        assert_eq!(shard.resident, [(Category::Weights, 24)]);
        assert_eq!(costs.communication, Communication::Blocking);
        let collectives = costs.meetings;
        let times = [
            collectives.hidden_s,
            collectives.softmax_s,
            collectives.hidden_gradient_s,
            collectives.embedded_s,
            collectives.embedded_gradient_s,
            collectives.norm_s,
        ];
        assert_eq!(times.map(us), [31.0, 32.0, 33.0, 34.0, 35.0, 36.0]);
        let directions: Vec<(usize, usize)> = costs.links.iter().map(|link| (link.from.0, link.to.0)).collect();
        assert_eq!(directions, [(0, 1), (1, 0)]);
        assert_eq!((us(costs.links[0].latency_s), costs.links[0].bytes_per_s), (12.0, 14e9));
        // 27 bytes on two ranks: a microbatch is 13.5, of which a stage keeps 9.
        assert!(
            (activations[1].whole - 9.0 / 13.5).abs() < 1e-12 && (activations[1].for_weight - 2.0 / 13.5).abs() < 1e-12
        );
    }

    /// A schedule of more stages than costs are given for cuts the model anew; nothing is lost or doubled.
    #[test]
    fn the_model_is_cut_anew() {
        let text = r#"
            schedule = "interleaved"
            stages = 2
            ranks = 2
            chunks = 3
            microbatches = 2
            [costs]
            forward_us = [3, 6]
            backward_us = [6, 12]
            activation_bytes = [30, 90]"#;
        let Simulation { costs, stage_map, .. } = parse(text).unwrap();
        let found: Vec<(f64, u64)> =
            costs.stages.iter().map(|stage| ((stage.forward_s * 1e9).round() / 1e3, stage.activation_bytes)).collect();
        assert_eq!(found, [(1.0, 10), (1.0, 10), (1.0, 10), (2.0, 30), (2.0, 30), (2.0, 30)]);
        assert_eq!(stage_map.stages_on(mesh::Rank(1)).into_iter().map(|stage| stage.0).collect::<Vec<_>>(), [1, 3, 5]);
        // Five stages into three: the middle one is half of two and all of one.
        let text = "stages = 5\nranks = 3\nmicrobatches = 1\n[costs]\nforward_us = [3, 6, 9, 12, 15]\nbackward_us = 1";
        let costs = parse(text).unwrap().costs;
        let found: Vec<f64> = costs.stages.iter().map(|stage| (stage.forward_s * 1e9).round() / 1e3).collect();
        assert_eq!(found, [7.0, 15.0, 23.0]);
    }
}
