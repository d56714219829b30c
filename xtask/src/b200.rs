//! `cargo xtask b200 FOLDER`: the planner against measured training steps on eight B200.
//!
//! The folder holds `measured-steps.csv` and `measured-efficiencies.json` of SimuMax's release for that machine (see
//! docs/planner.md). The efficiencies are of single operations; nothing is fitted on the steps.

use anyhow::{Context, ensure};
use plan::machine::{
    AttentionShape, Collective, CollectiveRate, Device, Efficiency, Fabric, Measured, Network, NodeGroup, Peak,
    ProductLayout,
};
use plan::{
    Batch, Checkpointing, Degrees, Description, Granularity, Layout, Machine, OptimizerState, Prediction, Software,
    Task, predict,
};
use schedule::{Backward, Kind, Spec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Predicts every row and prints errors, beside SimuMax's.
pub fn compare(folder: Option<&str>) -> anyhow::Result<()> {
    let environment = std::env::var("MILLSTREAM_B200").ok();
    let Some(folder) = folder.map(str::to_owned).or(environment) else {
        super::show("no data: give the folder as an argument or in MILLSTREAM_B200");
        return Ok(());
    };
    let folder = Path::new(&folder);
    if !folder.join("measured-steps.csv").exists() {
        super::show(&format!("no data: {} has no measured-steps.csv", folder.display()));
        return Ok(());
    }
    let text = std::fs::read_to_string(folder.join("measured-efficiencies.json"))?;
    let machine = machine(&serde_json::from_str(&text)?)?;
    let steps = std::fs::read_to_string(folder.join("measured-steps.csv"))?;
    super::show(&format!(
        "sustained share of {} TFLOP/s: {:.4}\n{:50} {:>8} {:>8} {:>7} {:>8} | {:>7} {:>7} {:>7} {:>8}",
        machine.nodes[0].device.peak.bf16 / 1e12,
        machine.nodes[0].device.efficiency.product,
        "case",
        "ms",
        "ours",
        "error",
        "SimuMax",
        "GiB",
        "ours",
        "error",
        "SimuMax"
    ));
    let mut errors: BTreeMap<&str, Vec<[f64; 4]>> = BTreeMap::new();
    for line in steps.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let cells: Vec<&str> = line.split(',').collect();
        ensure!(cells.len() >= 7, "a row has seven columns: {line}");
        let number = |i: usize| cells[i].trim().parse::<f64>().with_context(|| format!("{line}: column {i}"));
        let prediction = row(cells[0], number(1)? as usize, &machine)?;
        let (ms, gib) = (prediction.step_s * 1e3, prediction.peak_bytes() as f64 / f64::from(1 << 30));
        let (measured_ms, measured_gib) = (number(3)?, number(4)?);
        let error = [ms / measured_ms, gib / measured_gib, number(5)? / measured_ms, number(6)? / measured_gib];
        let error = error.map(|ratio| ratio - 1.0);
        super::show(&format!(
            "{:50} {measured_ms:8.1} {ms:8.1} {:+6.2}% {:+7.2}% | {measured_gib:7.2} {gib:7.2} {:+6.2}% {:+7.2}%",
            cells[0],
            100.0 * error[0],
            100.0 * error[2],
            100.0 * error[1],
            100.0 * error[3]
        ));
        let kind = if cells[0].starts_with("deepseek") { "mixture of experts" } else { "dense" };
        errors.entry(kind).or_default().push(error);
    }
    for (kind, errors) in &errors {
        let of = |i: usize| errors.iter().map(move |error| error[i].abs());
        let mean = |i: usize| 100.0 * of(i).sum::<f64>() / errors.len() as f64;
        let largest = |i: usize| 100.0 * of(i).fold(0.0, f64::max);
        super::show(&format!(
            "{kind}, {} rows: time mean {:.2} % (SimuMax {:.2}), largest {:.2} % ({:.2}); memory mean {:.2} % ({:.2}), \
             largest {:.2} % ({:.2})",
            errors.len(),
            mean(0),
            mean(2),
            largest(0),
            largest(2),
            mean(1),
            mean(3),
            largest(1),
            largest(3)
        ));
    }
    Ok(())
}

/// The number after `key` in a case's name, where it stands at the beginning of a part.
fn named(case: &str, key: &str) -> Option<usize> {
    case.split('_').find_map(|part| part.strip_prefix(key)?.parse().ok())
}

