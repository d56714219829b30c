//! Hugging Face folders: round trips, what transformers wrote, and everything that can be wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use architecture::Weight;
use checkpoint::{CheckpointError, Dtype, Export, read_folder, replace_folder, write_folder};
use common::{HeadMatrix, TOKENIZER, bits, edit_json, export, files, integers, message, model, names};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[test]
fn what_is_written_is_read() {
    for head in [HeadMatrix::Tied, HeadMatrix::Own] {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            // One file, several, one per tensor.
            for (shard_bytes, n_shards) in [(None, 1), (Some(600), 0), (Some(1), model(head).all_weights().len())] {
                let temporary = tempfile::tempdir().unwrap();
                let path = temporary.path().join("a/model");
                export(&path, head, dtype, shard_bytes);
                let weight_files = names(&path).iter().filter(|name| name.ends_with(".safetensors")).count();
                match n_shards {
                    0 => assert!(weight_files > 1 && weight_files < model(head).all_weights().len()),
                    n => assert_eq!(weight_files, n),
                }
                let folder = read_folder(&path).unwrap();
                assert_eq!(folder.architecture(), &model(head));
                assert_eq!(folder.generation().eos_token_id, [2, 5]);
                assert_eq!(std::fs::read(folder.tokenizer_path().unwrap()).unwrap(), TOKENIZER.as_bytes());
                for weight in model(head).all_weights() {
                    assert_eq!(folder.read(&weight).unwrap(), integers(&weight).unwrap(), "{}", weight.name);
                    assert_eq!(folder.dtype(&weight).unwrap(), dtype);
                }
                assert_eq!(names(path.parent().unwrap()), ["model"], "nothing else is left");
            }
        }
    }
}

#[test]
fn rounds_to_the_nearest_and_ties_to_even() {
    // Value, and the same after a visit to the format, as PyTorch rounds: bf16 has 8 significant bits, f16 has 11.
    let cases = [
        (Dtype::Bf16, 1.0 + 1.0 / 256.0, 1.0),
        (Dtype::Bf16, 1.0 + 3.0 / 256.0, 1.0 + 1.0 / 64.0),
        (Dtype::Bf16, 1.0 + 1.1 / 256.0, 1.0 + 1.0 / 128.0),
        (Dtype::Bf16, -3.0e38, -3.004_055_3e38),
        (Dtype::Bf16, f32::MAX, f32::INFINITY),
        (Dtype::F16, 1.0 + 1.0 / 2048.0, 1.0),
        (Dtype::F16, 1.0 + 3.0 / 2048.0, 1.0 + 1.0 / 512.0),
        (Dtype::F16, 65504.0, 65504.0),
        (Dtype::F16, 65520.0, f32::INFINITY),
        (Dtype::F16, -(2f32.powi(-24)), -(2f32.powi(-24))),
        (Dtype::F16, 2f32.powi(-25), 0.0),
        (Dtype::F32, f32::MIN_POSITIVE / 8.0, f32::MIN_POSITIVE / 8.0),
        (Dtype::F32, -0.0, -0.0),
    ];
    for (dtype, value, stored) in cases {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("model");
        let architecture = model(HeadMatrix::Tied);
        let export = Export { architecture: &architecture, tokenizer: None, companions: &[], dtype, shard_bytes: None };
        write_folder(&path, &export, |weight| Ok(vec![value; weight.n_elements()])).unwrap();
        let folder = read_folder(&path).unwrap();
        assert_eq!(folder.tokenizer_path(), None);
        let read = folder.read(&architecture.all_weights()[3]).unwrap();
        assert_eq!(bits(&read), bits(&vec![stored; read.len()]), "{value} as {dtype:?}");
    }
}

