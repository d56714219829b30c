//! What can keep a plan from being made.

use crate::{Degrees, Fixed};
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
    /// A trace that nothing can be fitted to.
    #[error("the trace cannot be used: {0}")]
    Trace(String),
    /// Devices that cannot be arranged.
    #[error(
        "no arrangement of {devices} devices{fixed} divides the model, the batch and the sequence{}; use another batch, or \
         fix fewer degrees",
        .tried.as_ref().map(|tried| format!(" (the last one tried: {tried})")).unwrap_or_default()
    )]
    NoLayout {
        /// How many there are.
        devices: usize,
        /// Degrees that were fixed.
        fixed: Fixed,
        /// Why one that was tried is none.
        tried: Option<Box<PlanError>>,
    },
    /// A fixed degree that does not divide the devices.
    #[error("{axis} {degree} does not divide the {devices} devices of {machine}; use one of {}", words(.choices))]
    FixedDegree {
        /// Along which axis.
        axis: &'static str,
        /// What was fixed.
        degree: usize,
        /// How many there are.
        devices: usize,
        /// Of which machine.
        machine: String,
        /// What divides them.
        choices: Vec<usize>,
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

fn words(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<String>>().join(", ")
}

fn lines(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
