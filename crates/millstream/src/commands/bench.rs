//! `millstream bench`. A part for each thing that is measured, in a file of its own with what it prints.

mod generation;
mod peak;
mod training;

use crate::fault::{UserFault, users};
use crate::report::Machine;
use crate::{Outcome, units};
use anyhow::Context;
use architecture::Architecture;
use serde::Serialize;
use serde_json::json;

/// Which model to measure with.
#[derive(Clone, Copy, Debug, clap::Args, Serialize)]
pub struct Args {
    /// Width of the residual stream.
    #[arg(long, value_name = "N", default_value_t = 512)]
    d: usize,
    /// Layers.
    #[arg(long, value_name = "N", default_value_t = 6)]
    layers: usize,
    /// Query heads.
    #[arg(long, value_name = "N", default_value_t = 8)]
    heads: usize,
    /// Key and value heads; without it, as query heads.
    #[arg(long, value_name = "N")]
    kv_heads: Option<usize>,
    /// Width inside the MLP.
    #[arg(long, value_name = "N", default_value_t = 1408)]
    ff: usize,
    /// Number of token ids.
    #[arg(long, value_name = "N", default_value_t = 8192)]
    vocab: usize,
    /// Tokens of a row.
    #[arg(long, value_name = "N", default_value_t = 512)]
    seq: usize,
    /// Rows of a step.
    #[arg(long, value_name = "N", default_value_t = 4)]
    batch: usize,
    /// Training steps; the first is not counted.
    #[arg(long, value_name = "N", default_value_t = 6)]
    steps: usize,
    /// Threads; without it, as many as this process may use cores.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Answer as JSON.
    #[arg(long)]
    #[serde(skip)]
    json: bool,
}

/// What `--json` prints. A part that is added gets a field here and a line in [`Figures::page`].
#[derive(Serialize)]
struct Figures {
    version: &'static str,
    machine: Machine,
    threads: usize,
    shape: Args,
    parameters: usize,
    peak: peak::Peak,
    training: training::Training,
    generation: generation::Generation,
}

/// Measures and prints.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let architecture = args.architecture()?;
    if args.seq < 2 || args.batch == 0 || args.steps < 2 {
        let message = "--seq and --steps must be at least 2, and --batch at least 1";
        return Err(UserFault::new(message).hint("the first of the steps is not counted").into());
    }
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    if threads == 0 {
        return Err(UserFault::new("--threads is 0, but must be at least 1").into());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("threads cannot be started")?;
    let before = pool.install(peak::measure);
    let training = training::measure(&architecture, &args, threads)?;
    let generation = pool.install(|| generation::measure(&architecture, &args))?;
    let after = pool.install(peak::measure);
    let figures = Figures {
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine::here(),
        threads,
        shape: args,
        parameters: architecture.n_parameters(),
        training: training.against(&before),
        generation: generation.against(&before),
        peak: before.moved_to(&after),
    };
    let text = if args.json { serde_json::to_string_pretty(&figures)? + "\n" } else { figures.page() };
    super::print(&text)?;
    Ok(Outcome::Done)
}

impl Args {
    /// A Llama of this shape.
    fn architecture(&self) -> anyhow::Result<Architecture> {
        if self.heads == 0 || !self.d.is_multiple_of(self.heads) {
            let message = format!("--heads is {}, but must divide --d, which is {}", self.heads, self.d);
            return Err(UserFault::new(message).into());
        }
        let config = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": self.d,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads.unwrap_or(self.heads), "intermediate_size": self.ff,
            "vocab_size": self.vocab, "max_position_embeddings": self.seq, "bos_token_id": null, "eos_token_id": null,
        });
        Ok(architecture::from_config_json(&config.to_string()).map_err(users)?)
    }
}

impl Figures {
    fn page(&self) -> String {
        let Args { d, layers, heads, ff, vocab, seq, batch, .. } = self.shape;
        let kv_heads = self.shape.kv_heads.unwrap_or(heads);
        let model = format!(
            "model       {} parameters: d {d}, {layers} layers, {heads} heads, {kv_heads} kv heads, ff {ff}, vocab {vocab}; \
             {batch} rows of {seq} tokens; {} threads\n",
            units::count(self.parameters as u64),
            self.threads
        );
        model + &self.peak.page() + &self.training.page() + &self.generation.page()
    }
}
