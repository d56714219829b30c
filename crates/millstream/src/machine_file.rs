//! Machine files: nodes, devices and what joins them, in TOML. `docs/planner.md` describes the keys.

use crate::toml_file::{self, NumberRange, Place, Problem, Problems, Reader, choice, list, number, text, whole};
use plan::Machine;
use plan::machine::{Collective, Device, DevicePreset, Fabric, Network, Nic, NicKind, NodeGroup, Pairs, Peak};
use std::cell::RefCell;
use std::fmt::Write;
use std::path::Path;

const NICS: &[(&str, NicKind)] =
    &[("infiniband", NicKind::InfiniBand), ("roce", NicKind::Roce), ("ethernet", NicKind::Ethernet)];
const PRESETS: &[(&str, DevicePreset)] = &[
    ("v100", DevicePreset::V100),
    ("a100-40gb", DevicePreset::A100With40Gb),
    ("a100", DevicePreset::A100),
    ("h100", DevicePreset::H100),
    ("h200", DevicePreset::H200),
    ("b200", DevicePreset::B200),
    ("mi300x", DevicePreset::Mi300x),
    ("rtx4090", DevicePreset::Rtx4090),
];
/// More nodes than any cluster has; beyond it a count is a slip.
const NODES_MAX: usize = 1_000_000;

/// The machine that `wanted` names: a file, or a preset with its counts, such as `a100:4x8` for four nodes of eight joined by
/// InfiniBand.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn machine(wanted: &str) -> Result<Machine, Problems> {
    if !Path::new(wanted).exists()
        && let Some(machine) = preset(wanted)
    {
        return Ok(machine);
    }
    let place = Place::named(wanted);
    let failed = |problems| Problems::new("the machine file", problems);
    let text = std::fs::read_to_string(wanted).map_err(|error| {
        let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        let way_out = format!("give a file, or a preset with counts such as a100:4x8 ({})", names.join(", "));
        failed(vec![Problem::new(place.clone(), format!("the file cannot be read: {error}; {way_out}"))])
    })?;
    read(wanted, &text).map_err(failed)
}

/// `a100:4x8`, or `a100:8` for one node.
fn preset(wanted: &str) -> Option<Machine> {
    let (name, counts) = wanted.split_once(':')?;
    let (_, preset) = PRESETS.iter().find(|(known, _)| *known == name)?;
    let (nodes, devices) = counts.split_once('x').unwrap_or(("1", counts));
    let (count, devices): (usize, usize) = (nodes.parse().ok()?, devices.parse().ok()?);
    if count == 0 || devices == 0 || count > NODES_MAX || devices > 1024 {
        return None;
    }
    let nics = vec![NicKind::InfiniBand.typical(devices), NicKind::Ethernet.typical(1)];
    let (device, fabric) = (preset.device(), preset.fabric());
    let group = NodeGroup { name: name.to_owned(), count, cluster: name.to_owned(), devices, device, fabric, nics };
    Some(Machine { name: wanted.to_owned(), nodes: vec![group], network: Network::Cards })
}

fn read(name: &str, text_of_file: &str) -> Result<Machine, Vec<Problem>> {
    let (table, problems) = toml_file::parse(name, text_of_file);
    if !problems.is_empty() {
        return Err(problems);
    }
    let place = Place::named(name);
    let problems = RefCell::new(Vec::new());
    let machine = {
        let file = Reader::new(&table, place.clone(), &problems);
        let called = file.or("name", name.to_owned(), text);
        let groups = file.tables("nodes");
        if groups.is_empty() {
            file.missing("nodes", "groups of equal nodes, [[nodes]] each");
        }
        let nodes: Vec<Option<NodeGroup>> =
            groups.iter().enumerate().map(|(i, group)| node_group(group.as_ref()?, i)).collect();
        let network = network(&file.section("network"));
        (|| Some(Machine { name: called?, nodes: nodes.into_iter().collect::<Option<_>>()?, network: network? }))()
    };
    let mut problems = problems.into_inner();
    match machine {
        Some(machine) if problems.is_empty() => match machine.check() {
            Ok(()) => Ok(machine),
            Err(error) => Err(vec![Problem::new(place, error.to_string())]),
        },
        _ => {
            if problems.is_empty() {
                problems.push(Problem::new(place, "the machine cannot be read".to_owned()));
            }
            Err(problems)
        }
    }
}

