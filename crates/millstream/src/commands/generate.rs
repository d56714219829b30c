//! `millstream generate`.

use super::chat::{self, Chat};
use super::weights::WeightsArg;
use crate::device::On;
use crate::fault::users;
use crate::{Outcome, model_folder};
use serde::Serialize;
use serve::{Generated, Generator, Options, Sampler, Sampling, ScoredToken, Stop};
use std::path::PathBuf;

/// What to continue, and how.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a run, or of a model (config.json, safetensors, tokenizer.json).
    pub folder: PathBuf,
    /// The text to continue.
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// Converse: each line that you type is answered, in the form of the model's own chat template.
    #[arg(long, conflicts_with_all = ["prompt", "messages", "samples", "json"])]
    pub chat: bool,
    /// Answer this conversation: a JSON list of objects with `role` and `content`.
    #[arg(long, value_name = "FILE.json", conflicts_with = "prompt")]
    pub messages: Option<PathBuf>,
    /// With --chat: what the model is told beforehand.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// How tokens are drawn.
    #[command(flatten)]
    pub drawing: Drawing,
    /// How weights are held: fewer bits, less memory, more tokens a second.
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    pub weights: WeightsArg,
    /// Where it computes.
    #[command(flatten)]
    pub on: On,
    /// Write so many continuations; the first has the seed given, each further one the next. They are drawn together.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// Answer as JSON: tokens with their text, log-probability and the likeliest others.
    #[arg(long)]
    pub json: bool,
    /// With --json: how many of the likeliest tokens to tell at each place.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "json")]
    pub top_logprobs: usize,
}

/// How tokens are drawn, and until when.
#[derive(clap::Args)]
pub struct Drawing {
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
    /// Draw from tokens at least this share as likely as the likeliest.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f64>,
    /// Make tokens that the text has already less likely: divides their logits, as transformers does; above 1.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repetition_penalty: Option<f64>,
    /// Every draw is a function of this and the token's position.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// End where this string appears; may be repeated.
    #[arg(long = "stop", value_name = "TEXT")]
    pub stops: Vec<String>,
}

impl Drawing {
    /// For the `n`-th of several continuations, counted from 0.
    pub fn options(&self, n: u64, alternatives: Option<usize>) -> anyhow::Result<Options> {
        let &Self { temperature, top_k, top_p, min_p, repetition_penalty, .. } = self;
        let seed = self.seed.wrapping_add(n);
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed };
        let sampler = Sampler::new(sampling).map_err(users)?;
        Ok(Options { tokens_max: self.tokens, sampler, stop: self.stops.clone(), alternatives })
    }
}

/// Continuations drawn together: so many are each what they would be alone, to the bit.
const TOGETHER: u64 = 8;

/// Writes prompt and continuations to standard output, piece by piece as they come, or as JSON at the end.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    // On a thread of the pool, which hands small products on faster than one from outside.
    rayon::scope(|_| write(&args))
}

fn write(args: &Args) -> anyhow::Result<Outcome> {
    // Before the model is loaded: what is wrong with them is told at once.
    args.drawing.options(0, None)?;
    let messages = args.messages.as_deref().map(chat::read_messages).transpose()?;
    let folder = model_folder::find(&args.folder)?;
    let generator = args.on.generator(&folder, args.weights)?;
    if args.chat {
        Chat::open(&generator, &folder)?.converse(&args.drawing, args.system.as_deref())?;
        return Ok(Outcome::Done);
    }
    let prompt = match &messages {
        None => Prompt {
            text: args.prompt.clone(),
            ids: generator.prompt_ids(&args.prompt).map_err(users)?,
            echo: args.prompt.clone(),
        },
        Some(messages) => {
            let text = Chat::open(&generator, &folder)?.prompt(messages)?;
            let ids = generator.tokenizer().and_then(|tokenizer| Ok(tokenizer.encode(&text)?)).map_err(users)?;
            Prompt { text, ids, echo: String::new() }
        }
    };
    match args.json {
        true => print_json(&generator, args, &prompt)?,
        false => print_text(&generator, args, &prompt)?,
    }
    Ok(Outcome::Done)
}

/// What is continued.
struct Prompt {
    text: String,
    ids: Vec<u32>,
    /// What is written before the continuation: a prompt is, a conversation is not.
    echo: String,
}

