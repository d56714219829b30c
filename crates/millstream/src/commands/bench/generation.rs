//! Speed of generation in each number format of weights: one row, the prompt at once, then token by token.

use super::Args;
use super::peak::Peak;
use crate::commands::table::aligned;
use crate::fault::users;
use crate::units;
use architecture::{Architecture, Block, Role, Weight};
use packed::Format;
use serde::Serialize;
use serve::{Generator, Sampler, Sampling};
use std::time::Instant;

/// Most tokens that are drawn.
const TOKENS_MAX: usize = 64;

/// What reading and writing took.
#[derive(Clone, Debug, Serialize)]
pub struct Generation {
    /// Tokens of the prompt: half a row.
    prompt_tokens: usize,
    /// Operations of reading it: products, and attention without hidden pairs.
    prompt_flops: f64,
    /// Tokens drawn after the first.
    tokens: usize,
    /// Each number format of the matrices.
    weights: Vec<Speed>,
}

/// With one number format.
#[derive(Clone, Debug, Serialize)]
struct Speed {
    format: String,
    /// Until the first token was drawn.
    prompt_s: f64,
    prompt_tokens_per_s: f64,
    /// Of the matrix product's peak.
    prompt_share: f64,
    tokens_per_s: f64,
    /// Matrices that every drawn token reads, in bytes.
    bytes_per_token: u64,
    /// Of the bandwidth of reading.
    bandwidth_share: f64,
}

/// Draws the likeliest tokens of a model with made-up weights, on the current pool's threads.
pub fn measure(architecture: &Architecture, args: &Args) -> anyhow::Result<Generation> {
    let prompt_tokens = args.seq / 2;
    let prompt: Vec<u32> = (0..prompt_tokens).map(|i| (i * 7919 % args.vocab) as u32).collect();
    let tokens_max = TOKENS_MAX.min(args.seq - prompt_tokens);
    let speeds = Format::ALL.into_iter().filter(|format| fits(architecture, *format));
    let weights: anyhow::Result<Vec<Speed>> =
        speeds.map(|format| speed(architecture, format, &prompt, tokens_max)).collect();
    let prompt_flops = prompt_flops(architecture, prompt_tokens as f64);
    Ok(Generation { prompt_tokens, prompt_flops, tokens: tokens_max - 1, weights: weights? })
}

/// Whether all rows are whole blocks.
fn fits(architecture: &Architecture, format: Format) -> bool {
    let matrices = architecture.all_weights().into_iter().filter(|weight| weight.role == Role::Matrix);
    matrices.into_iter().all(|weight| weight.shape[1].is_multiple_of(format.values_per_unit()))
}

fn speed(architecture: &Architecture, format: Format, prompt: &[u32], tokens_max: usize) -> anyhow::Result<Speed> {
    let generator = Generator::packed(architecture, None, format, |weight| Ok(made_up(weight))).map_err(users)?;
    let sampler = Sampler::new(Sampling::GREEDY).map_err(users)?;
    // What the first of all visits makes is not counted.
    generator.generate_ids(&prompt[..1], 1, &sampler, |_| ()).map_err(users)?;
    let start = Instant::now();
    let mut drawn_s = Vec::new();
    generator
        .generate_ids(prompt, tokens_max, &sampler, |_| drawn_s.push(start.elapsed().as_secs_f64()))
        .map_err(users)?;
    let (prompt_s, last_s) = (drawn_s[0], drawn_s[drawn_s.len() - 1]);
    let tokens = drawn_s.len() - 1;
    // One row of two tokens has nothing to draw after the first.
    let tokens_per_s = if tokens == 0 { 1.0 / prompt_s } else { tokens as f64 / (last_s - prompt_s) };
    Ok(Speed {
        format: format.to_string(),
        prompt_s,
        prompt_tokens_per_s: prompt.len() as f64 / prompt_s,
        prompt_share: 0.0,
        tokens_per_s,
        bytes_per_token: format.n_bytes(matrix_elements(architecture)) as u64,
        bandwidth_share: 0.0,
    })
}

/// Noise that costs little to make: the values change nothing about the speed.
fn made_up(weight: &Weight) -> Vec<f32> {
    let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 - 0.5;
    match weight.role {
        Role::Norm => vec![1.0; weight.n_elements()],
        _ => (0..weight.n_elements()).map(|i| 0.05 * noise(i)).collect(),
    }
}

/// Of all matrices, the head's included and the embedding's not.
fn matrix_elements(architecture: &Architecture) -> usize {
    let weights = architecture.blocks().into_iter().flat_map(|block| architecture.weights(block));
    weights.filter(|weight| weight.role == Role::Matrix).map(|weight| weight.n_elements()).sum()
}

/// The head works for the last token only.
fn prompt_flops(architecture: &Architecture, tokens: f64) -> f64 {
    let head = architecture.vocabulary_matrix(Block::Head).map_or(0, |matrix| matrix.n_elements()) as f64;
    let layers = matrix_elements(architecture) as f64 - head;
    let width = (architecture.num_attention_heads * architecture.head_dim) as f64;
    let attention = architecture.num_hidden_layers as f64 * 2.0 * width * tokens * (tokens + 1.0);
    2.0 * (layers * tokens + head) + attention
}

impl Generation {
    /// As shares of the product's peak and of the bandwidth.
    pub fn against(mut self, peak: &Peak) -> Self {
        for speed in &mut self.weights {
            speed.prompt_share = 1e-9 * self.prompt_flops / speed.prompt_s / peak.matmul_gflops;
            let gbytes_per_s = 1e-9 * speed.bytes_per_token as f64 * speed.tokens_per_s;
            speed.bandwidth_share = gbytes_per_s / peak.memory_read_gbytes_per_s.unwrap_or(peak.memory_gbytes_per_s);
        }
        self
    }

    pub fn page(&self) -> String {
        let head = ["weights", "tokens/s", "bytes a token", "of reading", "prompt tokens/s", "of the product"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.weights.iter().map(|speed| {
            vec![
                speed.format.clone(),
                format!("{:.1}", speed.tokens_per_s),
                units::bytes(speed.bytes_per_token),
                units::percent(speed.bandwidth_share),
                format!("{:.1}", speed.prompt_tokens_per_s),
                units::percent(speed.prompt_share),
            ]
        }));
        format!(
            "generation  {} tokens after a prompt of {}; shares are of reading from memory and of the product above\n{}",
            self.tokens,
            self.prompt_tokens,
            aligned(&rows, 1).iter().map(|line| format!("            {line}\n")).collect::<String>()
        )
    }
}
