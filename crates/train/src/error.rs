//! Why a run cannot start or go on.

use std::path::PathBuf;

/// A run that did not start or did not end as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The text or the tokenizer.
    #[error(transparent)]
    Corpus(#[from] corpus::CorpusError),
    /// A model folder or checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::CheckpointError),
    /// The model's description or its cut.
    #[error(transparent)]
    Architecture(#[from] architecture::ArchitectureError),
    /// The schedule asked for.
    #[error(transparent)]
    Schedule(#[from] schedule::ScheduleError),
    /// A rank's device.
    #[error(transparent)]
    Device(#[from] kernels::CudaError),
    /// A step failed.
    #[error(transparent)]
    Stage(#[from] stage::StageError),
    /// A model to continue from has no tokenizer, and none is named.
    #[error("{} has no tokenizer.json; name one with tokenizer.file", folder.display())]
    NoTokenizer {
        /// The model's folder.
        folder: PathBuf,
    },
    /// Tokenizer and model do not fit.
    #[error(
        "the tokenizer has {tokenizer} entries but the model's vocabulary has {model}; use the model's own tokenizer"
    )]
    Vocabulary {
        /// Entries of the tokenizer.
        tokenizer: usize,
        /// Entries of the model.
        model: usize,
    },
    /// Rows longer than the model's positions.
    #[error(
        "data.sequence_length is {found} but the model was made for at most {limit} positions; lower \
         data.sequence_length"
    )]
    SequenceLength {
        /// Tokens per row asked for.
        found: usize,
        /// The model's limit.
        limit: usize,
    },
    /// Nothing to resume from.
    #[error("{} holds no checkpoint that can be resumed{skipped}", folder.display())]
    NothingToResume {
        /// The checkpoints' folder.
        folder: PathBuf,
        /// Damaged ones and what is wrong with them, as text to append.
        skipped: String,
    },
    /// The checkpoint belongs to another run.
    #[error("{} was saved by a run with another {what}: {found} there, {wanted} now; resume with the settings it was saved with", folder.display())]
    OtherRun {
        /// The checkpoint.
        folder: PathBuf,
        /// Which setting.
        what: &'static str,
        /// In the checkpoint.
        found: String,
        /// In the settings.
        wanted: String,
    },
    /// A checkpoint whose state we did not write.
    #[error("{}: state.json lacks {field}; this checkpoint was not saved by millstream train", folder.display())]
    State {
        /// The checkpoint.
        folder: PathBuf,
        /// What is missing.
        field: &'static str,
    },
}