/// The first of those drawn together is written as it comes, the others after it.
fn print_text(generator: &Generator, args: &Args, prompt: &Prompt) -> anyhow::Result<()> {
    for first in (0..args.samples).step_by(TOGETHER as usize) {
        let numbers = first..args.samples.min(first + TOGETHER);
        let options =
            numbers.clone().map(|n| args.drawing.options(n, None)).collect::<anyhow::Result<Vec<Options>>>()?;
        let head = |n: u64| match args.samples {
            1 => prompt.echo.clone(),
            all => format!("--- {} of {all}, seed {}\n{}", n + 1, args.drawing.seed.wrapping_add(n), prompt.echo),
        };
        // Not before the first piece: a prompt that is refused is not echoed.
        let mut ahead = Some(head(first));
        let mut written = Ok(());
        let generated = generator.generate_several(&prompt.ids, &options, |n, piece| {
            if n == 0 && written.is_ok() {
                written = super::print(&format!("{}{}", ahead.take().unwrap_or_default(), super::harmless(piece)));
            }
        });
        let generated = generated.map_err(users)?;
        written?;
        super::print(&format!("{}\n", ahead.unwrap_or_default()))?;
        note_positions_max(generator, &generated[0]);
        for (n, generated) in numbers.zip(&generated).skip(1) {
            super::print(&format!("{}{}\n", head(n), super::harmless(&generated.text)))?;
            note_positions_max(generator, generated);
        }
    }
    Ok(())
}

/// Tells that the model, and not the user, ended the text.
fn note_positions_max(generator: &Generator, generated: &Generated) {
    if generated.reason == Stop::PositionsMax {
        super::note(&format!(
            "ended after {} tokens: the model reads at most {} tokens, prompt included",
            generated.n_tokens,
            generator.architecture().max_position_embeddings
        ));
    }
}

fn print_json(generator: &Generator, args: &Args, prompt: &Prompt) -> anyhow::Result<()> {
    let mut samples = Vec::new();
    for first in (0..args.samples).step_by(TOGETHER as usize) {
        let numbers = first..args.samples.min(first + TOGETHER);
        let options = numbers.clone().map(|n| args.drawing.options(n, Some(args.top_logprobs)));
        let options = options.collect::<anyhow::Result<Vec<Options>>>()?;
        let generated = generator.generate_several(&prompt.ids, &options, |_, _| ()).map_err(users)?;
        for (n, generated) in numbers.zip(&generated) {
            samples.push(Sample::of(generator, args.drawing.seed.wrapping_add(n), generated)?);
        }
    }
    let answer = Answer { prompt: &prompt.text, prompt_ids: &prompt.ids, samples };
    super::print(&(serde_json::to_string_pretty(&answer)? + "\n"))?;
    Ok(())
}

/// What `--json` prints. Log-probabilities are the model's own, before temperature and all else.
#[derive(Serialize)]
struct Answer<'a> {
    prompt: &'a str,
    prompt_ids: &'a [u32],
    samples: Vec<Sample>,
}

#[derive(Serialize)]
struct Sample {
    seed: u64,
    text: String,
    /// `end_of_text`, `stop_string`, `tokens_max` or `positions_max`.
    reason: &'static str,
    tokens: Vec<Token>,
}

#[derive(Serialize)]
struct Token {
    #[serde(flatten)]
    drawn: Place,
    top: Vec<Place>,
}

/// A token and what the model thought of it in its place.
#[derive(Serialize)]
struct Place {
    id: u32,
    /// Alone; a part of a character is `U+FFFD`, a special token is empty.
    text: String,
    logprob: f64,
}

impl Sample {
    fn of(generator: &Generator, seed: u64, generated: &Generated) -> anyhow::Result<Self> {
        let tokenizer = generator.tokenizer().map_err(users)?;
        let place = |(id, logprob): (u32, f64)| -> anyhow::Result<Place> {
            // Models may have more ids than their tokenizer.
            let is_known = (id as usize) < tokenizer.vocab_size();
            let text = if is_known { tokenizer.decode(&[id]).map_err(users)? } else { String::new() };
            Ok(Place { id, text, logprob })
        };
        let token = |scored: &ScoredToken| -> anyhow::Result<Token> {
            let drawn = place((scored.id, scored.log_probability))?;
            let top = scored.alternatives.iter().copied().map(place).collect::<anyhow::Result<Vec<Place>>>()?;
            Ok(Token { drawn, top })
        };
        Ok(Self {
            seed,
            text: generated.text.clone(),
            reason: match generated.reason {
                Stop::EndOfText(_) => "end_of_text",
                Stop::StopString(_) => "stop_string",
                Stop::TokensMax => "tokens_max",
                Stop::PositionsMax => "positions_max",
            },
            tokens: generated.tokens.iter().map(token).collect::<anyhow::Result<Vec<Token>>>()?,
        })
    }
}
