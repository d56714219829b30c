//! `millstream layout` as its users meet it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

mod common;

use common::Place;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::fs;

/// A weight file of zeros.
fn weights(place: &Place, file: &str, tensors: &[(&str, Vec<usize>)]) {
    let bytes = vec![0; tensors.iter().map(|(_, shape)| 2 * shape.iter().product::<usize>()).max().unwrap_or(0)];
    let view = |(name, shape): &(&str, Vec<usize>)| {
        let n_bytes = 2 * shape.iter().product::<usize>();
        ((*name).to_owned(), TensorView::new(Dtype::F16, shape.clone(), &bytes[..n_bytes]).unwrap())
    };
    place.write(file, safetensors::serialize(tensors.iter().map(view), None).unwrap());
}

/// A family that this program does not know, in two shards: fused queries, keys and values, a parallel MLP, names of its own.
fn unknown_family(place: &Place, folder: &str) {
    fs::create_dir(place.path(folder)).unwrap();
    let config = json!({"model_type": "frobnicator", "num_attention_heads": 6});
    place.write(&format!("{folder}/config.json"), config.to_string());
    let layer = |i: usize| {
        [
            (format!("net.{i}.attention.dense.weight"), vec![48, 48]),
            (format!("net.{i}.attention.query_key_value.weight"), vec![144, 48]),
            (format!("net.{i}.norm.weight"), vec![48]),
            (format!("net.{i}.mix.back.weight"), vec![48, 160]),
            (format!("net.{i}.mix.forth.weight"), vec![160, 48]),
        ]
    };
    let mut shards = [vec![("word_embeddings.weight".to_owned(), vec![1000, 48])], Vec::new()];
    (0..12).for_each(|i| shards[i / 6].extend(layer(i)));
    let mut map = serde_json::Map::new();
    for (n, shard) in shards.iter().enumerate() {
        let file = format!("model-{n}.safetensors");
        let tensors: Vec<(&str, Vec<usize>)> =
            shard.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect();
        weights(place, &format!("{folder}/{file}"), &tensors);
        map.extend(shard.iter().map(|(name, _)| (name.clone(), Value::from(file.clone()))));
    }
    place.write(&format!("{folder}/model.safetensors.index.json"), json!({ "weight_map": map }).to_string());
}

fn json_of(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&place.succeed(&[arguments, &["--json"]].concat())).unwrap()
}

/// Names and shapes of the files are enough; layers that are alike share a line, and `--json` has every weight.
#[test]
fn any_architecture() {
    let place = Place::new();
    unknown_family(&place, "model");
    let asked = ["layout", "model", "--tensor", "4"];
    let page = place.succeed(&asked);
    println!("{page}");
    let line = |name: &str| -> Vec<String> {
        let found = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {page}"));
        found.split_whitespace().map(str::to_owned).collect()
    };
    for (name, wanted) in [
        ("word_embeddings.weight", "rows 0 1 1000 x 48 250 x 48"),
        ("net.*.attention.query_key_value.weight", "outputs 0 12 144 x 48 36 x 48"),
        ("net.*.attention.dense.weight", "inputs 1 12 48 x 48 48 x 12"),
        ("net.*.mix.forth.weight", "outputs 0 12 160 x 48 40 x 48"),
        ("net.*.mix.back.weight", "inputs 1 12 48 x 160 48 x 40"),
        ("net.*.norm.weight", "whole - 12 48 48"),
    ] {
        assert_eq!(line(name)[1..].join(" "), wanted, "{name}");
    }
    assert!(page.contains("note: 6 query heads do not divide over 4 ranks"), "{page}");
    let answer = json_of(&place, &asked);
    let rows = answer["weights"].as_array().unwrap();
    assert_eq!(rows.len(), 1 + 12 * 5);
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    let at = |name: &str| names.iter().position(|found| *found == name).unwrap();
    assert!(at("net.2.norm.weight") < at("net.10.norm.weight"), "numbers count by their value");
    let forth = &rows[at("net.7.mix.forth.weight")];
    assert_eq!(
        *forth,
        json!({"name": "net.7.mix.forth.weight", "shape": [160, 48], "cut": "outputs", "dim": 0, "on_rank": [40, 48]})
    );
    // One shard by itself.
    assert_eq!(
        json_of(&place, &["layout", "model/model-1.safetensors", "--tensor", "4"])["weights"][0]["cut"],
        "inputs"
    );
}

/// A trained model's files and its configuration say the same, whatever order they list weights in.
#[test]
fn files_and_configuration_agree() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    fs::copy(place.path("run/model/config.json"), place.path("alone.json")).unwrap();
    let sorted = |model: &str, n: &str| {
        let answer = json_of(&place, &["layout", model, "--tensor", n]);
        let mut rows = answer["weights"].as_array().unwrap().clone();
        rows.sort_by_key(|row| row["name"].as_str().unwrap().to_owned());
        rows
    };
    for n in ["1", "2", "3", "7"] {
        assert_eq!(sorted("run/model", n), sorted("alone.json", n), "{n} ranks");
        assert_eq!(sorted("run/model", n), sorted("run", n), "{n} ranks");
    }
    let cut = |rows: &[Value], name: &str| rows.iter().find(|row| row["name"] == name).unwrap()["cut"].clone();
    let rows = sorted("run/model", "2");
    assert_eq!(cut(&rows, "model.layers.1.self_attn.o_proj.weight"), "inputs");
    assert_eq!(cut(&rows, "model.layers.1.mlp.up_proj.weight"), "outputs");
    // Every rank's parts are the model: what is cut is there once in all.
    for row in rows.iter().filter(|row| row["cut"] != "whole") {
        let product = |key: &str| row[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>();
        assert_eq!(2 * product("on_rank"), product("shape"), "{row}");
    }
}

#[test]
fn refusals() {
    let place = Place::new();
    unknown_family(&place, "model");
    fs::create_dir(place.path("empty")).unwrap();
    place.write("mamba.json", json!({"model_type": "mamba"}).to_string());
    place.write("broken.json", "{");
    let whole = place.read("model/model-1.safetensors");
    place.write("cut.safetensors", &whole[..whole.len() / 2]);
    place.write("text.safetensors", "no weights at all, but text that is long enough for a header");
    unknown_family(&place, "lacking");
    fs::remove_file(place.path("lacking/model-1.safetensors")).unwrap();
    for (model, parts) in [
        ("nowhere", vec!["nowhere: there is no such file or folder", "hint: give a folder in Hugging Face's form"]),
        ("empty", vec!["empty holds no model", "hint: give the folder of a run"]),
        ("mamba.json", vec!["mamba.json: ", "hint: for other families give a folder with weight files"]),
        ("broken.json", vec!["broken.json: the configuration cannot be read"]),
        ("cut.safetensors", vec!["cut.safetensors", "it is probably cut off"]),
        ("text.safetensors", vec!["text.safetensors"]),
        ("lacking", vec!["model.safetensors.index.json", "there is no such file"]),
    ] {
        let output = place.run(&["layout", model, "--tensor", "2"]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{model}: {stderr}");
        assert!(output.stdout.is_empty(), "{model}");
        for part in parts {
            assert!(stderr.contains(part), "{model}: no `{part}` in {stderr}");
        }
    }
    let output = place.run(&["layout", "model", "--tensor", "0"]);
    assert_eq!(output.status.code(), Some(2));
}
