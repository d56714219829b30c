//! A model as one GGUF file, the form that llama.cpp reads. Format: ggml's `docs/gguf.md`, version 3; names of keys and
//! tensors: the `gguf` Python package.

mod file;
mod vocabulary;

use crate::export::temporary_folder;
use crate::folder::TOKENIZER;
use crate::folder_writer::sync_folder;
use crate::{CheckpointError, Folder};
use architecture::{Architecture, Block, Family, Rope, RopeScaling, Weight};
use file::{Header, Tensor, Value};
use packed::{Format, Matrix};
use std::path::Path;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufWritten {
    /// Tensors.
    pub n_tensors: usize,
    /// Values in all.
    pub n_parameters: u64,
    /// How matrices are stored; vectors are f32.
    pub format: Format,
    /// Of the file.
    pub n_bytes: u64,
}

/// Writes the model of `folder` to the file `path`, which appears complete or not at all; without `format`, matrices are
/// stored as in the folder. Vocabulary, merges, special tokens and chat template are included where the folder has a
/// byte-level `tokenizer.json`. One weight is held at a time. `on_weight` hears of each once it is written.
///
/// Rows of queries and keys are put in another order: llama.cpp turns neighbours of a Llama head by an angle, where the
/// ecosystem's files turn the first half with the second.
///
/// # Errors
/// [`CheckpointError::Gguf`] for a model or tokenizer that llama.cpp would read as another than it is,
/// [`CheckpointError::Packing`] for a weight that `format` cannot hold, [`CheckpointError::FileExists`] when the path is
/// taken, [`CheckpointError::Io`], and [`CheckpointError::SeveralDtypes`] when no format is asked for and the folder has several.
pub fn write_gguf(
    folder: &Folder,
    path: &Path,
    format: Option<Format>,
    mut on_weight: impl FnMut(&Weight),
) -> Result<GgufWritten, CheckpointError> {
    let format = match format {
        Some(format) => format,
        None => folder.common_dtype()?.into(),
    };
    let architecture = folder.architecture();
    let mut header = Header::default();
    describe(&mut header, folder, format)?;
    vocabulary::describe(&mut header, folder)?;
    let weights = architecture.all_weights();
    let frequencies = frequency_factors(architecture);
    if let Some(factors) = &frequencies {
        header.tensors.push(Tensor {
            name: "rope_freqs.weight".into(),
            dims: vec![factors.len()],
            format: Format::F32,
        });
    }
    for weight in &weights {
        let format = if weight.shape.len() == 2 { format } else { Format::F32 };
        let name = name(&weight.name).ok_or_else(|| unknown(folder, &format!("the weight `{}`", weight.name)))?;
        header.tensors.push(Tensor { name, dims: weight.shape.clone(), format });
    }
    if path.exists() {
        return Err(CheckpointError::FileExists { path: path.to_owned() });
    }
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let temporary = temporary_folder(parent)?;
    let unfinished = temporary.path().join("model.gguf");
    let mut out = file::Writer::create(&unfinished, &header)?;
    if let Some(factors) = frequencies {
        let dims = [1, factors.len()];
        out.tensor(&Matrix::pack(Format::F32, "rope_freqs", dims, factors)?.to_bytes())?;
    }
    for weight in &weights {
        let values = turned(architecture, weight, folder.read(weight)?);
        let (dims, format) = match weight.shape[..] {
            [rows, columns] => ([rows, columns], format),
            _ => ([1, weight.n_elements()], Format::F32),
        };
        out.tensor(&Matrix::pack(format, &weight.name, dims, values)?.to_bytes())?;
        on_weight(weight);
    }
    let n_bytes = out.finish()?;
    // A name that appeared meanwhile is not overwritten.
    std::fs::hard_link(&unfinished, path).map_err(CheckpointError::io("create", path))?;
    sync_folder(parent)?;
    let n_parameters = architecture.n_parameters() as u64;
    Ok(GgufWritten { n_tensors: header.tensors.len(), n_parameters, format, n_bytes })
}

fn unknown(folder: &Folder, what: &str) -> CheckpointError {
    CheckpointError::Gguf { path: folder.path().to_owned(), what: what.to_owned() }
}

