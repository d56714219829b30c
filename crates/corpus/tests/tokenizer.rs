//! The tokenizer against the Python packages (`fixtures/make_encodings.py`), and its own promises.

use corpus::{CorpusError, Document, Tokenizer, embedded_documents};
use serde_json::Value;
use std::path::{Path, PathBuf};

const FIXTURE_VOCABULARY: usize = 389;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture_documents() -> Vec<Document> {
    embedded_documents().into_iter().skip(53).step_by(7).collect()
}

/// A control token written out in a text is text; in a prompt it is the token.
#[test]
fn documents_have_no_control_tokens_inside() {
    let tokenizer = Tokenizer::from_file(&fixtures().join("byte-level.json")).unwrap();
    let text = "one<|endoftext|>two";
    let ids = &tokenizer.encode_documents(&[text]).unwrap()[0];
    let ends = |ids: &[u32]| ids.iter().filter(|&&id| id == tokenizer.end_of_text()).count();
    assert_eq!((ends(ids), ends(&tokenizer.encode(text).unwrap())), (1, 1));
    assert_eq!(ids.last(), Some(&tokenizer.end_of_text()));
}

#[test]
fn training_is_the_same_everywhere() {
    if std::env::var_os("MILLSTREAM_WRITE_FIXTURES").is_some() {
        let tokenizer = Tokenizer::train(&fixture_documents(), FIXTURE_VOCABULARY).unwrap();
        std::fs::write(fixtures().join("byte-level.json"), tokenizer.to_json()).unwrap();
    }
    let stored = std::fs::read_to_string(fixtures().join("byte-level.json")).unwrap();
    for _ in 0..3 {
        let trained = Tokenizer::train(&fixture_documents(), FIXTURE_VOCABULARY).unwrap();
        assert_eq!(trained.to_json(), stored);
    }
}

#[test]
fn encodes_and_decodes_as_python_does() {
    let expected: Value = serde_json::from_slice(&std::fs::read(fixtures().join("encodings.json")).unwrap()).unwrap();
    for (name, cases) in expected.as_object().unwrap() {
        let tokenizer = Tokenizer::from_file(&fixtures().join(name)).unwrap();
        for case in cases.as_array().unwrap() {
            let (text, decoded) = (case["text"].as_str().unwrap(), case["decoded"].as_str().unwrap());
            let ids: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), decoded, "{name}: {text:?}");

            let mut stream = tokenizer.stream();
            let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            streamed.push_str(&stream.finish().unwrap());
            assert_eq!(streamed, decoded, "{name}: {text:?} streamed");
        }
    }
}

#[test]
fn special_tokens() {
    let cases = [("byte-level.json", 389, 0, None, 0), ("llama-like.json", 274, 2, Some(1), 1)];
    for (name, vocab_size, end, begin, start) in cases {
        let tokenizer = Tokenizer::from_file(&fixtures().join(name)).unwrap();
        assert_eq!(tokenizer.vocab_size(), vocab_size, "{name}");
        assert_eq!(tokenizer.end_of_text(), end, "{name}");
        assert_eq!(tokenizer.begin_of_text(), begin, "{name}");
        assert_eq!(tokenizer.start_of_document(), start, "{name}");
        let text = "the foo ".repeat(13);
        let ids: Vec<u32> = begin.into_iter().chain(tokenizer.encode(&text).unwrap()).chain([end]).collect();
        assert_eq!(tokenizer.encode_documents(&[&text, ""]).unwrap()[0], ids, "{name}");
    }
}

