//! GGUF files against those of the `gguf` package (`fixtures/make_gguf.py`), and what cannot be one. That llama.cpp draws
//! the same tokens from them: `crates/millstream/tests/compare_with_llama_cpp.py`.

use checkpoint::{CheckpointError, read_folder, write_gguf};
use packed::Format;
use std::path::{Path, PathBuf};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf")
}

#[test]
fn files_are_those_of_the_gguf_package() {
    let place = tempfile::tempdir().unwrap();
    let folder = read_folder(&fixture()).unwrap();
    for (format, name) in [(Format::Q8, "Q8_0.gguf"), (Format::Q4, "Q4_0.gguf")] {
        let path = place.path().join(name);
        let mut n_weights = 0;
        let written = write_gguf(&folder, &path, Some(format), |_| n_weights += 1).unwrap();
        let (found, wanted) = (std::fs::read(&path).unwrap(), std::fs::read(fixture().join(name)).unwrap());
        let differs = found.iter().zip(&wanted).position(|(a, b)| a != b);
        assert_eq!((differs, found.len()), (None, wanted.len()), "{name}: first byte that differs, and length");
        assert_eq!((written.n_bytes, written.n_tensors, written.format), (wanted.len() as u64, 16, format));
        assert_eq!(n_weights, 15, "frequencies are no weight");
        let error = write_gguf(&folder, &path, Some(format), |_| ()).unwrap_err();
        assert!(matches!(error, CheckpointError::FileExists { .. }), "{error}");
    }
    // As stored, which is f32; and nothing else is left behind.
    let written = write_gguf(&folder, &place.path().join("whole.gguf"), None, |_| ()).unwrap();
    assert_eq!(written.format, Format::F32);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 3);
}

/// Each with a change to the fixture's files.
#[test]
fn models_that_llama_cpp_would_misread_are_refused() {
    let refuse = |file: &str, from: &str, to: &str, wanted: &str| {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("model");
        std::fs::create_dir(&folder).unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::copy(fixture().join(name), folder.join(name)).unwrap();
        }
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(text.contains(from), "{from} is in {file}");
        std::fs::write(folder.join(file), text.replacen(from, to, 1)).unwrap();
        let out = place.path().join("out.gguf");
        let error = write_gguf(&read_folder(&folder).unwrap(), &out, Some(Format::Q8), |_| ()).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(!out.exists() && std::fs::read_dir(place.path()).unwrap().count() == 1, "nothing is left behind");
    };
    let pre = r#""add_prefix_space": false"#;
    refuse("tokenizer.json", pre, r#""add_prefix_space": true"#, "a tokenizer that is not byte-level BPE");
    refuse("tokenizer.json", r#""normalizer": null"#, r#""normalizer": {"type": "NFC"}"#, "not byte-level BPE");
    refuse("tokenizer.json", r#""id": 0"#, r#""id": 900"#, "a tokenizer with ids that the model's 263 do not hold");
}

/// A template among several in `tokenizer_config.json` is the one that a conversation here takes.
#[test]
fn the_default_template_of_a_list() {
    let place = tempfile::tempdir().unwrap();
    // The file's model has the folder's name.
    let folder = place.path().join("gguf");
    std::fs::create_dir(&folder).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(fixture().join(name), folder.join(name)).unwrap();
    }
    let template = std::fs::read_to_string(fixture().join("chat_template.jinja")).unwrap();
    let named = |name: &str, template: &str| serde_json::json!({ "name": name, "template": template });
    let config = serde_json::json!({ "chat_template": [named("tool_use", "none"), named("default", &template)] });
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    let path = place.path().join("out.gguf");
    write_gguf(&read_folder(&folder).unwrap(), &path, Some(Format::Q8), |_| ()).unwrap();
    assert!(std::fs::read(path).unwrap() == std::fs::read(fixture().join("Q8_0.gguf")).unwrap());
}

#[test]
fn other_families_are_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    for (name, wanted) in [("gpt2", "a model of the family GPT-2"), ("mistral", "attention with a window")] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/families").join(name);
        let folder = read_folder(&folder).unwrap();
        let error = write_gguf(&folder, &place.path().join("out.gguf"), None, |_| ()).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}
