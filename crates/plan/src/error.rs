//! What can keep a plan from being made.

use architecture::Problem;

/// A model, a machine or a wish that cannot be planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A model's configuration that is no JSON object.
    #[error("the model's configuration cannot be read: {0}")]
    ModelJson(String),
    /// Fields that are missing, malformed or not planned for; all of them.
    #[error("the model's configuration cannot be planned:{}", listed(.0))]
    Model(Vec<Problem>),
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
