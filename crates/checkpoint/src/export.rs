//! A Hugging Face folder, written.

use crate::companion::TOKENIZER_CONFIG;
use crate::folder::{CONFIG, INDEX, TOKENIZER, WEIGHTS};
use crate::folder_writer::{FolderWriter, sync_folder};
use crate::generation::{GENERATION_CONFIG, generation_config};
use crate::{CheckpointError, Companion, Dtype};
use architecture::{Architecture, Weight};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Prefix of the names of folders that are not finished, or not wanted any more.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// What a Hugging Face folder is made of, weights apart.
pub struct Export<'a> {
    /// The model.
    pub architecture: &'a Architecture,
    /// Content of a `tokenizer.json`.
    pub tokenizer: Option<&'a [u8]>,
    /// Files of the model that this one was made from; they stand for those that would be made up.
    pub companions: &'a [Companion],
    /// How weights are stored.
    pub dtype: Dtype,
    /// Weights go to several files of at most so many bytes of data each, or one tensor where that is larger; `None`
    /// for one file.
    pub shard_bytes: Option<u64>,
}

/// Writes a folder that transformers loads: `config.json`, weights, `generation_config.json`, and with a tokenizer
/// `tokenizer.json` and `tokenizer_config.json`; and the companions. `read` yields the values of each weight of the model in file order,
/// row-major; one is held at a time. The folder appears complete or not at all. Equal input gives equal bytes.
///
/// # Errors
/// [`CheckpointError::Exists`] when the path is taken by anything but an empty folder; [`CheckpointError::Io`] when it
/// cannot be written; [`CheckpointError::Json`] when the tokenizer is not JSON; whatever `read` returns.
///
/// # Panics
/// When `read` yields a number of values that is not the weight's.
pub fn write_folder(
    path: &Path,
    export: &Export,
    read: impl FnMut(&Weight) -> Result<Vec<f32>, CheckpointError>,
) -> Result<(), CheckpointError> {
    whole_folder(path, |writer| write_model(writer, export, read))
}

/// What `fill` writes, as a folder that appears complete or not at all.
pub(crate) fn whole_folder<T>(
    path: &Path,
    fill: impl FnOnce(&mut FolderWriter) -> Result<T, CheckpointError>,
) -> Result<T, CheckpointError> {
    let free = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if !free {
        return Err(CheckpointError::Exists { path: path.to_owned() });
    }
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let temporary = temporary_folder(parent)?;
    let filled = fill(&mut FolderWriter::new(temporary.path()))?;
    sync_folder(temporary.path())?;
    std::fs::rename(temporary.path(), path).map_err(CheckpointError::io("create", path))?;
    // It has moved: there is nothing left to remove.
    drop(temporary.keep());
    sync_folder(parent)?;
    Ok(filled)
}

/// A hidden folder next to the final place, so that it can be renamed there; removed when dropped.
pub(crate) fn temporary_folder(parent: &Path) -> Result<tempfile::TempDir, CheckpointError> {
    std::fs::create_dir_all(parent).map_err(CheckpointError::io("create", parent))?;
    tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempdir_in(parent)
        .map_err(CheckpointError::io("create a folder in", parent))
}

/// The files of [`write_folder`].
pub(crate) fn write_model(
    writer: &mut FolderWriter,
    export: &Export,
    mut read: impl FnMut(&Weight) -> Result<Vec<f32>, CheckpointError>,
) -> Result<(), CheckpointError> {
    writer.write(CONFIG, &config(export))?;
    for companion in export.companions {
        writer.write(companion.name, &companion.content)?;
    }
    let is_carried = |name: &str| export.companions.iter().any(|companion| companion.name == name);
    if !is_carried(GENERATION_CONFIG) {
        writer.write(GENERATION_CONFIG, &pretty(&generation_config(export.architecture)))?;
    }
    if let Some(tokenizer) = export.tokenizer {
        writer.write(TOKENIZER, tokenizer)?;
        let made_up = pretty(&tokenizer_config(export.architecture, tokenizer)?);
        if !is_carried(TOKENIZER_CONFIG) {
            writer.write(TOKENIZER_CONFIG, &made_up)?;
        }
    }
    let shards = shards(export.architecture, export.dtype, export.shard_bytes);
    write_shards(writer, &shards, export.dtype, |writer, name, shard| {
        let tensors = tensors(shard);
        writer.write_tensors(name, &tensors, export.dtype, |n| read(&shard[n]))
    })
}

