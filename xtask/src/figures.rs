//! `cargo xtask figures`: the sweeps of Megatron-LM's paper (Narayanan et al., 2021, figures 11 to 18) as the planner predicts
//! them, with the two numbers that fit its table 1.

use plan::machine::{DevicePreset, Fabric, Network, Nic, NicKind, NodeGroup};
use plan::{
    Batch, Checkpointing, Degrees, Description, Granularity, Hops, Layout, Machine, OptimizerState, Prediction,
    Software, Task, predict,
};
use schedule::{Backward, Kind, Spec};
use serde_json::json;

/// A point of a figure.
#[derive(Clone, Copy)]
struct Point {
    hidden: usize,
    layers: usize,
    heads: usize,
    degrees: Degrees,
    rows: usize,
    microbatch: usize,
    chunks: usize,
    recompute: Checkpointing,
    hops: Hops,
}

impl Point {
    fn predict(self) -> Option<Prediction> {
        let Self { hidden, layers, heads, degrees, rows, microbatch, chunks, recompute, hops } = self;
        let config = json!({"model_type": "gpt2", "n_embd": hidden, "n_head": heads, "n_layer": layers,
            "vocab_size": 51200, "n_positions": 2048});
        let mut device = DevicePreset::A100.device();
        (device.efficiency.product, device.efficiency.grouped) = (0.70, 0.70);
        (device.efficiency.memory, device.efficiency.operation_s) = (0.70, 0.0);
        let group = NodeGroup {
            name: "DGX A100".to_owned(),
            count: degrees.n_devices().div_ceil(8),
            cluster: "selene".to_owned(),
            devices: 8,
            device,
            fabric: Fabric::uniform(300e9, 0.8, 0.0),
            nics: vec![Nic { kind: NicKind::InfiniBand, count: 8, bytes_per_s: 15e9, latency_s: 5e-6 }],
        };
        let task = Task {
            model: Description::from_config_json(&config.to_string()).ok()?,
            machine: Machine { name: "Selene".to_owned(), nodes: vec![group], network: Network::Cards },
            software: Software { hops, ..Software::megatron_2021() },
            batch: Batch { rows, tokens: 2048 },
            granularity: Granularity::WholeLayers,
        };
        let kind = if chunks > 1 { Kind::Interleaved } else { Kind::OneFOneB };
        let layout = Layout {
            degrees,
            microbatch_rows: microbatch,
            spec: Spec { kind, backward: Backward::Fused },
            chunks,
            recompute,
            optimizer: OptimizerState::Replicated,
            sizes: Some(vec![layers / degrees.pipeline / chunks; degrees.pipeline * chunks]),
        };
        predict(&task, &layout).ok()
    }

    /// TFLOP/s per device as the paper counts them, with a fourth forward only where there is one.
    fn tflops(self) -> Option<f64> {
        let step_s = self.predict()?.step_s;
        let (h, l, s) = (self.hidden as f64, self.layers as f64, 2048.0);
        let passes = if self.recompute == Checkpointing::Layers { 96.0 } else { 72.0 };
        let flops = passes * self.rows as f64 * s * l * h * h * (1.0 + s / (6.0 * h) + 51200.0 / (16.0 * l * h));
        Some(flops / step_s / self.degrees.n_devices() as f64 / 1e12)
    }
}

/// Prints all sweeps.
pub fn sweep() {
    let base = Point {
        hidden: 20480,
        layers: 3,
        heads: 128,
        degrees: Degrees { tensor: 8, ..Degrees::ONE },
        rows: 8,
        microbatch: 1,
        chunks: 1,
        recompute: Checkpointing::Layers,
        hops: Hops::Scattered,
    };
    let degrees = |pipeline, data, tensor| Degrees { pipeline, data, tensor, ..Degrees::ONE };
    let show = |figure: &str, points: Vec<(String, Point)>| {
        let cells = points.into_iter().map(|(name, point)| match point.tflops() {
            Some(tflops) => format!("{name}: {tflops:.0}"),
            None => format!("{name}: -"),
        });
        super::show(&format!("{figure}: {}", cells.collect::<Vec<String>>().join(", ")));
    };
    for rows in [8, 128] {
        let of = |p| (format!("p {p}"), Point { layers: 3 * p, degrees: degrees(p, 1, 8), rows, ..base });
        show(&format!("11, weak scaling of the pipeline, batch {rows}"), [1, 2, 4, 8].map(of).to_vec());
    }
    let gpt3 = Point { hidden: 12288, layers: 96, heads: 96, degrees: degrees(12, 1, 8), ..base };
    for chunks in [1, 4] {
        let of = |rows| (format!("batch {rows}"), Point { rows, chunks, ..gpt3 });
        show(&format!("12, {chunks} stages a rank"), [12, 24, 36, 48, 60].map(of).to_vec());
    }
    for rows in [32, 128] {
        let of = |(p, t)| (format!("p {p} t {t}"), Point { layers: 32, degrees: degrees(p, 1, t), rows, ..base });
        show(
            &format!("13, pipeline against tensor, batch {rows}"),
            [(2, 32), (4, 16), (8, 8), (16, 4), (32, 2)].map(of).to_vec(),
        );
    }
    let small = Point { hidden: 3840, layers: 32, heads: 32, ..base };
    for rows in [32, 512] {
        let of = |p| (format!("p {p} d {}", 64 / p), Point { degrees: degrees(p, 64 / p, 1), rows, ..small });
        show(&format!("14, pipeline against data, batch {rows}"), [2, 4, 8, 16, 32].map(of).to_vec());
    }
    for rows in [32, 128, 512] {
        let of = |t| (format!("t {t} d {}", 64 / t), Point { degrees: degrees(1, 64 / t, t), rows, ..small });
        show(&format!("15, tensor against data, batch {rows}"), [2, 4, 8, 16, 32].map(of).to_vec());
    }
    for rows in [128, 512] {
        let point = Point { hidden: 15360, layers: 32, heads: 128, degrees: degrees(8, 1, 8), rows, ..base };
        let of = |microbatch| (format!("b {microbatch}"), Point { microbatch, ..point });
        show(&format!("16, microbatch, batch {rows}"), [1, 2, 4, 8].map(of).to_vec());
    }
    for recompute in [Checkpointing::None, Checkpointing::Layers] {
        let rows = [1, 2, 4, 8, 16, 32, 64, 128, 256].map(|rows| {
            let point =
                Point { hidden: 12288, layers: 80, heads: 96, degrees: degrees(16, 1, 8), rows, recompute, ..base };
            match point.predict() {
                Some(prediction) => {
                    let fits = if prediction.missing_bytes() > 0 { ", does not fit" } else { "" };
                    let gib = prediction.peak_bytes() as f64 / f64::from(1 << 30);
                    format!("batch {rows}: {:.2} rows/s ({gib:.1} GiB{fits})", rows as f64 / prediction.step_s)
                }
                None => format!("batch {rows}: -"),
            }
        });
        super::show(&format!("17, recompute {recompute:?}: {}", rows.join(", ")));
    }
    for hops in [Hops::Whole, Hops::Scattered] {
        let of = |rows| (format!("batch {rows}"), Point { rows, chunks: 4, hops, ..gpt3 });
        show(&format!("18, messages {hops:?}"), [12, 24, 36, 48, 60].map(of).to_vec());
    }
}
