//! Logits and losses of randomly initialised models against what transformers computed (`fixtures/make_llama.py`,
//! `fixtures/make_families.py`).

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use burn::tensor::{DType, Device, Tensor};
use checkpoint::read_folder;
use model::{Cache, Output, Part, Rows, Tape};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// Both sides compute in f32 and add in different orders; the logits are of order 1 and the sums up to 50 terms long.
const TOLERANCE: f32 = 1e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn whole_model(folder: &Path) -> Part {
    let folder = read_folder(folder).unwrap();
    let architecture = folder.architecture();
    Part::new(architecture, &architecture.blocks(), &Device::flex(), |weight| folder.read(weight)).unwrap()
}

fn f32s(file: &SafeTensors, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn values(t: Tensor<2>) -> Vec<f32> {
    t.into_data().try_to_vec().unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn check(folder: &Path) {
    let part = whole_model(folder);
    let name = folder.display();
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let ids = expected.tensor("ids").unwrap();
    let [n_rows, n_tokens] = ids.shape()[..] else { panic!("ids of {name}") };
    let ids: Vec<i32> = ids.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
    let logits = f32s(&expected, "logits");
    let vocabulary = logits.len() / ids.len();

    let at_once = values(part.logits(&Rows::to_read(ids.clone(), n_tokens), &mut Cache::new()));
    let difference = largest_difference(&at_once, &logits);
    assert!(difference < TOLERANCE, "{name}: logits differ by {difference}");

    // The same through the cache: two tokens, then one, then the rest.
    let mut cache = Cache::new();
    for piece in [0..2, 2..3, 3..n_tokens] {
        let of_row = |row: usize| ids[row * n_tokens + piece.start..row * n_tokens + piece.end].iter().copied();
        let mut rows = Rows::to_read((0..n_rows).flat_map(of_row).collect(), piece.len());
        rows.positions.iter_mut().for_each(|position| *position += piece.start as i32);
        let got = values(part.logits(&rows, &mut cache));
        let wanted = |row: usize| {
            logits[(row * n_tokens + piece.start) * vocabulary..(row * n_tokens + piece.end) * vocabulary]
                .iter()
                .copied()
        };
        let wanted: Vec<f32> = (0..n_rows).flat_map(wanted).collect();
        let difference = largest_difference(&got, &wanted);
        assert!(difference < TOLERANCE, "{name}: tokens {piece:?} through the cache differ by {difference}");
    }

    let mut rows = Rows::to_read(ids.clone(), n_tokens);
    for (i, id) in ids.iter().enumerate().filter(|(i, _)| i % n_tokens != 0) {
        rows.targets[i - 1] = *id;
        rows.weights[i - 1] = 1.0;
    }
    let Output::LogProbability(y) = part.forward(&rows, None, &mut Tape::Untracked) else { panic!("a whole model") };
    let y: Vec<f32> = y.into_data().try_to_vec().unwrap();
    let sum: f32 = y.iter().zip(&rows.weights).map(|(y, w)| -y * w).sum();
    let loss = sum / rows.weights.iter().sum::<f32>();
    let difference = (loss - f32s(&expected, "loss")[0]).abs();
    assert!(difference < TOLERANCE, "{name}: loss differs by {difference}");
}

#[test]
fn logits_equal_those_of_transformers() {
    for (set, n) in [("llama", 8), ("families", 15)] {
        let entries = std::fs::read_dir(fixtures().join(set)).unwrap();
        let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        assert_eq!(folders.len(), n, "{set}");
        folders.iter().for_each(|folder| check(folder));
    }
}

/// Documents of a packed row see nothing of each other, whatever the windows and the positions: the same logits as each
/// document by itself.
#[test]
fn isolated_documents_are_read_as_if_alone() {
    for name in ["llama/three_layers", "families/gemma3", "families/gpt2", "families/qwen2", "families/mistral"] {
        check_isolation(name);
    }
}

fn check_isolation(name: &str) {
    let part = whole_model(&fixtures().join(name));
    let documents: [&[i32]; 3] = [&[3, 1, 4, 1, 5], &[9, 2], &[6, 5, 3, 5, 8, 9]];
    let mut packed = Rows::to_read(documents.concat(), 13);
    packed.positions = documents.iter().flat_map(|document| 0..document.len() as i32).collect();
    packed.documents = (0..).zip(documents).flat_map(|(i, document)| vec![i; document.len()]).collect();
    let together = values(part.logits(&packed, &mut Cache::new()));
    let alone: Vec<f32> = documents
        .iter()
        .flat_map(|ids| values(part.logits(&Rows::to_read(ids.to_vec(), ids.len()), &mut Cache::new())))
        .collect();
    // Sums over hidden keys are exact zeros; only the order of the product's additions may differ.
    let difference = largest_difference(&together, &alone);
    assert!(difference < 1e-5, "{name}: {difference}");
}

/// In bf16, where a cache grows: tokens one by one as all at once.
#[test]
fn caches_hold_what_the_part_computes_in() {
    let ids = [3, 1, 4, 1, 5, 9, 2];
    for name in ["llama/three_layers", "families/gemma3", "families/gpt2"] {
        let part = whole_model(&fixtures().join(name)).computing_in(DType::BF16);
        let at_once = values(part.logits(&Rows::to_read(ids.to_vec(), ids.len()), &mut Cache::new()));
        let mut cache = Cache::new();
        let one_by_one = (0..).zip(ids).flat_map(|(position, id)| {
            let rows = Rows { positions: vec![position], ..Rows::to_read(vec![id], 1) };
            values(part.logits(&rows, &mut cache))
        });
        let difference = largest_difference(&one_by_one.collect::<Vec<_>>(), &at_once);
        // Found are none; products that add in another order may round to another of 8 bits.
        let largest = at_once.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        assert!(difference <= largest / 128.0, "{name}: off by {difference} of {largest}");
    }
}
