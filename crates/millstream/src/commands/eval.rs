//! `millstream eval`.

use crate::fault::{UserFault, users};
use crate::out_folder::write_whole;
use crate::{Outcome, model_folder};
use burn::tensor::Device;
use corpus::{Borders, Packing};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serve::Generator;
use std::path::{Path, PathBuf};

/// What to measure on.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a run, or of a model (config.json, safetensors, tokenizer.json).
    pub folder: PathBuf,
    /// Text files and folders.
    #[arg(value_name = "TEXT", required_unless_present = "tokens", conflicts_with = "tokens")]
    pub texts: Vec<PathBuf>,
    /// Token ids to feed instead of texts: a JSON file with a list of numbers.
    #[arg(long, value_name = "IDS.json", requires = "logits")]
    pub tokens: Option<PathBuf>,
    /// Where to write the logits of every token.
    #[arg(long, value_name = "OUT.safetensors", requires = "tokens")]
    pub logits: Option<PathBuf>,
    /// The field of JSON Lines objects that holds the text.
    #[arg(long, default_value = "text")]
    pub field: String,
    /// Tokens per row; without it, the model's longest.
    #[arg(long, value_name = "N")]
    pub sequence_length: Option<usize>,
}

/// Prints loss, perplexity and bits per byte, or writes logits.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    if args.sequence_length == Some(0) {
        return Err(UserFault::new("--sequence-length is 0, but must be at least 1").into());
    }
    let generator = Generator::open(&model_folder::find(&args.folder)?, &Device::flex()).map_err(users)?;
    match (&args.tokens, &args.logits) {
        (Some(tokens), Some(out)) => write_logits(&generator, tokens, out)?,
        _ => measure(&generator, &args)?,
    }
    Ok(Outcome::Done)
}

fn measure(generator: &Generator, args: &Args) -> anyhow::Result<()> {
    let documents = corpus::read_documents(&args.texts, &args.field).map_err(users)?;
    let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
    let limit = generator.architecture().max_position_embeddings;
    let sequence_length = args.sequence_length.unwrap_or(limit);
    let packing = Packing { sequence_length, borders: Borders::Joined };
    let result = generator.evaluate(&texts, packing).map_err(users)?;
    if !result.nats.is_finite() {
        let message = "the loss is infinite or not a number; the model's weights are damaged or come from a training \
                       run that diverged";
        return Err(UserFault::new(message).into());
    }
    super::print(&format!(
        "loss           {:.4} nats per token\nperplexity     {:.2}\nbits per byte  {:.4}\ntokens         {}\nbytes          {}\n",
        result.nats_per_token(),
        result.perplexity(),
        result.bits_per_byte(),
        result.n_tokens,
        result.n_bytes
    ))?;
    Ok(())
}

/// Writes the tensor `logits [tokens, vocab]` in f32, whole or not at all.
fn write_logits(generator: &Generator, tokens: &Path, out: &Path) -> anyhow::Result<()> {
    let fault = |what: String| UserFault::new(format!("{}: {what}", tokens.display()));
    let text = std::fs::read_to_string(tokens).map_err(|error| fault(error.to_string()))?;
    let ids: Vec<u32> = serde_json::from_str(&text)
        .map_err(|error| fault(format!("{error}")).hint("write a JSON list of token ids, such as [1, 529, 7]"))?;
    let logits = generator.logits(&ids).map_err(|error| fault(error.to_string()))?;
    let shape = vec![ids.len(), logits.len() / ids.len()];
    let bytes: Vec<u8> = logits.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = TensorView::new(Dtype::F32, shape, &bytes)?;
    let file = safetensors::serialize([("logits", tensor)], None)?;
    write_whole(out, &file).map_err(users)?;
    super::print(&format!("{}: logits of {} tokens\n", out.display(), ids.len()))?;
    Ok(())
}
