//! FormatSpeed of generation in each number format of weights: one row, the prompt at once, then token by token.

use super::Args;
use crate::commands::table::aligned;
use crate::fault::users;
use crate::speed::{Speed, is_unsteady, median};
use crate::units;
use architecture::{Architecture, Block, Role, Weight};
use packed::Format;
use serde::Serialize;
use serve::{Generator, Sampler, Sampling};
use std::time::Instant;

/// Most tokens that are drawn.
const TOKENS_MAX: usize = 64;
/// Sums whose middle is the bandwidth of reading at a moment.
const SUMS: usize = 20;

/// What reading and writing took.
#[derive(Clone, Debug, Serialize)]
pub struct Generation {
    /// Tokens of the prompt: half a row.
    prompt_tokens: usize,
    /// Tokens drawn after the first.
    tokens: usize,
    /// Each number format of the matrices.
    weights: Vec<FormatSpeed>,
}

/// With one number format.
#[derive(Clone, Debug, Serialize)]
struct FormatSpeed {
    format: String,
    /// Until the first token was drawn.
    prompt_s: f64,
    prompt_tokens_per_s: f64,
    /// Of the matrix product's rate.
    prompt_share: f64,
    /// By the middle one of the times between tokens.
    tokens_per_s: f64,
    /// Matrices that every drawn token reads, in bytes.
    bytes_per_token: u64,
    /// Of the bandwidth of reading.
    bandwidth_share: f64,
    /// Of products and of reading, before and after.
    limits: [Limits; 2],
}

/// What the machine does at a moment: middle ones of several measurements.
#[derive(Clone, Copy, Debug, Serialize)]
struct Limits {
    matmul_gflops: f64,
    memory_read_gbytes_per_s: f64,
}

impl Limits {
    fn now() -> Self {
        let reading = median(kernels::memory_read_rates(SUMS)).expect("invariant: sums take time");
        Self { matmul_gflops: Speed::now().gflops, memory_read_gbytes_per_s: reading }
    }
}

/// Draws the likeliest tokens of a model with made-up weights, on the current pool's threads.
pub fn measure(architecture: &Architecture, args: &Args) -> anyhow::Result<Generation> {
    let prompt_tokens = args.seq / 2;
    let prompt: Vec<u32> = (0..prompt_tokens).map(|i| (i * 7919 % args.vocab) as u32).collect();
    let tokens_max = TOKENS_MAX.min(args.seq - prompt_tokens);
    let speeds = Format::ALL.into_iter().filter(|format| fits(architecture, *format));
    let weights: anyhow::Result<Vec<FormatSpeed>> =
        speeds.map(|format| speed(architecture, format, &prompt, tokens_max)).collect();
    Ok(Generation { prompt_tokens, tokens: tokens_max - 1, weights: weights? })
}

/// Whether all rows are whole blocks.
fn fits(architecture: &Architecture, format: Format) -> bool {
    let matrices = architecture.all_weights().into_iter().filter(|weight| weight.role == Role::Matrix);
    matrices.into_iter().all(|weight| weight.shape[1].is_multiple_of(format.values_per_unit()))
}

fn speed(
    architecture: &Architecture,
    format: Format,
    prompt: &[u32],
    tokens_max: usize,
) -> anyhow::Result<FormatSpeed> {
    let generator = Generator::packed(architecture, None, format, |weight| Ok(made_up(weight))).map_err(users)?;
    let sampler = Sampler::new(Sampling::GREEDY).map_err(users)?;
    // What the first of all visits makes is not counted.
    generator.generate_ids(&prompt[..1], 1, &sampler, |_| ()).map_err(users)?;
    let before = Limits::now();
    let start = Instant::now();
    let mut drawn_s = Vec::new();
    generator
        .generate_ids(prompt, tokens_max, &sampler, |_| drawn_s.push(start.elapsed().as_secs_f64()))
        .map_err(users)?;
    let limits = [before, Limits::now()];
    let mean = |of: fn(&Limits) -> f64| limits.iter().map(of).sum::<f64>() / 2.0;
    let prompt_s = drawn_s[0];
    // One row of two tokens has nothing to draw after the first.
    let token_s = median(drawn_s.windows(2).map(|pair| pair[1] - pair[0])).unwrap_or(prompt_s);
    let bytes = format.n_bytes(matrix_elements(architecture));
    Ok(FormatSpeed {
        format: format.to_string(),
        prompt_s,
        prompt_tokens_per_s: prompt.len() as f64 / prompt_s,
        prompt_share: 1e-9 * prompt_flops(architecture, prompt.len() as f64) / prompt_s / mean(|now| now.matmul_gflops),
        tokens_per_s: 1.0 / token_s,
        bytes_per_token: bytes as u64,
        bandwidth_share: 1e-9 * bytes as f64 / token_s / mean(|now| now.memory_read_gbytes_per_s),
        limits,
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

/// Operations of reading a prompt: products, and attention without hidden pairs. The head works for the last token only.
fn prompt_flops(architecture: &Architecture, tokens: f64) -> f64 {
    let head = architecture.vocabulary_matrix(Block::Head).map_or(0, |matrix| matrix.n_elements()) as f64;
    let layers = matrix_elements(architecture) as f64 - head;
    let width = (architecture.num_attention_heads * architecture.head_dim) as f64;
    let attention = architecture.num_hidden_layers as f64 * 2.0 * width * tokens * (tokens + 1.0);
    2.0 * (layers * tokens + head) + attention
}

impl Generation {
    pub fn page(&self) -> String {
        let head = ["weights", "tokens/s", "bytes a token", "of reading", "GB/s", "prompt tokens/s", "of the product"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.weights.iter().map(FormatSpeed::row));
        format!(
            "generation  {} tokens after a prompt of {}; shares of reading from memory and of the product, each measured \
             before and after\n{}",
            self.tokens,
            self.prompt_tokens,
            aligned(&rows, 1).iter().map(|line| format!("            {line}\n")).collect::<String>()
        )
    }
}

impl FormatSpeed {
    fn row(&self) -> Vec<String> {
        let [before, after] = self.limits.map(|limits| limits.memory_read_gbytes_per_s);
        // A share of what moved is no measurement.
        let void = if is_unsteady(before, after) { " (moved)" } else { "" };
        vec![
            self.format.clone(),
            format!("{:.1}", self.tokens_per_s),
            units::bytes(self.bytes_per_token),
            units::percent(self.bandwidth_share),
            format!("{before:.1}, {after:.1}{void}"),
            format!("{:.1}", self.prompt_tokens_per_s),
            units::percent(self.prompt_share),
        ]
    }
}