#[test]
fn reads_what_transformers_wrote() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/llama");
    // Last value of a tensor as PyTorch prints it: `load_file(..)[name].float().flatten()[-1].item()`.
    let cases = [
        ("tied", Dtype::F32, "model.embed_tokens.weight", 0.0016983383),
        ("biases", Dtype::F32, "model.layers.0.self_attn.k_proj.bias", 0.038302902),
        ("llama3", Dtype::F32, "lm_head.weight", 0.19683386),
        ("three_layers", Dtype::F32, "model.layers.2.mlp.down_proj.weight", -0.12291845),
        ("older_config", Dtype::F32, "model.layers.0.mlp.up_proj.bias", 0.13689327),
        ("sharded", Dtype::F32, "model.norm.weight", 1.3958694),
        ("bf16", Dtype::Bf16, "model.layers.1.self_attn.q_proj.weight", -0.091796875),
        ("f16_sharded_tied", Dtype::F16, "model.layers.0.input_layernorm.weight", 0.88720703),
    ];
    assert_eq!(names(&fixtures).len(), cases.len());
    for (case, dtype, name, last) in cases {
        let folder = read_folder(&fixtures.join(case)).unwrap();
        let weights = folder.architecture().all_weights();
        let weight = weights.iter().find(|weight| weight.name == name).unwrap();
        assert_eq!(folder.dtype(weight).unwrap(), dtype, "{case}");
        assert_eq!(folder.read(weight).unwrap().last(), Some(&last), "{case}");
        for weight in &weights {
            assert_eq!(folder.read(weight).unwrap().len(), weight.n_elements(), "{case} {}", weight.name);
        }
    }
}

/// Every family there and back: equal weights, and the `config.json` that stands in the fixture as `written.json`, which
/// `make_families.py --check` holds against the original as transformers reads both. With the variable WRITE_FIXTURES
/// set, writes it instead.
#[test]
fn families_there_and_back() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/families");
    for case in names(&fixtures) {
        let original = read_folder(&fixtures.join(&case)).unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("model");
        let architecture = original.architecture();
        let export =
            Export { architecture, tokenizer: None, companions: &[], dtype: Dtype::F32, shard_bytes: Some(3000) };
        write_folder(&path, &export, |weight| original.read(weight)).unwrap();
        let again = read_folder(&path).unwrap();
        assert_eq!(again.architecture(), architecture, "{case}");
        for weight in architecture.all_weights() {
            assert_eq!(
                bits(&again.read(&weight).unwrap()),
                bits(&original.read(&weight).unwrap()),
                "{case} {weight:?}"
            );
        }
        let (written, stored) = (path.join("config.json"), fixtures.join(&case).join("written.json"));
        if std::env::var_os("WRITE_FIXTURES").is_some() {
            std::fs::copy(&written, &stored).unwrap();
        }
        assert_eq!(std::fs::read_to_string(written).unwrap(), std::fs::read_to_string(stored).unwrap(), "{case}");
    }
}

/// The first GPT-2 folders lack `transformer.` in names and the head, and keep the causal masks.
#[test]
fn the_first_gpt2_folders() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/families/gpt2");
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture.join(name), path.join(name)).unwrap();
    }
    edit_tensors(&path.join("model.safetensors"), |tensors| {
        let outer = std::mem::take(tensors);
        tensors.extend(outer.into_iter().map(|(name, tensor)| (name.replace("transformer.", ""), tensor)));
        for layer in 0..2 {
            tensors.insert(format!("h.{layer}.attn.bias"), (safetensors::Dtype::U8, vec![3], vec![1; 3]));
        }
    });
    let [found, wanted] = [path, &fixture].map(|path| read_folder(path).unwrap());
    for weight in wanted.architecture().all_weights() {
        assert_eq!(found.read(&weight).unwrap(), wanted.read(&weight).unwrap(), "{}", weight.name);
        assert_eq!(found.dtype(&weight).unwrap(), Dtype::F32);
    }
}

/// The tensors of a weight file: name to (dtype, shape, bytes).
type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

