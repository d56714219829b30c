//! A byte-level `tokenizer.json` as llama.cpp's `gpt2` vocabulary.

use super::file::{Header, Value};
use super::{tokenizer, unknown, vocab_size};
use crate::companion::TOKENIZER_CONFIG;
use crate::{CheckpointError, Folder};
use serde_json::Value as Json;

/// Kinds of tokens (llama.cpp's `llama_token_type`).
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// How the pre-tokenizers of known models split text into words: a regular expression of a `Split`, and llama.cpp's name of
/// it.
const SPLITS: [(&str, &str); 2] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
];

/// Vocabulary, merges, kinds of tokens, special ids, the pre-tokenizer's name and the chat template. Without a tokenizer
/// the file says so, and ids are all that it understands.
pub(super) fn describe(header: &mut Header, folder: &Folder) -> Result<(), CheckpointError> {
    let architecture = folder.architecture();
    let Some(json) = tokenizer(folder)? else {
        header.put("tokenizer.ggml.model", Value::Text("no_vocab".into()));
        return Ok(());
    };
    let (pre, merges) = (pre_tokenizer(folder, &json)?, merges(folder, &json)?);
    let (tokens, kinds) = tokens(folder, &json)?;
    // Where the configuration names no end, ours is the tokenizer's.
    let end = architecture.eos_token_id.first().copied();
    let end = end.or_else(|| tokens.iter().position(|token| token == "<|endoftext|>").map(|id| id as u32));
    header.put("tokenizer.ggml.model", Value::Text("gpt2".into()));
    header.put("tokenizer.ggml.pre", Value::Text(pre.into()));
    header.put("tokenizer.ggml.tokens", Value::Texts(tokens));
    header.put("tokenizer.ggml.token_type", Value::I32s(kinds));
    header.put("tokenizer.ggml.merges", Value::Texts(merges));
    let special = [("bos", architecture.bos_token_id), ("eos", end), ("padding", architecture.pad_token_id)];
    for (name, id) in special {
        if let Some(id) = id {
            header.put(&format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
        }
    }
    header.put("tokenizer.ggml.add_bos_token", Value::Bool(begins_with_special(&json["post_processor"])));
    header.put("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    if let Some(template) = chat_template(folder)? {
        header.put("tokenizer.chat_template", Value::Text(template));
    }
    Ok(())
}

/// llama.cpp's name of how text is split into words.
fn pre_tokenizer(folder: &Folder, json: &Json) -> Result<&'static str, CheckpointError> {
    let byte_level = |step: &Json, use_regex: bool| {
        step["type"] == "ByteLevel" && step["add_prefix_space"] == false && step["use_regex"] != !use_regex
    };
    let pre = &json["pre_tokenizer"];
    let steps: Vec<&Json> = match pre["pretokenizers"].as_array() {
        Some(steps) if pre["type"] == "Sequence" => steps.iter().collect(),
        _ => vec![pre],
    };
    let found = match steps[..] {
        _ if json["model"]["type"] != "BPE" || !json["normalizer"].is_null() => None,
        [only] if byte_level(only, true) => Some("gpt-2"),
        [split, last] if split["type"] == "Split" && split["behavior"] == "Isolated" && byte_level(last, false) => {
            let pattern = split["pattern"]["Regex"].as_str();
            SPLITS.iter().find(|(known, _)| Some(*known) == pattern).map(|(_, name)| *name)
        }
        _ => None,
    };
    let what = "a tokenizer that is not byte-level BPE with the words of GPT-2, Llama 3 or Qwen 2";
    found.ok_or_else(|| unknown(folder, what))
}

/// Pairs in order, each as `left right`.
fn merges(folder: &Folder, json: &Json) -> Result<Vec<String>, CheckpointError> {
    let merge = |merge: &Json| match merge {
        Json::String(pair) => Some(pair.clone()),
        Json::Array(pair) => Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    };
    let merges = json["model"]["merges"].as_array().and_then(|merges| merges.iter().map(merge).collect());
    merges.ok_or_else(|| unknown(folder, "a tokenizer without merges"))
}

/// The token of each id with its kind. Models may have more ids than their tokenizer.
fn tokens(folder: &Folder, json: &Json) -> Result<(Vec<String>, Vec<i32>), CheckpointError> {
    let n = vocab_size(folder);
    let mut all: Vec<(String, i32)> = (0..n).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
    let vocabulary = json["model"]["vocab"].as_object().into_iter().flatten();
    let vocabulary = vocabulary.map(|(token, id)| (Some(token.as_str()), id.as_u64(), NORMAL));
    let added = json["added_tokens"].as_array().into_iter().flatten().map(|token| {
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        (token["content"].as_str(), token["id"].as_u64(), kind)
    });
    for (token, id, kind) in vocabulary.chain(added) {
        let place = id.and_then(|id| all.get_mut(usize::try_from(id).ok()?));
        match (token, place) {
            (Some(token), Some(place)) => *place = (token.to_owned(), kind),
            _ => return Err(unknown(folder, &format!("a tokenizer with ids that the model's {n} do not hold"))),
        }
    }
    Ok(all.into_iter().unzip())
}

/// Whether the tokenizer puts a special token before a text.
fn begins_with_special(processor: &Json) -> bool {
    let steps = processor["processors"].as_array();
    let begins = |step: &Json| step["type"] == "TemplateProcessing" && step["single"][0].get("SpecialToken").is_some();
    begins(processor) || steps.is_some_and(|steps| steps.iter().any(begins))
}

fn chat_template(folder: &Folder) -> Result<Option<String>, CheckpointError> {
    let path = folder.path().join("chat_template.jinja");
    if path.is_file() {
        return std::fs::read_to_string(&path).map(Some).map_err(CheckpointError::io("read", &path));
    }
    let path = folder.path().join(TOKENIZER_CONFIG);
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(&path).map_err(CheckpointError::io("read", &path))?;
    let config: Json = serde_json::from_slice(&text).map_err(CheckpointError::json(&path))?;
    // A list has templates for several uses by name.
    let template = match &config["chat_template"] {
        Json::Array(named) => {
            named.iter().find(|one| one["name"] == "default").map_or(&Json::Null, |one| &one["template"])
        }
        template => template,
    };
    Ok(template.as_str().map(str::to_owned))
}
