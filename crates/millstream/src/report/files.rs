//! The files of a run's folder that the report is made from.

use super::{Metrics, Summary, Timelines};
use crate::fault::UserFault;
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::path::Path;

/// Name of the run file as resolved.
pub const RUN_FILE: &str = "run.toml";
/// Name of the file with a line per step and per validation.
pub const METRICS: &str = "metrics.jsonl";
/// Name of the file with the predicted and the measured timeline of a step.
pub const TIMELINES: &str = "timeline.json";
/// Name of the file with what came out.
pub const SUMMARY: &str = "summary.json";

/// What is in a run's folder.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFiles {
    /// The text of `run.toml`.
    pub run_file: String,
    /// Empty when no step was done.
    pub metrics: Metrics,
    /// Absent before the schedule was simulated.
    pub timelines: Option<Timelines>,
    /// Absent while the run goes on and when it was killed.
    pub summary: Option<Summary>,
}

impl RunFiles {
    /// Reads a folder.
    ///
    /// # Errors
    /// `run.toml` is missing, or a file cannot be read or is not what it should be.
    pub fn read(folder: &Path) -> Result<Self, UserFault> {
        let path = folder.join(RUN_FILE);
        let no_run =
            || UserFault::new(format!("{} is not the folder of a run: it has no {RUN_FILE}", folder.display()));
        let run_file = text(&path)?.ok_or_else(no_run)?;
        let metrics = text(&folder.join(METRICS))?.map(|lines| Metrics::parse(&lines)).unwrap_or_default();
        let timelines = json(&folder.join(TIMELINES))?;
        let summary = json(&folder.join(SUMMARY))?;
        Ok(Self { run_file, metrics, timelines, summary })
    }
}

/// The text of a file, `None` when there is none.
fn text(path: &Path) -> Result<Option<String>, UserFault> {
    match std::fs::read(path) {
        // A line cut in the middle of a character must not cost the lines before it.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(UserFault::new(format!("{} cannot be read: {error}", path.display()))),
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, UserFault> {
    let Some(text) = text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let problem = error.to_string();
        let problem = problem.split(" at line ").next().unwrap_or_default();
        let fault = format!("{}:{line}:{column}: this is not what a run writes: {problem}", path.display());
        UserFault::new(fault)
            .hint("docs/metrics.md says what it holds; without the file, the page is made without its part")
    })
}
