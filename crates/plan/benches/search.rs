//! How long a search takes: a trillion parameters on 3072 GPUs, 16 unequal nodes, and up to a hundred thousand devices.
//!
//! `cargo bench -p plan -p millstream --bench search`

#![expect(clippy::print_stdout, reason = "a benchmark talks")]

use plan::machine::{DevicePreset, Network, NicKind, NodeGroup};
use plan::{Batch, Description, Granularity, Machine, Software, Space, Task, Trainer, search};
use std::time::Instant;

fn group(preset: DevicePreset, count: usize) -> NodeGroup {
    NodeGroup {
        name: preset.id().to_owned(),
        count,
        cluster: "one".to_owned(),
        devices: 8,
        device: preset.device(),
        fabric: preset.fabric(),
        nics: vec![NicKind::InfiniBand.typical(8), NicKind::Ethernet.typical(1)],
    }
}

fn gpt(hidden: usize, layers: usize, heads: usize) -> Description {
    let config = format!(
        r#"{{"model_type": "gpt2", "n_embd": {hidden}, "n_layer": {layers}, "n_head": {heads}, "vocab_size": 51200,
            "n_positions": 2048}}"#
    );
    Description::from_config_json(&config).expect("a GPT")
}

fn time(what: &str, model: Description, nodes: Vec<NodeGroup>, rows: usize, trainer: Trainer) {
    // `cargo bench ... -- WORDS` times only rows whose names have them.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if wanted.is_some_and(|wanted| !format!("{what} {trainer:?}").contains(&wanted)) {
        return;
    }
    let software = Software::megatron();
    let task = Task {
        model,
        machine: Machine { name: what.to_owned(), nodes, network: Network::Cards },
        software: software.clone(),
        batch: Batch { rows, tokens: 2048 },
        granularity: Granularity::Layers,
    };
    let space = Space::of(trainer, &software);
    let mut seconds = Vec::new();
    let mut found = None;
    for _ in 0..3 {
        let start = Instant::now();
        found = Some(search(&task, &space, 5).expect("a plan"));
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let found = found.expect("invariant: searched");
    let best = &found.best[0];
    println!(
        "{what:44} {trainer:?}: {:.2} s (least of 3 {:.2}), {} layouts, {} simulated; {}, step {:.1} s",
        seconds[1], seconds[0], found.n_layouts, found.n_simulated, best.layout.degrees, best.prediction.step_s
    );
}

fn main() {
    let trillion = || gpt(25600, 128, 160);
    for trainer in [Trainer::Megatron, Trainer::Any] {
        time("1T on 3072 A100", trillion(), vec![group(DevicePreset::A100, 384)], 3072, trainer);
        let nodes = vec![group(DevicePreset::H100, 4), group(DevicePreset::A100, 8), group(DevicePreset::V100, 4)];
        time("76B on 16 nodes of three kinds", gpt(10240, 60, 80), nodes, 512, trainer);
    }
    time("530B on 5040 A100", gpt(20480, 105, 128), vec![group(DevicePreset::A100, 630)], 2520, Trainer::Megatron);
    for devices in [1024, 4096, 16384, 65536, 98304] {
        let nodes = vec![group(DevicePreset::A100, devices / 8)];
        time(&format!("1T on {devices} A100"), trillion(), nodes, devices, Trainer::Megatron);
    }
}
