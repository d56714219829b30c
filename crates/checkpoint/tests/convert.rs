//! Folders written anew: there and back, what is counted, what is refused.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use checkpoint::{Conversion, Converted, Dtype, Export, Head, Part, convert, read_folder, write_folder};
use common::{HeadMatrix, any_bits, bits, edit_json, export, files, message, model, names};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

fn to(dtype: Dtype, shard_bytes: Option<u64>) -> Conversion {
    Conversion { dtype: Some(dtype), shard_bytes, head: None }
}

fn converted(from: &Path, path: &Path, conversion: Conversion) -> Converted {
    let mut seen = Vec::new();
    let written = convert(&read_folder(from).unwrap(), path, &conversion, |weight| seen.push(weight.name.clone()));
    let weights = read_folder(path).unwrap().architecture().all_weights();
    assert_eq!(seen, weights.iter().map(|weight| weight.name.clone()).collect::<Vec<String>>());
    written.unwrap()
}

/// Every format holds the values: whatever lies between, the folder comes back to the byte.
#[test]
fn there_and_back() {
    for head in [HeadMatrix::Tied, HeadMatrix::Own] {
        for from in DTYPES {
            for via in DTYPES {
                for shard_bytes in [None, Some(600), Some(1)] {
                    let place = tempfile::tempdir().unwrap();
                    let [first, second, third] = ["a", "b", "c"].map(|name| place.path().join(name));
                    export(&first, head, from, None);
                    let there = converted(&first, &second, to(via, shard_bytes));
                    let n_parameters = model(head).n_parameters() as u64;
                    let n_files = names(&second).iter().filter(|name| name.ends_with(".safetensors")).count();
                    assert_eq!(there, Converted { dtype: via, n_parameters, n_rounded: 0, n_files });
                    assert_eq!(n_files > 1, shard_bytes.is_some());
                    // The same as if it had been exported so.
                    let exported = place.path().join("exported");
                    export(&exported, head, via, shard_bytes);
                    assert_eq!(files(&second), files(&exported), "{from:?} to {via:?}");
                    converted(&second, &third, to(from, None));
                    assert_eq!(files(&third), files(&first), "{from:?} by {via:?}");
                }
            }
        }
    }
}

/// Without another number format, bits are copied: not-a-numbers keep theirs.
#[test]
fn bits_stay() {
    for dtype in DTYPES {
        let place = tempfile::tempdir().unwrap();
        let [first, second] = ["a", "b"].map(|name| place.path().join(name));
        let architecture = model(HeadMatrix::Own);
        let export = Export { architecture: &architecture, tokenizer: None, companions: &[], dtype, shard_bytes: None };
        write_folder(&first, &export, |weight| Ok(any_bits(3, weight, Part::Value))).unwrap();
        converted(&first, &second, Conversion::default());
        assert_eq!(files(&first), files(&second));
    }
}

#[test]
fn what_does_not_fit_is_rounded_and_counted_or_refused() {
    // Value, format, what becomes of it; `None`: refused.
    let cases = [
        (1.0 + 1.0 / 1024.0, Dtype::F16, Some((1.0 + 1.0 / 1024.0, false))),
        (1.0 + 1.0 / 1024.0, Dtype::Bf16, Some((1.0, true))),
        (65519.0, Dtype::F16, Some((65504.0, true))),
        (65520.0, Dtype::F16, None),
        (-1e30, Dtype::F16, None),
        (-1e30, Dtype::Bf16, Some((-1.000_255_55e30, true))),
        (f32::MAX, Dtype::Bf16, None),
        (f32::INFINITY, Dtype::F16, Some((f32::INFINITY, false))),
        (1e-30, Dtype::F16, Some((0.0, true))),
    ];
    for (value, dtype, wanted) in cases {
        let place = tempfile::tempdir().unwrap();
        let [first, second] = ["a", "b"].map(|name| place.path().join(name));
        let architecture = model(HeadMatrix::Tied);
        let export = Export {
            architecture: &architecture,
            tokenizer: None,
            companions: &[],
            dtype: Dtype::F32,
            shard_bytes: None,
        };
        let last = architecture.all_weights().pop().unwrap();
        write_folder(&first, &export, |weight| {
            let mut values = vec![0.5; weight.n_elements()];
            if *weight == last {
                values[1] = value;
            }
            Ok(values)
        })
        .unwrap();
        match wanted {
            Some((stored, is_rounded)) => {
                assert_eq!(converted(&first, &second, to(dtype, None)).n_rounded, u64::from(is_rounded), "{value}");
                let read = read_folder(&second).unwrap().read(&last).unwrap();
                assert_eq!(bits(&read[..2]), bits(&[0.5, stored]), "{value} as {dtype:?}");
            }
            None => {
                let result = convert(&read_folder(&first).unwrap(), &second, &to(dtype, None), |_| ());
                let message = message(result);
                assert!(message.contains(&last.name) && message.contains("too large for"), "{message}");
                assert_eq!(names(place.path()), ["a"], "nothing is left");
            }
        }
    }
}