/// The keys that make a model of tensors.
fn describe(header: &mut Header, folder: &Folder, format: Format) -> Result<(), CheckpointError> {
    let a = folder.architecture();
    if !matches!(a.family, Family::Llama | Family::Mistral) {
        return Err(unknown(folder, &format!("a model of the family {}", a.family)));
    }
    if a.sliding.as_ref().is_some_and(|sliding| sliding.window < a.max_position_embeddings) {
        return Err(unknown(folder, "attention with a window, which llama.cpp would leave out"));
    }
    let rope = a.rope(0).expect("invariant: Llama's positions are rotary");
    let number = |n: usize| Value::U32(u32::try_from(n).expect("invariant: sizes fit into 32 bits"));
    let name = folder.path().file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
    header.put("general.architecture", Value::Text("llama".into()));
    header.put("general.type", Value::Text("model".into()));
    header.put("general.name", Value::Text(name));
    header.put("general.file_type", Value::U32(file_type(format)));
    header.put("general.quantization_version", Value::U32(2));
    header.put("llama.vocab_size", number(a.vocab_size));
    header.put("llama.context_length", number(a.max_position_embeddings));
    header.put("llama.embedding_length", number(a.hidden_size));
    header.put("llama.block_count", number(a.num_hidden_layers));
    header.put("llama.feed_forward_length", number(a.intermediate_size));
    header.put("llama.attention.head_count", number(a.num_attention_heads));
    header.put("llama.attention.head_count_kv", number(a.num_key_value_heads));
    header.put("llama.attention.key_length", number(a.head_dim));
    header.put("llama.attention.value_length", number(a.head_dim));
    header.put("llama.attention.layer_norm_rms_epsilon", Value::F32(a.norm_eps as f32));
    header.put("llama.rope.dimension_count", number(a.head_dim));
    header.put("llama.rope.freq_base", Value::F32(rope.theta as f32));
    if let RopeScaling::Linear { factor } = rope.scaling {
        header.put("llama.rope.scaling.type", Value::Text("linear".into()));
        header.put("llama.rope.scaling.factor", Value::F32(factor as f32));
    }
    Ok(())
}

/// llama.cpp's `llama_ftype`.
fn file_type(format: Format) -> u32 {
    match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q4 => 2,
        Format::Q8 => 7,
        Format::Bf16 => 32,
    }
}

/// A weight's name in GGUF files.
fn name(weight: &str) -> Option<String> {
    let whole = match weight {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = whole {
        return Some(name.to_owned());
    }
    let (layer, piece) = weight.strip_prefix("model.layers.")?.split_once('.')?;
    let (piece, kind) = piece.rsplit_once('.')?;
    let piece = match piece {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{piece}.{kind}"))
}

/// Queries' and keys' rows in the order of llama.cpp: the first of the one half, the first of the other, and so on.
fn turned(a: &Architecture, weight: &Weight, values: Vec<f32>) -> Vec<f32> {
    let is_turned = ["q_proj", "k_proj"].iter().any(|name| weight.name.contains(name));
    if !is_turned {
        return values;
    }
    let (e, width) = (a.head_dim, weight.n_elements() / weight.shape[0]);
    let from = |row: usize| row / e * e + row % 2 * (e / 2) + row % e / 2;
    (0..weight.shape[0]).flat_map(|row| &values[from(row) * width..][..width]).copied().collect()
}

/// What llama.cpp divides each rotary frequency by, for scalings that are not the same for all.
fn frequency_factors(a: &Architecture) -> Option<Vec<f32>> {
    let rope = a.rope(0)?;
    let RopeScaling::Llama3 { .. } = rope.scaling else { return None };
    let plain = Rope { scaling: RopeScaling::None, ..rope }.inverse_frequencies(a.head_dim);
    Some(
        plain.iter().zip(rope.inverse_frequencies(a.head_dim)).map(|(plain, scaled)| (plain / scaled) as f32).collect(),
    )
}

/// The embedding has a row for each of so many tokens.
fn vocab_size(folder: &Folder) -> usize {
    let table = folder.architecture().vocabulary_matrix(Block::Embedding);
    table.expect("invariant: an embedding has a matrix").shape[0]
}

/// The tokenizer's file, where it has the form that can be taken over.
fn tokenizer(folder: &Folder) -> Result<Option<serde_json::Value>, CheckpointError> {
    match folder.tokenizer_path() {
        None => Ok(None),
        Some(path) if path.file_name() == Some(TOKENIZER.as_ref()) => {
            let text = std::fs::read(path).map_err(CheckpointError::io("read", path))?;
            Ok(Some(serde_json::from_slice(&text).map_err(CheckpointError::json(path))?))
        }
        Some(_) => {
            Err(unknown(folder, "a SentencePiece `tokenizer.model`; put a byte-level `tokenizer.json` beside it"))
        }
    }
}
