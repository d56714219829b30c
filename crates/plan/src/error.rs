//! What can keep a plan from being made.

use crate::Degrees;
use architecture::Problem;
use schedule::ScheduleError;
use simulate::SimulateError;

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
    /// A machine with values that cannot be computed with; all of them.
    #[error("the machine cannot be planned for:{}", lines(.0))]
    Machine(Vec<String>),
    /// Degrees that do not divide a model, a batch or a machine.
    #[error("{degrees}: {problem}")]
    Degrees {
        /// Which.
        degrees: Degrees,
        /// What does not divide what.
        problem: String,
    },
    /// Devices that cannot be arranged.
    #[error(
        "no arrangement of {devices} devices divides the model, the batch and the sequence; use another batch, or fix fewer \
         degrees"
    )]
    NoLayout {
        /// How many there are.
        devices: usize,
    },
    /// A schedule that does not exist for these stages.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Costs that cannot be simulated.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

fn lines(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
