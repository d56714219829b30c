//! `millstream bench`. A part for each thing that is measured, in a file of its own with what it prints.

mod generation;
mod kernels;
mod peak;
mod training;

use super::size;
use crate::device::On;
use crate::fault::{UserFault, users};
use crate::report::Machine;
use crate::{Outcome, units};
use anyhow::Context;
use architecture::Architecture;
use serde::Serialize;
use serde_json::json;
use stage::Precision;
use train::DeviceName;

/// Which model to measure with.
#[derive(Clone, Copy, Debug, clap::Args, Serialize)]
pub struct Args {
    /// Width of the residual stream.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = size(1..=1 << 16))]
    d: usize,
    /// Layers.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = size(1..=1 << 10))]
    layers: usize,
    /// Query heads.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = size(1..=1 << 10))]
    heads: usize,
    /// Key and value heads; without it, as query heads.
    #[arg(long, value_name = "N", value_parser = size(1..=1 << 10))]
    kv_heads: Option<usize>,
    /// Width inside the MLP.
    #[arg(long, value_name = "N", default_value_t = 1408, value_parser = size(1..=1 << 20))]
    ff: usize,
    /// Number of token ids.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = size(1..=1 << 20))]
    vocab: usize,
    /// Tokens of a row.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = size(2..=1 << 20))]
    seq: usize,
    /// Rows of a step.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = size(1..=1 << 16))]
    batch: usize,
    /// Training steps; the first is not counted.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = size(2..=1_000_000))]
    steps: usize,
    /// Threads; without it, as many as this process may use cores.
    #[arg(long, value_name = "N", value_parser = size(1..=1 << 10))]
    threads: Option<usize>,
    /// Measure only this beside the machine.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Where it computes.
    #[command(flatten)]
    #[serde(skip)]
    on: On,
    /// What training computes in: f32, or bf16 with weights of f32. Generation does not follow it.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = In::F32)]
    precision: In,
    /// Answer as JSON.
    #[arg(long)]
    #[serde(skip)]
    json: bool,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    /// Training steps.
    Training,
    /// Reading a prompt and drawing tokens, in each number format of weights.
    Generation,
}

/// Names of [`Precision`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum In {
    F32,
    Bf16,
}

impl In {
    fn precision(self) -> Precision {
        match self {
            In::F32 => Precision::F32,
            In::Bf16 => Precision::Bf16,
        }
    }
}

/// What `--json` prints. A part that is added gets a field here and a line in [`Figures::page`].
#[derive(Serialize)]
struct Figures {
    version: &'static str,
    machine: Machine,
    device: String,
    threads: usize,
    shape: Args,
    parameters: usize,
    peak: peak::Peak,
    training: Option<training::Training>,
    kernels: Vec<kernels::Kernel>,
    generation: Option<generation::Generation>,
}

/// Measures and prints.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let architecture = args.architecture()?;
    let machine = Machine::here();
    // Kernels and packed weights are made for cores.
    let on_cores = args.on.device == DeviceName::Cpu;
    if !on_cores && args.only == Some(Part::Generation) {
        return Err(UserFault::new("--only generation is measured on cores only").hint("leave out --device").into());
    }
    check_memory(&architecture, &args, machine.memory_bytes)?;
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("threads cannot be started")?;
    let device = args.on.open()?;
    let peak = || peak::measure(&device, args.precision.precision());
    let before = pool.install(peak);
    let wants = |part: Part| args.only.is_none_or(|only| only == part);
    let training = || training::measure(&architecture, &args, &device, threads);
    let training = wants(Part::Training).then(training).transpose()?;
    let of_step = training.as_ref().filter(|_| on_cores).map(|training| {
        let kernels = pool.install(|| kernels::measure(&architecture, &args));
        kernels.into_iter().map(|kernel| kernel.against(&before, training.step_s())).collect()
    });
    let generation = || pool.install(|| generation::measure(&architecture, &args));
    let generation = (on_cores && wants(Part::Generation)).then(generation).transpose()?;
    let after = pool.install(peak);
    let figures = Figures {
        version: env!("CARGO_PKG_VERSION"),
        machine,
        device: args.on.device.to_string(),
        threads,
        shape: args,
        parameters: architecture.n_parameters(),
        kernels: of_step.unwrap_or_default(),
        training: training.map(|training| training.against(&before)),
        generation,
        peak: before.moved_to(&after),
    };
    let text = if args.json { serde_json::to_string_pretty(&figures)? + "\n" } else { figures.page() };
    super::print(&text)?;
    Ok(Outcome::Done)
}

/// Refuses what the machine's memory cannot hold, by a count that is too low: weights, and for training gradients, two
/// moments, and what one step's forward keeps.
fn check_memory(architecture: &Architecture, args: &Args, memory_bytes: u64) -> Result<(), UserFault> {
    let of_row =
        architecture.blocks().into_iter().map(|block| architecture.cost(block, 1, args.seq).activation_elements);
    let kept: f64 = of_row.map(|elements| elements as f64).sum();
    let weights = architecture.n_parameters() as f64;
    let (what, elements) = match args.only {
        Some(Part::Generation) => ("this model", weights),
        _ => ("a training step of this model", 4.0 * weights + args.batch as f64 * kept),
    };
    let bytes = 4.0 * elements;
    if memory_bytes > 0 && bytes > memory_bytes as f64 {
        let [needs, has] = [bytes as u64, memory_bytes].map(units::bytes);
        let message = format!("{what} takes more than {needs}, and the machine has {has}");
        return Err(UserFault::new(message).hint("lower --batch, --seq, --layers, --d, --ff or --vocab"));
    }
    Ok(())
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
             {batch} rows of {seq} tokens; {}, {} threads\n",
            units::count(self.parameters as u64),
            self.device,
            self.threads
        );
        let training = self.training.as_ref().map(training::Training::page).unwrap_or_default();
        let generation = self.generation.as_ref().map(generation::Generation::page).unwrap_or_default();
        let kernels = if self.kernels.is_empty() { String::new() } else { kernels::page(&self.kernels) };
        model + &self.peak.page() + &training + &generation + &kernels
    }
}
