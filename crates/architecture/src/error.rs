//! What can be wrong with a model's description.

use std::fmt;

/// A description of a model that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchitectureError {
    /// The text is not JSON.
    #[error("the model's configuration is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Fields that are missing, malformed, unsupported or at odds with each other; all of them.
    #[error("the model's configuration cannot be used:{}", list(.0))]
    Config(Vec<Problem>),
    /// Sizes that do not cut the model into stages.
    #[error(
        "stages of {sizes:?} blocks do not fit the model's {blocks} half-layer blocks; every stage needs at least one \
         block and the sizes must add up to {blocks}"
    )]
    Partition {
        /// Blocks per stage asked for.
        sizes: Vec<usize>,
        /// Blocks the model has.
        blocks: usize,
    },
    /// More stages than blocks.
    #[error(
        "the model has {blocks} half-layer blocks and cannot be cut into {stages} stages; use at most {blocks} stages \
         or more layers"
    )]
    TooManyStages {
        /// Blocks the model has.
        blocks: usize,
        /// Stages asked for.
        stages: usize,
    },
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field as `config.json` names it; a dot leads into an object (`rope_parameters.factor`).
    pub field: String,
    /// What it is, as JSON, or "nothing".
    pub found: String,
    /// What it may be.
    pub wanted: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: found {}, but {}", self.field, self.found, self.wanted)
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
