//! Against stored numbers of PyTorch and transformers (`crates/model/tests/fixtures`).

use crate::setup::*;
use architecture::Architecture;
use checkpoint::read_folder;
use kernels::AdamW;
use mesh::StageMap;
use model::Rows;
use safetensors::SafeTensors;
use schedule::Spec;
use stage::{Objective, Recompute, Source, Step, Update};
use std::path::{Path, PathBuf};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures").join(path)
}

fn read_model(path: &str) -> (Architecture, Tensors) {
    let folder = read_folder(&fixture(path)).unwrap();
    let weights = folder.architecture().all_weights();
    let values = weights.into_iter().map(|weight| (weight.name.clone(), folder.read(&weight).unwrap()));
    (folder.architecture().clone(), values.collect())
}

fn f32s(file: &SafeTensors, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn f64s(file: &SafeTensors, name: &str) -> Vec<f64> {
    file.tensor(name).unwrap().data().as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

fn ids(file: &SafeTensors) -> (Vec<i32>, Vec<usize>) {
    let ids = file.tensor("ids").unwrap();
    (ids.data().as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect(), ids.shape().to_vec())
}

/// The tensors named `prefix` and a parameter's name.
fn tensors(file: &SafeTensors, prefix: &str) -> Tensors {
    let names =
        file.names().into_iter().filter_map(|name| Some((name.strip_prefix(prefix)?.to_owned(), f32s(file, name))));
    names.collect()
}

/// Rows in which every token but the last predicts the next one.
fn next_token(ids: Vec<i32>, n_tokens: usize) -> Rows {
    let mut rows = Rows::to_read(ids, n_tokens);
    for i in (0..rows.n()).filter(|i| (i + 1) % n_tokens != 0) {
        rows.targets[i] = rows.ids[i + 1];
        rows.weights[i] = 1.0;
    }
    rows
}

/// Both add up to 61 terms in f32 in their own orders, layer upon layer; largest found 8e-7 of the largest entry.
fn check_gradients(name: &str) {
    let (architecture, weights) = read_model(&format!("llama/{name}"));
    let bytes = std::fs::read(fixture(&format!("llama/{name}/expected.safetensors"))).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let (ids, shape) = ids(&expected);
    let map = StageMap::one_per_rank(1);
    let sizes = [architecture.blocks().len()];
    let mut pipeline = start(&architecture, &weights, &sizes, map.clone(), vec![Recompute::None]);
    let schedule = schedule(&pipeline, GPIPE, &map.route(), 1);
    let report = pipeline.play(step(schedule, vec![next_token(ids, shape[1])], STILL)).unwrap();
    let found = outcome(&pipeline, &architecture, &report);
    let loss = f64::from(f32s(&expected, "loss")[0]);
    assert!((found.loss - loss).abs() < 1e-6, "{name}: loss {} is not {loss}", found.loss);
    assert_close(&found.gradients, &tensors(&expected, "grad."), 2e-6, name);
}

#[test]
fn gradients() {
    ["tied", "biases", "llama3"].into_iter().for_each(check_gradients);
}

/// Ten steps of AdamW with decay, clipping and a changing learning rate. The fixtures' README says what rounding alone
/// does: 1.2e-6 in losses, 1.5e-6 of gradient norms, 1.8e-6 in weights, for a change of one unit in the last place.
/// Every operation of every step rounds, so ten times that is allowed; found are 5e-7, 7e-7 and
/// 2.4e-6.
fn check_training(sizes: &[usize], spec: Spec, n_microbatches: usize) {
    let (architecture, weights) = read_model("training/initial");
    let bytes = std::fs::read(fixture("training/trace.safetensors")).unwrap();
    let trace = SafeTensors::deserialize(&bytes).unwrap();
    let (ids, shape) = ids(&trace);
    let [rates, losses, norms] = ["learning_rate", "loss", "gradient_norm"].map(|name| f64s(&trace, name));
    let map = StageMap::one_per_rank(sizes.len());
    let mut pipeline = start(&architecture, &weights, sizes, map.clone(), vec![Recompute::None; sizes.len()]);
    let schedule = schedule(&pipeline, spec, &map.route(), n_microbatches);
    let mut worst = [0.0f64; 2];
    for (k, ids) in ids.chunks(shape[1] * shape[2]).enumerate() {
        let microbatches = split(&next_token(ids.to_vec(), shape[2]), n_microbatches);
        let number = k as u64 + 1;
        let adamw = AdamW { learning_rate: rates[k], weight_decay: 0.1, step: number, ..STILL };
        let report = pipeline
            .play(Step {
                number,
                schedule: schedule.clone(),
                objective: Objective::NextToken { total_weight: total_weight(&microbatches) },
                microbatches,
                update: Some(Update { clip_norm: Some(0.5), ..Update::new(adamw) }),
            })
            .unwrap();
        let differences = [report.loss() - losses[k], report.gradient_norm.unwrap() / norms[k] - 1.0].map(f64::abs);
        for (worst, difference) in worst.iter_mut().zip(differences) {
            *worst = worst.max(difference);
        }
    }
    assert!(
        worst[0] < 1.2e-5 && worst[1] < 1.5e-5,
        "losses differ by {}, norms by {} of themselves",
        worst[0],
        worst[1]
    );
    let found = read_all(&pipeline, &architecture, Source::Value);
    for (name, wanted) in tensors(&trace, "final.") {
        let differences = found[&name].iter().zip(&wanted).map(|(found, wanted)| (found - wanted).abs());
        let worst = differences.fold(0.0, f32::max);
        assert!(worst < 1.8e-5, "{name} differs by {worst}");
    }
}

#[test]
fn ten_training_steps() {
    check_training(&[6], GPIPE, 1);
    check_training(&[3, 2, 1], SPECS[3], 4);
}
