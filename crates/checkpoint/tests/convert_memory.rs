//! A folder larger than memory may be converted. Alone in its process, whose memory it measures.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use architecture::{Architecture, from_config_json};
use checkpoint::{Conversion, Dtype, Head, convert, read_folder};
use safetensors::Dtype as Stored;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Peak and present memory of this process, in bytes: everything that it has mapped and touched.
fn resident() -> [u64; 2] {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    ["VmHWM:", "VmRSS:"].map(|key| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    })
}

/// The folder in files of one layer each, full of holes that read as zeros: it takes no room on the disk.
fn sparse(folder: &Path, architecture: &Architecture) {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("config.json"), architecture::to_config_json(architecture)).unwrap();
    let weights = architecture.all_weights();
    let shards: Vec<_> = weights.chunks(10).collect();
    let mut map = serde_json::Map::new();
    for (n, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", n + 1, shards.len());
        let mut end = 0;
        let info = |shape: &Vec<usize>| {
            let begin = end;
            end += 4 * shape.iter().product::<usize>();
            TensorInfo { dtype: Stored::F32, shape: shape.clone(), data_offsets: (begin, end) }
        };
        let mut info = info;
        let tensors = shard.iter().map(|weight| (weight.name.clone(), info(&weight.shape))).collect();
        let header = serde_json::to_vec(&Metadata::new(None, tensors).unwrap()).unwrap();
        let mut file = File::create(folder.join(&name)).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(&header).unwrap();
        file.set_len(8 + header.len() as u64 + end as u64).unwrap();
        map.extend(shard.iter().map(|weight| (weight.name.clone(), name.clone().into())));
    }
    fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
}

/// Of 60 MB in the suite, and of as many gigabytes as `MILLSTREAM_CONVERT_GB` says.
#[test]
fn memory_does_not_follow_the_model() {
    let gigabytes: Option<u64> = std::env::var("MILLSTREAM_CONVERT_GB").ok().map(|value| value.parse().unwrap());
    let (hidden, layers) = match gigabytes {
        None => (512, 4),
        // A layer has 13 matrices of 1024 by 1024, or 54.5 MB.
        Some(gigabytes) => (1024, gigabytes * 1_000_000_000 / 54_500_000),
    };
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": 8, "intermediate_size": 3 * hidden, "vocab_size": 8 * hidden, "tie_word_embeddings": true,
    });
    let architecture = from_config_json(&config.to_string()).unwrap();
    let largest = architecture.all_weights().iter().map(|weight| 4 * weight.n_elements() as u64).max().unwrap();
    let place =
        tempfile::tempdir_in(std::env::var_os("MILLSTREAM_CONVERT_PLACE").unwrap_or(std::env::temp_dir().into()))
            .unwrap();
    let [from, path] = ["from", "to"].map(|name| place.path().join(name));
    sparse(&from, &architecture);

    // Forgets the peak so far (`man 5 proc`, clear_refs).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let [_, before] = resident();
    let conversion = Conversion { dtype: Some(Dtype::Bf16), shard_bytes: Some(8 << 20), head: Some(Head::Untied) };
    let converted = convert(&read_folder(&from).unwrap(), &path, &conversion, |_| ()).unwrap();
    let grown = resident()[0] - before;
    assert!(converted.n_files > 3 && converted.n_rounded == 0);
    println!(
        "{:.2} GB converted, largest tensor {:.1} MB, memory grew by {:.1} MB",
        4e-9 * architecture.n_parameters() as f64,
        1e-6 * largest as f64,
        1e-6 * grown as f64
    );
    // The promise is 1.2 times the largest tensor. Pieces of a megabyte, as stored, as values and as written, need less
    // than half of it even here.
    assert!(grown * 2 <= largest, "memory grew by {grown} bytes; the largest tensor has {largest}");
}
