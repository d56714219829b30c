//! `millstream simulate`.

use super::setting::{SettingArgs, option};
use super::table;
use crate::fault::users;
use crate::out_folder::write_all_whole;
use crate::report::{TimelineFile, Timelines, trace};
use crate::simulation_file::{MemoryLimit, Simulation};
use crate::{Outcome, simulation_file, units};
use mesh::Rank;
use schedule::pytorch;
use serde::Serialize;
use simulate::{Timeline, bubbles, idle_fraction};
use std::path::{Path, PathBuf};

/// What to play and how to show it.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    setting: SettingArgs,
    /// The schedule: a name that `millstream schedules` lists, or a CSV file of PyTorch's pipelines.
    #[arg(long, value_name = "NAME|FILE.csv")]
    schedule: Option<String>,
    /// Who works on the vocabulary: none, in-backward, one-barrier, two-barriers or interlaced.
    #[arg(long, value_name = "HOW")]
    vocabulary: Option<String>,
    /// Who looks tokens up when the vocabulary is sharded: first-stage or sharded.
    #[arg(long, value_name = "WHO")]
    embedding: Option<String>,
    /// Print numbers as JSON instead of a picture.
    #[arg(long)]
    json: bool,
    /// Write a picture.
    #[arg(long, value_name = "OUT.svg")]
    svg: Option<PathBuf>,
    /// Write a trace for Perfetto or Chrome.
    #[arg(long, value_name = "OUT.json")]
    perfetto: Option<PathBuf>,
    /// Write the schedule for PyTorch's pipelines, compute actions only (its format `compute_only`).
    #[arg(long, value_name = "OUT.csv")]
    csv: Option<PathBuf>,
    /// Write the schedule for PyTorch's pipelines with its communication (`compute_comms`).
    #[arg(long, value_name = "OUT.csv")]
    csv_with_communication: Option<PathBuf>,
    /// Columns of the printed picture.
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u16).range(1..=1000))]
    width: u16,
}

/// Plays a schedule and prints where the time goes.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let own = [
        option("--schedule", "schedule", args.schedule),
        option("--vocabulary", "vocabulary", args.vocabulary),
        option("--embedding", "embedding", args.embedding),
    ];
    let mut request = args.setting.request();
    // `--set` lies over every other option.
    request.options.splice(0..0, own.into_iter().flatten());
    let simulation = simulation_file::simulation(&request).map_err(users)?;
    let timeline = simulate::simulate(&simulation.schedule, &simulation.costs).map_err(users)?;
    let table = |make: fn(&schedule::Schedule) -> Result<pytorch::Table, schedule::ScheduleError>| {
        make(&simulation.schedule).map_err(users)
    };
    let csv = args.csv.as_ref().map(|_| table(pytorch::Table::compute_only)).transpose()?;
    let with_communication = args.csv_with_communication.as_ref();
    let with_communication = with_communication.map(|_| table(pytorch::Table::compute_comms)).transpose()?;
    let mut files: Vec<(&Path, String)> = Vec::new();
    if let Some(path) = &args.svg {
        files.push((path, simulate::svg(&timeline, &simulation.schedule.name)));
    }
    if let Some(path) = &args.perfetto {
        let timelines = Timelines { predicted: Some(TimelineFile::from(&timeline)), ..Timelines::default() };
        files.push((path, trace(&timelines)?));
    }
    for (path, table) in [(&args.csv, csv), (&args.csv_with_communication, with_communication)] {
        if let (Some(path), Some(table)) = (path, table) {
            files.push((path, table.to_string()));
        }
    }
    write_all_whole(&files).map_err(users)?;
    let figures = Figures::of(&simulation, &timeline);
    let text = if args.json {
        serde_json::to_string_pretty(&figures)? + "\n"
    } else {
        let picture = simulate::text(&timeline, args.width.into());
        format!("{}\n{picture}\n{}{}", figures.schedule, figures.table(), figures.verdict(simulation.memory_limit))
    };
    super::print(&text)?;
    Ok(Outcome::Done)
}

