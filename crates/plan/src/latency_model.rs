//! Closed formulas for a step of 1F1B, as other planners use them: to be compared with the simulator.

/// What both formulas know: equal stages, one link speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClosedForm {
    /// Stages.
    pub stages: usize,
    /// Microbatches.
    pub microbatches: usize,
    /// Forward of one microbatch on one stage, in seconds.
    pub forward_s: f64,
    /// Backward of the same.
    pub backward_s: f64,
    /// One message between neighbouring stages.
    pub message_s: f64,
    /// Summing gradients over replicas.
    pub exchange_s: f64,
}

/// Whose formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LatencyModel {
    /// AMP (Li et al., 2022): messages are paid once, backward is twice a forward.
    Amp,
    /// Pipette (Yim et al., 2024): a round trip through the pipeline is paid once for every `stages` microbatches.
    Pipette,
}

impl LatencyModel {
    /// Both.
    pub const ALL: [LatencyModel; 2] = [LatencyModel::Amp, LatencyModel::Pipette];

    /// Seconds of a step.
    pub fn step_s(self, of: &ClosedForm) -> f64 {
        let ClosedForm { stages, microbatches, forward_s, backward_s, message_s, exchange_s } = *of;
        let (p, m) = (stages as f64, microbatches as f64);
        let messages_s = 2.0 * (p - 1.0) * message_s;
        match self {
            LatencyModel::Amp => (m - 1.0) * 3.0 * forward_s + p * 3.0 * forward_s + messages_s + exchange_s,
            LatencyModel::Pipette => {
                let round_s = p * (forward_s + backward_s) + messages_s;
                let both = forward_s + backward_s;
                if microbatches >= stages {
                    (microbatches / stages) as f64 * round_s + (p - 1.0) * both + exchange_s
                } else {
                    round_s + (m - 1.0) * both + exchange_s
                }
            }
        }
    }
}
