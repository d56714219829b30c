//! The softmax over the whole vocabulary, put together from the statistics of its shards.

/// What a shard tells of its logits: for each token the largest, the sum of `exp(logit - largest)`, and the target's
/// logit where the shard holds it, else 0. An empty shard tells minus infinity, 0 and 0.
///
/// Packed as the three vectors one after the other, `[3 n]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statistics(pub Vec<f32>);

impl Statistics {
    /// Of a shard without rows.
    pub fn empty(n: usize) -> Self {
        let mut packed = vec![0.0; 3 * n];
        packed[..n].fill(f32::NEG_INFINITY);
        Self(packed)
    }

    fn n(&self) -> usize {
        self.0.len() / 3
    }

    fn max(&self, token: usize) -> f64 {
        f64::from(self.0[token])
    }

    fn sum(&self, token: usize) -> f64 {
        f64::from(self.0[self.n() + token])
    }

    fn target(&self, token: usize) -> f64 {
        f64::from(self.0[2 * self.n() + token])
    }
}

/// With `m_r` and `s_r` the maximum and sum of shard `r`: `m = max m_r`, `s = sum s_r exp(m_r - m)`, added in rank order.
#[derive(Debug)]
pub(crate) struct Softmax {
    /// `target - m - log s` of every token.
    pub log_probability: Vec<f32>,
    /// `exp(m_r - m) / s` by shard and token: what a shard's exponentials are multiplied by to be probabilities.
    pub shares: Vec<Vec<f32>>,
}

impl Softmax {
    /// From the statistics of all shards in rank order.
    pub fn new(shards: &[Statistics]) -> Self {
        let n = shards[0].n();
        let mut log_probability = Vec::with_capacity(n);
        let mut shares = vec![Vec::with_capacity(n); shards.len()];
        for token in 0..n {
            let max = shards.iter().map(|shard| shard.max(token)).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = shards.iter().map(|shard| shard.sum(token) * (shard.max(token) - max).exp()).sum();
            let target: f64 = shards.iter().map(|shard| shard.target(token)).sum();
            log_probability.push((target - max - sum.ln()) as f32);
            for (shares, shard) in shares.iter_mut().zip(shards) {
                shares.push(((shard.max(token) - max).exp() / sum) as f32);
            }
        }
        Self { log_probability, shares }
    }
}
