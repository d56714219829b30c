//! `millstream generate`.

use crate::fault::users;
use crate::{Outcome, model_folder};
use burn::tensor::Device;
use serve::{Generator, Options, Sampler, Sampling, Stop};
use std::path::PathBuf;

/// What to continue, and how.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a run, or of a model (config.json, safetensors, tokenizer.json).
    pub folder: PathBuf,
    /// The text to continue.
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// At most so many new tokens.
    #[arg(long, default_value_t = 200)]
    pub tokens: usize,
    /// Softmax temperature; 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Draw from the so many likeliest tokens only.
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Every draw is a function of this and the token's position.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// End where this string appears; may be repeated.
    #[arg(long = "stop", value_name = "TEXT")]
    pub stops: Vec<String>,
}

/// Writes prompt and continuation to standard output, piece by piece as they come.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let Args { folder, prompt, tokens, temperature, top_k, top_p, seed, stops } = args;
    let sampler = Sampler::new(Sampling { temperature, top_k, top_p, seed }).map_err(users)?;
    let generator = Generator::open(&model_folder::find(&folder)?, &Device::flex()).map_err(users)?;
    let options = Options { tokens_max: tokens, sampler, stop: stops };
    // Not before the first piece: a prompt that is refused is not echoed.
    let mut ahead = Some(prompt.as_str());
    let mut written = Ok(());
    let generated = generator.generate(&prompt, &options, |piece| {
        if written.is_ok() {
            written = super::print(&format!("{}{}", ahead.take().unwrap_or_default(), super::harmless(piece)));
        }
    });
    let generated = generated.map_err(users)?;
    written?;
    super::print(ahead.unwrap_or_default())?;
    super::print("\n")?;
    if generated.reason == Stop::PositionsMax {
        super::note(&format!(
            "ended after {} tokens: the model reads at most {} tokens, prompt included",
            generated.n_tokens,
            generator.architecture().max_position_embeddings
        ));
    }
    Ok(Outcome::Done)
}
