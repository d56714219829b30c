//! The keys that say how many there are of everything, and where the stages lie.

use super::MOST_VISITS;
use crate::toml_file::{Node, Parsed, Reader, Value, Wrong, list, whole};
use mesh::{Grid, Rank, StageMap};
use schedule::{Kind, Placement, Schedule};

/// Links join every pair of ranks: more than 4 million of them tell no more.
const MOST_RANKS: usize = 2048;

/// Numbers of everything.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub n_ranks: usize,
    pub n_microbatches: usize,
    /// Number of pieces of the model that costs are given for.
    pub n_pieces: usize,
    /// Stages on each rank, for schedules that hold any number of them.
    pub n_chunks: usize,
}

/// `ranks` as it may be written.
enum Ranks {
    Number(usize),
    OfStages(Vec<usize>),
}

impl Shape {
    /// For a published schedule, with the place of its stages.
    pub fn of_kind(file: &Reader, kind: Kind) -> Option<(Self, StageMap)> {
        let keys = Keys::read(file);
        let n_microbatches = file.required("microbatches", "the number of microbatches", whole(1));
        let keys = keys?;
        keys.check_chunks(file, kind)?;
        let of_kind = keys.n_chunks.unwrap_or(match kind.placement() {
            Placement::Any | Placement::OnePerRank => 1,
            Placement::Looped | Placement::V => 2,
        });
        let shape = keys.shape(file, of_kind, n_microbatches)?;
        let n_ranks = shape.n_ranks;
        let stage_map = match (&keys.ranks, kind.placement()) {
            (Some(Ranks::OfStages(ranks)), _) => map(ranks.iter().copied()),
            // Any route will do; the natural one for several stages on a rank goes round.
            (_, Placement::Any) => StageMap::looped(n_ranks * of_kind, n_ranks),
            _ => on_all(kind, n_ranks, shape.n_chunks),
        };
        Some((shape, stage_map))
    }

    /// For a schedule that is there; what the keys say as well must agree with it.
    pub fn of_schedule(file: &Reader, schedule: &Schedule) -> Option<(Self, StageMap)> {
        let keys = Keys::read(file);
        let n_microbatches = file.or("microbatches", schedule.n_microbatches(), whole(1));
        let (keys, n_microbatches) = (keys?, n_microbatches?);
        let route: Vec<usize> = schedule.routes[0].visits().iter().map(|visit| visit.rank.0).collect();
        let n_ranks = schedule.n_ranks();
        let agrees = match &keys.ranks {
            Some(Ranks::Number(n)) => *n == n_ranks,
            Some(Ranks::OfStages(ranks)) => *ranks == route,
            None => true,
        };
        let name = &schedule.name;
        let way_out = "leave it out";
        if !agrees {
            file.refuse("ranks", "", &format!("{name} plays its stages on ranks {route:?}"), way_out);
        }
        if n_microbatches != schedule.n_microbatches() {
            let wanted = format!("{name} has {} microbatches", schedule.n_microbatches());
            file.refuse("microbatches", "", &wanted, way_out);
        }
        if keys.n_chunks.is_some_and(|n_chunks| n_chunks * n_ranks != route.len()) {
            file.refuse("chunks", "", &format!("{name} has {} stages on {n_ranks} ranks", route.len()), way_out);
        }
        let n_pieces = keys.n_pieces.unwrap_or(n_ranks);
        Some((Self { n_ranks, n_microbatches, n_pieces, n_chunks: 1 }, map(route.into_iter())))
    }

    /// For schedules of every kind.
    pub fn of_any(file: &Reader) -> Option<Self> {
        let keys = Keys::read(file);
        let n_microbatches = file.required("microbatches", "the number of microbatches", whole(1));
        keys?.shape(file, 1, n_microbatches)
    }

    /// For a schedule that cannot be read, which is reported: what the keys say cannot be held against it.
    pub fn unknown(file: &Reader) -> Option<(Self, StageMap)> {
        Keys::read(file);
        file.has("microbatches");
        None
    }
}

/// The stages of a schedule of `kind` on all ranks, `n_chunks` on each where their number is free.
pub fn on_all(kind: Kind, n_ranks: usize, n_chunks: usize) -> StageMap {
    let n_stages = match kind.placement() {
        Placement::Any | Placement::OnePerRank => n_ranks,
        Placement::Looped => n_ranks * n_chunks,
        Placement::V => 2 * n_ranks,
    };
    let ranks = kind.placement().ranks(n_stages, n_chunks);
    map(ranks.expect("invariant: as many stages as the placement wants").into_iter())
}

