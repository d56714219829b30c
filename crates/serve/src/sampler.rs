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
    /// Only tokens at least this share as likely as the likeliest are drawn from; in [0, 1].
    pub min_p: Option<f64>,
    /// Divides the logits above 0, and multiplies those below, of tokens that the text has already, prompt included;
    /// above 0, 1 changes nothing. Counts at temperature 0, too.
    pub repetition_penalty: Option<f64>,
    /// Decides the draws.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest token each time.
    pub const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: None, seed: 0 };
}

/// Draws tokens: repetition penalty (Keskar et al., 2019), temperature, top-k, top-p (Holtzman et al., 2020), min-p
/// (Nguyen et al., 2024), in this order as in transformers. Computes in f64.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler with checked settings.
    ///
    /// # Errors
    /// A temperature below 0 or not finite, a `top_k` of 0, a `top_p` outside (0, 1], a `min_p` outside [0, 1], a
    /// repetition penalty that is not above 0 and finite.
    pub fn new(sampling: Sampling) -> Result<Sampler> {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed } = sampling;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(ServeError::Temperature { found: temperature });
        }
        if top_k == Some(0) {
            return Err(ServeError::TopK);
        }
        if let Some(found) = top_p.filter(|top_p| !(*top_p > 0.0 && *top_p <= 1.0)) {
            return Err(ServeError::TopP { found });
        }
        if let Some(found) = min_p.filter(|min_p| !(0.0..=1.0).contains(min_p)) {
            return Err(ServeError::MinP { found });
        }
        if let Some(found) = repetition_penalty.filter(|penalty| !(*penalty > 0.0 && penalty.is_finite())) {
            return Err(ServeError::RepetitionPenalty { found });
        }
        let key = blake3::derive_key("millstream token sampling 1", &seed.to_le_bytes());
        Ok(Sampler { sampling, random: ChaCha8Rng::from_seed(key) })
    }

    /// The token drawn as the `n`-th, counted from 0, after `text`: a function of (logits, text, settings, `n`) alone, and
    /// of the text only with a repetition penalty.
    ///
    /// # Panics
    /// When there are no logits or one is not finite.
    pub fn draw(&self, logits: &[f32], text: &[u32], n: u64) -> u32 {
        let distribution = self.distribution(logits, text);
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

    /// The tokens that may be drawn after `text` and their probabilities, which add up to 1. Tokens of equal logits come in the
    /// order of their ids: top-p drops the last of them first, temperature 0 takes the first.
    ///
    /// # Panics
    /// When there are no logits or one is not finite.
    pub fn distribution(&self, logits: &[f32], text: &[u32]) -> Vec<(u32, f64)> {
        assert!(!logits.is_empty() && logits.iter().all(|logit| logit.is_finite()), "finite logits");
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let logits = self.penalised(logits, text);
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut kept: Vec<(u32, f64)> = (0..).zip(logits.iter().copied()).collect();
        if temperature == 0.0 {
            kept.retain(|&(_, logit)| logit == max);
            return vec![(kept[0].0, 1.0)];
        }
        if let Some(k) = top_k.filter(|&k| k < logits.len()) {
            let mut by_size = logits;
            let (_, &mut least, _) = by_size.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
            kept.retain(|&(_, logit)| logit >= least);
        }
        let weight = |logit: f64| ((logit - max) / temperature).exp();
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
        if let Some(share) = min_p {
            let likeliest = distribution.iter().map(|(_, probability)| *probability).fold(0.0, f64::max);
            distribution.retain(|(_, probability)| *probability >= share * likeliest);
            normalise(&mut distribution);
        }
        distribution
    }

    /// The logits, those of tokens in `text` brought down once each.
    fn penalised(&self, logits: &[f32], text: &[u32]) -> Vec<f64> {
        let mut penalised: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
        let Some(penalty) = self.sampling.repetition_penalty else { return penalised };
        for &id in text {
            // From the original: a token that comes twice is not brought down twice.
            if let Some(&logit) = logits.get(id as usize) {
                let logit = f64::from(logit);
                penalised[id as usize] = if logit < 0.0 { logit * penalty } else { logit / penalty };
            }
        }
        penalised
    }
}

fn normalise(distribution: &mut [(u32, f64)]) {
    let total: f64 = distribution.iter().map(|(_, weight)| weight).sum();
    distribution.iter_mut().for_each(|(_, weight)| *weight /= total);
}
