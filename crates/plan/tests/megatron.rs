//! Table 1 of Megatron-LM (Narayanan et al., 2021) from two fitted numbers.

use plan::machine::{DevicePreset, Fabric, Network, Nic, NicKind, NodeGroup};
use plan::{
    Batch, Checkpointing, Degrees, Description, Granularity, Layout, Machine, OptimizerState, Software, Task, predict,
};
use schedule::{Backward, Kind, Spec};
use serde_json::json;

/// Fitted on the four rows marked so: the share of 312 TFLOP/s that products sustain, and the share of 2039 GB/s that
/// element-wise operations reach. Links are not fitted: NVLink as collective libraries measure it (240 of 300 GB/s), and
/// 15 of 25 GB/s for each of a node's eight HDR cards.
const PRODUCT: f64 = 0.70;
const MEMORY: f64 = 0.70;

/// Heads, hidden size, layers, tensor, pipeline, devices, batch, microbatch, chunks; TFLOP/s per device; whether fitted.
/// Published; microbatches and chunks from the published scripts.
const ROWS: [([usize; 9], f64, bool); 8] = [
    ([24, 2304, 24, 1, 1, 32, 512, 16, 1], 137.0, true),
    ([32, 3072, 30, 2, 1, 64, 512, 16, 1], 138.0, false),
    ([32, 4096, 36, 4, 1, 128, 512, 16, 1], 142.0, false),
    ([48, 6144, 40, 8, 1, 256, 1024, 8, 1], 135.0, true),
    ([80, 10240, 60, 8, 4, 1024, 1792, 2, 3], 140.0, true),
    ([96, 12288, 80, 8, 8, 1536, 2304, 2, 2], 148.0, false),
    ([128, 20480, 105, 8, 35, 2520, 2520, 1, 3], 163.0, true),
    ([160, 25600, 128, 8, 64, 3072, 3072, 1, 1], 163.0, false),
];

fn selene(devices: usize) -> Machine {
    let mut device = DevicePreset::A100.device();
    device.efficiency.product = PRODUCT;
    device.efficiency.grouped = PRODUCT;
    device.efficiency.memory = MEMORY;
    device.efficiency.operation_s = 0.0;
    Machine {
        name: "Selene".to_owned(),
        nodes: vec![NodeGroup {
            name: "DGX A100".to_owned(),
            count: devices / 8,
            cluster: "selene".to_owned(),
            devices: 8,
            device,
            fabric: Fabric::uniform(300e9, 0.8, 0.0),
            nics: vec![Nic { kind: NicKind::InfiniBand, count: 8, bytes_per_s: 15e9, latency_s: 5e-6 }],
        }],
        network: Network::Cards,
    }
}

fn predicted_tflops(row: [usize; 9]) -> f64 {
    let [heads, hidden, layers, tensor, pipeline, devices, batch, microbatch, chunks] = row;
    let config = json!({"model_type": "gpt2", "n_embd": hidden, "n_head": heads, "n_layer": layers,
        "vocab_size": 51200, "n_positions": 2048});
    let model = Description::from_config_json(&config.to_string()).expect("a GPT");
    let kind = if chunks > 1 { Kind::Interleaved } else { Kind::OneFOneB };
    let data = devices / (tensor * pipeline);
    let layout = Layout {
        degrees: Degrees { pipeline, data, tensor, ..Degrees::ONE },
        microbatch_rows: microbatch,
        spec: Spec { kind, backward: Backward::Fused },
        chunks,
        recompute: Checkpointing::Layers,
        optimizer: OptimizerState::Replicated,
        sizes: Some(vec![layers / pipeline / chunks; pipeline * chunks]),
    };
    let task = Task {
        model,
        machine: selene(devices),
        software: Software::megatron_2021(),
        batch: Batch { rows: batch, tokens: 2048 },
        granularity: Granularity::WholeLayers,
    };
    let prediction = predict(&task, &layout).expect("a prediction");
    let (h, l, s, v) = (hidden as f64, layers as f64, 2048.0, 51200.0);
    let flops = 96.0 * batch as f64 * s * l * h * h * (1.0 + s / (6.0 * h) + v / (16.0 * l * h));
    flops / prediction.step_s / devices as f64 / 1e12
}

#[test]
fn table_1() {
    let mut worst: f64 = 0.0;
    for (row, tflops, is_fitted) in ROWS {
        let found = predicted_tflops(row);
        let error = found / tflops - 1.0;
        let how = if is_fitted { ", fitted" } else { "" };
        println!("h {:5} l {:3}: {found:6.1} of {tflops} TFLOP/s, {:+.1} %{how}", row[1], row[2], 100.0 * error);
        if !is_fitted {
            worst = worst.max(error.abs());
        }
    }
    assert!(worst < 0.06, "{worst}");
}
