//! Nodes in other orders than that of the machine's file.

use super::{Device, Machine, Network, NodeGroup, Pairs};
use std::collections::BTreeSet;

/// Orders of groups that are tried at most: all of up to four clusters or kinds of nodes.
const ORDERS_MAX: usize = 24;

impl Machine {
    /// With its nodes in another order: neighbours of one group are a group, and what is measured between nodes moves along.
    ///
    /// # Panics
    /// If `nodes` is not every node once.
    pub fn in_order(&self, nodes: &[usize]) -> Machine {
        let all: BTreeSet<usize> = nodes.iter().copied().collect();
        assert!(all.len() == self.n_nodes() && nodes.len() == all.len(), "{nodes:?} of {} nodes", self.n_nodes());
        let mut groups: Vec<(usize, NodeGroup)> = Vec::new();
        for &node in nodes {
            let group = self.group_of_node(node);
            match groups.last_mut() {
                Some((last, of)) if *last == group => of.count += 1,
                _ => groups.push((group, NodeGroup { count: 1, ..self.nodes[group].clone() })),
            }
        }
        let network = match &self.network {
            Network::Cards => Network::Cards,
            Network::Pairs(Pairs { bytes_per_s, latency_s }) => {
                let row = |&from: &usize| nodes.iter().map(|&to| bytes_per_s[from][to]).collect();
                Network::Pairs(Pairs { bytes_per_s: nodes.iter().map(row).collect(), latency_s: *latency_s })
            }
        };
        Machine { name: self.name.clone(), nodes: groups.into_iter().map(|(_, group)| group).collect(), network }
    }

    /// Orders of all nodes in which those of a cluster follow each other, and in a cluster those of a group: clusters in every
    /// order, and their groups, up to 24 (fast ones first). The order of the groups comes first where it is one. Of orders that
    /// only exchange what is alike there is one.
    pub fn orders(&self) -> Vec<Vec<usize>> {
        let mut clusters: Vec<Vec<usize>> = Vec::new();
        for (i, group) in self.nodes.iter().enumerate() {
            match clusters.iter_mut().find(|of| self.nodes[of[0]].cluster == group.cluster) {
                Some(of) => of.push(i),
                None => clusters.push(vec![i]),
            }
        }
        let mut all = vec![clusters.concat()];
        for of in &mut clusters {
            of.sort_by(|&a, &b| self.nodes[a].device.faster_first(&self.nodes[b].device));
        }
        clusters.sort_by(|a, b| self.nodes[a[0]].device.faster_first(&self.nodes[b[0]].device));
        all.extend(self.arranged(&clusters));
        let mut known = BTreeSet::new();
        all.retain(|groups| known.insert(self.pattern(groups)));
        all.truncate(ORDERS_MAX);
        let first_of = |group: usize| self.nodes[..group].iter().map(|group| group.count).sum::<usize>();
        let nodes = |&group: &usize| first_of(group)..first_of(group) + self.nodes[group].count;
        all.iter().map(|groups| groups.iter().flat_map(nodes).collect()).collect()
    }

    /// Groups of `clusters` one after the other, in all orders up to the limit.
    fn arranged(&self, clusters: &[Vec<usize>]) -> Vec<Vec<usize>> {
        if clusters.is_empty() {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for (i, cluster) in clusters.iter().enumerate() {
            let is_alike = |other: &Vec<usize>| {
                other.len() == cluster.len() && other.iter().zip(cluster).all(|(&a, &b)| self.are_alike(a, b))
            };
            if clusters[..i].iter().any(is_alike) {
                continue;
            }
            let inner = match cluster.as_slice() {
                [_] => vec![cluster.clone()],
                groups => self.arranged(&groups.iter().map(|&group| vec![group]).collect::<Vec<Vec<usize>>>()),
            };
            let others: Vec<Vec<usize>> = [&clusters[..i], &clusters[i + 1..]].concat();
            let rest = self.arranged(&others);
            for first in &inner {
                all.extend(rest.iter().map(|rest| [first.as_slice(), rest].concat()));
            }
            if all.len() >= ORDERS_MAX {
                break;
            }
        }
        all.truncate(ORDERS_MAX);
        all
    }

    /// What tells orders of groups apart: each group's first that is like it, and the number of its cluster.
    fn pattern(&self, groups: &[usize]) -> Vec<(usize, usize)> {
        let mut clusters: Vec<&str> = Vec::new();
        let of = |&group: &usize| {
            let first = (0..group).find(|&other| self.are_alike(other, group)).unwrap_or(group);
            let cluster = self.nodes[group].cluster.as_str();
            let number = clusters.iter().position(|known| *known == cluster).unwrap_or_else(|| {
                clusters.push(cluster);
                clusters.len() - 1
            });
            (first, number)
        };
        groups.iter().map(of).collect()
    }

    /// Whether it makes no difference which of two groups comes first.
    fn are_alike(&self, a: usize, b: usize) -> bool {
        let named = |group: &NodeGroup| NodeGroup { name: String::new(), cluster: String::new(), ..group.clone() };
        self.network == Network::Cards && named(&self.nodes[a]) == named(&self.nodes[b])
    }
}

impl Device {
    fn faster_first(&self, other: &Self) -> std::cmp::Ordering {
        let speed = |device: &Self| device.peak.bf16.max(device.peak.f32) * device.efficiency.product;
        speed(other).total_cmp(&speed(self)).then(other.memory_bytes.cmp(&self.memory_bytes))
    }
}
