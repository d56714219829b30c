//! SentencePiece models (`tokenizer.model`) as a `tokenizer.json`.
//!
//! A model is a protobuf message. What decides its ids is carried over: pieces and scores, normalisation (the compiled
//! character map, white space, the space put in front), byte fallback, special tokens. BPE models become merges in the
//! order of their scores. Unigram and BPE are what the `tokenizers` library has; other kinds are refused.

use crate::varint::varint;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Stands for a space inside pieces.
const SPACE: &str = "\u{2581}";

/// What SentencePiece leaves of the score of a piece that is always to be taken.
const USER_DEFINED_PENALTY: f64 = 0.1;

/// Characters of a BPE piece at most: more than this SentencePiece's own trainer does not make.
const PIECE_CHARS_MAX: usize = 512;

/// Ways for each piece, on average, in which BPE may put pieces together of others: published models have two or three. Files
/// with every part of long pieces among their pieces have hundreds, and their tokenizer.json is as many times as long.
const WAYS_MAX: usize = 16;

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Clone, Debug)]
struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

impl Piece {
    /// For a sentence, which a damaged file may have a long piece for.
    fn shown(&self) -> String {
        let start: String = self.text.chars().take(40).collect();
        format!("{start:?}{}", if start.len() < self.text.len() { "\u{2026}" } else { "" })
    }
}

/// A model as read.
#[derive(Debug)]
struct Model {
    pieces: Vec<Piece>,
    /// 1 Unigram, 2 BPE, 3 words, 4 characters.
    algorithm: u64,
    byte_fallback: bool,
    space_at_end: bool,
    unknown: i64,
    begin: i64,
    end: i64,
    character_map: Vec<u8>,
    add_space: bool,
    squeeze_spaces: bool,
    escape_spaces: bool,
}

/// Whether a text's ids start with the begin-of-text token where the model has one, which it does not say itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BeginOfText {
    /// As Llama, Mistral and Gemma want it.
    Added,
    /// As a `tokenizer_config.json` says with `"add_bos_token": false`.
    LeftOut,
}

/// The text of a `tokenizer.json` with which the model's ids come out, and the spelling of its end of text.
///
/// # Errors
/// In words: bytes that are no such model, and models that the `tokenizers` library cannot express.
pub(crate) fn to_tokenizer_json(
    bytes: &[u8],
    begin: BeginOfText,
) -> std::result::Result<(String, Option<String>), String> {
    let model = Model::read(bytes)?;
    let spelling =
        |id: i64| usize::try_from(id).ok().and_then(|id| model.pieces.get(id)).map(|piece| piece.text.clone());
    let end = spelling(model.end).filter(|_| model.end >= 0);
    let begin = spelling(model.begin).filter(|_| begin == BeginOfText::Added);
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": model.added_tokens(),
        "normalizer": model.normalizer(),
        "pre_tokenizer": model.pre_tokenizer(),
        "post_processor": begin.map(|begin| template(&begin, model.begin)),
        "decoder": model.decoder(),
        "model": model.model()?,
    });
    Ok((json.to_string(), end))
}

/// Puts the begin of text in front.
fn template(begin: &str, id: i64) -> Value {
    let special = |kind: i64| json!({ "SpecialToken": { "id": begin, "type_id": kind } });
    let sequence = |id: &str, kind: i64| json!({ "Sequence": { "id": id, "type_id": kind } });
    json!({
        "type": "TemplateProcessing",
        "single": [special(0), sequence("A", 0)],
        "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
        "special_tokens": { begin: { "id": begin, "ids": [id], "tokens": [begin] } },
    })
}

