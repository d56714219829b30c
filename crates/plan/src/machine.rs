//! The machines that a plan is made for, as values.

mod network;
mod order;
mod presets;
mod rates;

pub use network::{Path, Reach};
pub use presets::DevicePreset;
pub use rates::{AttentionShape, Efficiency, Layout as ProductLayout, Measured};

use crate::PlanError;
use std::collections::BTreeMap;

/// What computes: groups of equal nodes and what joins them. Devices are numbered node by node in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// What to call it.
    pub name: String,
    /// Groups of equal nodes.
    pub nodes: Vec<NodeGroup>,
    /// What joins the nodes.
    pub network: Network,
}

/// Nodes that are alike and in one cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeGroup {
    /// What to call it.
    pub name: String,
    /// How many there are.
    pub count: usize,
    /// Nodes of one cluster reach each other over their fastest common network cards, others over Ethernet.
    pub cluster: String,
    /// Devices in a node.
    pub devices: usize,
    /// What they are.
    pub device: Device,
    /// What joins the devices of a node.
    pub fabric: Fabric,
    /// Network cards of a node, by kind.
    pub nics: Vec<Nic>,
}

/// Something that computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// What to call it.
    pub name: String,
    /// Dense matrix products by number format, in operations per second.
    pub peak: Peak,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes that drivers and communication libraries take before a model is there.
    pub reserved_bytes: u64,
    /// Share of the memory that is left free because an allocator cannot fill every gap, in [0, 1).
    pub fragmentation: f64,
    /// Bytes per second to and from its memory.
    pub memory_bytes_per_s: f64,
    /// How much of peaks is reached.
    pub efficiency: Efficiency,
}

/// Peaks by number format, in operations per second; 0 where the device has no such units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// 32-bit.
    pub f32: f64,
    /// 16-bit, either kind.
    pub bf16: f64,
    /// 8-bit.
    pub fp8: f64,
}

/// Number formats of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit.
    F32,
    /// 16-bit.
    Bf16,
    /// 8-bit.
    Fp8,
}

/// What joins devices of a node: every device reaches every other at this speed.
#[derive(Clone, Debug, PartialEq)]
pub struct Fabric {
    /// Bytes per second out of a device, and as many into it.
    pub bytes_per_s: f64,
    /// How it does at collectives, by [`Collective`].
    pub rates: [CollectiveRate; 5],
}

/// What a collective reaches and what it begins with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CollectiveRate {
    /// Share of the bandwidth.
    pub share: f64,
    /// Seconds for each step of the ring.
    pub step_s: f64,
    /// Seconds once.
    pub fixed_s: f64,
    /// Seconds once for groups of certain sizes, instead.
    pub fixed_s_of: BTreeMap<usize, f64>,
}

/// What ranks do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Collective {
    /// Everybody gets the sum.
    AllReduce,
    /// Everybody gets everybody's part.
    AllGather,
    /// Everybody gets a part of the sum.
    ReduceScatter,
    /// Everybody gives everybody another part.
    AllToAll,
    /// One gives, one takes.
    PointToPoint,
}

/// Network cards of one kind in a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nic {
    /// Which kind.
    pub kind: NicKind,
    /// How many.
    pub count: usize,
    /// Bytes per second that one really moves, each way.
    pub bytes_per_s: f64,
    /// Seconds until the first byte is there.
    pub latency_s: f64,
}

/// Kinds of network cards. Cards of different kinds do not reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NicKind {
    /// InfiniBand.
    InfiniBand,
    /// RDMA over converged Ethernet.
    Roce,
    /// TCP over Ethernet: the only kind that leaves a cluster.
    Ethernet,
}

/// How nodes reach each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Network {
    /// As their cards say.
    Cards,
    /// As was measured between every two nodes.
    Pairs(Pairs),
}

/// Measured between every two nodes, in the order of devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    /// `[from][to]`, bytes per second; the diagonal is not used.
    pub bytes_per_s: Vec<Vec<f64>>,
    /// Seconds until the first byte is there.
    pub latency_s: f64,
}

impl Machine {
    /// All devices.
    pub fn n_devices(&self) -> usize {
        self.nodes.iter().map(|group| group.count * group.devices).sum()
    }

    /// All nodes.
    pub fn n_nodes(&self) -> usize {
        self.nodes.iter().map(|group| group.count).sum()
    }

    /// Products per second of all devices at their peaks.
    pub fn peak(&self, precision: Precision) -> f64 {
        self.nodes.iter().map(|group| (group.count * group.devices) as f64 * group.device.peak.of(precision)).sum()
    }

    /// The group that device `device` is in.
    ///
    /// # Panics
    /// If there is no such device.
    pub fn group_of(&self, device: usize) -> &NodeGroup {
        let mut first = 0;
        for group in &self.nodes {
            first += group.count * group.devices;
            if device < first {
                return group;
            }
        }
        panic!("device {device} of {first}");
    }

