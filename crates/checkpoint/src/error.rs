//! What can be wrong with weights on disk.

use architecture::ArchitectureError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a folder could not be read or written. Every variant names the file.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The operating system refused: full disk, missing file, no permission.
    #[error("Cannot {action} `{}`: {source}.", path.display())]
    Io {
        /// What was tried, as a verb ("write").
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that should be JSON of a certain form is not.
    #[error("`{}` is damaged or not what its name says: {source}.", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// `config.json` describes no model we know.
    #[error("`{}` does not describe a model that can be loaded: {source}", path.display())]
    Architecture {
        /// The `config.json`.
        path: PathBuf,
        /// What is wrong with it.
        source: ArchitectureError,
    },
    /// A folder without weights.
    #[error("`{}` holds neither `model.safetensors` nor `model.safetensors.index.json`.", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// A weight file ends early, or goes on after its end.
    #[error("`{}` has {found} bytes, which is not the length its header announces; it is probably cut off.", path.display())]
    Truncated {
        /// The weight file.
        path: PathBuf,
        /// Its length in bytes.
        found: u64,
    },
    /// A weight file whose header cannot be understood.
    #[error("`{}` is not a valid safetensors file: {source}.", path.display())]
    Header {
        /// The weight file.
        path: PathBuf,
        /// What is wrong with it.
        source: safetensors::SafeTensorError,
    },
    /// The model has tensors that the files lack.
    #[error("`{}` lacks {} that `config.json` asks for: {}.", path.display(), tensors(names), list(names))]
    MissingTensors {
        /// The weight file, or the index of several.
        path: PathBuf,
        /// The missing names.
        names: Vec<String>,
    },
    /// The files have tensors that the model lacks.
    #[error("`{}` holds {} that the model of `config.json` or the index does not have: {}.", path.display(), tensors(names), list(names))]
    UnexpectedTensors {
        /// The weight file, or the index of several.
        path: PathBuf,
        /// The superfluous names.
        names: Vec<String>,
    },
    /// A tensor of another shape than the model's.
    #[error("`{tensor}` in `{}` has shape {found:?}; `config.json` asks for {wanted:?}.", path.display())]
    Shape {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape in the model.
        wanted: Vec<usize>,
    },
    /// A tensor of numbers that cannot be read.
    #[error("`{tensor}` in `{}` is stored as {found}; only F32, F16 and BF16 can be read.", path.display())]
    UnsupportedDtype {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its number format.
        found: String,
    },
    /// A head of its own although `config.json` says that the embedding matrix is used.
    #[error(
        "`{}` holds a `lm_head.weight` that differs from `{table}`, but `config.json` ties the two; \
         if the head is meant to be separate, set `tie_word_embeddings` to false.", path.display()
    )]
    TiedHeadDiffers {
        /// The weight file with the head.
        path: PathBuf,
        /// The embedding matrix.
        table: String,
    },
    /// A head that is to be tied and is not the embedding matrix.
    #[error(
        "`{head}` in `{}` differs from `{embedding}`: tying them would change what the model says; keep the head \
         untied.", path.display()
    )]
    HeadDiffers {
        /// The folder.
        path: PathBuf,
        /// Name of the head's matrix.
        head: String,
        /// Name of the embedding matrix.
        embedding: String,
    },
    /// A folder of several number formats that is to be converted to none in particular.
    #[error("`{}` stores weights as {found}; say which one all of them shall have.", path.display())]
    SeveralDtypes {
        /// The folder.
        path: PathBuf,
        /// The formats, in words.
        found: String,
    },
    /// A value beyond the largest of its new number format.
    #[error(
        "`{tensor}` in `{}` holds {found}, which is too large for {wanted}; store it as bfloat16 or float32.",
        path.display()
    )]
    TooLarge {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The value.
        found: f32,
        /// The format wanted.
        wanted: &'static str,
    },
    /// The index of a sharded model and its shards disagree.
    #[error("`{}` says that `{tensor}` is in `{shard}`, but {problem}.", index.display())]
    Index {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file it should be in.
        shard: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A file is not the one that was written.
    #[error("`{}` has changed since it was written: {difference}. {}", path.display(), WAY_OUT)]
    Changed {
        /// The file.
        path: PathBuf,
        /// How it differs.
        difference: String,
    },
    /// A folder that is not a training checkpoint.
    #[error("`{}` is not a complete training checkpoint: it has no `{missing}`.", folder.display())]
    NotACheckpoint {
        /// The folder.
        folder: PathBuf,
        /// What it should have.
        missing: &'static str,
    },
    /// A model that GGUF or its readers do not know.
    #[error(
        "`{}` has {what}: it cannot be written as GGUF; models of the families Llama and Mistral can.", path.display()
    )]
    Gguf {
        /// The folder.
        path: PathBuf,
        /// What is not known.
        what: String,
    },
    /// A weight that does not fit its new number format.
    #[error(transparent)]
    Packing(#[from] packed::PackError),
    /// Something is where a file is to be written.
    #[error("`{}` exists; name another or remove it first.", path.display())]
    FileExists {
        /// The path.
        path: PathBuf,
    },
    /// Something is where a folder is to be written.
    #[error("`{}` exists and is not an empty folder; name another or remove it first.", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
}

const WAY_OUT: &str = "Restore it from a copy, or use another checkpoint; if the change was intended, delete \
                       `manifest.json` beside it and the folder loads as a plain Hugging Face folder.";

impl CheckpointError {
    /// For `map_err` on input and output.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// For `map_err` on JSON.
    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Json { path, source }
    }
}

fn tensors(names: &[String]) -> String {
    match names.len() {
        1 => "a tensor".into(),
        n => format!("{n} tensors"),
    }
}

/// The first few names; a model of another size would otherwise fill screens.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
