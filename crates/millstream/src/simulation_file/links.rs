//! The section `[links]`: how long messages take.

use super::MICROSECOND;
use crate::toml_file::{NumberRange, Reader, choice, list, number, whole};
use mesh::Rank;
use simulate::{Communication, Link};

/// What connects the ranks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Links {
    /// Of every pair that is not named; `None`: messages take no time.
    default: Option<Speed>,
    /// Pairs of ranks, in both directions.
    between: Vec<(usize, usize, Speed)>,
    /// Whether ranks compute while messages move.
    pub communication: Communication,
}

const COMMUNICATIONS: &[(&str, Communication)] =
    &[("overlapped", Communication::Overlapped), ("blocking", Communication::Blocking)];

#[derive(Clone, Copy, Debug, PartialEq)]
struct Speed {
    latency_s: f64,
    bytes_per_s: f64,
}

impl Links {
    /// As the simulator wants them, for ranks `0..n_ranks`.
    pub fn of(&self, n_ranks: usize) -> Vec<Link> {
        let pairs =
            (0..n_ranks).flat_map(|from| (0..n_ranks).map(move |to| (from, to))).filter(|(from, to)| from != to);
        let link = |(from, to)| {
            let Speed { latency_s, bytes_per_s } = self.speed(from, to)?;
            Some(Link { from: Rank(from), to: Rank(to), latency_s, bytes_per_s })
        };
        pairs.filter_map(link).collect()
    }

    /// How long a message of so many bytes takes from one rank to another, in seconds.
    pub fn message_s(&self, from: Rank, to: Rank, bytes: u64) -> f64 {
        self.speed(from.0, to.0).map_or(0.0, |speed| speed.latency_s + bytes as f64 / speed.bytes_per_s)
    }

    fn speed(&self, from: usize, to: usize) -> Option<Speed> {
        let named = self.between.iter().find(|&&(a, b, _)| (a, b) == (from, to) || (b, a) == (from, to));
        named.map(|&(_, _, speed)| speed).or(self.default)
    }
}

/// Reads the section; ranks named in it are below `n_ranks`.
pub fn links(section: &Reader, n_ranks: Option<usize>) -> Option<Links> {
    let communication = section.or("communication", Communication::Overlapped, choice(COMMUNICATIONS));
    let default = speed(section, None);
    // All are read before any is missed, so that all their problems are told.
    let items: Vec<Option<(usize, usize, Speed)>> =
        section.tables("between").iter().map(|item| pair(item.as_ref()?, default.flatten(), n_ranks)).collect();
    let between = items.into_iter().collect::<Option<Vec<(usize, usize, Speed)>>>()?;
    let unordered = |&(a, b, _): &(usize, usize, Speed)| (a.min(b), a.max(b));
    let twice =
        (0..between.len()).find(|&i| between[..i].iter().any(|other| unordered(other) == unordered(&between[i])));
    if let Some((a, b, _)) = twice.map(|i| between[i]) {
        section.complain("between", format!("the link between ranks {a} and {b} is given twice; take one out"));
        return None;
    }
    Some(Links { default: default?, between, communication: communication? })
}

fn pair(item: &Reader, default: Option<Speed>, n_ranks: Option<usize>) -> Option<(usize, usize, Speed)> {
    let ranks: Option<Vec<usize>> = item.required("ranks", "the two ranks that it connects", list(whole(0)));
    let speed = speed(item, default);
    let (ranks, n_ranks) = (ranks?, n_ranks?);
    match ranks[..] {
        [a, b] if a != b && a < n_ranks && b < n_ranks => {
            let speed = speed?;
            if speed.is_none() {
                item.missing("latency_us", "microseconds before the first byte arrives; or give `gbytes_per_s`");
            }
            Some((a, b, speed?))
        }
        _ => {
            let wanted = format!("must be two of the ranks 0 to {}", n_ranks.saturating_sub(1));
            item.refuse("ranks", "", &wanted, "write a pair, such as [0, 1]");
            None
        }
    }
}

/// The two keys of a link, each with its default; `None` where nothing is said.
fn speed(section: &Reader, default: Option<Speed>) -> Option<Option<Speed>> {
    let latency_us = section.optional("latency_us", number(NumberRange::NotNegative));
    let gbytes_per_s = section.optional("gbytes_per_s", number(NumberRange::Positive));
    let (latency_us, gbytes_per_s) = (latency_us?, gbytes_per_s?);
    if default.is_none() && latency_us.is_none() && gbytes_per_s.is_none() {
        return Some(None);
    }
    let default = default.unwrap_or(Speed { latency_s: 0.0, bytes_per_s: f64::INFINITY });
    Some(Some(Speed {
        latency_s: latency_us.map_or(default.latency_s, |us| us * MICROSECOND),
        bytes_per_s: gbytes_per_s.map_or(default.bytes_per_s, |rate| rate * 1e9),
    }))
}