#[test]
fn heads_are_tied_and_untied() {
    let place = tempfile::tempdir().unwrap();
    let [tied, untied, again] = ["a", "b", "c"].map(|name| place.path().join(name));
    export(&tied, HeadMatrix::Tied, Dtype::Bf16, None);
    let head = |head| Conversion { head: Some(head), ..Conversion::default() };
    converted(&tied, &untied, head(Head::Untied));
    let folder = read_folder(&untied).unwrap();
    assert_eq!(folder.architecture(), &model(HeadMatrix::Own));
    let weights = folder.architecture().all_weights();
    let (embedding, lm_head) = (weights.first().unwrap(), weights.last().unwrap());
    assert_eq!((embedding.name.as_str(), lm_head.name.as_str()), ("model.embed_tokens.weight", "lm_head.weight"));
    assert_eq!(folder.read(embedding).unwrap(), folder.read(lm_head).unwrap());
    converted(&untied, &again, head(Head::Tied));
    assert_eq!(files(&again), files(&tied));
    // Asking for what is there changes nothing.
    converted(&tied, &place.path().join("d"), head(Head::Tied));
    assert_eq!(files(&place.path().join("d")), files(&tied));
    converted(&untied, &place.path().join("e"), head(Head::Untied));
    assert_eq!(files(&place.path().join("e")), files(&untied));

    let own = place.path().join("own");
    export(&own, HeadMatrix::Own, Dtype::Bf16, None);
    let before = names(place.path());
    let result = convert(&read_folder(&own).unwrap(), &place.path().join("f"), &head(Head::Tied), |_| ());
    let message = message(result);
    assert!(message.contains("`lm_head.weight` in") && message.contains("keep the head untied"), "{message}");
    assert_eq!(names(place.path()), before);
}

#[test]
fn other_files_stay() {
    let place = tempfile::tempdir().unwrap();
    let [first, second] = ["a", "b"].map(|name| place.path().join(name));
    export(&first, HeadMatrix::Own, Dtype::F32, None);
    edit_json(&first.join("config.json"), |config| config["transformers_version"] = json!("5.1.0"));
    for name in ["tokenizer.model", "chat_template.jinja", "special_tokens_map.json", "README.md"] {
        std::fs::write(first.join(name), name).unwrap();
    }
    converted(&first, &second, to(Dtype::F16, Some(500)));
    let mut kept = files(&second);
    kept.retain(|name, _| !name.starts_with("model"));
    let mut wanted = files(&first);
    wanted.retain(|name, _| !name.starts_with("model") && name != "README.md");
    for files in [&mut kept, &mut wanted] {
        let config: Value = serde_json::from_slice(&files.remove("config.json").unwrap()).unwrap();
        assert_eq!(config["transformers_version"], "5.1.0");
    }
    assert_eq!(kept, wanted);
    let index: Value =
        serde_json::from_slice(&std::fs::read(second.join("model.safetensors.index.json")).unwrap()).unwrap();
    let n_parameters = model(HeadMatrix::Own).n_parameters();
    assert_eq!(index["metadata"], json!({"total_parameters": n_parameters, "total_size": 2 * n_parameters}));

    let message = message(convert(&read_folder(&first).unwrap(), &second, &Conversion::default(), |_| ()));
    assert!(message.contains("b`"), "{message}");
    let mixed = place.path().join("mixed");
    std::fs::create_dir(&mixed).unwrap();
    for (name, content) in files(&second) {
        std::fs::write(mixed.join(name), content).unwrap();
    }
    let first_shard = names(&mixed).into_iter().find(|name| name.starts_with("model-00001")).unwrap();
    let all = place.path().join("all");
    converted(&second, &all, to(Dtype::Bf16, Some(500)));
    std::fs::copy(all.join(&first_shard), mixed.join(&first_shard)).unwrap();
    let result = convert(&read_folder(&mixed).unwrap(), &place.path().join("x"), &Conversion::default(), |_| ());
    let message = common::message(result);
    assert!(message.contains("stores weights as bfloat16 and float16; say which one"), "{message}");
    assert!(convert(&read_folder(&mixed).unwrap(), &place.path().join("x"), &to(Dtype::F32, None), |_| ()).is_ok());
}

/// Values of folders that transformers wrote, in shards and in one file, are those of the folder.
#[test]
fn folders_of_transformers() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/llama");
    for case in names(&fixtures) {
        let folder = read_folder(&fixtures.join(&case)).unwrap();
        for shard_bytes in [None, Some(5000)] {
            let place = tempfile::tempdir().unwrap();
            let path: PathBuf = place.path().join("model");
            converted(folder.path(), &path, to(Dtype::F32, shard_bytes));
            let written = read_folder(&path).unwrap();
            for weight in folder.architecture().all_weights() {
                let [found, wanted] = [&written, &folder].map(|folder| bits(&folder.read(&weight).unwrap()));
                assert_eq!(found, wanted, "{case} {}", weight.name);
            }
        }
    }
}