impl Model {
    fn read(bytes: &[u8]) -> std::result::Result<Model, String> {
        let mut model = Model {
            pieces: Vec::new(),
            algorithm: 1,
            byte_fallback: false,
            space_at_end: false,
            unknown: 0,
            begin: 1,
            end: 2,
            character_map: Vec::new(),
            add_space: true,
            squeeze_spaces: true,
            escape_spaces: true,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(piece)) => {
                    let place = model.pieces.len();
                    model.pieces.push(read_piece(piece).map_err(|problem| format!("piece {place}: {problem}"))?);
                }
                (2, Field::Bytes(trainer)) => model.read_trainer(trainer)?,
                (3, Field::Bytes(normalizer)) => model.read_normalizer(normalizer)?,
                _ => {}
            }
        }
        if !model.character_map.is_empty() && !is_whole(&model.character_map) {
            return Err("its character map is damaged".to_owned());
        }
        match model.pieces.iter().find(|piece| piece.kind == Kind::Unused) {
            None if model.pieces.is_empty() => Err("it holds no pieces".to_owned()),
            Some(unused) => Err(format!("its piece {} is marked as unused, which cannot be expressed", unused.shown())),
            None => Ok(model),
        }
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        for field in Fields(bytes) {
            match field? {
                (3, Field::Number(algorithm)) => self.algorithm = algorithm,
                (24, Field::Number(flag)) => self.space_at_end = flag != 0,
                (35, Field::Number(flag)) => self.byte_fallback = flag != 0,
                (40, Field::Number(id)) => self.unknown = i64::from(id as i32),
                (41, Field::Number(id)) => self.begin = i64::from(id as i32),
                (42, Field::Number(id)) => self.end = i64::from(id as i32),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        for field in Fields(bytes) {
            match field? {
                (2, Field::Bytes(map)) => self.character_map = map.to_vec(),
                (3, Field::Number(flag)) => self.add_space = flag != 0,
                (4, Field::Number(flag)) => self.squeeze_spaces = flag != 0,
                (5, Field::Number(flag)) => self.escape_spaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn added_tokens(&self) -> Vec<Value> {
        // Unigram finds user-defined symbols by their score; BPE has to be told, which splits the text around them.
        let is_added = |piece: &Piece| match piece.kind {
            Kind::Control | Kind::Unknown => true,
            Kind::UserDefined => self.algorithm == 2,
            Kind::Normal | Kind::Unused | Kind::Byte => false,
        };
        let added = self.pieces.iter().enumerate().filter(|(_, piece)| is_added(piece));
        added
            .map(|(id, piece)| {
                json!({
                    "id": id, "content": piece.text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": piece.kind != Kind::UserDefined,
                })
            })
            .collect()
    }

    /// In the order in which SentencePiece normalises.
    fn normalizer(&self) -> Value {
        let replace =
            |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
        let mut steps = Vec::new();
        if !self.character_map.is_empty() {
            steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": base64(&self.character_map) }));
        }
        if self.squeeze_spaces {
            // Where symbols split the text, a piece may start with the space that follows one.
            let ends = if self.added_splits() { " +$" } else { "^ +| +$" };
            steps.push(replace(json!({ "Regex": ends }), ""));
            steps.push(replace(json!({ "Regex": " {2,}" }), " "));
        }
        if self.escape_spaces {
            steps.push(replace(json!({ "String": " " }), SPACE));
        }
        if self.add_space && self.added_splits() {
            // The pre-tokenizer does it, at the start of the text only.
        } else if self.add_space && self.space_at_end {
            steps.push(replace(json!({ "Regex": "(?<=.)$" }), SPACE));
        } else if self.add_space {
            steps.push(json!({ "type": "Prepend", "prepend": SPACE }));
        }
        match steps.is_empty() {
            true => Value::Null,
            false => json!({ "type": "Sequence", "normalizers": steps }),
        }
    }

    /// Whether added tokens may split a text that is read as a document.
    fn added_splits(&self) -> bool {
        self.algorithm == 2 && !self.space_at_end && self.pieces.iter().any(|piece| piece.kind == Kind::UserDefined)
    }

    fn pre_tokenizer(&self) -> Value {
        match self.add_space && self.added_splits() {
            true => json!({ "type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": false }),
            false => Value::Null,
        }
    }

    fn decoder(&self) -> Value {
        let mut steps = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self.add_space {
            let (start, stop) = if self.space_at_end { (0, 1) } else { (1, 0) };
            steps.push(json!({ "type": "Strip", "content": " ", "start": start, "stop": stop }));
        }
        json!({ "type": "Sequence", "decoders": steps })
    }

    fn model(&self) -> std::result::Result<Value, String> {
        match self.algorithm {
            1 => self.unigram(),
            2 => self.bpe(),
            3 => Err("it is a model of whole words; Unigram and BPE can be converted".to_owned()),
            4 => Err("it is a model of characters; Unigram and BPE can be converted".to_owned()),
            other => Err(format!("it is a model of the unknown kind {other}; Unigram and BPE can be converted")),
        }
    }

    fn unigram(&self) -> std::result::Result<Value, String> {
        let best = |best: f32, piece: &Piece| best.max(piece.score);
        let normal = || self.pieces.iter().filter(|piece| piece.kind == Kind::Normal);
        let best = normal().fold(f32::NEG_INFINITY, best);
        let worst = normal().fold(f32::INFINITY, |worst, piece| worst.min(piece.score));
        if !best.is_finite() || !worst.is_finite() {
            return Err("it has no pieces of text with finite scores".to_owned());
        }
        let score = |piece: &Piece| match piece.kind {
            // Better than any other way to write the same characters.
            Kind::UserDefined => piece.text.chars().count() as f64 * f64::from(best) - USER_DEFINED_PENALTY,
            // Never found in a text that can be written in any other way; SentencePiece does not look for them at all.
            Kind::Control | Kind::Unknown => (f64::from(worst) - 10.0) * (piece.text.chars().count() + 1) as f64,
            _ => f64::from(piece.score),
        };
        let vocab: Vec<Value> = self.pieces.iter().map(|piece| json!([piece.text, score(piece)])).collect();
        let unknown = usize::try_from(self.unknown).ok().filter(|&id| id < self.pieces.len());
        let unknown = unknown.ok_or("its unknown token is not one of its pieces")?;
        Ok(json!({ "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": self.byte_fallback }))
    }

    fn bpe(&self) -> std::result::Result<Value, String> {
        let mut ids: HashMap<&str, usize> = HashMap::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            if ids.insert(&piece.text, id).is_some() {
                return Err(format!("its piece {} stands there twice", piece.shown()));
            }
        }
        let joined = |text: &str| ids.get(text).copied().filter(|&id| self.pieces[id].kind == Kind::Normal);
        // Every way in which a piece can be put together of two others, the best piece first.
        let mut merges: Vec<(f32, usize, &str, &str)> = Vec::new();
        for (id, piece) in self.pieces.iter().enumerate().filter(|(_, piece)| piece.kind == Kind::Normal) {
            let n_chars = piece.text.chars().count();
            if n_chars > PIECE_CHARS_MAX {
                return Err(format!("its piece {id} has {n_chars} characters, but may have at most {PIECE_CHARS_MAX}"));
            }
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if joined(left).is_some() && joined(right).is_some() {
                    merges.push((piece.score, id, left, right));
                }
            }
            if merges.len() > WAYS_MAX * self.pieces.len() {
                return Err(format!(
                    "its {} pieces can be put together of each other in more than {} ways, its limit",
                    self.pieces.len(),
                    WAYS_MAX * self.pieces.len()
                ));
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.len().cmp(&b.2.len())));
        let merges: Vec<[&str; 2]> = merges.into_iter().map(|(_, _, left, right)| [left, right]).collect();
        let unknown = usize::try_from(self.unknown).ok().and_then(|id| self.pieces.get(id)).map(|piece| &piece.text);
        Ok(json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": self.byte_fallback, "ignore_merges": false,
            "vocab": ids, "merges": merges,
        }))
    }
}