fn map(ranks: impl Iterator<Item = usize>) -> StageMap {
    StageMap::new(ranks.map(|rank| Grid::single(Rank(rank))).collect()).expect("invariant: at least one stage")
}

struct Keys {
    ranks: Option<Ranks>,
    n_pieces: Option<usize>,
    n_chunks: Option<usize>,
}

impl Keys {
    fn read(file: &Reader) -> Option<Self> {
        let ranks = file.optional("ranks", ranks);
        let n_pieces = file.optional("stages", whole(1));
        let n_chunks = file.optional("chunks", whole(1));
        Some(Self { ranks: ranks?, n_pieces: n_pieces?, n_chunks: n_chunks? })
    }

    /// `n_stages_each`: stages on a rank when their number is given and that of the ranks is not.
    fn shape(&self, file: &Reader, n_stages_each: usize, n_microbatches: Option<usize>) -> Option<Shape> {
        let (n_ranks, n_pieces) = match (&self.ranks, self.n_pieces) {
            (Some(Ranks::Number(n_ranks)), n_pieces) => (*n_ranks, n_pieces.unwrap_or(*n_ranks)),
            (Some(Ranks::OfStages(ranks)), n_pieces) => {
                let n_stages = n_pieces.unwrap_or(ranks.len());
                if ranks.len() != n_stages || ranks.is_empty() {
                    let wanted = format!("must have one rank for each stage, {n_stages} in all, not {}", ranks.len());
                    file.refuse("ranks", "", &wanted, "change `ranks` or `stages`");
                    return None;
                }
                (ranks.iter().max().map_or(0, |highest| highest + 1), n_stages)
            }
            (None, Some(n_stages)) if n_stages % n_stages_each == 0 => (n_stages / n_stages_each, n_stages),
            (None, Some(_)) => {
                let wanted = format!("every rank holds {n_stages_each} of them");
                let way_out = format!("use a multiple of {n_stages_each}, or give the number of `ranks`");
                file.refuse("stages", "", &wanted, &way_out);
                return None;
            }
            (None, None) => {
                file.missing("ranks", "the number of ranks");
                return None;
            }
        };
        let each = n_pieces / n_ranks;
        let given = (each > 1 && n_pieces % n_ranks == 0).then_some(each);
        let n_chunks = self.n_chunks.or(given).unwrap_or(2);
        let ranks_key = if file.has("ranks") { "ranks" } else { "stages" };
        let on_ranks = n_ranks.saturating_mul(n_chunks);
        for (key, what, n, most) in [
            (ranks_key, "ranks", n_ranks, MOST_RANKS),
            ("stages", "stages", n_pieces, MOST_VISITS),
            ("chunks", "stages", on_ranks, MOST_VISITS),
        ] {
            if n > most {
                let wanted = format!("that makes {n} {what}, more than {most}");
                file.refuse(key, "", &wanted, &format!("use fewer {what}"));
                return None;
            }
        }
        Some(Shape { n_ranks, n_microbatches: n_microbatches?, n_pieces, n_chunks })
    }

    fn check_chunks(&self, file: &Reader, kind: Kind) -> Option<()> {
        let Some(n_chunks) = self.n_chunks else { return Some(()) };
        let wanted = match (&self.ranks, kind.placement()) {
            (Some(Ranks::OfStages(_)), _) => "`ranks` says where every stage lies".to_owned(),
            (_, Placement::OnePerRank) if n_chunks != 1 => format!("{kind} holds one stage on each rank"),
            (_, Placement::V) if n_chunks != 2 => format!("{kind} holds two stages on each rank"),
            _ => return Some(()),
        };
        file.refuse("chunks", "", &wanted, "leave it out");
        None
    }
}

fn ranks(node: &Node) -> Parsed<Ranks> {
    match node.value {
        Value::List(_) => list(whole(0))(node).map(Ranks::OfStages),
        Value::Whole(found) if found > 0 => whole(1)(node).map(Ranks::Number),
        _ => Err(Wrong::new(node, "the number of ranks or a list with the rank of each stage")),
    }
}
