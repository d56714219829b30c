//! From log-probabilities to a loss and its derivative.

/// What training minimises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// Weighted negative log-likelihood of the next token. Every microbatch's loss is a sum over its tokens divided by
    /// the weight of the *whole* step, so that everything downstream only adds.
    NextToken {
        /// Sum of the weights of all the step's tokens.
        total_weight: f64,
    },
}

impl Objective {
    /// Each row's share of the step's loss.
    ///
    /// # Shapes
    /// - log_probability and weights: `[n]`, in rows of `n_tokens`; result: `[n / n_tokens]`
    pub fn loss(&self, log_probability: &[f32], weights: &[f32], n_tokens: usize) -> Vec<f64> {
        match *self {
            Objective::NextToken { total_weight } => {
                let rows = log_probability.chunks(n_tokens).zip(weights.chunks(n_tokens));
                let shares = rows.map(|(log_probability, weights)| {
                    // A token of weight 0 may have any log-probability, minus infinity included.
                    let counted = log_probability.iter().zip(weights).filter(|(_, weight)| **weight != 0.0);
                    let nats =
                        counted.map(|(&log_probability, &weight)| -f64::from(log_probability) * f64::from(weight));
                    nats.sum::<f64>() / total_weight
                });
                shares.collect()
            }
        }
    }

    /// The derivative by each log-probability, which does not depend on these.
    ///
    /// # Shapes
    /// - weights and result: `[n]`
    pub fn derivative(&self, weights: &[f32]) -> Vec<f32> {
        match *self {
            Objective::NextToken { total_weight } => {
                weights.iter().map(|&weight| (-f64::from(weight) / total_weight) as f32).collect()
            }
        }
    }
}