/// What `--json` prints; times in seconds.
#[derive(Serialize)]
struct Figures {
    schedule: String,
    makespan_s: f64,
    /// Share of rank-seconds in which ranks did not compute, in [0, 1].
    bubble: f64,
    /// By how much the fullest rank is above the memory limit, in the limit's unit; 0 when it is not.
    above_limit: f64,
    ranks: Vec<RankFigures>,
}

/// Fields as in [`simulate::Bubble`].
#[derive(Serialize)]
struct RankFigures {
    rank: usize,
    stages: Vec<usize>,
    compute_s: f64,
    warm_up_s: f64,
    drain_s: f64,
    dependency_s: f64,
    memory_s: f64,
    communication_s: f64,
    permit_s: f64,
    idle_s: f64,
    /// Peak of the activations, in microbatches of a rank's equal part of the model.
    peak_activations: f64,
    peak_bytes: u64,
}

impl Figures {
    fn of(simulation: &Simulation, timeline: &Timeline) -> Self {
        let all = bubbles(timeline, &simulation.costs);
        let activations = simulation.peak_activations();
        let ranks = all.iter().enumerate().map(|(rank, bubble)| RankFigures {
            rank,
            stages: simulation.stage_map.stages_on(Rank(rank)).into_iter().map(|stage| stage.0).collect(),
            compute_s: bubble.compute_s,
            warm_up_s: bubble.warm_up_s,
            drain_s: bubble.drain_s,
            dependency_s: bubble.dependency_s,
            memory_s: bubble.memory_s,
            communication_s: bubble.communication_s,
            permit_s: bubble.permit_s,
            idle_s: bubble.idle_s(),
            peak_activations: activations[rank],
            peak_bytes: timeline.peak_bytes(Rank(rank)),
        });
        let ranks: Vec<RankFigures> = ranks.collect();
        let above = |limit: MemoryLimit| {
            ranks.iter().map(|rank| limit.above(rank.peak_activations, rank.peak_bytes)).fold(0.0, f64::max)
        };
        Self {
            schedule: simulation.schedule.name.clone(),
            makespan_s: timeline.makespan_s(),
            bubble: idle_fraction(&all),
            above_limit: simulation.memory_limit.map_or(0.0, above),
            ranks,
        }
    }

    /// Whether the schedule keeps to the limit.
    fn verdict(&self, limit: Option<MemoryLimit>) -> String {
        match limit {
            None => String::new(),
            Some(limit) if self.above_limit > 0.0 => format!(
                "\nAbove the memory limit of {limit} by {}; `millstream schedules` tells which schedules keep to it.\n",
                limit.amount(self.above_limit)
            ),
            Some(limit) => format!("\nWithin the memory limit of {limit}.\n"),
        }
    }

    fn table(&self) -> String {
        let with_bytes = self.ranks.iter().any(|rank| rank.peak_bytes > 0);
        let mut head =
            vec!["", "stages", "computing", "before", "after", "waits", "held", "messages", "cores", "memory"];
        head.extend(with_bytes.then_some("peak"));
        let ranks = self.ranks.iter().map(|rank| {
            let stages: Vec<String> = rank.stages.iter().map(usize::to_string).collect();
            let share = |s: f64| units::percent(s / self.makespan_s.max(f64::MIN_POSITIVE));
            let mut row = vec![
                format!("rank {}", rank.rank),
                stages.join(" "),
                share(rank.compute_s),
                share(rank.warm_up_s),
                share(rank.drain_s),
                share(rank.dependency_s),
                share(rank.memory_s),
                share(rank.communication_s),
                share(rank.permit_s),
                format!("{:.2}", rank.peak_activations),
            ];
            row.extend(with_bytes.then(|| units::bytes(rank.peak_bytes)));
            row
        });
        let rows: Vec<Vec<String>> =
            std::iter::once(head.into_iter().map(str::to_owned).collect()).chain(ranks).collect();
        let whole = format!("step {}, bubble {}\n\n", units::seconds(self.makespan_s), units::percent(self.bubble));
        whole + &table::aligned(&rows, 1).join("\n") + "\n"
    }
}
