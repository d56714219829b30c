//! Where the ranks of a plan are.

use super::answer::over_name;
use crate::commands::table;
use plan::machine::NodeGroup;
use plan::{Found, Machine, Over, PlanError, Seat, Task};
use serde::Serialize;
use std::ops::Range;

/// Rows of the table at most; a plan whose ranks differ more often has the rest in its JSON.
const ROWS_MAX: usize = 16;

/// A rank of the pipeline as `--json` prints it.
#[derive(Serialize)]
pub struct SeatJson {
    /// Layers of each of its stages, embedding and head not counted.
    layers: Vec<f64>,
    devices: Vec<Part>,
    /// `null` where there is one piece.
    tensors_over: Option<&'static str>,
    /// `null` where there is one replica.
    gradients_over: Option<&'static str>,
}

/// Devices of one group, all numbers from 0 in the group, first and last.
#[derive(Serialize)]
struct Part {
    group: String,
    cluster: String,
    nodes: [usize; 2],
    devices: [usize; 2],
}

/// The ranks of `found` as JSON, and as lines for the terminal.
///
/// # Errors
/// When `task` is not what it was found for.
pub fn seats(task: &Task, found: &Found) -> Result<(Vec<SeatJson>, Vec<String>), PlanError> {
    let seats = found.seats(task)?;
    let machine = &task.machine;
    let part = |(group, devices): &(usize, Range<usize>)| {
        let of = &machine.nodes[*group];
        let last = devices.end - 1;
        Part {
            group: of.name.clone(),
            cluster: of.cluster.clone(),
            nodes: [devices.start / of.devices, last / of.devices],
            devices: [devices.start, last],
        }
    };
    let json = seats.iter().map(|seat| SeatJson {
        layers: seat.half_layers.iter().map(|&n| n as f64 / 2.0).collect(),
        devices: seat.devices.iter().map(part).collect(),
        tensors_over: seat.tensors_over.map(over_name),
        gradients_over: seat.gradients_over.map(over_name),
    });
    Ok((json.collect(), lines(machine, &seats)))
}

/// The machine's nodes in the order in which they take places: `ib nodes 0-3, roce nodes 0-1`.
pub fn order(machine: &Machine, nodes: &[usize]) -> String {
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    for &node in nodes {
        let (mut group, mut number) = (0, node);
        while number >= machine.nodes[group].count {
            number -= machine.nodes[group].count;
            group += 1;
        }
        match runs.last_mut() {
            Some((last, run)) if *last == group && run.end == number => run.end += 1,
            _ => runs.push((group, number..number + 1)),
        }
    }
    let text = |(group, run): &(usize, Range<usize>)| {
        let of = &machine.nodes[*group];
        devices_of(of, &(run.start * of.devices..run.end * of.devices))
    };
    runs.iter().map(text).collect::<Vec<String>>().join(", ")
}

/// Ranks that differ only in which nodes of a group they are on share a row.
fn lines(machine: &Machine, seats: &[Seat]) -> Vec<String> {
    let mut runs: Vec<(Range<usize>, Seat)> = Vec::new();
    for (rank, seat) in seats.iter().enumerate() {
        match runs.last_mut() {
            Some((ranks, so_far)) if is_continued(so_far, seat) => {
                ranks.end += 1;
                so_far.devices[0].1.end = seat.devices[0].1.end;
            }
            _ => runs.push((rank..rank + 1, seat.clone())),
        }
    }
    let head = ["", "on", "cluster", "layers", "tensors over", "gradients over"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (ranks, seat) in runs.iter().take(ROWS_MAX) {
        let groups = seat.devices.iter().map(|(group, _)| &machine.nodes[*group]);
        let mut clusters: Vec<&str> = groups.map(|group| group.cluster.as_str()).collect();
        clusters.dedup();
        let on = seat.devices.iter().map(|(group, devices)| devices_of(&machine.nodes[*group], devices));
        let layers = seat.half_layers.iter().map(|&n| (n as f64 / 2.0).to_string());
        let over = |over: Option<Over>| over.map_or("-", over_name).to_owned();
        rows.push(vec![
            match ranks.len() {
                1 => format!("rank {}", ranks.start),
                _ => format!("ranks {}-{}", ranks.start, ranks.end - 1),
            },
            on.collect::<Vec<String>>().join(" and "),
            clusters.join(" and "),
            layers.collect::<Vec<String>>().join(" + ") + if ranks.len() > 1 { " each" } else { "" },
            over(seat.tensors_over),
            over(seat.gradients_over),
        ]);
    }
    let mut lines = table::aligned(&rows, 6);
    if runs.len() > ROWS_MAX {
        lines.push(format!("and {} rows more; --json has all ranks", runs.len() - ROWS_MAX));
    }
    lines
}

fn is_continued(so_far: &Seat, seat: &Seat) -> bool {
    let ([(group, devices)], [(next_group, next)]) = (so_far.devices.as_slice(), seat.devices.as_slice()) else {
        return false;
    };
    let is_next = group == next_group && devices.end == next.start;
    let alike = |seat: &Seat| Seat { devices: Vec::new(), ..seat.clone() };
    is_next && alike(so_far) == alike(seat)
}

/// `ib nodes 0-1`, or of parts of nodes `ib node 0, devices 4-7`.
fn devices_of(group: &NodeGroup, devices: &Range<usize>) -> String {
    let (first, last) = (devices.start / group.devices, (devices.end - 1) / group.devices);
    let whole = devices.start.is_multiple_of(group.devices) && devices.end.is_multiple_of(group.devices);
    let nodes = if first == last { format!("node {first}") } else { format!("nodes {first}-{last}") };
    let of_node = first * group.devices;
    let part = match (whole, devices.start - of_node, devices.end - 1 - of_node) {
        (true, ..) => String::new(),
        (false, from, to) if from == to => format!(", device {from}"),
        (false, from, to) => format!(", devices {from}-{to}"),
    };
    format!("{} {nodes}{part}", group.name)
}
