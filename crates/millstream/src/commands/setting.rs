//! The options that `simulate` and `schedules` share.

use crate::simulation_file::Request;
use std::path::PathBuf;

/// Costs from a file, from options laid over it, or from options alone.
#[derive(clap::Args)]
pub struct SettingArgs {
    /// Costs (TOML, see docs/simulate.md); without a file, every pass takes a microsecond.
    file: Option<PathBuf>,
    /// Number of ranks.
    #[arg(long, value_name = "N")]
    ranks: Option<String>,
    /// Number of microbatches.
    #[arg(long, value_name = "N")]
    microbatches: Option<String>,
    /// Stages on each rank, for schedules that hold any number of them.
    #[arg(long, value_name = "N")]
    chunks: Option<String>,
    /// How schedules that do not place weight passes themselves play backward: fused or split.
    #[arg(long, value_name = "HOW")]
    backward: Option<String>,
    /// Forward of a microbatch on a rank, in microseconds.
    #[arg(long, value_name = "US")]
    forward: Option<String>,
    /// Backward of the input, in microseconds.
    #[arg(long, value_name = "US")]
    backward_input: Option<String>,
    /// Backward of the weights, in microseconds.
    #[arg(long, value_name = "US")]
    backward_weight: Option<String>,
    /// A message between two ranks, in microseconds.
    #[arg(long, value_name = "US")]
    message: Option<String>,
    /// Most memory of a rank: activations in microbatches (4), or everything in bytes (20GB).
    #[arg(long, value_name = "LIMIT")]
    memory_limit: Option<String>,
    /// Lay a value over the file, such as `--set costs.forward_us=[1,2,1,1]`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl SettingArgs {
    /// What is asked for; `--set` lies over the other options.
    pub fn request(self) -> Request {
        let options = [
            ("--ranks", "ranks", self.ranks),
            ("--microbatches", "microbatches", self.microbatches),
            ("--chunks", "chunks", self.chunks),
            ("--backward", "backward", self.backward),
            ("--forward", "costs.forward_us", self.forward),
            ("--backward-input", "costs.backward_input_us", self.backward_input),
            ("--backward-weight", "costs.backward_weight_us", self.backward_weight),
            ("--message", "links.latency_us", self.message),
            ("--memory-limit", "memory_limit", self.memory_limit),
        ];
        let given = options.into_iter().filter_map(|(name, key, value)| option(name, key, value));
        let sets = self.sets.into_iter().map(|set| (format!("--set {set}"), set));
        Request { file: self.file, options: given.chain(sets).collect() }
    }
}

/// An option as it was written, with the assignment that it means.
pub fn option(name: &str, key: &str, value: Option<String>) -> Option<(String, String)> {
    value.map(|value| (format!("{name} {value}"), format!("{key}={value}")))
}
