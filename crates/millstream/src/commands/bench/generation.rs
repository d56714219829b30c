//! Speed of generation: one row, the prompt at once, then token by token through the cache.

use super::Args;
use super::peak::Peak;
use crate::fault::users;
use crate::units;
use architecture::{Architecture, Role};
use burn::tensor::Device;
use serde::Serialize;
use serve::{Generator, Sampler, Sampling};
use std::convert::Infallible;
use std::time::Instant;

/// Most tokens that are drawn.
const TOKENS_MAX: usize = 64;

/// What reading and writing took.
#[derive(Clone, Debug, Serialize)]
pub struct Generation {
    /// Tokens of the prompt: half a row.
    prompt_tokens: usize,
    /// Until the first token was drawn.
    prompt_s: f64,
    prompt_tokens_per_s: f64,
    /// Tokens drawn after the first.
    tokens: usize,
    tokens_per_s: f64,
    /// Matrices that every drawn token reads, in bytes.
    bytes_per_token: u64,
    /// Of the memory's bandwidth.
    bandwidth_share: f64,
}

/// Draws the likeliest tokens of a model with drawn weights, on the current pool's threads.
pub fn measure(architecture: &Architecture, args: &Args) -> anyhow::Result<Generation> {
    let draw = |weight: &architecture::Weight| Ok::<_, Infallible>(model::draw(architecture, weight, 0));
    let generator = Generator::new(architecture, None, &Device::flex(), draw)?;
    let prompt_tokens = args.seq / 2;
    let prompt: Vec<u32> = (0..prompt_tokens).map(|i| (i * 7919 % args.vocab) as u32).collect();
    let sampler = Sampler::new(Sampling::GREEDY).map_err(users)?;
    let tokens_max = TOKENS_MAX.min(args.seq - prompt_tokens);
    let start = Instant::now();
    let mut drawn_s = Vec::new();
    generator
        .generate_ids(&prompt, tokens_max, &sampler, |_| drawn_s.push(start.elapsed().as_secs_f64()))
        .map_err(users)?;
    let (prompt_s, last_s) = (drawn_s[0], drawn_s[drawn_s.len() - 1]);
    let tokens = drawn_s.len() - 1;
    // One row of two tokens has nothing to draw after the first.
    let tokens_per_s = if tokens == 0 { 1.0 / prompt_s } else { tokens as f64 / (last_s - prompt_s) };
    let matrices = architecture.blocks().into_iter().flat_map(|block| architecture.weights(block));
    let elements: usize = matrices.filter(|weight| weight.role == Role::Matrix).map(|weight| weight.n_elements()).sum();
    Ok(Generation {
        prompt_tokens,
        prompt_s,
        prompt_tokens_per_s: prompt_tokens as f64 / prompt_s,
        tokens,
        tokens_per_s,
        bytes_per_token: 4 * elements as u64,
        bandwidth_share: 0.0,
    })
}

impl Generation {
    /// As a share of the bandwidth.
    pub fn against(mut self, peak: &Peak) -> Self {
        self.bandwidth_share = 1e-9 * self.bytes_per_token as f64 * self.tokens_per_s / peak.memory_gbytes_per_s;
        self
    }

    pub fn page(&self) -> String {
        format!(
            "generation  {:.1} tokens/s ({} after a prompt of {}), {} of the bandwidth\n            \
             counted: {} of matrices read a token; the prompt was read at {:.1} tokens/s\n",
            self.tokens_per_s,
            self.tokens,
            self.prompt_tokens,
            units::percent(self.bandwidth_share),
            units::bytes(self.bytes_per_token),
            self.prompt_tokens_per_s,
        )
    }
}
