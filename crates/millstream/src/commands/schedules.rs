//! `millstream schedules`.

use super::setting::SettingArgs;
use super::table;
use crate::fault::users;
use crate::simulation_file::{MemoryLimit, Setting, Simulation, VOCABULARIES, VocabularyMode};
use crate::{Outcome, simulation_file, units};
use mesh::Rank;
use schedule::{Action, Kind, Meeting, Op, Placement};
use serde::Serialize;
use simulate::{Timeline, bubbles, idle_fraction};

/// What to compare the schedules under.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    setting: SettingArgs,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
    /// Columns of the printed table.
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u16).range(1..=1000))]
    width: u16,
}

/// Simulates every schedule and lists them, best first.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let setting = simulation_file::comparison(&args.setting.request()).map_err(users)?;
    let comparison = Comparison::of(&setting)?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&comparison)? + "\n",
        false => comparison.table(&setting, args.width.into()),
    };
    super::print(&text)?;
    Ok(Outcome::Done)
}

/// What `--json` prints; times in seconds.
#[derive(Serialize)]
struct Comparison {
    ranks: usize,
    microbatches: usize,
    chunks: usize,
    /// Best first; those above the memory limit last.
    schedules: Vec<Row>,
    /// Those that are not made for these numbers.
    unfit: Vec<Unfit>,
}

#[derive(Serialize)]
struct Row {
    schedule: &'static str,
    /// One of the names of [`VOCABULARIES`].
    vocabulary: &'static str,
    name: String,
    step_s: f64,
    /// The longest time from a rank's first action to its last.
    span_s: f64,
    /// Share of rank-seconds in which ranks did not compute, in [0, 1].
    bubble: f64,
    /// The highest peak of a rank's activations, in microbatches of a rank's equal part of the model.
    peak_activations: f64,
    /// The highest peak of a rank; absent when no bytes are given.
    peak_bytes: Option<u64>,
    messages_per_microbatch: usize,
    barriers_per_microbatch: usize,
    stages_per_rank: usize,
    needs: String,
    /// By how much it is above the memory limit, in the limit's unit; 0 when it is not.
    above_limit: f64,
}

#[derive(Serialize)]
struct Unfit {
    schedule: &'static str,
    vocabulary: &'static str,
    reason: String,
}

impl Comparison {
    fn of(setting: &Setting) -> anyhow::Result<Self> {
        let is_listed = |kind: Kind, mode: VocabularyMode| match mode {
            VocabularyMode::Whole => true,
            VocabularyMode::InBackward => false,
            VocabularyMode::Sharded(_) => setting.shards.is_some(),
            // A baseline of 1F1B, and of nothing else.
            VocabularyMode::Interlaced => setting.shards.is_some() && kind == Kind::OneFOneB,
        };
        let (mut schedules, mut unfit) = (Vec::new(), Vec::new());
        for kind in Kind::ALL {
            for &(vocabulary, mode) in VOCABULARIES.iter().filter(|(_, mode)| is_listed(kind, *mode)) {
                match setting.simulation(kind, mode, setting.stage_map(kind)) {
                    Ok(simulation) => schedules.push(Row::of(setting, kind, vocabulary, &simulation)?),
                    Err(error) => unfit.push(Unfit { schedule: kind.id(), vocabulary, reason: error.to_string() }),
                }
            }
        }
        // What differs in less than a picosecond is the same.
        let picoseconds = |s: f64| (s * 1e12).round();
        schedules.sort_by(|a: &Row, b: &Row| {
            (a.above_limit.total_cmp(&b.above_limit))
                .then(picoseconds(a.step_s).total_cmp(&picoseconds(b.step_s)))
                .then(a.peak_activations.total_cmp(&b.peak_activations))
        });
        let (ranks, microbatches, chunks) = (setting.n_ranks, setting.n_microbatches, setting.n_chunks);
        Ok(Self { ranks, microbatches, chunks, schedules, unfit })
    }

