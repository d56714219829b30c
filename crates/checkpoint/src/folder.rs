//! A Hugging Face folder, read.

use crate::generation::Generation;
use crate::manifest::Manifest;
use crate::tensor_file::TensorFile;
use crate::{CheckpointError, Dtype};
use architecture::{Architecture, Block, Family, Weight};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// What older folders have instead.
const SENTENCEPIECE: &str = "tokenizer.model";

const HEAD: &str = "lm_head.weight";

/// A model on disk whose weights fit its configuration. Weight files are mapped, so that holding a `Folder` costs
/// address space and not memory.
pub struct Folder {
    path: PathBuf,
    architecture: Architecture,
    generation: Generation,
    tokenizer: Option<PathBuf>,
    files: Vec<TensorFile>,
    /// Index into `files` by tensor name.
    places: HashMap<String, usize>,
    /// What the files' names lack in front of the model's.
    left_out: &'static str,
}

/// Opens a Hugging Face folder and checks it: `config.json`, and `model.safetensors` or the shards named by
/// `model.safetensors.index.json`. The tensors must be exactly those of the configured model, in their shapes, as F32,
/// F16 or BF16. Superfluous but harmless are accepted: buffers of rotary frequencies and causal masks, and a head that equals the
/// embedding it is tied to. If the folder was written by [`save`](crate::save()), its hashes are checked too, which
/// reads every file once.
///
/// # Errors
/// Each names the file and, where it concerns one, the tensor: missing or unreadable files, a configuration we do not
/// know, cut-off or damaged weight files, an index that disagrees with its shards, missing or unexpected tensors, wrong
/// shapes, unsupported number formats, and files that differ from their hashes.
pub fn read_folder(path: &Path) -> Result<Folder, CheckpointError> {
    if let Some(manifest) = Manifest::read(path)? {
        manifest.verify(path)?;
    }
    Folder::open(path)
}

/// Names and shapes of every tensor in the weight files of a folder (`model.safetensors`, or the shards that
/// `model.safetensors.index.json` names), or in one safetensors file, whatever model they are of. Only headers are read. Ordered by
/// name, numbers in names by their value.
///
/// # Errors
/// Missing, cut-off or damaged weight files, and an index that disagrees with its shards.
pub fn stored_shapes(path: &Path) -> Result<Vec<(String, Vec<usize>)>, CheckpointError> {
    let files = if path.is_dir() { Weights::open(path)?.files } else { vec![TensorFile::open(path)?] };
    let of_file = |file: &TensorFile| -> Vec<(String, Vec<usize>)> {
        file.names().into_iter().map(|name| (name.clone(), file.shape(&name).to_vec())).collect()
    };
    let mut all: Vec<(String, Vec<usize>)> = files.iter().flat_map(of_file).collect();
    let parts = |name: &str| -> Vec<(Option<u64>, String)> {
        name.split('.').map(|part| (part.parse().ok(), part.to_owned())).collect()
    };
    all.sort_by_cached_key(|(name, _)| parts(name));
    Ok(all)
}

impl Folder {
    /// Without looking at hashes.
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let config_path = path.join(CONFIG);
        let config = std::fs::read_to_string(&config_path).map_err(CheckpointError::io("read", &config_path))?;
        let architecture = architecture::from_config_json(&config)
            .map_err(|source| CheckpointError::Architecture { path: config_path, source })?;
        let generation = Generation::read(path, &architecture)?;
        let tokenizer = [TOKENIZER, SENTENCEPIECE].map(|name| path.join(name)).into_iter().find(|file| file.is_file());
        let Weights { listing, files, places } = Weights::open(path)?;
        let left_out = left_out(&architecture, &places);
        let folder = Self { path: path.to_owned(), architecture, generation, tokenizer, files, places, left_out };
        folder.check(&listing)?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Defaults for writing text.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The folder's `tokenizer.json`, or else its SentencePiece model `tokenizer.model`, if it has one.
    pub fn tokenizer_path(&self) -> Option<&Path> {
        self.tokenizer.as_deref()
    }

    /// How a weight is stored.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensors`] for a weight that is not of [`Folder::architecture`].
    pub fn dtype(&self, weight: &Weight) -> Result<Dtype, CheckpointError> {
        let name = self.stored(&weight.name);
        self.file(name)?.dtype(name)
    }

    /// One weight as `f32` in row-major order, exactly the values stored. Nothing is kept: calling again reads again.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensors`] and [`CheckpointError::Shape`] for a weight that is not of
    /// [`Folder::architecture`]; none otherwise.
    pub fn read(&self, weight: &Weight) -> Result<Vec<f32>, CheckpointError> {
        let name = self.stored(&weight.name);
        let file = self.file(name)?;
        file.check(name, &weight.shape)?;
        file.read(name)
    }