/// Rewrites a weight file with the format's own library.
fn edit_tensors(path: &Path, change: impl FnOnce(&mut Tensors)) {
    let bytes = std::fs::read(path).unwrap();
    let mut tensors: Tensors = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A change to tensors, and pieces of the message it leads to.
type TensorCase = (HeadMatrix, fn(&mut Tensors), &'static [&'static str]);

/// Bytes per shard, a change to the folder, and pieces of the message it leads to.
type FileCase<'a> = (Option<u64>, &'a dyn Fn(&Path), &'a [&'a str]);

/// A folder that `damage` has changed is refused with a message that has these pieces.
fn check_refused(head: HeadMatrix, shard_bytes: Option<u64>, damage: impl FnOnce(&Path), pieces: &[&str]) {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model");
    export(&path, head, Dtype::F32, shard_bytes);
    read_folder(&path).unwrap();
    damage(&path);
    let message = message(read_folder(&path));
    for piece in pieces {
        assert!(message.contains(piece), "`{message}` should contain `{piece}`");
    }
}

const UP: &str = "model.layers.0.mlp.up_proj.weight";
const NORM: &str = "model.norm.weight";

#[test]
fn says_what_is_wrong_with_tensors() {
    let cases: [TensorCase; 9] = [
        (HeadMatrix::Own, |t| drop(t.remove(UP)), &["lacks a tensor", UP]),
        (HeadMatrix::Own, |t| t.retain(|name, _| !name.contains("mlp.")), &["lacks 6 tensors", UP]),
        (
            HeadMatrix::Own,
            |t| drop(t.insert("model.extra".into(), t[NORM].clone())),
            &["`model.extra`", "does not have"],
        ),
        (HeadMatrix::Own, |t| t.get_mut(UP).unwrap().1.reverse(), &[UP, "[9, 7]", "[7, 9]"]),
        (HeadMatrix::Own, |t| t.get_mut(NORM).unwrap().1.push(1), &[NORM, "[9, 1]", "[9]"]),
        (HeadMatrix::Own, |t| t.get_mut(NORM).unwrap().0 = safetensors::Dtype::I32, &[NORM, "I32", "BF16"]),
        (
            HeadMatrix::Own,
            |t| drop(t.insert(NORM.into(), (safetensors::Dtype::F64, vec![9], vec![0; 72]))),
            &[NORM, "F64"],
        ),
        (
            HeadMatrix::Tied,
            |t| {
                let (dtype, shape, mut data) = t["model.embed_tokens.weight"].clone();
                data[7] ^= 1;
                t.insert("lm_head.weight".into(), (dtype, shape, data));
            },
            &["lm_head.weight", "differs", "tie_word_embeddings"],
        ),
        (
            HeadMatrix::Tied,
            |t| drop(t.insert("lm_head.weight".into(), t[NORM].clone())),
            &["lm_head.weight", "differs", "tie_word_embeddings"],
        ),
    ];
    for (head, change, pieces) in cases {
        let all = [pieces, &["model.safetensors"]].concat();
        check_refused(head, None, |path| edit_tensors(&path.join("model.safetensors"), change), &all);
    }
}

#[test]
fn accepts_what_is_superfluous_but_harmless() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model");
    export(&path, HeadMatrix::Tied, Dtype::F32, None);
    edit_tensors(&path.join("model.safetensors"), |tensors| {
        tensors.insert("lm_head.weight".into(), tensors["model.embed_tokens.weight"].clone());
        let frequencies = (safetensors::Dtype::F32, vec![2], vec![0; 8]);
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), frequencies);
    });
    std::fs::remove_file(path.join("generation_config.json")).unwrap();
    let folder = read_folder(&path).unwrap();
    assert_eq!(folder.generation().eos_token_id, [2, 5], "from config.json");
    for weight in folder.architecture().all_weights() {
        assert_eq!(folder.read(&weight).unwrap(), integers(&weight).unwrap());
    }
    let foreign = Weight { name: "model.extra".into(), ..folder.architecture().all_weights()[0].clone() };
    assert!(message(folder.read(&foreign)).contains("model.extra"));
}

