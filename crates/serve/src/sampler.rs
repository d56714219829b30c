//! From logits to the next token.

use crate::{Result, ServeError};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the likeliest token, whatever the other settings.
    pub temperature: f64,
    /// Only so many of the likeliest tokens are drawn from, and those as likely as the last of them.
    pub top_k: Option<usize>,
    /// Only the fewest of the likeliest tokens that together reach this probability are drawn from; in (0, 1].
    pub top_p: Option<f64>,
    /// Decides the draws.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest token each time.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: None, top_p: None, seed: 0 };
}

/// Draws tokens: temperature, then top-k, then top-p (Holtzman et al., 2020), as transformers does. Computes in f64.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler with checked settings.
    ///
    /// # Errors
    /// A temperature below 0 or not finite, a `top_k` of 0, a `top_p` outside (0, 1].
    pub fn new(sampling: Sampling) -> Result<Sampler> {
        let Sampling { temperature, top_k, top_p, seed } = sampling;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(ServeError::Temperature { found: temperature });
        }
        if top_k == Some(0) {
            return Err(ServeError::TopK);
        }
        if let Some(found) = top_p.filter(|top_p| !(*top_p > 0.0 && *top_p <= 1.0)) {
            return Err(ServeError::TopP { found });
        }
        let key = blake3::derive_key("millstream token sampling 1", &seed.to_le_bytes());
        Ok(Sampler { sampling, random: ChaCha8Rng::from_seed(key) })
    }

    /// The token drawn as the `n`-th of a text, counted from 0: a function of (logits, settings, `n`) alone.
    ///
    /// # Panics
    /// When there are no logits or one is not finite.
    pub fn draw(&self, logits: &[f32], n: u64) -> u32 {
        let distribution = self.distribution(logits);
        let mut random = self.random.clone();
        random.set_stream(n);
        // The 53 bits that f64 holds exactly: uniform in [0, 1).
        let uniform = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut below = 0.0;
        let drawn = distribution.iter().find(|(_, probability)| {
            below += probability;
            uniform < below
        });
        // The sum of all may round to just under 1.
        drawn.or(distribution.last()).expect("invariant: a distribution has a token").0
    }

    /// The tokens that may be drawn and their probabilities, which add up to 1. Tokens of equal logits come in the
    /// order of their ids: top-p drops the last of them first, temperature 0 takes the first.
    ///
    /// # Panics
    /// When there are no logits or one is not finite.
    pub fn distribution(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        assert!(!logits.is_empty() && logits.iter().all(|logit| logit.is_finite()), "finite logits");
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut kept: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        if temperature == 0.0 {
            kept.retain(|&(_, logit)| logit == max);
            return vec![(kept[0].0, 1.0)];
        }
        if let Some(k) = top_k.filter(|&k| k < logits.len()) {
            let mut by_size = logits.to_vec();
            let (_, &mut least, _) = by_size.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
            kept.retain(|&(_, logit)| logit >= least);
        }
        let weight = |logit: f32| ((f64::from(logit) - f64::from(max)) / temperature).exp();
        let mut distribution: Vec<(u32, f64)> = kept.into_iter().map(|(id, logit)| (id, weight(logit))).collect();
        normalise(&mut distribution);
        if let Some(p) = top_p.filter(|&p| p < 1.0) {
            distribution.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            let mut before = 0.0;
            let n_kept = distribution.iter().take_while(|(_, probability)| {
                let reached = before >= p;
                before += probability;
                !reached
            });
            distribution.truncate(n_kept.count());
            normalise(&mut distribution);
        }
        distribution
    }
}

fn normalise(distribution: &mut [(u32, f64)]) {
    let total: f64 = distribution.iter().map(|(_, weight)| weight).sum();
    distribution.iter_mut().for_each(|(_, weight)| *weight /= total);
}
