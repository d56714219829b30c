//! How groups of devices reach each other, and how long collectives take on the way.

use super::{Collective, Machine, Network, Nic, NicKind, NodeGroup};

/// What lies between the members of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// One device.
    Device,
    /// A node.
    Node,
    /// Nodes, over cards of this kind; `None` where only what they move was measured.
    Network(Option<NicKind>),
}

/// The way of a group of ranks that are `stride` devices apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// The slowest thing on it.
    pub reach: Reach,
    /// Members.
    pub ranks: usize,
    /// Members in each node.
    pub per_node: usize,
    /// First device.
    pub first: usize,
    /// Bytes per second between nodes for the whole group, all groups of the same kind at work at once; 0 within a node.
    pub between_bytes_per_s: f64,
    /// Seconds until the first byte is there, between nodes.
    pub between_latency_s: f64,
}

/// Where device `i` is.
#[derive(Clone, Copy)]
struct Seat {
    group: usize,
    node: usize,
}

impl Machine {
    /// The way of the `ranks` devices `first`, `first + stride`, ...
    pub fn path(&self, first: usize, ranks: usize, stride: usize) -> Path {
        let seat = self.seat(first);
        let group = &self.nodes[seat.group];
        let last = first + (ranks - 1) * stride;
        let mut path = Path {
            reach: Reach::Device,
            ranks,
            per_node: ranks,
            first,
            between_bytes_per_s: 0.0,
            between_latency_s: 0.0,
        };
        if ranks == 1 {
            return path;
        }
        let end = self.seat(last);
        if seat.node == end.node {
            path.reach = Reach::Node;
            return path;
        }
        let least = self.nodes[seat.group..=end.group].iter().map(|group| group.devices).min().unwrap_or(group.devices);
        path.per_node = (least / stride).clamp(1, ranks);
        let mut nodes: Vec<usize> = match &self.network {
            Network::Cards => vec![seat.node, end.node],
            // Links differ: only those between members count.
            Network::Pairs(_) => (0..ranks).map(|i| self.node_of(first + i * stride)).collect(),
        };
        nodes.dedup();
        let (kind, per_device, latency_s) = self.slowest(&nodes);
        path.reach = Reach::Network(kind);
        path.between_bytes_per_s = per_device * path.per_node as f64;
        path.between_latency_s = latency_s;
        path
    }

    /// Seconds that `collective` takes on `path` for `bytes`: those of the whole tensor that is reduced, gathered or
    /// scattered; of what one rank gives away for an all-to-all or a message.
    ///
    /// A ring moves `(n - 1) / n` of the bytes through its slowest place, once for each round; between nodes, every
    /// member in a node has its share of the node's cards, so a group with several members in a node is that much faster.
    /// Latencies add up over the steps in a node and over a tree between nodes.
    pub fn collective_s(&self, collective: Collective, bytes: f64, path: &Path) -> f64 {
        if path.ranks == 1 || bytes <= 0.0 {
            return 0.0;
        }
        let fabric = &self.group_of(path.first).fabric;
        let rate = fabric.rate(collective);
        let rounds = collective.rounds();
        let moved = match collective {
            Collective::PointToPoint => bytes,
            _ => rounds * bytes * (path.ranks - 1) as f64 / path.ranks as f64,
        };
        let fixed_s = rate.fixed_s_of.get(&path.ranks).copied().unwrap_or(rate.fixed_s);
        let within = fabric.bytes_per_s * rate.share;
        match path.reach {
            Reach::Device => 0.0,
            Reach::Node => {
                let steps = match collective {
                    Collective::PointToPoint => 1.0,
                    _ => rounds * (path.ranks - 1) as f64,
                };
                moved / within + steps * rate.step_s + fixed_s
            }
            Reach::Network(_) => {
                let n_nodes = path.ranks.div_ceil(path.per_node);
                let hops = match collective {
                    Collective::PointToPoint => 1.0,
                    _ => rounds * f64::from(n_nodes.next_power_of_two().trailing_zeros()),
                };
                let bytes_per_s = match path.per_node {
                    1 => path.between_bytes_per_s,
                    _ => path.between_bytes_per_s.min(within),
                };
                let within_steps = rounds * (path.per_node - 1) as f64;
                moved / bytes_per_s + hops * path.between_latency_s + within_steps * rate.step_s + fixed_s
            }
        }
    }

    /// Bytes per second and latency from one node to another for one device, all devices of a node at work at once, and over
    /// what kind of card, where that is known. `None` when they do not reach each other.
    pub fn between(&self, from: usize, to: usize) -> Option<(Option<NicKind>, f64, f64)> {
        let (a, b) = (&self.nodes[self.group_of_node(from)], &self.nodes[self.group_of_node(to)]);
        if let Network::Pairs(pairs) = &self.network {
            let bytes_per_s = pairs.bytes_per_s[from][to].min(pairs.bytes_per_s[to][from]);
            let kind = common(a, b).map(|(kind, ..)| kind);
            return Some((kind, bytes_per_s / a.devices.max(b.devices) as f64, pairs.latency_s));
        }
        let (kind, of_a, of_b) = common(a, b)?;
        let of_node = |group: &NodeGroup, nic: &Nic| nic.count as f64 * nic.bytes_per_s / group.devices as f64;
        Some((Some(kind), of_node(a, of_a).min(of_node(b, of_b)), of_a.latency_s.max(of_b.latency_s)))
    }

