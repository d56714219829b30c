//! The learning rate of each step.

use crate::LearningRate;

impl LearningRate {
    /// The rate of `step` (counted from 1) in a run of `steps`.
    ///
    /// Warm-up: `peak step / warmup`. After it, cosine: half a cosine from `peak`, reaching `minimum` exactly at the
    /// last step. Warm-up-stable-decay: `peak` until `decay` steps before the end, then a line that reaches `minimum`
    /// exactly at the last step.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        match *self {
            LearningRate::Cosine { peak, minimum, warmup_steps } => {
                if step <= warmup_steps {
                    return peak * step as f64 / warmup_steps as f64;
                }
                let progress = share(step, warmup_steps, steps);
                minimum + (peak - minimum) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
            LearningRate::WarmupStableDecay { peak, minimum, warmup_steps, decay_steps } => {
                if step <= warmup_steps {
                    return peak * step as f64 / warmup_steps as f64;
                }
                let decay_starts = steps.saturating_sub(decay_steps).max(warmup_steps);
                if step <= decay_starts { peak } else { peak - (peak - minimum) * share(step, decay_starts, steps) }
            }
        }
    }
}

/// How far `step` is on the way from `start` to `end`, at most 1.
fn share(step: u64, start: u64, end: u64) -> f64 {
    if end <= start { 1.0 } else { ((step - start) as f64 / (end - start) as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values by hand; the cosine at a third and two thirds of its way is 3/4 and 1/4.
    #[test]
    fn rates() {
        let cosine = LearningRate::Cosine { peak: 1.0, minimum: 0.2, warmup_steps: 4 };
        let wsd = LearningRate::WarmupStableDecay { peak: 1.0, minimum: 0.2, warmup_steps: 4, decay_steps: 4 };
        let check = |rate: LearningRate, expected: &[(u64, f64)]| {
            for &(step, expected) in expected {
                // Rounding of a cosine near 1.
                assert!((rate.at(step, 13) - expected).abs() < 1e-12, "{rate:?} at {step}: {}", rate.at(step, 13));
            }
        };
        check(cosine, &[(1, 0.25), (4, 1.0), (7, 0.8), (10, 0.4), (13, 0.2), (20, 0.2)]);
        check(wsd, &[(2, 0.5), (4, 1.0), (9, 1.0), (10, 0.8), (11, 0.6), (13, 0.2)]);
        let all_warmup = LearningRate::Cosine { peak: 1.0, minimum: 0.1, warmup_steps: 13 };
        check(all_warmup, &[(13, 1.0)]);
    }
}
