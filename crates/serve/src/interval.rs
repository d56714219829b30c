//! How far a measured loss may be from that of all texts like these.

use crate::{DocumentLoss, Evaluation};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// 95 % confidence intervals by the percentile bootstrap over documents (Efron & Tibshirani, 1993, chapter 13): the
/// documents are drawn anew, with repetition, many times, and 2.5 % of the figures that come out lie below the interval
/// and 2.5 % above. Tokens of one document are alike, so that an interval over tokens would be far too narrow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Of [`Evaluation::nats_per_token`], lower bound first.
    pub nats_per_token: [f64; 2],
    /// Of [`Evaluation::bits_per_byte`].
    pub bits_per_byte: [f64; 2],
}

/// With fewer documents, what they have in common is not known.
const DOCUMENTS_LEAST: usize = 10;

/// Consecutive documents are drawn together where there are more than this: their number hardly matters any more, and
/// time does.
const DRAWN_TOGETHER_ABOVE: usize = 10_000;

/// Bounds then scatter by a thirtieth of the interval.
const RESAMPLES: usize = 2000;

impl Evaluation {
    /// The interval, the same for equal documents; `None` for fewer than 10.
    pub fn interval(&self) -> Option<Interval> {
        if self.documents.len() < DOCUMENTS_LEAST {
            return None;
        }
        let size = self.documents.len().div_ceil(DRAWN_TOGETHER_ABOVE);
        let groups: Vec<DocumentLoss> = self.documents.chunks(size).map(sum).collect();
        let key = blake3::derive_key("millstream bootstrap of documents 1", &(groups.len() as u64).to_le_bytes());
        let mut random = ChaCha8Rng::from_seed(key);
        let mut draw = || {
            // Below a bound by multiplication: the bias is under 2^-32.
            let below = |bound: usize, bits: u64| ((u128::from(bits) * bound as u128) >> 64) as usize;
            sum((0..groups.len()).map(|_| &groups[below(groups.len(), random.next_u64())]))
        };
        let drawn: Vec<DocumentLoss> = (0..RESAMPLES).map(|_| draw()).collect();
        Some(Interval {
            nats_per_token: bounds(drawn.iter().map(|sums| sums.nats / sums.n_tokens as f64)),
            bits_per_byte: bounds(drawn.iter().map(|sums| sums.nats / std::f64::consts::LN_2 / sums.n_bytes as f64)),
        })
    }
}

fn sum<'a>(documents: impl IntoIterator<Item = &'a DocumentLoss>) -> DocumentLoss {
    documents.into_iter().fold(DocumentLoss { nats: 0.0, n_tokens: 0, n_bytes: 0 }, |sum, document| DocumentLoss {
        nats: sum.nats + document.nats,
        n_tokens: sum.n_tokens + document.n_tokens,
        n_bytes: sum.n_bytes + document.n_bytes,
    })
}

/// The figures that leave 2.5 % of all on either side.
fn bounds(figures: impl Iterator<Item = f64>) -> [f64; 2] {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let outside = figures.len() / 40;
    [figures[outside], figures[figures.len() - 1 - outside]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documents of 50 to 1000 tokens whose nats per token scatter around 3: uniform in 2 to 4.
    fn documents(n: usize, seed: u64) -> Evaluation {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let mut document = || {
            let n_tokens = 50 + (950.0 * uniform()) as u64;
            DocumentLoss { nats: (2.0 + 2.0 * uniform()) * n_tokens as f64, n_tokens, n_bytes: 4 * n_tokens }
        };
        let documents: Vec<DocumentLoss> = (0..n).map(|_| document()).collect();
        let all = sum(&documents);
        Evaluation { nats: all.nats, n_tokens: all.n_tokens, n_bytes: all.n_bytes, documents }
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        const TRIALS: u64 = 300;
        let held = (0..TRIALS).filter(|&seed| {
            let [low, high] = documents(60, seed).interval().unwrap().nats_per_token;
            low <= 3.0 && 3.0 <= high
        });
        let share = held.count() as f64 / TRIALS as f64;
        // 95 %, of which the percentile bootstrap misses 1 or 2 % with 60 documents; three standard errors are 3.8 %.
        assert!((0.895..=0.985).contains(&share), "{share}");
    }

    #[test]
    fn large_samples_give_the_normal_interval() {
        let found = documents(3000, 7);
        let Interval { nats_per_token, bits_per_byte } = found.interval().unwrap();
        // Variance of a ratio of sums, by the delta method.
        let ratio = found.nats_per_token();
        let residual = |d: &DocumentLoss| (d.nats - ratio * d.n_tokens as f64).powi(2);
        let error = found.documents.iter().map(residual).sum::<f64>().sqrt() / found.n_tokens as f64;
        for (bound, wanted) in nats_per_token.into_iter().zip([ratio - 1.96 * error, ratio + 1.96 * error]) {
            // A bound of 2000 resamples scatters by 0.05 standard errors.
            assert!((bound - wanted).abs() < 0.2 * error, "{bound}, not {wanted}");
        }
        for (bits, nats) in bits_per_byte.into_iter().zip(nats_per_token) {
            // Four bytes to every token.
            assert!((bits - nats / std::f64::consts::LN_2 / 4.0).abs() < 1e-12);
        }
    }

    #[test]
    fn few_documents_tell_nothing_and_equal_ones_all() {
        assert_eq!(documents(9, 1).interval(), None);
        assert_eq!(documents(10, 1).interval(), documents(10, 1).interval());
        let one = DocumentLoss { nats: 6.0, n_tokens: 2, n_bytes: 7 };
        let all = Evaluation { nats: 60.0, n_tokens: 20, n_bytes: 70, documents: vec![one; 10] };
        assert_eq!(all.interval().unwrap().nats_per_token, [3.0, 3.0]);
        // More than are drawn one by one.
        let many = documents(30_001, 3).interval().unwrap().nats_per_token;
        assert!(many[0] < 3.0 && 3.0 < many[1] && many[1] - many[0] < 0.03, "{many:?}");
    }
}