    /// The slowest step of a ring over `nodes` in order; where links are what cards are, over all from the first to the last.
    fn slowest(&self, nodes: &[usize]) -> (Option<NicKind>, f64, f64) {
        let mut worst: Option<(Option<NicKind>, f64, f64)> = None;
        let (first, last) = (nodes[0], nodes[nodes.len() - 1]);
        let steps: Vec<(usize, usize)> = match &self.network {
            Network::Pairs(_) => nodes.windows(2).map(|pair| (pair[0], pair[1])).chain([(last, first)]).collect(),
            // Nodes of a group are alike: one step within each, one between neighbours, and the way back.
            Network::Cards => {
                let mut steps = Vec::new();
                let mut begin = 0;
                for group in &self.nodes {
                    let (low, high) = (begin.max(first), (begin + group.count).min(last + 1));
                    if low < high {
                        steps.extend((high - low > 1).then_some((low, low + 1)));
                        steps.extend((high <= last).then_some((high - 1, high)));
                    }
                    begin += group.count;
                }
                steps.push((last, first));
                steps
            }
        };
        for (from, to) in steps {
            // A machine whose nodes do not reach each other is refused by `check`.
            if let Some(step) = self.between(from, to)
                && worst.is_none_or(|worst| step.1 < worst.1)
            {
                worst = Some(step);
            }
        }
        worst.expect("invariant: a checked machine's nodes reach each other")
    }

    /// Nodes that do not reach each other, in words.
    pub(super) fn unreachable(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (i, a) in self.nodes.iter().enumerate() {
            for b in &self.nodes[i..] {
                let is_same = std::ptr::eq(a, b);
                let is_measured = matches!(self.network, Network::Pairs(_));
                if is_measured || (is_same && a.count < 2) || common(a, b).is_some() {
                    continue;
                }
                let who = if is_same { format!("nodes of {}", a.name) } else { format!("{} and {}", a.name, b.name) };
                problems.push(format!(
                    "{who} do not reach each other: they have no network card of the same kind; give both Ethernet"
                ));
            }
        }
        if let Network::Pairs(pairs) = &self.network {
            let n = self.n_nodes();
            let n_rows = pairs.bytes_per_s.len();
            if n_rows != n || pairs.bytes_per_s.iter().any(|row| row.len() != n) {
                problems.push(format!(
                    "the matrix of bandwidths has {n_rows} rows, but there are {n} nodes; give {n} rows of {n}"
                ));
                return problems;
            }
            for (from, row) in pairs.bytes_per_s.iter().enumerate() {
                for (to, found) in row.iter().enumerate() {
                    if from != to && !(found.is_finite() && *found > 0.0) {
                        problems.push(format!(
                            "the bandwidth from node {from} to node {to} is {found}, but it must be positive and finite"
                        ));
                    }
                }
            }
        }
        problems
    }

    fn seat(&self, device: usize) -> Seat {
        let (mut first, mut node) = (0, 0);
        for (i, group) in self.nodes.iter().enumerate() {
            let n = group.count * group.devices;
            if device < first + n {
                return Seat { group: i, node: node + (device - first) / group.devices };
            }
            first += n;
            node += group.count;
        }
        panic!("device {device} of {first}");
    }

    /// The node of a device.
    pub fn node_of(&self, device: usize) -> usize {
        self.seat(device).node
    }

    pub(super) fn group_of_node(&self, node: usize) -> usize {
        let mut first = 0;
        let found = self.nodes.iter().position(|group| {
            first += group.count;
            node < first
        });
        found.expect("invariant: a node of the machine")
    }
}

/// The fastest kind of card that both have; across clusters only Ethernet is common.
fn common<'a>(a: &'a NodeGroup, b: &'a NodeGroup) -> Option<(NicKind, &'a Nic, &'a Nic)> {
    let usable = |nic: &&Nic| a.cluster == b.cluster || nic.kind == NicKind::Ethernet;
    let pairs = a.nics.iter().filter(usable).filter_map(|nic| {
        let other = b.nics.iter().find(|other| other.kind == nic.kind)?;
        Some((nic.kind, nic, other))
    });
    let speed =
        |(_, x, y): &(NicKind, &Nic, &Nic)| (x.count as f64 * x.bytes_per_s).min(y.count as f64 * y.bytes_per_s);
    pairs.max_by(|x, y| speed(x).total_cmp(&speed(y)))
}