fn read_piece(bytes: &[u8]) -> std::result::Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(text)) => {
                piece.text = std::str::from_utf8(text).map_err(|error| format!("its text: {error}"))?.to_owned();
            }
            (2, Field::Fixed32(score)) => piece.score = f32::from_bits(score),
            (3, Field::Number(kind)) => {
                piece.kind = match kind {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    other => return Err(format!("it has the unknown type {other}")),
                };
            }
            _ => {}
        }
    }
    match (piece.text.is_empty(), piece.score.is_nan()) {
        (true, _) => Err("it is empty".to_owned()),
        (_, true) => Err("its score is not a number".to_owned()),
        _ => Ok(piece),
    }
}

/// The fields of a protobuf message, one after the other.
struct Fields<'a>(&'a [u8]);

/// A field's value.
enum Field<'a> {
    Number(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

impl<'a> Iterator for Fields<'a> {
    type Item = std::result::Result<(u64, Field<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            // After damage there is nothing to go on with.
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "it is damaged or no SentencePiece model".to_owned()))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed64)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut at = 0;
        let value = varint(self.0, &mut at)?;
        self.0 = &self.0[at..];
        Some(value)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

/// Whether a character map holds the trie whose length it gives, and after it text.
fn is_whole(map: &[u8]) -> bool {
    let Some((length, rest)) = map.split_first_chunk() else { return false };
    let length = u32::from_le_bytes(*length) as usize;
    length.is_multiple_of(4) && rest.get(length..).is_some_and(|text| std::str::from_utf8(text).is_ok())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().enumerate().fold(0, |bits, (at, &byte)| bits | u32::from(byte) << (16 - 8 * at));
        for digit in 0..4 {
            match digit <= group.len() {
                true => text.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_as_rfc_4648_has_it() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (bytes, text) in cases {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