    fn table(&self, setting: &Setting, width: usize) -> String {
        let with_vocabulary = setting.shards.is_some();
        let with_bytes = self.schedules.iter().any(|row| row.peak_bytes.is_some());
        let mut head = vec!["schedule"];
        head.extend(with_vocabulary.then_some("vocabulary"));
        head.extend(["step", "span", "bubble", "memory"]);
        head.extend(with_bytes.then_some("peak"));
        head.push("sends");
        head.extend(with_vocabulary.then_some("barriers"));
        let cells = |row: &Row| {
            let mut cells = vec![row.schedule.to_owned()];
            cells.extend(with_vocabulary.then(|| row.vocabulary.to_owned()));
            cells.extend([units::seconds(row.step_s), units::seconds(row.span_s), units::percent(row.bubble)]);
            cells.push(format!("{:.2}", row.peak_activations));
            cells.extend(with_bytes.then(|| row.peak_bytes.map(units::bytes).unwrap_or_default()));
            cells.push(row.messages_per_microbatch.to_string());
            cells.extend(with_vocabulary.then(|| row.barriers_per_microbatch.to_string()));
            cells
        };
        let head: Vec<String> = head.into_iter().map(str::to_owned).collect();
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(self.schedules.iter().map(cells)).collect();
        let mut lines = table::aligned(&rows, 1 + usize::from(with_vocabulary));
        let n_within = self.schedules.iter().filter(|row| row.above_limit <= 0.0).count();
        let (within, above) = self.schedules.split_at(n_within);
        let above_lines = lines.split_off(1 + n_within);
        // What they need is told where there is room.
        let needs = || std::iter::once("needs").chain(within.iter().map(|row| row.needs.as_str()));
        let length = |line: &String, needs: &str| line.chars().count() + 2 + needs.len();
        let has_room = lines.iter().zip(needs()).all(|(line, needs)| length(line, needs) <= width);
        if has_room {
            lines.iter_mut().zip(needs()).for_each(|(line, needs)| *line = format!("{line}  {needs}"));
        }

        let mut page = format!("{}\n\n", heading(setting));
        let mut say = |line: String| page += &format!("{}\n", line.trim_end());
        lines.into_iter().for_each(&mut say);
        if let Some(limit) = setting.memory_limit.filter(|_| !above.is_empty()) {
            say(format!("\nAbove the memory limit of {limit}:\n"));
            for (line, row) in above_lines.iter().zip(above) {
                say(format!("{line}  by {}", limit.amount(row.above_limit)));
            }
        }
        if !self.unfit.is_empty() {
            say("\nNot for these numbers:\n".to_owned());
            for Unfit { schedule, vocabulary, reason } in &self.unfit {
                let with = if *vocabulary == "none" { String::new() } else { format!(" with {vocabulary}") };
                say(format!("{schedule}{with}: {reason}"));
            }
        }
        say("\nspan: a rank's longest time from its first action to its last".to_owned());
        say("memory: a rank's most activations, in microbatches of its part of the model".to_owned());
        say(format!("sends{}: for each microbatch", if with_vocabulary { ", barriers" } else { "" }));
        if has_room {
            say("needs: stages on each rank (V: one down the ranks, one back up), split backward".to_owned());
        }
        page
    }
}

impl Row {
    fn of(setting: &Setting, kind: Kind, vocabulary: &'static str, simulation: &Simulation) -> anyhow::Result<Self> {
        let timeline = simulate::simulate(&simulation.schedule, &simulation.costs).map_err(users)?;
        let n_microbatches = setting.n_microbatches;
        let is_message = |action| matches!(action, Action::Visit { op: Op::SendActivation | Op::SendGradient, .. });
        let n_messages = timeline.spans.iter().filter(|span| is_message(span.action)).count();
        let is_barrier = |meeting| matches!(meeting, Meeting::Softmax(_) | Meeting::HiddenGradient(_));
        let n_barriers = timeline.meetings.iter().filter(|span| is_barrier(span.meeting)).count();
        let peak_activations = simulation.peak_activations().into_iter().fold(0.0, f64::max);
        let peak_bytes = (0..setting.n_ranks).map(|rank| timeline.peak_bytes(Rank(rank))).max();
        let above = |limit: MemoryLimit| limit.above(peak_activations, peak_bytes.unwrap_or(0));
        let above_limit = setting.memory_limit.map_or(0.0, above);
        Ok(Self {
            schedule: kind.id(),
            vocabulary,
            name: simulation.schedule.name.clone(),
            step_s: timeline.makespan_s(),
            span_s: longest_span_s(&timeline),
            bubble: idle_fraction(&bubbles(&timeline, &simulation.costs)),
            peak_activations,
            peak_bytes: peak_bytes.filter(|&bytes| bytes > 0),
            messages_per_microbatch: n_messages / n_microbatches,
            barriers_per_microbatch: n_barriers / n_microbatches,
            stages_per_rank: simulation.stage_map.n_stages() / setting.n_ranks,
            needs: needs(kind, simulation.stage_map.n_stages() / setting.n_ranks),
            above_limit,
        })
    }
}

/// Updates that take no time do not lengthen a rank's span: they wait for all ranks.
fn longest_span_s(timeline: &Timeline) -> f64 {
    let span_s = |rank| {
        let played = || timeline.rank(Rank(rank)).filter(|span| span.action.is_compute() && span.end_s > span.start_s);
        let begin_s = played().map(|span| span.start_s).fold(f64::INFINITY, f64::min);
        played().map(|span| span.end_s - begin_s).fold(0.0, f64::max)
    };
    (0..timeline.n_ranks).map(span_s).fold(0.0, f64::max)
}

/// What a schedule asks of the model and the microbatches.
fn needs(kind: Kind, n_each: usize) -> String {
    let stages = match kind.placement() {
        Placement::Any | Placement::OnePerRank => String::new(),
        Placement::Looped => format!("{n_each} each"),
        Placement::V => "V".to_owned(),
    };
    let split = if kind.places_weight_passes() { "split" } else { "" };
    let more = if kind == Kind::DualPipeV { "m >= 2p" } else { "" };
    let all = [stages.as_str(), split, more];
    all.into_iter().filter(|need| !need.is_empty()).collect::<Vec<&str>>().join(", ")
}

fn heading(setting: &Setting) -> String {
    let count = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let ranks = count(setting.n_ranks, "rank", "ranks");
    let microbatches = count(setting.n_microbatches, "microbatch", "microbatches");
    match setting.memory_limit {
        Some(limit) => format!("{ranks}, {microbatches}, at most {limit} on a rank"),
        None => format!("{ranks}, {microbatches}"),
    }
}
