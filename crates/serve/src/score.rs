//! What the model thought of the tokens that were drawn.

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// Its id.
    pub id: u32,
    /// Logarithm of its probability to the model itself: whatever the sampling settings.
    pub log_probability: f64,
    /// The likeliest tokens in its place with theirs, likeliest first; of equal ones, the lowest id first. It may be among
    /// them.
    pub alternatives: Vec<(u32, f64)>,
}

impl ScoredToken {
    /// The token `id` and `n` alternatives by finite `logits`.
    pub(crate) fn of(id: u32, logits: &[f32], n: usize) -> Self {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
        let log_probability = |logit: f32| f64::from(logit) - max - total.ln();
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let likelier = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let n = n.min(order.len());
        if n < order.len() {
            order.select_nth_unstable_by(n, likelier);
            order.truncate(n);
        }
        order.sort_by(likelier);
        let alternatives = order.into_iter().map(|id| (id, log_probability(logits[id as usize]))).collect();
        Self { id, log_probability: log_probability(logits[id as usize]), alternatives }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_a_softmax() {
        let logits = [1.0, 3.0, -2.0, 3.0, 0.5];
        // By definition, without taking the largest out.
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let wanted = |id: u32| f64::from(logits[id as usize]) - total.ln();
        for (n, order) in [(0, &[][..]), (1, &[1]), (3, &[1, 3, 0]), (9, &[1, 3, 0, 4, 2])] {
            let scored = ScoredToken::of(4, &logits, n);
            let ids: Vec<u32> = scored.alternatives.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids, order);
            let all = scored.alternatives.iter().copied().chain([(4, scored.log_probability)]);
            // Both in f64, sums of five.
            all.for_each(|(id, found)| assert!((found - wanted(id)).abs() < 1e-14, "{id}: {found}"));
        }
    }
}