/// Predicts the run that a case's name describes.
fn row(case: &str, layers: usize, machine: &Machine) -> anyhow::Result<Prediction> {
    let of = |key| named(case, key).unwrap_or(1);
    let degrees = Degrees { pipeline: of("pp"), data: of("dp"), context: of("cp"), expert: of("ep"), tensor: of("tp") };
    let microbatches = of("mbc");
    let tokens = named(case, "seq").unwrap_or(4096);
    let task = Task {
        model: model(case, layers)?,
        machine: machine.clone(),
        software: Software::megatron(),
        batch: Batch { rows: microbatches * degrees.data, tokens },
        granularity: Granularity::WholeLayers,
    };
    let layout = Layout {
        degrees,
        microbatch_rows: 1,
        spec: Spec { kind: Kind::OneFOneB, backward: Backward::Fused },
        chunks: 1,
        recompute: Checkpointing::None,
        optimizer: OptimizerState::Sharded,
        sizes: Some(vec![layers / degrees.pipeline; degrees.pipeline]),
    };
    Ok(predict(&task, &layout)?)
}

/// The published widths of the models that cases are named after.
fn model(case: &str, layers: usize) -> anyhow::Result<Description> {
    let llama = |hidden: usize, feed_forward: usize, heads: usize, key_values: usize, vocabulary: usize| {
        json!({"model_type": "llama", "hidden_size": hidden, "intermediate_size": feed_forward,
            "num_attention_heads": heads, "num_key_value_heads": key_values, "vocab_size": vocabulary,
            "num_hidden_layers": layers, "tie_word_embeddings": false})
    };
    let deepseek = |hidden: usize,
                    dense: usize,
                    experts: usize,
                    width: usize,
                    per_token: usize,
                    shared: usize,
                    v: usize| {
        json!({"model_type": "deepseek_v3", "hidden_size": hidden, "intermediate_size": dense, "num_attention_heads": 128,
            "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
            "n_routed_experts": experts, "moe_intermediate_size": width, "num_experts_per_tok": per_token,
            "n_shared_experts": shared, "first_k_dense_replace": 1, "vocab_size": v, "num_hidden_layers": layers,
            "tie_word_embeddings": false})
    };
    let config = match case.split('_').next().unwrap_or_default() {
        "llama3" if case.contains("405b") => llama(16384, 53248, 128, 8, 128_256),
        "llama3" if case.contains("8b") => llama(4096, 14336, 32, 8, 128_256),
        "llama3" => llama(8192, 28672, 64, 8, 128_256),
        "deepseekv2" => deepseek(5120, 12288, 160, 1536, 6, 2, 102_400),
        "deepseekv3" => deepseek(7168, 18432, 256, 2048, 8, 1, 129_280),
        other => anyhow::bail!("{case}: no widths are known for {other}"),
    };
    Ok(Description::from_config_json(&config.to_string())?)
}

