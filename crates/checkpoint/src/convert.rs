//! A model folder written anew: with another number format, in other files, with a head of its own or without.

use crate::export::{pretty, shards, tensors, whole_folder, write_shards};
use crate::folder::{CONFIG, TOKENIZER, same};
use crate::folder_writer::{FolderWriter, Sink};
use crate::tensor_file::TensorFile;
use crate::{CheckpointError, Dtype, Folder};
use architecture::{Architecture, Block, Weight};
use serde_json::{Map, Value};
use std::path::Path;

/// What is to be another than in the folder that is read; `None` for what stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conversion {
    /// How weights are stored.
    pub dtype: Option<Dtype>,
    /// Weights go to several files of at most so many bytes of data each, or one tensor where that is larger; `None` for
    /// one file.
    pub shard_bytes: Option<u64>,
    /// Whether the head has a matrix of its own.
    pub head: Option<Head>,
}

/// The matrix of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The embedding's.
    Tied,
    /// One of its own; of a model whose head is tied, a copy of the embedding's.
    Untied,
}

/// What a conversion wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// How weights are stored.
    pub dtype: Dtype,
    /// Values in all.
    pub n_parameters: u64,
    /// Values that the number format could not hold exactly: they are the nearest it has, ties to even.
    pub n_rounded: u64,
    /// Weight files.
    pub n_files: usize,
}

/// Writes the model of `folder` to `path`, which appears complete or not at all. Weights pass in pieces of a megabyte,
/// so that memory does not depend on the model. Where the number format stays, their bits do. `config.json` stays but
/// for the number format and the tie; tokenizer files and `generation_config.json` are copied. `on_weight` hears of
/// each weight once it is written.
///
/// # Errors
/// [`CheckpointError::Exists`] when the path is taken by anything but an empty folder, [`CheckpointError::Io`],
/// [`CheckpointError::SeveralDtypes`] when no number format is asked for and the folder has several,
/// [`CheckpointError::TooLarge`] for a finite value that would become infinite, [`CheckpointError::HeadDiffers`] for a
/// head that cannot be tied, [`CheckpointError::Architecture`] for a tie that the model's family does not know.
pub fn convert(
    folder: &Folder,
    path: &Path,
    conversion: &Conversion,
    mut on_weight: impl FnMut(&Weight),
) -> Result<Converted, CheckpointError> {
    let target = target(folder, conversion.head)?;
    let dtype = match conversion.dtype {
        Some(dtype) => dtype,
        None => folder.common_dtype()?,
    };
    let [source_head, embedding] = [Block::Head, Block::Embedding].map(|block| matrix(folder.architecture(), block));
    let head = matrix(&target, Block::Head);
    let untied = head.name != source_head.name && conversion.head == Some(Head::Untied);
    let shards = shards(&target, dtype, conversion.shard_bytes);
    let mut n_rounded = 0;
    whole_folder(path, |writer| {
        writer.write(CONFIG, &config(folder, dtype, conversion.head)?)?;
        copy_files(folder, writer)?;
        write_shards(writer, &shards, dtype, |writer, name, shard| {
            writer.stream_tensors(name, &tensors(shard), dtype, |n, write| {
                let weight = &shard[n];
                let source = if untied && weight.name == head.name { &embedding.name } else { &weight.name };
                n_rounded += recode(folder.locate(source)?, dtype, write)?;
                on_weight(weight);
                Ok(())
            })
        })
    })?;
    let n_parameters = target.n_parameters() as u64;
    Ok(Converted { dtype, n_parameters, n_rounded, n_files: shards.len() })
}

/// The model that is written.
fn target(folder: &Folder, head: Option<Head>) -> Result<Architecture, CheckpointError> {
    let mut target = folder.architecture().clone();
    let Some(head) = head else { return Ok(target) };
    target.tie_word_embeddings = head == Head::Tied;
    let config = folder.path().join(CONFIG);
    target.check().map_err(|source| CheckpointError::Architecture { path: config, source })?;
    let [head, embedding] = [Block::Head, Block::Embedding].map(|block| matrix(folder.architecture(), block));
    if target.tie_word_embeddings && head.name != embedding.name {
        let same_dtype = folder.dtype(&head)? == folder.dtype(&embedding)?;
        if !same_dtype || !same(folder.locate(&head.name)?, folder.locate(&embedding.name)?)? {
            let path = folder.path().to_owned();
            return Err(CheckpointError::HeadDiffers { path, head: head.name, embedding: embedding.name });
        }
    }
    Ok(target)
}

fn matrix(architecture: &Architecture, block: Block) -> Weight {
    architecture.vocabulary_matrix(block).expect("invariant: embedding and head have a row per token")
}

impl Folder {
    /// The number format of all weights.
    pub(crate) fn common_dtype(&self) -> Result<Dtype, CheckpointError> {
        let mut found: Vec<Dtype> = Vec::new();
        for weight in self.architecture().all_weights() {
            let dtype = self.dtype(&weight)?;
            if !found.contains(&dtype) {
                found.push(dtype);
            }
        }
        match found[..] {
            [dtype] => Ok(dtype),
            _ => {
                let names: Vec<&str> = found.iter().map(|dtype| dtype.config_name()).collect();
                Err(CheckpointError::SeveralDtypes { path: self.path().to_owned(), found: names.join(" and ") })
            }
        }
    }
}

/// The folder's `config.json` with its number format, and its tie where that was asked for.
fn config(folder: &Folder, dtype: Dtype, head: Option<Head>) -> Result<Vec<u8>, CheckpointError> {
    let path = folder.path().join(CONFIG);
    let text = std::fs::read(&path).map_err(CheckpointError::io("read", &path))?;
    let mut fields: Map<String, Value> = serde_json::from_slice(&text).map_err(CheckpointError::json(&path))?;
    dtype.write_to(&mut fields);
    if let Some(head) = head {
        fields.insert("tie_word_embeddings".into(), (head == Head::Tied).into());
    }
    Ok(pretty(&Value::Object(fields)))
}

fn copy_files(folder: &Folder, writer: &mut FolderWriter) -> Result<(), CheckpointError> {
    for companion in folder.companions()? {
        writer.write(companion.name, &companion.content)?;
    }
    let path = folder.path().join(TOKENIZER);
    if path.is_file() {
        writer.write(TOKENIZER, &std::fs::read(&path).map_err(CheckpointError::io("read", &path))?)?;
    }
    Ok(())
}

/// Hands the values of a tensor to `write` as `dtype`; yields how many were rounded.
fn recode((file, name): (&TensorFile, &str), dtype: Dtype, write: Sink) -> Result<u64, CheckpointError> {
    let stored = file.dtype(name)?;
    let mut n_rounded = 0;
    let mut pieces = file.pieces(name)?;
    while let Some(piece) = pieces.next()? {
        if stored == dtype {
            write(piece)?;
            continue;
        }
        let values = stored.decode(piece);
        let bytes = dtype.encode(&values);
        for (value, kept) in values.iter().zip(dtype.decode(&bytes)) {
            if value.is_finite() && kept.is_infinite() {
                let (path, tensor) = (file.path().to_owned(), name.to_owned());
                return Err(CheckpointError::TooLarge { path, tensor, found: *value, wanted: dtype.config_name() });
            }
            n_rounded += u64::from(kept != *value && !value.is_nan());
        }
        write(&bytes)?;
    }
    Ok(n_rounded)
}
