//! Speed of generation in each number format of weights: one row, the prompt at once, then token by token.

use super::Args;
use crate::commands::table::aligned;
use crate::fault::users;
use crate::speed::{Speed, is_unsteady, median};
use crate::units;
use architecture::{Architecture, Block, Role, Weight};
use kernels::Sweep;
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
    /// Of the matrix product's rate, the mean of before and after.
    prompt_share: f64,
    /// By the middle one of the times between tokens.
    tokens_per_s: f64,
    /// Matrices that every drawn token reads, in bytes.
    bytes_per_token: u64,
    /// The middle one of the bandwidths of reading, each measured after a token.
    memory_read_gbytes_per_s: f64,
    /// The middle one of the tokens' shares of the bandwidth that was measured next: a machine's memory may move by a
    /// third within a second.
    bandwidth_share: f64,
    matmul_gflops: [f64; 2],
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
    let (sweep, before) = (Sweep::new(), Speed::now().gflops);
    let mut start = Instant::now();
    let (mut times_s, mut rates) = (Vec::new(), Vec::new());
    generator
        .generate_ids(prompt, tokens_max, &sampler, |_| {
            times_s.push(start.elapsed().as_secs_f64());
            rates.push(sweep.gbytes_per_s());
            start = Instant::now();
        })
        .map_err(users)?;
    let matmul_gflops = [before, Speed::now().gflops];
    let prompt_s = times_s[0];
    // One row of two tokens has nothing to draw after the first.
    let drawn = if times_s.len() > 1 { 1.. } else { 0.. };
    let (times_s, rates) = (&times_s[drawn.clone()], &rates[drawn]);
    let middle = |numbers: Vec<f64>| median(numbers).expect("invariant: at least one token takes time");
    let bytes = format.n_bytes(matrix_elements(architecture));
    let shares = times_s.iter().zip(rates).map(|(token_s, rate)| 1e-9 * bytes as f64 / token_s / rate);
    let product = 0.5e9 * matmul_gflops.iter().sum::<f64>();
    Ok(FormatSpeed {
        format: format.to_string(),
        prompt_s,
        prompt_tokens_per_s: prompt.len() as f64 / prompt_s,
        prompt_share: prompt_flops(architecture, prompt.len() as f64) / prompt_s / product,
        tokens_per_s: 1.0 / middle(times_s.to_vec()),
        bytes_per_token: bytes as u64,
        memory_read_gbytes_per_s: middle(rates.to_vec()),
        bandwidth_share: middle(shares.collect()),
        matmul_gflops,
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
        let head = [
            "weights",
            "tokens/s",
            "bytes a token",
            "of reading",
            "GB/s",
            "prompt tokens/s",
            "of the product",
            "GFLOP/s",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.weights.iter().map(FormatSpeed::row));
        format!(
            "generation  {} tokens after a prompt of {}; shares are of reading memory, measured after each token, and of \
             the product, before and after\n{}",
            self.tokens,
            self.prompt_tokens,
            aligned(&rows, 1).iter().map(|line| format!("            {line}\n")).collect::<String>()
        )
    }
}

impl FormatSpeed {
    fn row(&self) -> Vec<String> {
        let [before, after] = self.matmul_gflops;
        // A share of what moved is no measurement.
        let moved =
            if is_unsteady(before, after) { format!("{before:.0}, then {after:.0}") } else { format!("{before:.0}") };
        vec![
            self.format.clone(),
            format!("{:.1}", self.tokens_per_s),
            units::bytes(self.bytes_per_token),
            units::percent(self.bandwidth_share),
            format!("{:.1}", self.memory_read_gbytes_per_s),
            format!("{:.1}", self.prompt_tokens_per_s),
            units::percent(self.prompt_share),
            moved,
        ]
    }
}
