//! `millstream eval`.

use super::table::aligned;
use super::weights::WeightsArg;
use crate::device::On;
use crate::fault::{UserFault, users};
use crate::out_folder::write_whole;
use crate::{Outcome, model_folder, run_file};
use corpus::{Borders, Packing};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Serialize;
use serve::{Evaluation, Generator};
use std::path::{Path, PathBuf};

/// What to measure on.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a run, or of a model (config.json, safetensors, tokenizer.json).
    pub folder: PathBuf,
    /// Text files and folders; of several, each is measured by itself and all together.
    #[arg(value_name = "TEXT", required_unless_present = "tokens", conflicts_with = "tokens")]
    pub texts: Vec<PathBuf>,
    /// Token ids to feed instead of texts: a JSON file with a list of numbers.
    #[arg(long, value_name = "IDS.json", requires = "logits")]
    pub tokens: Option<PathBuf>,
    /// Where to write the logits of every token.
    #[arg(long, value_name = "OUT.safetensors", requires = "tokens")]
    pub logits: Option<PathBuf>,
    /// The field of JSON Lines objects that holds the text.
    #[arg(long, default_value = "text", conflicts_with = "tokens")]
    pub field: String,
    /// Tokens per row; without it, the model's longest.
    #[arg(long, value_name = "N", conflicts_with = "tokens")]
    pub sequence_length: Option<usize>,
    /// How weights are held: fewer bits, less memory, other figures.
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    pub weights: WeightsArg,
    /// Where it computes.
    #[command(flatten)]
    pub on: On,
    /// Answer as JSON.
    #[arg(long, conflicts_with = "tokens")]
    pub json: bool,
}

/// Prints loss, perplexity and bits per byte of each text, or writes logits.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    if args.sequence_length == Some(0) {
        return Err(UserFault::new("--sequence-length is 0, but must be at least 1").into());
    }
    let folder = model_folder::find(&args.folder)?;
    let generator = args.on.generator(&folder, args.weights)?;
    match (&args.tokens, &args.logits) {
        (Some(tokens), Some(out)) => write_logits(&generator, tokens, out)?,
        _ => measure(&generator, &args, &Reading::of(&folder)?)?,
    }
    Ok(Outcome::Done)
}

/// Whether a document sees those before it in its row.
struct Reading {
    borders: Borders,
    /// The run file that says so; absent for a model of another origin.
    run_file: Option<PathBuf>,
}

impl Reading {
    /// As the run of the model validates, if there is one: its run file lies above `model/` or `checkpoints/STEP/`.
    fn of(folder: &Path) -> Result<Self, UserFault> {
        let folders =
            folder.ancestors().take(3).map(|above| if above == Path::new("") { Path::new(".") } else { above });
        let Some(run_file) = folders.map(|above| above.join("run.toml")).find(|file| file.is_file()) else {
            return Ok(Self { borders: Borders::Joined, run_file: None });
        };
        let isolates = run_file::isolates_documents(&run_file).map_err(users)?;
        Ok(Self { borders: if isolates { Borders::Isolated } else { Borders::Joined }, run_file: Some(run_file) })
    }

    fn name(&self) -> &'static str {
        match self.borders {
            Borders::Isolated => "isolated",
            Borders::Joined => "joined",
        }
    }

    /// For the terminal.
    fn line(&self) -> String {
        match &self.run_file {
            Some(file) => format!("{} in a row, as in {}", self.name(), file.display()),
            None => format!("{} in a row: there is no run.toml that says otherwise", self.name()),
        }
    }
}

