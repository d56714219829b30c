//! Schedules that choose between orders, as the planner plays them.

use plan::machine::{DevicePreset, Network, Nic, NicKind, NodeGroup};
use plan::{
    Batch, Checkpointing, Degrees, Description, Granularity, Layout, Machine, OptimizerState, Prediction, Software,
    Task, predict,
};
use schedule::{Backward, Kind, Spec};
use serde_json::json;

/// A Llama over nodes of one A100 each, with so many bytes of memory and such a network.
fn task(memory_bytes: u64, gbytes_per_s: f64) -> Task {
    let config = json!({"model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 9, "num_attention_heads": 8,
        "intermediate_size": 4096, "vocab_size": 32000});
    let mut device = DevicePreset::A100.device();
    (device.memory_bytes, device.reserved_bytes, device.fragmentation) = (memory_bytes, 0, 0.0);
    let group = NodeGroup {
        name: "nodes".to_owned(),
        count: 4,
        cluster: "one".to_owned(),
        devices: 1,
        device,
        fabric: DevicePreset::A100.fabric(),
        nics: vec![Nic { kind: NicKind::Ethernet, count: 1, bytes_per_s: gbytes_per_s * 1e9, latency_s: 5e-5 }],
    };
    Task {
        model: Description::from_config_json(&config.to_string()).expect("a Llama"),
        machine: Machine { name: "test".to_owned(), nodes: vec![group], network: Network::Cards },
        software: Software::megatron(),
        batch: Batch { rows: 22, tokens: 1024 },
        granularity: Granularity::Layers,
    }
}

fn played(task: &Task, kind: Kind, microbatch_rows: usize) -> Prediction {
    let layout = Layout {
        degrees: Degrees { pipeline: 4, ..Degrees::ONE },
        microbatch_rows,
        spec: Spec { kind, backward: Backward::Split },
        chunks: if kind == Kind::ZbV { 2 } else { 1 },
        recompute: Checkpointing::None,
        optimizer: OptimizerState::Replicated,
        sizes: None,
    };
    predict(task, &layout).expect("a prediction")
}

/// Over links from fast to slower than the passes, which Megatron's ranks move themselves: no slower than 1F1B with split
/// backward, and faster somewhere.
#[test]
fn zb_auto_is_no_slower_than_1f1b() {
    let mut gains = Vec::new();
    for gbytes_per_s in [0.2, 0.5, 1.0, 3.0, 20.0] {
        for rows in [1, 2, 11] {
            let task = task(80 << 30, gbytes_per_s);
            let (auto, plain) = (played(&task, Kind::ZbAuto, rows), played(&task, Kind::OneFOneB, rows));
            assert!(
                auto.step_s <= plain.step_s * (1.0 + 1e-9),
                "{gbytes_per_s} {rows}: {} {}",
                auto.step_s,
                plain.step_s
            );
            gains.push(1.0 - auto.step_s / plain.step_s);
        }
    }
    println!("zb-auto is faster than 1F1B by {gains:.3?}");
    assert!(gains.iter().any(|gain| *gain > 0.02), "{gains:?}");
}

/// Memory from plenty to less than a microbatch: `zb-auto` fits wherever 1F1B does, `zb-v` mostly, both by orders that are
/// slower and leaner than without a limit.
#[test]
fn limits_are_kept() {
    let (mut n_kept, mut n_limited) = (0, 0);
    for kind in [Kind::ZbAuto, Kind::ZbV] {
        let roomy = played(&task(80 << 30, 20.0), kind, 1);
        for percent in (60..=100).step_by(5) {
            let memory = roomy.peak_bytes() * percent / 100;
            let found = played(&task(memory, 20.0), kind, 1);
            let plain = played(&task(memory, 20.0), Kind::OneFOneB, 1);
            if found.missing_bytes() <= 0 {
                n_kept += 1;
                n_limited += usize::from(found.step_s > roomy.step_s);
            } else if kind == Kind::ZbAuto {
                assert!(plain.peak_bytes() > memory, "{kind} at {percent} %: {} above", found.missing_bytes());
            }
            println!(
                "{kind} at {percent} %: {} missing, {:.4} of the step",
                found.missing_bytes(),
                found.step_s / roomy.step_s
            );
        }
    }
    println!("kept {n_kept} of 18 limits, {n_limited} of them by a slower order");
    assert!(n_kept > 9 && n_limited > 3, "{n_kept} {n_limited}");
}
