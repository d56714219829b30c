//! Transfers that turn one layout into another.

use crate::{Axis, Grid, Layout, MeshError, Placement, Rank, Reduction};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// A box of a tensor: the half-open range of indices along every dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Region(pub Vec<Range<usize>>);

impl Region {
    /// All of a tensor.
    pub fn whole(shape: &[usize]) -> Self {
        Self(shape.iter().map(|&size| 0..size).collect())
    }

    /// Size along every dimension.
    pub fn shape(&self) -> Vec<usize> {
        self.0.iter().map(ExactSizeIterator::len).collect()
    }

    /// Number of elements; 1 for a tensor without dimensions.
    pub fn n_elements(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).product()
    }

    /// What lies in both, if anything does.
    pub fn intersection(&self, other: &Region) -> Option<Region> {
        let both = self.0.iter().zip(&other.0).map(|(a, b)| a.start.max(b.start)..a.end.min(b.end));
        let both = Region(both.collect());
        both.0.iter().all(|range| range.start < range.end).then_some(both)
    }
}

/// One message of a change of layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Who has it.
    pub from: Rank,
    /// Who gets it; equal to `from` when the rank already has it.
    pub to: Rank,
    /// What, in coordinates of the whole tensor.
    pub region: Region,
    /// `None`: the only value of this region that `to` receives. Otherwise one of several terms: `to` combines all it
    /// receives, starting from the neutral element (0 of a sum, minus infinity of a maximum).
    pub reduction: Option<Reduction>,
}

/// The transfers that turn a tensor of `shape` laid out as `from` into one laid out as `to`. The grids may differ in
/// size, share ranks or share none.
///
/// Every element a destination holds arrives there exactly once, or once for each term when the source is partial.
/// Where the destination is partial, the ranks that hold its terms receive together what one value would be: source
/// terms of the same reduction stay on their rank where they can and else go to the first of these ranks; a value goes
/// to the first alone. What receives nothing holds the neutral element.
///
/// A rank that already holds what it needs is its own source. Otherwise, of the replicas that could send, the one that
/// has sent least so far sends. The same arguments give the same list, ordered by destination.
///
/// # Errors
/// [`MeshError::Layout`] when a layout does not fit the shape or its mesh, or has both sums and maxima (their order
/// would matter).
pub fn reshard(shape: &[usize], from: (&Layout, &Grid), to: (&Layout, &Grid)) -> Result<Vec<Transfer>, MeshError> {
    let (from_reduction, to_reduction) = (from.0.reduction(shape, from.1)?, to.0.reduction(shape, to.1)?);

    let mut transfers = Vec::new();
    let mut n_sent: HashMap<Rank, usize> = HashMap::new();
    let sources = holders(shape, from.0, from.1);
    let keeps_terms = from_reduction.is_some() && from_reduction == to_reduction;
    for (wanted, replicas) in holders(shape, to.0, to.1).into_values() {
        for destinations in replicas.by_replica() {
            let destinations = if keeps_terms { &destinations[..] } else { &destinations[..1] };
            for (held, copies) in sources.values() {
                let Some(region) = held.intersection(&wanted) else { continue };
                for candidates in copies.by_term.values() {
                    let local = destinations.iter().find(|rank| candidates.contains(rank));
                    let source = match local {
                        Some(rank) => rank,
                        None => candidates
                            .iter()
                            .min_by_key(|rank| n_sent.get(rank).copied().unwrap_or(0))
                            .expect("invariant: every term has a holder"),
                    };
                    if local.is_none() {
                        *n_sent.entry(*source).or_default() += region.n_elements();
                    }
                    transfers.push(Transfer {
                        from: *source,
                        to: *local.unwrap_or(&destinations[0]),
                        region: region.clone(),
                        reduction: from_reduction,
                    });
                }
            }
        }
    }
    Ok(transfers)
}

/// The ranks that hold one region.
#[derive(Default)]
struct Copies {
    /// For each term (by its coordinates along the partial axes) the ranks that hold it, one per replica, in order of
    /// the replicas' coordinates.
    by_term: BTreeMap<[usize; 5], Vec<Rank>>,
}

impl Copies {
    /// For each replica the ranks that hold its terms.
    fn by_replica(&self) -> Vec<Vec<Rank>> {
        let n_replicas = self.by_term.values().next().map_or(0, Vec::len);
        (0..n_replicas).map(|replica| self.by_term.values().map(|ranks| ranks[replica]).collect()).collect()
    }
}

/// Every distinct part (by its coordinates along the sharded axes): its region and who holds it.
fn holders(shape: &[usize], layout: &Layout, grid: &Grid) -> BTreeMap<[usize; 5], (Region, Copies)> {
    let mut parts = BTreeMap::new();
    for (place, &rank) in grid.ranks.iter().enumerate() {
        let at = grid.mesh.coordinates(Rank(place));
        let (mut part, mut term) = ([0; 5], [0; 5]);
        for axis in Axis::ALL {
            match layout.placement(axis) {
                Placement::Replicate => {}
                Placement::Shard { .. } => part[axis as usize] = at[axis as usize],
                Placement::Partial(_) => term[axis as usize] = at[axis as usize],
            }
        }
        let (_, copies) = parts.entry(part).or_insert_with(|| (layout.region(shape, at), Copies::default()));
        copies.by_term.entry(term).or_default().push(rank);
    }
    parts
}

impl Layout {
    /// What a rank at the coordinates `at` (in the order of [`Axis::ALL`]) holds of a tensor of `shape`.
    ///
    /// # Panics
    /// If the layout does not fit the shape or the coordinates; [`Layout::check`] tells.
    pub fn region(&self, shape: &[usize], at: [usize; 5]) -> Region {
        let mut region = Region::whole(shape);
        for axis in Axis::ALL {
            if let Placement::Shard { dim, offsets } = self.placement(axis) {
                region.0[*dim] = offsets[at[axis as usize]]..offsets[at[axis as usize] + 1];
            }
        }
        region
    }

    /// How the terms that the ranks of `grid` hold combine; `None` when every rank holds values.
    fn reduction(&self, shape: &[usize], grid: &Grid) -> Result<Option<Reduction>, MeshError> {
        self.check(shape, &grid.mesh)?;
        let mut found = None;
        for axis in Axis::ALL {
            let Placement::Partial(reduction) = *self.placement(axis) else { continue };
            if grid.mesh.degree(axis) == 1 {
                continue;
            }
            if found.is_some_and(|other| other != reduction) {
                let problem = "a tensor is partial both as a sum and as a maximum; reduce one first".to_owned();
                return Err(MeshError::Layout { problem });
            }
            found = Some(reduction);
        }
        Ok(found)
    }
}
