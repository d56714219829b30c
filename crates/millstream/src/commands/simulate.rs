//! `millstream simulate`.

use crate::fault::{UserFault, users};
use crate::out_folder::write_whole;
use crate::report::{TimelineFile, Timelines, trace};
use crate::simulation_file::Simulation;
use crate::{Outcome, simulation_file, units};
use mesh::Rank;
use serde::Serialize;
use simulate::{Timeline, bubbles, idle_fraction};
use std::path::PathBuf;

/// What to play and how to show it.
#[derive(clap::Args)]
pub struct Args {
    /// Schedule and costs (TOML, see docs/simulate.md).
    file: PathBuf,
    /// Print numbers as JSON instead of a picture.
    #[arg(long)]
    json: bool,
    /// Write a picture.
    #[arg(long, value_name = "OUT.svg")]
    svg: Option<PathBuf>,
    /// Write a trace for Perfetto or Chrome.
    #[arg(long, value_name = "OUT.json")]
    perfetto: Option<PathBuf>,
    /// Columns of the printed picture.
    #[arg(long, value_name = "N", default_value_t = 120)]
    width: usize,
}

/// Plays the file's schedule and prints where the time goes.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let simulation = simulation_file::read(&args.file).map_err(users)?;
    let timeline = simulate::simulate(&simulation.schedule, &simulation.costs).map_err(users)?;
    if let Some(path) = &args.svg {
        write(path, &simulate::svg(&timeline, &simulation.schedule.name))?;
    }
    if let Some(path) = &args.perfetto {
        let timelines = Timelines { predicted: Some(TimelineFile::from(&timeline)), measured: None };
        write(path, &trace(&timelines)?)?;
    }
    let figures = Figures::of(&simulation, &timeline);
    let text = if args.json {
        serde_json::to_string_pretty(&figures)? + "\n"
    } else {
        format!("{}\n{}\n{}", figures.schedule, simulate::text(&timeline, args.width), figures.table())
    };
    super::print(&text)?;
    Ok(Outcome::Done)
}

fn write(path: &std::path::Path, text: &str) -> Result<(), UserFault> {
    write_whole(path, text).map_err(users)
}

/// What `--json` prints; times in seconds.
#[derive(Serialize)]
struct Figures {
    schedule: String,
    makespan_s: f64,
    /// Share of rank-seconds in which ranks did not compute, in [0, 1].
    bubble: f64,
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
    communication_s: f64,
    permit_s: f64,
    idle_s: f64,
    peak_bytes: u64,
}

impl Figures {
    fn of(simulation: &Simulation, timeline: &Timeline) -> Self {
        let all = bubbles(timeline);
        let ranks = all.iter().enumerate().map(|(rank, bubble)| RankFigures {
            rank,
            stages: simulation.stage_map.stages_on(Rank(rank)).into_iter().map(|stage| stage.0).collect(),
            compute_s: bubble.compute_s,
            warm_up_s: bubble.warm_up_s,
            drain_s: bubble.drain_s,
            dependency_s: bubble.dependency_s,
            communication_s: bubble.communication_s,
            permit_s: bubble.permit_s,
            idle_s: bubble.idle_s(),
            peak_bytes: timeline.peak_bytes(Rank(rank)),
        });
        Self {
            schedule: simulation.schedule.name.clone(),
            makespan_s: timeline.makespan_s(),
            bubble: idle_fraction(&all),
            ranks: ranks.collect(),
        }
    }

    fn table(&self) -> String {
        let head = ["", "stages", "computing", "before", "after", "waits", "messages", "cores", "peak"];
        let ranks = self.ranks.iter().map(|rank| {
            let stages: Vec<String> = rank.stages.iter().map(usize::to_string).collect();
            let share = |s: f64| units::percent(s / self.makespan_s.max(f64::MIN_POSITIVE));
            [
                format!("rank {}", rank.rank),
                stages.join(" "),
                share(rank.compute_s),
                share(rank.warm_up_s),
                share(rank.drain_s),
                share(rank.dependency_s),
                share(rank.communication_s),
                share(rank.permit_s),
                units::bytes(rank.peak_bytes),
            ]
        });
        let rows: Vec<[String; 9]> = std::iter::once(head.map(str::to_owned)).chain(ranks).collect();
        let widths: [usize; 9] =
            std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
        let line = |row: &[String; 9]| {
            let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
            format!("{}\n", cells.join("  "))
        };
        let whole = format!("step {}, bubble {}\n\n", units::seconds(self.makespan_s), units::percent(self.bubble));
        whole + &rows.iter().map(line).collect::<String>()
    }
}