fn measure(generator: &Generator, args: &Args, reading: &Reading) -> anyhow::Result<()> {
    let limit = generator.architecture().max_position_embeddings;
    let packing = Packing { sequence_length: args.sequence_length.unwrap_or(limit), borders: reading.borders };
    let mut texts = Vec::new();
    for path in &args.texts {
        let documents = corpus::read_documents(std::slice::from_ref(path), &args.field).map_err(users)?;
        let contents: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
        let evaluation = generator.evaluate(&contents, packing).map_err(users)?;
        if !evaluation.nats.is_finite() {
            let message = "the loss is infinite or not a number; the model's weights are damaged or come from a \
                           training run that diverged";
            return Err(UserFault::new(message).into());
        }
        texts.push((path.display().to_string(), evaluation));
    }
    let all = texts.iter().fold(Evaluation::default(), |all, (_, text)| all.with(text));
    let text = match &texts[..] {
        _ if args.json => {
            let texts = texts.iter().map(|(path, text)| Loss::of(Some(path.clone()), text)).collect();
            let figures = Figures {
                sequence_length: packing.sequence_length,
                documents: reading.name(),
                texts,
                all: Loss::of(None, &all),
            };
            serde_json::to_string_pretty(&figures)? + "\n"
        }
        [_] => format!("{}borders        documents {}\n", page(&all), reading.line()),
        _ => format!("{}documents {}\n", table(&texts, &all), reading.line()),
    };
    super::print(&text)?;
    Ok(())
}

/// What `--json` prints.
#[derive(Serialize)]
struct Figures {
    sequence_length: usize,
    /// `isolated` or `joined`: whether a document sees those before it in its row.
    documents: &'static str,
    texts: Vec<Loss>,
    all: Loss,
}

/// Losses of one text or of all; intervals are null for fewer than 10 documents.
#[derive(Serialize)]
struct Loss {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    documents: usize,
    tokens: u64,
    bytes: u64,
    /// In nats per token.
    loss: f64,
    loss_95: Option<[f64; 2]>,
    perplexity: f64,
    perplexity_95: Option<[f64; 2]>,
    bits_per_byte: f64,
    bits_per_byte_95: Option<[f64; 2]>,
}

impl Loss {
    fn of(text: Option<String>, evaluation: &Evaluation) -> Self {
        let interval = evaluation.interval();
        Self {
            text,
            documents: evaluation.documents.len(),
            tokens: evaluation.n_tokens,
            bytes: evaluation.n_bytes,
            loss: evaluation.nats_per_token(),
            loss_95: interval.map(|interval| interval.nats_per_token),
            perplexity: evaluation.perplexity(),
            perplexity_95: interval.map(|interval| interval.nats_per_token.map(f64::exp)),
            bits_per_byte: evaluation.bits_per_byte(),
            bits_per_byte_95: interval.map(|interval| interval.bits_per_byte),
        }
    }
}

/// Of one text.
fn page(evaluation: &Evaluation) -> String {
    let loss = Loss::of(None, evaluation);
    let within = |bounds: Option<[f64; 2]>, digits: usize| match bounds {
        Some([low, high]) => format!("  (95 % interval {low:.digits$} to {high:.digits$})"),
        None => String::new(),
    };
    format!(
        "loss           {:.4} nats per token{}\nperplexity     {:.2}{}\nbits per byte  {:.4}{}\ntokens         {}\n\
         bytes          {}\ndocuments      {}\n",
        loss.loss,
        within(loss.loss_95, 4),
        loss.perplexity,
        within(loss.perplexity_95, 2),
        loss.bits_per_byte,
        within(loss.bits_per_byte_95, 4),
        loss.tokens,
        loss.bytes,
        loss.documents
    )
}

/// A row for each text and one for all.
fn table(texts: &[(String, Evaluation)], all: &Evaluation) -> String {
    let head = ["text", "documents", "tokens", "bytes", "loss", "95 % interval", "perplexity", "bits/byte"];
    let row = |name: &str, evaluation: &Evaluation| {
        let loss = Loss::of(None, evaluation);
        let interval = loss.loss_95.map_or("-".to_owned(), |[low, high]| format!("{low:.4} to {high:.4}"));
        vec![
            name.to_owned(),
            loss.documents.to_string(),
            loss.tokens.to_string(),
            loss.bytes.to_string(),
            format!("{:.4}", loss.loss),
            interval,
            format!("{:.2}", loss.perplexity),
            format!("{:.4}", loss.bits_per_byte),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head.map(str::to_owned).to_vec())
        .chain(texts.iter().map(|(name, evaluation)| row(name, evaluation)))
        .chain([row("all", all)])
        .collect();
    aligned(&rows, 1).into_iter().map(|line| line + "\n").collect()
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