#[test]
fn says_what_is_wrong_with_files() {
    let second = |path: &Path| names(path).into_iter().find(|name| name.starts_with("model-00002")).unwrap();
    let index = |path: &Path| path.join("model.safetensors.index.json");
    let cases: [FileCase; 12] = [
        (None, &|path| std::fs::remove_file(path.join("config.json")).unwrap(), &["config.json", "read"]),
        (None, &|path| std::fs::write(path.join("config.json"), "{").unwrap(), &["config.json"]),
        (None, &|path| std::fs::remove_file(path.join("model.safetensors")).unwrap(), &["neither", "index"]),
        (None, &|path| std::fs::write(path.join("model.safetensors"), "").unwrap(), &["model.safetensors", "0 bytes"]),
        (
            None,
            &|path| std::fs::write(path.join("model.safetensors"), b"\x04\0\0\0\0\0\0\0{\"a\"").unwrap(),
            &["model.safetensors", "header"],
        ),
        (None, &|path| std::fs::write(path.join("generation_config.json"), "3").unwrap(), &["generation_config.json"]),
        (Some(600), &|path| std::fs::write(index(path), "{}").unwrap(), &["index.json", "weight_map"]),
        (
            Some(600),
            &|path| std::fs::remove_file(path.join(second(path))).unwrap(),
            &["index.json", "model-00002", "no such file"],
        ),
        (
            Some(600),
            &|path| edit_json(&index(path), |json| json["weight_map"][NORM] = second(path).into()),
            &[NORM, "model-00002", "does not have it"],
        ),
        (
            Some(600),
            &|path| edit_json(&index(path), |json| drop(json["weight_map"].as_object_mut().unwrap().remove(UP))),
            &[UP, "does not have"],
        ),
        (
            Some(600),
            &|path| edit_json(&index(path), |json| json["weight_map"][NORM] = "../model.safetensors".into()),
            &[NORM, "../model.safetensors", "same folder"],
        ),
        (
            Some(600),
            &|path| {
                let shard = path.join(second(path));
                let bytes = std::fs::read(&shard).unwrap();
                std::fs::write(shard, &bytes[..bytes.len() - 3]).unwrap();
            },
            &["model-00002", "cut off"],
        ),
    ];
    for (shard_bytes, damage, pieces) in cases {
        check_refused(HeadMatrix::Own, shard_bytes, damage, pieces);
    }
}

#[test]
fn a_cut_off_file_never_loads() {
    for shard_bytes in [None, Some(1500)] {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("model");
        export(&path, HeadMatrix::Own, Dtype::F32, shard_bytes);
        for (name, bytes) in files(&path).into_iter().filter(|(name, _)| !name.starts_with("tokenizer")) {
            for length in (0..bytes.len() - 1).step_by(97) {
                std::fs::write(path.join(&name), &bytes[..length]).unwrap();
                let message = message(read_folder(&path));
                assert!(message.contains(&name), "{name} cut to {length} bytes: {message}");
            }
            std::fs::write(path.join(&name), bytes).unwrap();
        }
        read_folder(&path).unwrap();
    }
}

#[test]
fn a_damaged_header_never_panics() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model");
    export(&path, HeadMatrix::Own, Dtype::F32, None);
    let weights = path.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut refused = 0;
    for bit in (0..8 * header).step_by(31) {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&weights, damaged).unwrap();
        // Some flips leave a valid header, such as one in the metadata's text: those load as before.
        match read_folder(&path) {
            Ok(folder) => {
                for weight in folder.architecture().all_weights() {
                    assert_eq!(folder.read(&weight).unwrap().len(), weight.n_elements());
                }
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("model.safetensors"), "{error}");
            }
        }
    }
    assert!(refused > 8 * header / 31 * 9 / 10, "only {refused} flips of {} were noticed", 8 * header / 31);
}

