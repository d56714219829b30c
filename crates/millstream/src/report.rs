//! What a run leaves: the files of its folder, and the page and the trace made from them.
//!
//! The files' fields and units are in `docs/metrics.md`. Page and trace can be made again from the folder at any time,
//! during the run too. Does not know about the command line or how the numbers came about.

mod axis;
mod bars;
mod chart;
mod comparison;
mod curves;
mod facts;
mod files;
mod heat;
mod machine;
mod memory;
mod metrics;
mod page;
mod series;
mod settings;
mod step;
mod summary;
mod template;
#[cfg(test)]
mod tests;
pub mod timelines;
mod trace;

pub use machine::Machine;
pub use metrics::{Line, SampleMetrics};
pub use summary::{
    ByCategory, ModelSummary, Sample, SpeedSummary, StageSummary, Status, StepSummary, Summary, ValidationSummary,
    Yardsticks,
};
pub use timelines::{Kept, TimelineFile, Timelines};
pub use trace::trace;

use crate::out_folder::write_whole;
use comparison::{Comparison, NamedRun};
use files::RunFiles;
use metrics::Metrics;
use page::Page;
use std::path::{Path, PathBuf};
use template::{Template, render};

/// Writes `report.html` and `trace.json` (the latter when a timeline is there) into the folder of a run, each whole or
/// not at all, and yields the path of the page. Files that a short or failed run lacks leave out their part of the page.
///
/// # Errors
/// `run.toml` is missing, a file cannot be read or is not what it should be, or the disk refuses.
pub fn write_report(folder: &Path) -> anyhow::Result<PathBuf> {
    let files = RunFiles::read(folder)?;
    if let Some(timelines) = &files.timelines {
        write_whole(&folder.join("trace.json"), &trace(timelines)?)?;
    }
    let path = folder.join("report.html");
    write_whole(&path, &render(Template::Run, &Page::new(&files)?)?)?;
    Ok(path)
}

/// Writes a page that compares the runs of these folders, whole or not at all. Runs are called as the folders are.
///
/// # Errors
/// As [`write_report`].
pub fn write_comparison(folders: &[PathBuf], page: &Path) -> anyhow::Result<()> {
    let named = |folder: &PathBuf| -> anyhow::Result<NamedRun> {
        Ok(NamedRun { name: folder.display().to_string(), files: RunFiles::read(folder)? })
    };
    let runs = folders.iter().map(named).collect::<anyhow::Result<Vec<NamedRun>>>()?;
    write_whole(page, &render(Template::Comparison, &Comparison::new(&runs))?)
}