/// The weight files and, where they are several, their index; `write` writes the one of a name and its weights.
pub(crate) fn write_shards(
    writer: &mut FolderWriter,
    shards: &[Vec<Weight>],
    dtype: Dtype,
    mut write: impl FnMut(&mut FolderWriter, &str, &[Weight]) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    let mut map = Map::new();
    for (n, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => WEIGHTS.to_owned(),
            all => format!("model-{:05}-of-{all:05}.safetensors", n + 1),
        };
        write(writer, &name, shard)?;
        map.extend(shard.iter().map(|weight| (weight.name.clone(), name.clone().into())));
    }
    if shards.len() > 1 {
        let n_parameters: usize = shards.iter().flatten().map(Weight::n_elements).sum();
        let metadata = json!({ "total_parameters": n_parameters, "total_size": n_parameters * dtype.n_bytes() });
        writer.write(INDEX, &pretty(&json!({ "metadata": metadata, "weight_map": map })))?;
    }
    Ok(())
}

/// Name and shape of each weight.
pub(crate) fn tensors(shard: &[Weight]) -> Vec<(String, Vec<usize>)> {
    shard.iter().map(|weight| (weight.name.clone(), weight.shape.clone())).collect()
}

/// Consecutive weights per file; filled greedily, as transformers does.
pub(crate) fn shards(architecture: &Architecture, dtype: Dtype, shard_bytes: Option<u64>) -> Vec<Vec<Weight>> {
    let mut shards: Vec<Vec<Weight>> = vec![Vec::new()];
    let mut filled = 0;
    for weight in architecture.all_weights() {
        let bytes = (weight.n_elements() * dtype.n_bytes()) as u64;
        if shard_bytes.is_some_and(|most| filled > 0 && filled + bytes > most) {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards.last_mut().expect("invariant: there is always a shard").push(weight);
    }
    shards
}

/// The configuration with the number format added, which is the files' and not the model's.
fn config(export: &Export) -> Vec<u8> {
    let text = architecture::to_config_json(export.architecture);
    let mut config: Map<String, Value> = serde_json::from_str(&text).expect("invariant: a configuration is JSON");
    export.dtype.write_to(&mut config);
    pretty(&Value::Object(config))
}

/// The least that `AutoTokenizer` needs: which class reads `tokenizer.json`, and which of its tokens are special.
fn tokenizer_config(architecture: &Architecture, tokenizer: &[u8]) -> Result<Value, CheckpointError> {
    let tokenizer: Value = serde_json::from_slice(tokenizer).map_err(CheckpointError::json(Path::new(TOKENIZER)))?;
    let mut fields = Map::new();
    fields.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    fields.insert("model_max_length".into(), architecture.max_position_embeddings.into());
    // Else decoding would drop spaces before punctuation, which byte-level text means literally.
    fields.insert("clean_up_tokenization_spaces".into(), false.into());
    let special = [
        ("bos_token", architecture.bos_token_id),
        ("eos_token", architecture.eos_token_id.first().copied()),
        ("pad_token", architecture.pad_token_id),
    ];
    for (field, id) in special {
        if let Some(token) = id.and_then(|id| token(&tokenizer, id)) {
            fields.insert(field.into(), token.into());
        }
    }
    Ok(Value::Object(fields))
}

/// The text of a token id in a `tokenizer.json`.
fn token(tokenizer: &Value, id: u32) -> Option<&str> {
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
    let added = added.filter(|token| token["id"] == id).filter_map(|token| token["content"].as_str());
    let vocabulary = tokenizer["model"]["vocab"].as_object().into_iter().flatten();
    added.chain(vocabulary.filter(|(_, known)| **known == id).map(|(token, _)| token.as_str())).next()
}

/// JSON for people: keys in order, indented, a newline at the end.
pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("invariant: a value is JSON");
    bytes.push(b'\n');
    bytes
}