#[test]
fn a_character_is_given_out_when_it_is_complete() {
    let tokenizer = Tokenizer::from_file(&fixtures().join("byte-level.json")).unwrap();
    let crab = tokenizer.encode("🦀").unwrap();
    assert_eq!(crab.len(), 4, "four bytes, no merge");
    let cases: [(&str, Vec<u32>, Vec<&str>); 4] = [
        ("whole", crab.clone(), vec!["", "", "", "🦀", ""]),
        ("unfinished", crab[..3].to_vec(), vec!["", "", "", "\u{fffd}"]),
        ("separator", [vec![0], crab.clone()].concat(), vec!["", "", "", "", "🦀", ""]),
        ("never finished", vec![crab[1]; 5], vec!["", "", "", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}", "", "\u{fffd}"]),
    ];
    for (name, ids, pieces) in cases {
        let mut stream = tokenizer.stream();
        let mut found: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        found.push(stream.finish().unwrap());
        assert_eq!(found, pieces, "{name}");
    }
}

#[test]
fn byte_lengths_add_up_to_the_text() {
    let tokenizer = Tokenizer::from_file(&fixtures().join("byte-level.json")).unwrap();
    let lengths = tokenizer.byte_lengths();
    assert_eq!(lengths.len(), tokenizer.vocab_size());
    assert_eq!(lengths[0], 0);
    for document in embedded_documents().iter().step_by(53) {
        let ids = tokenizer.encode(&document.text).unwrap();
        let bytes: u32 = ids.iter().map(|&id| lengths[id as usize]).sum();
        assert_eq!(bytes as usize, document.text.len());
    }
    let llama = Tokenizer::from_file(&fixtures().join("llama-like.json")).unwrap();
    let ids = llama.encode("the foo 日").unwrap();
    let bytes: u32 = ids.iter().map(|&id| llama.byte_lengths()[id as usize]).sum();
    assert_eq!(bytes as usize, " the foo 日".len(), "with the space that this tokenizer puts in front");
}

#[test]
fn a_loaded_tokenizer_is_written_as_it_was() {
    let json = std::fs::read_to_string(fixtures().join("llama-like.json")).unwrap();
    assert_eq!(Tokenizer::from_json(&json, "a test").unwrap().to_json(), json);
}

#[test]
fn the_config_beside_it_names_the_end_of_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::copy(fixtures().join("llama-like.json"), &path).unwrap();
    let cases = [
        (r#"{"eos_token": "<unk>"}"#, 0),
        (r#"{"eos_token": {"content": "<unk>", "special": true}}"#, 0),
        (r#"{"eos_token": null}"#, 2),
        (r#"{"eos_token": "<not in the vocabulary>"}"#, 2),
        ("{}", 2),
    ];
    for (config, end_of_text) in cases {
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        assert_eq!(Tokenizer::from_file(&path).unwrap().end_of_text(), end_of_text, "{config}");
    }
    std::fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    let error = Tokenizer::from_file(&path).unwrap_err();
    assert!(error.to_string().contains("tokenizer_config.json"), "{error}");
}

#[test]
fn own_config_names_its_tokens() {
    let tokenizer = Tokenizer::from_file(&fixtures().join("llama-like.json")).unwrap();
    let config: Value = serde_json::from_str(&tokenizer.to_config_json()).unwrap();
    assert_eq!((&config["bos_token"], &config["eos_token"]), (&Value::from("<s>"), &Value::from("</s>")));
}

#[test]
fn errors() {
    let json = std::fs::read_to_string(fixtures().join("byte-level.json")).unwrap();
    let no_end = json.replace("<|endoftext|>", "<|other|>");
    let small = Tokenizer::train(&fixture_documents(), 256);
    assert!(matches!(small, Err(CorpusError::VocabularySize { found: 256, least: 257 })));
    assert!(matches!(Tokenizer::from_json(&no_end, "x"), Err(CorpusError::NoEndOfText { .. })));
    assert!(matches!(Tokenizer::from_json(&json[..1000], "x"), Err(CorpusError::TokenizerFile { .. })));
    assert!(matches!(Tokenizer::from_json("{}", "x"), Err(CorpusError::TokenizerFile { .. })));
    assert!(matches!(Tokenizer::from_file(Path::new("/no/such.json")), Err(CorpusError::Missing { .. })));
    let tokenizer = Tokenizer::from_json(&json, "x").unwrap();
    assert!(matches!(tokenizer.decode(&[1, 389]), Err(CorpusError::UnknownToken { id: 389, vocab_size: 389 })));
}
