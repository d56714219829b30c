//! What a run leaves: the files of its folder, and the page and the trace made from them.
//!
//! The files' fields and units are in `docs/metrics.md`. Page and trace can be made again from the folder at any time,
//! during the run too. Does not know about the command line or how the numbers came about.

mod bars;
mod charts;
mod files;
mod machine;
mod metrics;
mod page;
mod summary;
#[cfg(test)]
mod tests;
mod timelines;
mod trace;

pub use machine::Machine;
pub use metrics::{Metrics, line};
pub use summary::{
    ByCategory, ModelSummary, Sample, SpeedSummary, StageSummary, Status, StepSummary, Summary, ValidationSummary,
    Yardsticks,
};
pub use timelines::{Kept, TimelineFile, Timelines};
pub use trace::trace;

use crate::out_folder::write_whole;
use files::RunFiles;
use std::path::{Path, PathBuf};

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
    write_whole(&path, &page::page(&files)?)?;
    Ok(path)
}