    /// A weight's name in the files.
    fn stored<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(self.left_out).unwrap_or(name)
    }

    /// Where a weight lies: its file, and its name there.
    pub(crate) fn locate<'a>(&self, weight: &'a str) -> Result<(&TensorFile, &'a str), CheckpointError> {
        let name = self.stored(weight);
        Ok((self.file(name)?, name))
    }

    fn file(&self, name: &str) -> Result<&TensorFile, CheckpointError> {
        match self.places.get(name) {
            Some(&n) => Ok(&self.files[n]),
            None => Err(CheckpointError::MissingTensors { path: self.path.clone(), names: vec![name.to_owned()] }),
        }
    }

    /// The files hold the model's weights and nothing else; `listing` is the file to blame for names.
    fn check(&self, listing: &Path) -> Result<(), CheckpointError> {
        let weights = self.architecture.all_weights();
        let lacking = weights.iter().filter(|weight| !self.places.contains_key(self.stored(&weight.name)));
        let missing: Vec<String> = lacking.map(|weight| weight.name.clone()).collect();
        if !missing.is_empty() {
            return Err(CheckpointError::MissingTensors { path: listing.to_owned(), names: missing });
        }
        let tied = self.architecture.tie_word_embeddings;
        let known: HashSet<&str> = weights.iter().map(|weight| self.stored(&weight.name)).collect();
        let family = self.architecture.family;
        let harmless = |name: &str| is_buffer(family, name) || tied && name == HEAD;
        let names = self.places.keys().filter(|name| !known.contains(name.as_str()) && !harmless(name));
        let mut unexpected: Vec<String> = names.cloned().collect();
        if !unexpected.is_empty() {
            unexpected.sort();
            return Err(CheckpointError::UnexpectedTensors { path: listing.to_owned(), names: unexpected });
        }
        for weight in &weights {
            let name = self.stored(&weight.name);
            self.file(name)?.check(name, &weight.shape)?;
        }
        let table = self.architecture.vocabulary_matrix(Block::Embedding);
        let table = self.stored(&table.as_ref().expect("invariant: an embedding has a matrix").name);
        if tied && self.places.contains_key(HEAD) {
            let (embedding, head) = (self.file(table)?, self.file(HEAD)?);
            if embedding.dtype(table)? != head.dtype(HEAD)? || !same((embedding, table), (head, HEAD))? {
                return Err(CheckpointError::TiedHeadDiffers { path: head.path().to_owned(), table: table.to_owned() });
            }
        }
        Ok(())
    }
}

/// What follows from the configuration and was once stored nevertheless: rotary frequencies, GPT-2's causal masks.
fn is_buffer(family: Family, name: &str) -> bool {
    let masks = [".attn.bias", ".attn.masked_bias"];
    name.ends_with("rotary_emb.inv_freq") || family == Family::Gpt2 && masks.iter().any(|mask| name.ends_with(mask))
}

/// The first GPT-2 folders hold the model without its head, whose names begin one step further in.
fn left_out(architecture: &Architecture, places: &HashMap<String, usize>) -> &'static str {
    const OUTER: &str = "transformer.";
    let is_inner = architecture.family == Family::Gpt2 && places.keys().all(|name| !name.starts_with(OUTER));
    if is_inner { OUTER } else { "" }
}

/// Whether two tensors of equal shape and format hold the same bytes.
pub(crate) fn same(a: (&TensorFile, &str), b: (&TensorFile, &str)) -> Result<bool, CheckpointError> {
    let (mut a, mut b) = (a.0.pieces(a.1)?, b.0.pieces(b.1)?);
    loop {
        match (a.next()?, b.next()?) {
            (None, None) => return Ok(true),
            (a, b) if a != b => return Ok(false),
            _ => {}
        }
    }
}

/// The opened weight files of a folder.
struct Weights {
    /// The only weight file, or the index of several.
    listing: PathBuf,
    files: Vec<TensorFile>,
    places: HashMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let (single, index) = (folder.join(WEIGHTS), folder.join(INDEX));
        // The order of transformers: one file wins over an index.
        if single.is_file() {
            let file = TensorFile::open(&single)?;
            let places = file.names().into_iter().map(|name| (name, 0)).collect();
            return Ok(Self { listing: single, files: vec![file], places });
        }
        if index.is_file() {
            return Self::open_sharded(folder, index);
        }
        Err(CheckpointError::NoWeights { folder: folder.to_owned() })
    }

    fn open_sharded(folder: &Path, index: PathBuf) -> Result<Self, CheckpointError> {
        let text = std::fs::read(&index).map_err(CheckpointError::io("read", &index))?;
        let Index { weight_map } = serde_json::from_slice(&text).map_err(CheckpointError::json(&index))?;
        let mut files: Vec<TensorFile> = Vec::new();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (tensor, shard) in weight_map {
            let wrong = |problem| CheckpointError::Index {
                index: index.clone(),
                tensor: tensor.clone(),
                shard: shard.clone(),
                problem,
            };
            let n = match numbers.get(&shard) {
                Some(&n) => n,
                None => {
                    let path = folder.join(&shard);
                    if Path::new(&shard).file_name() != Some(shard.as_ref()) {
                        return Err(wrong("shards must lie in the same folder"));
                    }
                    if !path.is_file() {
                        return Err(wrong("there is no such file"));
                    }
                    files.push(TensorFile::open(&path)?);
                    numbers.insert(shard.clone(), files.len() - 1);
                    files.len() - 1
                }
            };
            if !files[n].contains(&tensor) {
                return Err(wrong("that file does not have it"));
            }
            places.insert(tensor, n);
        }
        // Tensors that the index forgets are as unexpected as those of a single file.
        for (n, file) in files.iter().enumerate() {
            let forgotten: Vec<String> = file.names().into_iter().filter(|name| places.get(name) != Some(&n)).collect();
            if !forgotten.is_empty() {
                return Err(CheckpointError::UnexpectedTensors { path: file.path().to_owned(), names: forgotten });
            }
        }
        Ok(Self { listing: index, files, places })
    }
}
