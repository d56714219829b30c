//! Converted SentencePiece models against the `sentencepiece` package (`fixtures/sentencepiece/make_models.py`).

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use corpus::{CorpusError, Tokenizer};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece")
}

fn model(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(format!("{name}.model"))).unwrap()
}

fn open(name: &str) -> Tokenizer {
    Tokenizer::from_file(&fixtures().join(format!("{name}.model"))).unwrap()
}

/// What the `tokenizers` library cannot do as SentencePiece does: texts by model.
const KNOWN_TO_DIFFER: &[(&str, &str)] = &[
    // A space is not put in front of what looks like one already.
    ("bpe-symbols", "\u{2581}already\u{2581}there"),
];

#[test]
fn ids_and_texts_are_sentencepieces() {
    let expected: Value = serde_json::from_slice(&fs::read(fixtures().join("encodings.json")).unwrap()).unwrap();
    let mut differ = Vec::new();
    for (name, expected) in expected.as_object().unwrap() {
        let tokenizer = open(name);
        assert_eq!(tokenizer.vocab_size() as u64, expected["pieces"].as_u64().unwrap(), "{name}");
        assert_eq!(Some(u64::from(tokenizer.end_of_text())), expected["eos"].as_u64(), "{name}");
        assert_eq!(tokenizer.begin_of_text().map(u64::from), expected["bos"].as_u64(), "{name}");
        for case in expected["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let wanted: Vec<u32> =
                case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            // As a document, where special tokens written out are text, as they are to SentencePiece.
            let document = tokenizer.encode_documents(&[text]).unwrap().remove(0);
            let ids = &document[usize::from(tokenizer.begin_of_text().is_some())..document.len() - 1];
            let is_known = KNOWN_TO_DIFFER.contains(&(name, text));
            if (ids != wanted) != is_known {
                let pieces = |ids: &[u32]| ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect::<Vec<_>>();
                differ.push(format!("{name}: {text:?}\n  {:?}\n  {:?}", pieces(ids), pieces(&wanted)));
            }
            // Special tokens are left out, where SentencePiece writes the unknown one as " ⁇ "; and of its own letter
            // for a space at the start of a text, it takes any number away.
            let is_known = wanted.contains(&0) || text.starts_with('\u{2581}');
            let decoded = tokenizer.decode(&wanted).unwrap();
            if !is_known && decoded != case["decoded"].as_str().unwrap() {
                differ.push(format!("{name}: decoded {decoded:?}\n  instead of {}", case["decoded"]));
            }
        }
        // What it was converted to reads back to the same.
        let again = Tokenizer::from_json(tokenizer.to_json(), name).unwrap();
        assert_eq!(again.encode("the hacker").unwrap(), tokenizer.encode("the hacker").unwrap());
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}

#[test]
fn the_config_beside_it_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.model");
    fs::write(&path, model("bpe-bytes")).unwrap();
    let cases = [
        ("{}", Some(1), 2),
        (r#"{"add_bos_token": false}"#, None, 2),
        (r#"{"add_bos_token": true, "eos_token": "<unk>"}"#, Some(1), 0),
    ];
    for (config, begin, end) in cases {
        fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        assert_eq!((tokenizer.begin_of_text(), tokenizer.end_of_text()), (begin, end), "{config}");
    }
}

#[test]
fn what_cannot_be_converted_is_refused() {
    let refused = |bytes: &[u8]| match Tokenizer::from_sentencepiece(bytes, "a test") {
        Err(error @ CorpusError::SentencePiece { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let start = "a test cannot be used as a SentencePiece model: ";
    assert_eq!(
        refused(&model("word")),
        format!("{start}it is a model of whole words; Unigram and BPE can be converted")
    );
    assert_eq!(
        refused(&model("char")),
        format!("{start}it is a model of characters; Unigram and BPE can be converted")
    );
    assert_eq!(refused(b""), format!("{start}it holds no pieces"));
    assert_eq!(refused(b"{\"model\": {}}"), format!("{start}it is damaged or no SentencePiece model"));
    // A piece of type 5, unused; of a type that there is not; and one that is no text.
    assert_eq!(
        refused(&[10, 5, 10, 1, b'a', 24, 5]),
        format!("{start}its piece \"a\" is marked as unused, which cannot be expressed")
    );
    assert_eq!(refused(&[10, 5, 10, 1, b'a', 24, 9]), format!("{start}piece 0: it has the unknown type 9"));
    assert!(refused(&[10, 3, 10, 1, 0xff]).starts_with(&format!("{start}piece 0: its text: invalid utf-8")));
}

/// A model of pieces, all of one score, as bytes: BPE, with `</s>` as its end of text.
fn bpe_of(pieces: &[String]) -> Vec<u8> {
    let varint = |mut n: usize| {
        let mut bytes = Vec::new();
        while n >= 0x80 {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    };
    let field = |tag: u8, content: &[u8]| [&[tag], &varint(content.len())[..], content].concat();
    let pieces = ["<unk>", "<s>", "</s>"].into_iter().chain(pieces.iter().map(String::as_str));
    let pieces: Vec<u8> = pieces.flat_map(|piece| field(10, &field(10, piece.as_bytes()))).collect();
    [pieces, field(18, &[24, 2])].concat()
}

/// What would take quadratic time, or make a file many times as long, is refused by its size.
#[test]
fn hostile_pieces() {
    let runs = |n: usize| -> Vec<String> { (1..=n).map(|length| "a".repeat(length)).collect() };
    let refused = |pieces: &[String]| match Tokenizer::from_sentencepiece(&bpe_of(pieces), "a test") {
        Err(error @ CorpusError::SentencePiece { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let start = "a test cannot be used as a SentencePiece model: its";
    let cases = [
        (vec!["b".repeat(1_000_000)], format!("{start} piece 3 has 1000000 characters, but may have at most 512")),
        (vec!["\u{e9}".repeat(513)], format!("{start} piece 3 has 513 characters, but may have at most 512")),
        // Of the piece of n letters there are n - 1 ways.
        (runs(512), format!("{start} 515 pieces can be put together of each other in more than 8240 ways, its limit")),
        (vec!["c".repeat(99); 2], format!("{start} piece {:?}\u{2026} stands there twice", "c".repeat(40))),
    ];
    for (pieces, wanted) in cases {
        assert_eq!(refused(&pieces), wanted);
    }
    let tokenizer = Tokenizer::from_sentencepiece(&bpe_of(&runs(31)), "a test").unwrap();
    assert_eq!(tokenizer.vocab_size(), 34);
}

/// Cut off anywhere or with any byte changed, a model is refused or read; nothing panics.
#[test]
fn damaged_models() {
    let whole = model("bpe");
    for length in (0..whole.len()).step_by(7) {
        drop(Tokenizer::from_sentencepiece(&whole[..length], "a test"));
    }
    for at in (0..whole.len()).step_by(13) {
        for flip in [0xff, 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            drop(Tokenizer::from_sentencepiece(&damaged, "a test"));
        }
    }
}