fn node_group(group: &Reader, i: usize) -> Option<NodeGroup> {
    let name = group.or("name", format!("nodes {i}"), text);
    let count = group.or("count", 1, whole(1));
    let cluster = group.or("cluster", "one".to_owned(), text);
    let devices = group.or("devices", 1, whole(1));
    let preset = group.optional("preset", choice(PRESETS));
    let device = device(&group.section("device"), preset.flatten());
    let fabric = fabric(&group.section("fabric"), preset.flatten());
    let nics: Vec<Option<Nic>> = group.tables("nics").iter().map(|nic| nic_of(nic.as_ref()?)).collect();
    let (name, count) = (name?, count?);
    if count > NODES_MAX {
        group.refuse("count", "1", &format!("more than {NODES_MAX} nodes are not planned for"), "check the number");
        return None;
    }
    Some(NodeGroup {
        name,
        count,
        cluster: cluster?,
        devices: devices?,
        device: device?,
        fabric: fabric?,
        nics: nics.into_iter().collect::<Option<_>>()?,
    })
}

fn device(section: &Reader, preset: Option<DevicePreset>) -> Option<Device> {
    let base = preset.map(DevicePreset::device);
    let positive = || number(NumberRange::Positive);
    let of = |key, what, default: Option<f64>| match default {
        Some(default) => section.or(key, default, positive()),
        None => section.required(key, what, positive()),
    };
    let peak_of = |precision: fn(&Peak) -> f64| base.as_ref().map(|device| precision(&device.peak) / 1e12);
    let name = section.or("name", base.as_ref().map_or("device".to_owned(), |device| device.name.clone()), text);
    let f32 = of("f32_tflops", "32-bit products a second, in tera-operations; or name a `preset`", peak_of(|p| p.f32));
    // Without the key a device has no such units, which plans say; 0 would say the same in a way that looks like a rate.
    let narrow = |key, precision: fn(&Peak) -> f64| {
        section.optional(key, positive()).map(|given| given.or(peak_of(precision)).unwrap_or(0.0))
    };
    let (bf16, fp8) = (narrow("bf16_tflops", |p| p.bf16), narrow("fp8_tflops", |p| p.fp8));
    let gib = f64::from(1 << 30);
    let memory_gib = of("memory_gib", "its memory", base.as_ref().map(|device| device.memory_bytes as f64 / gib));
    let reserved = base.as_ref().map_or(0.0, |device| device.reserved_bytes as f64 / gib);
    let reserved = section.or("reserved_gib", reserved, number(NumberRange::NotNegative));
    let fragmentation = base.as_ref().map_or(0.04, |device| device.fragmentation);
    let fragmentation = section.or("fragmentation", fragmentation, number(NumberRange::BelowOne));
    let bandwidth = base.as_ref().map(|device| device.memory_bytes_per_s / 1e9);
    let bandwidth = of("memory_gbytes_per_s", "its memory's bandwidth", bandwidth);
    let mut efficiency = match base {
        Some(device) => device.efficiency,
        None => plan::machine::Efficiency::typical(0.7),
    };
    let shares: [(&'static str, &mut f64); 6] = [
        ("product_efficiency", &mut efficiency.product),
        ("grouped_efficiency", &mut efficiency.grouped),
        ("attention_efficiency", &mut efficiency.attention),
        ("attention_backward_efficiency", &mut efficiency.attention_backward),
        ("memory_efficiency", &mut efficiency.memory),
        ("loss_efficiency", &mut efficiency.loss),
    ];
    let mut is_read = true;
    for (key, share) in shares {
        match section.or(key, *share, number(NumberRange::Share)) {
            Some(found) => *share = found,
            None => is_read = false,
        }
    }
    let mut further = |key, share: &mut Option<f64>| match section.optional(key, number(NumberRange::Share)) {
        Some(found) => *share = found.or(*share),
        None => is_read = false,
    };
    further("product_backward_efficiency", &mut efficiency.product_backward);
    further("elementwise_efficiency", &mut efficiency.elementwise);
    further("update_efficiency", &mut efficiency.update);
    let operation_us = section.or("operation_us", efficiency.operation_s * 1e6, number(NumberRange::NotNegative));
    efficiency.operation_s = operation_us? * 1e-6;
    let peak = Peak { f32: f32? * 1e12, bf16: bf16? * 1e12, fp8: fp8? * 1e12 };
    let device = Device {
        name: name?,
        peak,
        memory_bytes: (memory_gib? * gib) as u64,
        reserved_bytes: (reserved? * gib) as u64,
        fragmentation: fragmentation?,
        memory_bytes_per_s: bandwidth? * 1e9,
        efficiency,
    };
    is_read.then_some(device)
}

fn fabric(section: &Reader, preset: Option<DevicePreset>) -> Option<Fabric> {
    let base = preset.map(DevicePreset::fabric);
    // Within one memory nothing is slower than copying.
    let bandwidth = base.as_ref().map_or(100.0, |fabric| fabric.bytes_per_s / 1e9);
    let bandwidth = section.or("gbytes_per_s", bandwidth, number(NumberRange::Positive));
    let share = section.or("efficiency", 0.8, number(NumberRange::Share));
    let latency_us = section.or("latency_us", 5.0, number(NumberRange::NotNegative));
    Some(Fabric::uniform(bandwidth? * 1e9, share?, latency_us? * 1e-6))
}

fn nic_of(section: &Reader) -> Option<Nic> {
    let kind = section.required("kind", "infiniband, roce or ethernet", choice(NICS));
    let count = section.or("count", 1, whole(1));
    let typical = kind.map(|kind| kind.typical(1));
    let (bandwidth, latency_us) = typical.map_or((1.0, 1.0), |nic| (nic.bytes_per_s / 1e9, nic.latency_s * 1e6));
    let bandwidth = section.or("gbytes_per_s", bandwidth, number(NumberRange::Positive));
    let latency_us = section.or("latency_us", latency_us, number(NumberRange::NotNegative));
    Some(Nic { kind: kind?, count: count?, bytes_per_s: bandwidth? * 1e9, latency_s: latency_us? * 1e-6 })
}

fn network(section: &Reader) -> Option<Network> {
    let latency_us = section.or("latency_us", 5.0, number(NumberRange::NotNegative));
    let pairs = section.optional("pairs_gbytes_per_s", list(list(number(NumberRange::NotNegative))));
    let latency_s = latency_us? * 1e-6;
    Some(match pairs? {
        None => Network::Cards,
        Some(rows) => {
            let in_bytes = |row: Vec<f64>| row.into_iter().map(|gbytes| gbytes * 1e9).collect();
            Network::Pairs(Pairs { bytes_per_s: rows.into_iter().map(in_bytes).collect(), latency_s })
        }
    })
}

/// A machine as a file that reads as it. Of a fabric it has the rate of all-reduces, as files do.
pub fn text_of(machine: &Machine, comment: &str) -> String {
    let mut file = String::new();
    let mut line = |text: String| writeln!(file, "{text}").expect("invariant: writing to a string");
    line(format!("# {comment}"));
    line(format!("name = {:?}", machine.name));
    for group in &machine.nodes {
        line(format!("\n[[nodes]]\nname = {:?}\ncount = {}", group.name, group.count));
        line(format!("cluster = {:?}\ndevices = {}", group.cluster, group.devices));
        let Device { name, peak, memory_bytes, reserved_bytes, fragmentation, memory_bytes_per_s, efficiency } =
            &group.device;
        line(format!("\n[nodes.device]\nname = {name:?}\nf32_tflops = {}", peak.f32 / 1e12));
        for (key, peak) in [("bf16_tflops", peak.bf16), ("fp8_tflops", peak.fp8)] {
            if peak > 0.0 {
                line(format!("{key} = {}", peak / 1e12));
            }
        }
        let gib = f64::from(1 << 30);
        line(format!("memory_gib = {}\nreserved_gib = {}", *memory_bytes as f64 / gib, *reserved_bytes as f64 / gib));
        line(format!("fragmentation = {fragmentation}\nmemory_gbytes_per_s = {}", memory_bytes_per_s / 1e9));
        let shares = [
            ("product_efficiency", Some(efficiency.product)),
            ("product_backward_efficiency", efficiency.product_backward),
            ("grouped_efficiency", Some(efficiency.grouped)),
            ("attention_efficiency", Some(efficiency.attention)),
            ("attention_backward_efficiency", Some(efficiency.attention_backward)),
            ("memory_efficiency", Some(efficiency.memory)),
            ("elementwise_efficiency", efficiency.elementwise),
            ("loss_efficiency", Some(efficiency.loss)),
            ("update_efficiency", efficiency.update),
        ];
        for (key, share) in shares {
            if let Some(share) = share {
                line(format!("{key} = {share:.4}"));
            }
        }
        line(format!("operation_us = {:.3}", efficiency.operation_s * 1e6));
        let rate = group.fabric.rate(Collective::AllReduce);
        line(format!("\n[nodes.fabric]\ngbytes_per_s = {}", group.fabric.bytes_per_s / 1e9));
        line(format!("efficiency = {}\nlatency_us = {:.3}", rate.share, rate.step_s * 1e6));
        for nic in &group.nics {
            line(format!("\n[[nodes.nics]]\nkind = \"{}\"\ncount = {}", nic.kind.id(), nic.count));
            line(format!("gbytes_per_s = {}\nlatency_us = {:.3}", nic.bytes_per_s / 1e9, nic.latency_s * 1e6));
        }
    }
    if let Network::Pairs(pairs) = &machine.network {
        let row = |row: &Vec<f64>| {
            format!("[{}]", row.iter().map(|bytes| (bytes / 1e9).to_string()).collect::<Vec<String>>().join(", "))
        };
        let rows: Vec<String> = pairs.bytes_per_s.iter().map(row).collect();
        line(format!("\n[network]\nlatency_us = {:.3}", pairs.latency_s * 1e6));
        line(format!("pairs_gbytes_per_s = [{}]", rows.join(",\n    ")));
    }
    file
}

/// What was measured of this machine.
pub struct Measured {
    /// What to call it.
    pub name: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Large products on all cores, in GFLOP/s.
    pub gflops: f64,
    /// Copying through memory, in GB/s.
    pub memory_gbytes_per_s: f64,
    /// All memory.
    pub memory_bytes: u64,
}

/// This machine as a file: one node with one device, whose peak is what was measured.
pub fn write(measured: &Measured) -> String {
    let mut file = String::new();
    let mut line = |text: String| writeln!(file, "{text}").expect("invariant: writing to a string");
    line("# This machine as `millstream doctor --machine` measured it; for `millstream plan --machine`.".to_owned());
    line(format!("name = {:?}", measured.name));
    line(String::new());
    line("[[nodes]]".to_owned());
    line(format!("name = {:?}", measured.name));
    line("devices = 1".to_owned());
    line(String::new());
    line("[nodes.device]".to_owned());
    line(format!("name = \"{} cores\"", measured.cores));
    line(format!("f32_tflops = {:.6}", measured.gflops / 1e3));
    line(format!("memory_gib = {:.3}", measured.memory_bytes as f64 / f64::from(1 << 30)));
    line(format!("memory_gbytes_per_s = {:.2}", measured.memory_gbytes_per_s));
    line("# The peak is measured with products, so they reach it.".to_owned());
    line("product_efficiency = 1.0".to_owned());
    line("memory_efficiency = 1.0".to_owned());
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let measured = Measured {
            name: "a \"box\"".to_owned(),
            cores: 2,
            gflops: 150.5,
            memory_gbytes_per_s: 20.25,
            memory_bytes: 24 << 30,
        };
        let machine = read("here", &write(&measured)).expect("a machine");
        assert_eq!(machine.name, measured.name);
        assert!((machine.nodes[0].device.peak.f32 - 150.5e9).abs() < 1e3);
        assert_eq!(machine.nodes[0].device.memory_bytes, 24 << 30);
    }

    /// Presets with all their parts, and a measured network.
    #[test]
    fn what_is_written_of_any_machine_is_read() {
        let mut machines: Vec<Machine> =
            PRESETS.iter().map(|(name, _)| preset(&format!("{name}:2x4")).expect("a preset")).collect();
        machines.push(read("here", VALID).expect("a machine"));
        let fitted = &mut machines[2].nodes[0].device.efficiency;
        (fitted.product_backward, fitted.elementwise, fitted.update) = (Some(0.25), Some(0.125), Some(0.5));
        for machine in machines {
            let written = text_of(&machine, "test");
            let again = read("there", &written).expect("a machine");
            assert_eq!(text_of(&again, "test"), written);
            assert_eq!((again.n_devices(), again.nodes.len()), (machine.n_devices(), machine.nodes.len()));
            let (a, b) = (&again.nodes[0].device, &machine.nodes[0].device);
            assert_eq!(
                (a.efficiency.update, a.efficiency.elementwise),
                (b.efficiency.update, b.efficiency.elementwise)
            );
            assert!((a.peak.bf16 / b.peak.bf16 - 1.0).abs() < 1e-12 && a.usable_bytes() == b.usable_bytes());
        }
    }

    const VALID: &str = "name = \"two\"\n[[nodes]]\npreset = \"a100\"\ncount = 2\ndevices = 8\n[nodes.device]\nmemory_gib = 40\n\
        [nodes.fabric]\ngbytes_per_s = 300\n[[nodes.nics]]\nkind = \"infiniband\"\ncount = 8\n[network]\nlatency_us = 3\n\
        pairs_gbytes_per_s = [[0, 20], [21, 0]]\n";

    #[test]
    fn what_is_wrong_is_told() {
        read("here", VALID).expect("a machine");
        let without_nics = VALID.replace("[[nodes.nics]]\nkind = \"infiniband\"\ncount = 8\n", "");
        // What was measured between nodes needs no cards.
        read("here", &without_nics).expect("a machine");
        for (text, wanted) in [
            (String::new(), "`nodes` is missing"),
            (VALID.replace("a100", "a1000"), "did you mean \"a100\"?"),
            (VALID.replace("count = 2", "count = 0"), "a whole number of at least 1"),
            (VALID.replace("memory_gib = 40", "memory_gib = -40"), "a number above 0"),
            (VALID.replace("memory_gib = 40", "memory_gib = 1"), "bytes of it are reserved"),
            (VALID.replace("memory_gib", "memory_gb"), "did you mean `memory_gib`?"),
            (VALID.replace("preset = \"a100\"\n", ""), "`nodes[0].device.f32_tflops` is missing"),
            (VALID.replace("[21, 0]", "[0, 0]"), "the bandwidth from node 1 to node 0 is 0"),
            (VALID.replace("[[0, 20], [21, 0]]", "[[0, 20]]"), "1 rows, but there are 2 nodes"),
            (VALID.replace("infiniband", "token ring"), "\"infiniband\" or \"roce\" or \"ethernet\""),
            (without_nics.replace("pairs_gbytes_per_s = [[0, 20], [21, 0]]\n", ""), "do not reach each other"),
            (VALID.replace("memory_gib = 40", "product_efficiency = 1.01"), "a number above 0 and at most 1"),
            (VALID.replace("memory_gib = 40", "memory_efficiency = 0"), "a number above 0 and at most 1"),
            (VALID.replace("gbytes_per_s = 300", "efficiency = 2"), "a number above 0 and at most 1"),
            (VALID.replace("memory_gib = 40", "bf16_tflops = 0"), "a number above 0"),
        ] {
            let problems = read("here", &text).expect_err(wanted);
            let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert!(told.iter().any(|problem| problem.contains(wanted)), "{wanted}: {told:?}");
        }
    }

    /// Every byte of a valid file changed, left out or doubled: read or refused, never a panic, never silence.
    #[test]
    fn damaged_files() {
        for at in 0..VALID.len() {
            for put in ["", "0", "-", "]", "\"", "=", "9e99", "\n", "[["] {
                let mut text = VALID.to_owned();
                text.replace_range(at..=at, put);
                if let Err(problems) = read("here", &text) {
                    assert!(!problems.is_empty());
                }
            }
        }
    }

    #[test]
    fn presets() {
        for (wanted, devices) in [("a100:4x8", Some(32)), ("rtx4090:2", Some(2)), ("a100", None), ("a100:0x8", None)] {
            assert_eq!(preset(wanted).map(|machine| machine.n_devices()), devices, "{wanted}");
        }
        assert_eq!(PRESETS.len(), DevicePreset::ALL.len());
        for (name, preset) in PRESETS {
            assert_eq!(preset.id(), *name);
        }
    }
}
