//! Everything a training run is told, resolved and checked: what the run file means.

use architecture::{Architecture, Partition};
use corpus::SourceOptions;
use mesh::StageMap;
use plan::Recompute;
use stage::{NotFinite, Precision, RollBack};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Every random draw is a function of this, a purpose and a position.
    pub seed: u64,
    /// Optimizer steps in all.
    pub steps: u64,
    /// Where the text comes from.
    pub data: DataSettings,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerSource,
    /// Where the model comes from.
    pub model: ModelSource,
    /// Rows, tokens and microbatches of a step.
    pub batch: BatchSettings,
    /// Stages, ranks and schedule.
    pub pipeline: PipelineSettings,
    /// AdamW and its learning rate.
    pub optimizer: OptimizerSettings,
    /// When and on how much to validate.
    pub validation: ValidationSettings,
    /// When to save and what to keep.
    pub checkpoint: CheckpointSettings,
    /// What text to write, and when.
    pub sample: SampleSettings,
    /// Where metrics go besides the run's `metrics.jsonl`.
    pub metrics: MetricsSettings,
}

/// Text sources.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSettings {
    /// Where text comes from; empty for the embedded text.
    pub sources: Vec<SourceOptions>,
    /// Share of each source's documents, by size, that validates; in (0, 1).
    pub validation_fraction: f64,
    /// Tokens per row.
    pub sequence_length: usize,
    /// Whether attention stops at document borders (positions restart there then).
    pub isolate_documents: bool,
}

/// Tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizerSource {
    /// Train byte-level BPE on the training text.
    Train {
        /// Entries wanted, special tokens and bytes included.
        vocab_size: usize,
    },
    /// Load a `tokenizer.json` or a SentencePiece model.
    File(PathBuf),
}

/// Model.
#[expect(clippy::large_enum_variant, reason = "one for each run")]
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// Freshly drawn weights; `vocab_size` and token ids are filled in from the tokenizer when it is trained.
    Fresh(Architecture),
    /// A Hugging Face folder (fine-tuning).
    Folder(PathBuf),
}

/// The batch of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    /// Rows per step; a multiple of `microbatches`.
    pub rows: usize,
    /// Microbatches per step.
    pub microbatches: usize,
}

/// How the model is laid out and played.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineSettings {
    /// Blocks per stage; `None` lets the planner balance them.
    pub partition: Option<Vec<usize>>,
    /// Stage to rank.
    pub stage_map: StageMap,
    /// Which schedule, and how backward is played.
    pub schedule: schedule::Spec,
    /// How the vocabulary is sharded over all ranks; `None` leaves the head and the embedding whole on their stages.
    pub vocabulary: Option<schedule::Vocabulary>,
    /// Whether a rank updates before it knows the norm over all ranks, and how it takes back an update that was wrong;
    /// `None` waits for the norm.
    pub post_validation: Option<RollBack>,
    /// What each stage computes again in its backward (activation checkpointing).
    pub recompute: Vec<Recompute>,
    /// Device of each rank.
    pub devices: Vec<DeviceName>,
    /// What ranks compute in; weights, gradients' sums and moments are f32 in any case.
    pub precision: Precision,
    /// Processor cores shared by the ranks; `None` takes what the machine has.
    pub cores: Option<usize>,
}

/// A device by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// `cpu`: this machine's cores.
    #[default]
    Cpu,
    /// `cuda:0`: an NVIDIA GPU, by the driver's number.
    Cuda(usize),
}

impl DeviceName {
    /// The device of this name; whether this build and machine have it is not asked.
    pub fn parse(name: &str) -> Option<Self> {
        match name.split_once(':') {
            None if name == "cpu" => Some(DeviceName::Cpu),
            Some(("cuda", index)) if index.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(DeviceName::Cuda(index.parse().ok()?))
            }
            _ => None,
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            DeviceName::Cpu => write!(f, "cpu"),
            DeviceName::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl PipelineSettings {
    /// Whether every rank computes on this machine's cores.
    pub fn on_cores(&self) -> bool {
        self.devices.iter().all(|&device| device == DeviceName::Cpu)
    }

    /// The partition given, if one is.
    ///
    /// # Errors
    /// As [`Partition::new`].
    pub fn given_partition(
        &self,
        architecture: &Architecture,
    ) -> Result<Option<Partition>, architecture::ArchitectureError> {
        self.partition.as_ref().map(|sizes| Partition::new(architecture, sizes)).transpose()
    }
}

/// AdamW as PyTorch defines it, with decoupled weight decay on matrices only.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerSettings {
    /// Peak learning rate and how it moves.
    pub learning_rate: LearningRate,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay; not on norms, biases and embeddings.
    pub weight_decay: f64,
    /// Largest global gradient norm over all stages; `None` does not clip.
    pub clip_norm: Option<f64>,
    /// What becomes of a step whose gradient norm is not finite.
    pub not_finite: NotFinite,
}

/// Learning rate over steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LearningRate {
    /// Linear warm-up, then half a cosine from `peak` to `minimum` at the last step.
    Cosine {
        /// Highest rate.
        peak: f64,
        /// Rate at the end.
        minimum: f64,
        /// Steps of linear warm-up.
        warmup_steps: u64,
    },
    /// Linear warm-up, constant, then linear decay to `minimum` over the last steps (warm-up-stable-decay).
    WarmupStableDecay {
        /// Highest rate.
        peak: f64,
        /// Rate at the end.
        minimum: f64,
        /// Steps of linear warm-up.
        warmup_steps: u64,
        /// Steps of decay at the end.
        decay_steps: u64,
    },
}

/// Validation during training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationSettings {
    /// Every so many steps, and always at the end; `None` only at the end.
    pub every: Option<u64>,
    /// At most so many rows at intervals; the end uses all of them.
    pub rows: usize,
}

/// Checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// Every so many steps, and always at the end; `None` only at the end.
    pub every: Option<u64>,
    /// How many of the newest are kept; at least 1.
    pub keep: usize,
}

/// The text written at the end, and on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleSettings {
    /// Every so many steps, and always at the end; `None` only at the end.
    pub every: Option<u64>,
    /// What it starts from.
    pub prompt: String,
    /// Tokens to write; 0 writes none.
    pub tokens: usize,
    /// Softmax temperature; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only the so many likeliest tokens; `None` for all.
    pub top_k: Option<usize>,
}

/// Where metrics go besides the run's `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Whether TensorBoard event files are written.
    pub tensorboard: bool,
    /// Where they can be fetched in Prometheus' format while the run goes on.
    pub prometheus: Option<SocketAddr>,
}