/// The machine from its measured efficiencies.
fn machine(file: &Value) -> anyhow::Result<Machine> {
    let accelerator = &file["accelerator"];
    let number = |value: &Value| value.as_f64().with_context(|| format!("{value} is no number"));
    let peak = number(&accelerator["op"]["matmul"]["tflops"])? * 1e12;
    let measured = measured(&accelerator["op"])?;
    let sustained = measured.sustained(peak).context("no product takes long")?;
    let bandwidth = &accelerator["bandwidth"];
    let share = |name: &str| number(&bandwidth[name]["efficient_factor"]);
    let efficiency = Efficiency {
        product_backward: None,
        elementwise: None,
        update: None,
        product: sustained,
        product_half: 0.0,
        grouped: number(&accelerator["op"]["group_matmul"]["efficient_factor"])?,
        attention: number(&accelerator["op"]["sdp_fwd"]["efficient_factor"])? / 2.0,
        attention_backward: number(&accelerator["op"]["sdp_bwd"]["efficient_factor"])? / 2.0,
        memory: share("default")?,
        permute: share("permute_fwd")?,
        loss: share("ce_fusion")?,
        operation_s: number(&bandwidth["default"]["latency_us"])? * 1e-6,
        measured: Some(measured),
    };
    let network = &file["networks"]["high_intra_node"];
    let rate = |name: &str| -> anyhow::Result<CollectiveRate> {
        let of = &network["op"][name];
        let fixed = of["fixed_latency_us_by_comm_num"].as_object();
        let fixed_s_of = fixed.into_iter().flatten().filter_map(|(n, us)| Some((n.parse().ok()?, us.as_f64()? * 1e-6)));
        Ok(CollectiveRate {
            share: number(&of["efficient_factor"])?,
            step_s: number(&of["latency_us"])? * 1e-6,
            fixed_s: of["fixed_latency_us"].as_f64().unwrap_or(0.0) * 1e-6,
            fixed_s_of: fixed_s_of.collect(),
        })
    };
    let name_of = |collective| match collective {
        Collective::AllReduce => "all_reduce",
        Collective::AllGather => "all_gather",
        Collective::ReduceScatter => "reduce_scatter",
        Collective::AllToAll => "all2all",
        Collective::PointToPoint => "p2p",
    };
    let rates: Vec<CollectiveRate> =
        Collective::ALL.into_iter().map(|collective| rate(name_of(collective))).collect::<anyhow::Result<_>>()?;
    let machine = Machine {
        name: "eight B200".to_owned(),
        nodes: vec![NodeGroup {
            name: "node".to_owned(),
            count: 1,
            cluster: "b200".to_owned(),
            devices: 8,
            device: Device {
                name: "B200".to_owned(),
                peak: Peak { f32: peak / 2.0, bf16: peak, fp8: 2.0 * peak },
                memory_bytes: 180 << 30,
                reserved_bytes: 0,
                fragmentation: 0.0,
                memory_bytes_per_s: number(&bandwidth["default"]["gbps"])? * 1e9,
                efficiency,
            },
            fabric: Fabric {
                bytes_per_s: number(&network["bandwidth"]["gbps"])? * 1e9,
                rates: rates.try_into().ok().context("five collectives")?,
            },
            nics: Vec::new(),
        }],
        network: Network::Cards,
    };
    machine.check()?;
    Ok(machine)
}

/// Shapes and shares. Attention's shares are counted there over all pairs of tokens, here over those under the mask.
fn measured(operations: &Value) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    let entries = |name: &str| {
        let table = operations[name]["accurate_efficient_factor"].as_object();
        table.into_iter().flatten().map(|(key, share)| {
            let parts = key.split(", ").filter_map(|part| part.split_once('=')).collect::<BTreeMap<&str, &str>>();
            (parts, share.as_f64().unwrap_or(0.0))
        })
    };
    let size = |parts: &BTreeMap<&str, &str>, name: &str| -> anyhow::Result<usize> {
        let text = parts.get(name).with_context(|| format!("no {name} in {parts:?}"))?;
        Ok(text.parse()?)
    };
    for (parts, share) in entries("matmul") {
        let layout = match (parts.get("layout"), parts.get("out_dtype")) {
            (Some(&"TN"), _) => ProductLayout::Tn,
            (Some(&"NN"), _) => ProductLayout::Nn,
            // Gradients are added up in 32 bits.
            (Some(&"NT"), Some(&"fp32")) => ProductLayout::Nt,
            _ => continue,
        };
        measured.products.insert((size(&parts, "m")?, size(&parts, "k")?, size(&parts, "n")?, layout), share);
    }
    for (parts, share) in entries("group_matmul") {
        let layout = match (parts.get("stage"), parts.get("accumulate"), parts.get("main_grad_dtype")) {
            (Some(&"fwd"), ..) => ProductLayout::Tn,
            (Some(&"bwd_grad_act"), ..) => ProductLayout::Nn,
            (Some(&"bwd_grad_w"), Some(&"True"), Some(&"fp32")) => ProductLayout::Nt,
            _ => continue,
        };
        let key = (size(&parts, "ng")?, size(&parts, "M")?, size(&parts, "N")?, size(&parts, "K")?, layout);
        measured.grouped.insert(key, share);
    }
    let backwards: Vec<_> = entries("sdp_bwd").collect();
    for (parts, forward) in entries("sdp_fwd").filter(|(parts, _)| parts.get("qkv_contiguous") == Some(&"True")) {
        let backward = backwards.iter().find(|(other, _)| *other == parts).map_or(0.0, |(_, share)| *share);
        let key = AttentionShape {
            tokens: size(&parts, "seq_len")?,
            heads: size(&parts, "head_num")?,
            key_value_heads: size(&parts, "kv_head_num")?,
            key_width: size(&parts, "qk_head_dim")?,
            value_width: size(&parts, "v_head_dim")?,
        };
        measured.attention.insert(key, (forward / 2.0, backward / 2.0));
    }
    Ok(measured)
}