    /// Whether all values can be computed with.
    ///
    /// # Errors
    /// [`PlanError::Machine`] with everything that is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        let mut problems = Vec::new();
        let mut refuse = |place: String, found: String, wanted: &str| {
            problems.push(format!("{place} is {found}, but {wanted}"));
        };
        if self.n_devices() == 0 {
            refuse("the number of devices".to_owned(), "0".to_owned(), "there must be at least one");
        }
        for group in &self.nodes {
            let Device { peak, memory_bytes, memory_bytes_per_s, efficiency, fragmentation, .. } = &group.device;
            let positive = [
                ("memory bandwidth", *memory_bytes_per_s),
                ("fabric bandwidth", if group.devices > 1 { group.fabric.bytes_per_s } else { 1.0 }),
                ("peak", peak.f32.max(peak.bf16).max(peak.fp8)),
                ("product efficiency", efficiency.product),
                ("attention efficiency", efficiency.attention),
                ("memory efficiency", efficiency.memory),
            ];
            for (what, found) in positive {
                if !(found.is_finite() && found > 0.0) {
                    refuse(
                        format!("the {what} of {}", group.name),
                        found.to_string(),
                        "it must be positive and finite",
                    );
                }
            }
            let shares = [
                ("product efficiency", efficiency.product),
                ("grouped efficiency", efficiency.grouped),
                ("attention efficiency", efficiency.attention),
                ("attention's backward efficiency", efficiency.attention_backward),
                ("memory efficiency", efficiency.memory),
                ("loss efficiency", efficiency.loss),
                ("backward products' efficiency", efficiency.backward()),
                ("update efficiency", efficiency.of_update()),
                ("element-wise efficiency", efficiency.of_elementwise()),
            ];
            for (what, found) in shares.into_iter().filter(|(_, share)| *share > 1.0) {
                let what = format!("the {what} of {}", group.name);
                refuse(what, found.to_string(), "nothing is faster than its peak: it must be at most 1");
            }
            if *memory_bytes <= group.device.reserved_bytes {
                let wanted = format!("{} bytes of it are reserved", group.device.reserved_bytes);
                refuse(format!("the memory of {}", group.name), memory_bytes.to_string(), &wanted);
            }
            if !(0.0..1.0).contains(fragmentation) {
                let what = format!("the share lost to fragmentation on {}", group.name);
                refuse(what, fragmentation.to_string(), "it must be at least 0 and below 1");
            }
            for nic in &group.nics {
                if nic.count == 0 || !(nic.bytes_per_s.is_finite() && nic.bytes_per_s > 0.0) {
                    let found = format!("{} of {} bytes per second", nic.count, nic.bytes_per_s);
                    refuse(format!("a network card of {}", group.name), found, "it must move something");
                }
            }
        }
        problems.extend(self.unreachable());
        if problems.is_empty() { Ok(()) } else { Err(PlanError::Machine(problems)) }
    }
}

impl Device {
    /// Bytes that a model and its training may take.
    pub fn usable_bytes(&self) -> u64 {
        ((self.memory_bytes as f64 * (1.0 - self.fragmentation)) as u64).saturating_sub(self.reserved_bytes)
    }
}

impl Peak {
    /// Sets that of `precision`.
    pub fn set(&mut self, precision: Precision, flops_per_s: f64) {
        match precision {
            Precision::F32 => self.f32 = flops_per_s,
            Precision::Bf16 => self.bf16 = flops_per_s,
            Precision::Fp8 => self.fp8 = flops_per_s,
        }
    }

    /// At one format; formats that the device lacks are computed in the next wider one.
    pub fn of(&self, precision: Precision) -> f64 {
        let (first, then) = match precision {
            Precision::F32 => (self.f32, 0.0),
            Precision::Bf16 => (self.bf16, self.f32),
            Precision::Fp8 => (self.fp8, self.bf16),
        };
        match (first > 0.0, then > 0.0) {
            (true, _) => first,
            (false, true) => then,
            (false, false) => self.f32,
        }
    }
}

impl Collective {
    /// All of them, in the order of [`Fabric::rates`].
    pub const ALL: [Collective; 5] = [
        Collective::AllReduce,
        Collective::AllGather,
        Collective::ReduceScatter,
        Collective::AllToAll,
        Collective::PointToPoint,
    ];

    /// How often the ring is passed: reduced, then gathered.
    pub(crate) fn rounds(self) -> f64 {
        if self == Collective::AllReduce { 2.0 } else { 1.0 }
    }
}

impl Fabric {
    /// One that reaches `share` of `bytes_per_s` at everything, with `step_s` for each step.
    pub fn uniform(bytes_per_s: f64, share: f64, step_s: f64) -> Self {
        let rate = CollectiveRate { share, step_s, ..CollectiveRate::default() };
        Self { bytes_per_s, rates: std::array::from_fn(|_| rate.clone()) }
    }

    /// Of one collective.
    pub fn rate(&self, collective: Collective) -> &CollectiveRate {
        &self.rates[collective as usize]
    }
}

impl NicKind {
    /// The name in machine files.
    pub const fn id(self) -> &'static str {
        match self {
            NicKind::InfiniBand => "infiniband",
            NicKind::Roce => "roce",
            NicKind::Ethernet => "ethernet",
        }
    }
}