#[test]
fn writing_refuses_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path();
    let (full, empty, file) = (root.join("full"), root.join("empty"), root.join("file"));
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("notes.txt"), "mine").unwrap();
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(&file, "mine").unwrap();
    let before = ["empty", "file", "full"];
    let architecture = model(HeadMatrix::Own);
    let write = |path: &Path, tokenizer: &[u8]| {
        let export = Export {
            architecture: &architecture,
            tokenizer: Some(tokenizer),
            companions: &[],
            dtype: Dtype::F32,
            shard_bytes: None,
        };
        write_folder(path, &export, integers)
    };
    let cases: [(PathBuf, &[u8], &[&str]); 4] = [
        (full.clone(), b"{}", &["full", "not an empty folder"]),
        (file.clone(), b"{}", &["file", "not an empty folder"]),
        (file.join("model"), b"{}", &["file"]),
        (root.join("new"), b"not JSON", &["tokenizer.json"]),
    ];
    for (path, tokenizer, pieces) in cases {
        let message = message(write(&path, tokenizer));
        assert!(pieces.iter().all(|piece| message.contains(piece)), "{message}");
        assert_eq!(names(root), before);
    }
    let failing =
        Export { architecture: &architecture, tokenizer: None, companions: &[], dtype: Dtype::F32, shard_bytes: None };
    let missing = |weight: &Weight| match weight.name.as_str() {
        UP => Err(CheckpointError::MissingTensors { path: root.join("elsewhere"), names: vec![UP.into()] }),
        _ => integers(weight),
    };
    assert!(message(write_folder(&root.join("new"), &failing, missing)).contains("elsewhere"));
    assert_eq!(names(root), before);
    write(&empty, b"{}").unwrap();
    read_folder(&empty).unwrap();
}

/// In the place of an older model, whose other files stay; a failure, or an end in between, loses neither.
#[test]
fn a_model_is_replaced() {
    let temporary = tempfile::tempdir().unwrap();
    let (root, path) = (temporary.path(), temporary.path().join("model"));
    let architecture = model(HeadMatrix::Own);
    let tokenizer = Some(TOKENIZER.as_bytes());
    let export =
        Export { architecture: &architecture, tokenizer, companions: &[], dtype: Dtype::F32, shard_bytes: None };
    let replace = |value: f32| replace_folder(&path, &export, |weight| Ok(vec![value; weight.n_elements()]));
    let value = || read_folder(&path).unwrap().read(&architecture.all_weights()[0]).unwrap()[0];
    replace(1.0).unwrap();
    let ours = names(&path);
    std::fs::write(path.join("notes.txt"), "mine").unwrap();
    let failing = |_: &Weight| Err(CheckpointError::NoWeights { folder: "the machine that left".into() });
    assert!(message(replace_folder(&path, &export, failing)).contains("the machine that left"));
    assert_eq!((value(), names(root)), (1.0, vec!["model".to_owned()]));
    // The process may have died with the old model aside, alone or beside the new one, or with a new one half written.
    for (n, died) in ["nowhere", "after moving the old", "after moving the new", "writing"].into_iter().enumerate() {
        match died {
            "after moving the old" => std::fs::rename(&path, root.join(".replaced-model")).unwrap(),
            "after moving the new" => {
                std::fs::rename(&path, root.join(".replaced-model")).unwrap();
                write_folder(&path, &export, integers).unwrap();
            }
            "writing" => std::fs::create_dir_all(root.join(".tmp-model/half")).unwrap(),
            _ => {}
        }
        replace(n as f32 + 2.0).unwrap();
        assert_eq!((value(), names(root)), (n as f32 + 2.0, vec!["model".to_owned()]), "{died}");
        assert_eq!(std::fs::read_to_string(path.join("notes.txt")).unwrap(), "mine", "{died}");
        assert_eq!(names(&path).len(), ours.len() + 1, "{died}");
    }
}
