//! Transfers applied to arrays, against the tensor they stand for.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Axis, Grid, Layout, Mesh, MeshError, Placement, Rank, Reduction, Region, Transfer, reshard};
use proptest::prelude::*;

/// One dense array in row-major order.
#[derive(Clone, Debug, PartialEq)]
struct Array {
    shape: Vec<usize>,
    data: Vec<i64>,
}

impl Array {
    fn filled(shape: &[usize], value: i64) -> Self {
        Self { shape: shape.to_vec(), data: vec![value; shape.iter().product()] }
    }

    fn offset(&self, at: &[usize]) -> usize {
        at.iter().zip(&self.shape).fold(0, |offset, (i, size)| offset * size + i)
    }
}

/// All indices of a region, in row-major order.
fn indices(region: &Region) -> Vec<Vec<usize>> {
    region.0.iter().fold(vec![vec![]], |all, range| {
        all.iter().flat_map(|head| range.clone().map(move |i| [head.as_slice(), &[i]].concat())).collect()
    })
}

fn neutral(layout: &Layout) -> i64 {
    let is_max = |&axis: &Axis| *layout.placement(axis) == Placement::Partial(Reduction::Max);
    if Axis::ALL.iter().any(is_max) { i64::MIN } else { 0 }
}

fn combine(reduction: Option<Reduction>, a: i64, b: i64) -> i64 {
    match reduction {
        Some(Reduction::Max) => a.max(b),
        _ => a + b,
    }
}

/// The coordinates along the axes that `is_kept`, 0 along others.
fn projected(at: [usize; 5], layout: &Layout, is_kept: impl Fn(&Placement) -> bool) -> [usize; 5] {
    let mut kept = [0; 5];
    for axis in Axis::ALL.into_iter().filter(|&axis| is_kept(layout.placement(axis))) {
        kept[axis as usize] = at[axis as usize];
    }
    kept
}

fn is_partial(placement: &Placement) -> bool {
    matches!(placement, Placement::Partial(_))
}

/// The whole tensor that `held` (indexed by place, everything at its global coordinates, junk elsewhere) stands for,
/// once for each set of replicas.
fn tensors(shape: &[usize], layout: &Layout, grid: &Grid, held: &[Array]) -> Vec<Array> {
    let reduction = Axis::ALL.iter().find_map(|&axis| match layout.placement(axis) {
        Placement::Partial(reduction) => Some(*reduction),
        _ => None,
    });
    let mut replicas = std::collections::BTreeMap::new();
    for (place, array) in held.iter().enumerate() {
        let at = grid.mesh.coordinates(Rank(place));
        let replica = projected(at, layout, |placement| *placement == Placement::Replicate);
        let whole = replicas.entry(replica).or_insert_with(|| Array::filled(shape, neutral(layout)));
        for index in indices(&layout.region(shape, at)) {
            let i = whole.offset(&index);
            whole.data[i] = combine(reduction, whole.data[i], array.data[i]);
        }
    }
    replicas.into_values().collect()
}

fn check(shape: &[usize], from: (&Layout, &Grid), to: (&Layout, &Grid)) -> Result<Vec<Transfer>, TestCaseError> {
    // What a rank holds depends on the term and the element, and is the same on all replicas.
    let held: Vec<Array> = (0..from.1.ranks.len())
        .map(|place| {
            let at = from.1.mesh.coordinates(Rank(place));
            let term = projected(at, from.0, is_partial).iter().fold(1, |term, &i| term * 7 + i as i64);
            let mut array = Array::filled(shape, 1_000_000_007);
            for index in indices(&from.0.region(shape, at)) {
                let i = array.offset(&index);
                array.data[i] = (term * 31 + i as i64 * 17) % 101;
            }
            array
        })
        .collect();
    let expected = tensors(shape, from.0, from.1, &held);
    prop_assert!(expected.iter().all(|tensor| *tensor == expected[0]));

    let transfers = reshard(shape, from, to).unwrap();
    let mut received = vec![Array::filled(shape, neutral(to.0)); to.1.ranks.len()];
    let mut is_set: Vec<Array> = vec![Array::filled(shape, 0); to.1.ranks.len()];
    let from_neutral = if neutral(from.0) == 0 { 0 } else { i64::MIN };
    for transfer in &transfers {
        let source = from.1.ranks.iter().position(|&rank| rank == transfer.from).unwrap();
        let target = to.1.ranks.iter().position(|&rank| rank == transfer.to).unwrap();
        let held_there = from.0.region(shape, from.1.mesh.coordinates(Rank(source)));
        prop_assert_eq!(held_there.intersection(&transfer.region), Some(transfer.region.clone()));
        for index in indices(&transfer.region) {
            let i = received[target].offset(&index);
            let value = held[source].data[i];
            let is_first = is_set[target].data[i] == 0;
            prop_assert!(is_first || transfer.reduction.is_some(), "element {index:?} received twice");
            let before = if is_first { from_neutral } else { received[target].data[i] };
            received[target].data[i] =
                if transfer.reduction.is_some() { combine(transfer.reduction, before, value) } else { value };
            is_set[target].data[i] += 1;
        }
    }
    for tensor in tensors(shape, to.0, to.1, &received) {
        prop_assert_eq!(&tensor, &expected[0]);
    }
    Ok(transfers)
}

const AXES: [Axis; 3] = [Axis::Data, Axis::Context, Axis::Tensor];

/// A grid on ranks `first..` and a layout on it: per axis what to do, cuts at random places.
fn laid_out(shape: Vec<usize>) -> impl Strategy<Value = (Layout, Grid)> {
    let n_dims = shape.len();
    let cuts = prop::collection::vec(0..=1000_usize, 3);
    (
        prop::collection::vec(1..=3_usize, 3),
        prop::collection::vec(0..3_usize, 3),
        prop::collection::vec(0..n_dims, 3),
        prop::collection::vec(cuts, 3),
        any::<bool>(),
        0..6_usize,
    )
        .prop_map(move |(degrees, choices, dims, cuts, is_max, first)| {
            let mesh = Mesh::new(&AXES.into_iter().zip(degrees.iter().copied()).collect::<Vec<_>>()).unwrap();
            let reduction = if is_max { Reduction::Max } else { Reduction::Sum };
            let mut placements = Vec::new();
            for i in 0..3 {
                let is_cut = (0..i).any(|j| choices[j] == 1 && dims[j] == dims[i]);
                placements.push((
                    AXES[i],
                    match choices[i] {
                        1 if !is_cut => {
                            let size = shape[dims[i]];
                            let mut offsets: Vec<usize> =
                                cuts[i][..degrees[i] - 1].iter().map(|cut| cut * size / 1000).collect();
                            offsets.extend([0, size]);
                            offsets.sort();
                            Placement::Shard { dim: dims[i], offsets }
                        }
                        2 => Placement::Partial(reduction),
                        _ => Placement::Replicate,
                    },
                ));
            }
            let ranks = (first..first + mesh.n_ranks()).map(Rank).collect();
            (Layout::new(placements, &shape, &mesh).unwrap(), Grid::new(mesh, ranks).unwrap())
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_layout_to_any_other(
        (shape, from, to) in prop::collection::vec(1..=5_usize, 1..=3)
            .prop_flat_map(|shape| (Just(shape.clone()), laid_out(shape.clone()), laid_out(shape)))
    ) {
        let transfers = check(&shape, (&from.0, &from.1), (&to.0, &to.1))?;
        // What a destination has already, it does not get from elsewhere.
        for transfer in transfers.iter().filter(|transfer| transfer.reduction.is_none()) {
            if let Some(place) = from.1.ranks.iter().position(|&rank| rank == transfer.to) {
                let own = from.0.region(&shape, from.1.mesh.coordinates(Rank(place)));
                prop_assert!(transfer.from == transfer.to || own.intersection(&transfer.region).is_none());
            }
        }
        // The same layout on the same grid moves nothing.
        for transfer in check(&shape, (&from.0, &from.1), (&from.0, &from.1))? {
            prop_assert_eq!(transfer.from, transfer.to);
        }
    }
}

/// A stage's two replicas feed four ranks of the next: each sends to two.
#[test]
fn replicas_share_the_sending() {
    let grid = |degree: usize, first: usize| {
        let mesh = Mesh::new(&[(Axis::Data, degree)]).unwrap();
        Grid::new(mesh, (first..first + degree).map(Rank).collect()).unwrap()
    };
    let (from, to) = (grid(2, 0), grid(4, 2));
    let transfers = reshard(&[3, 5], (&Layout::replicated(), &from), (&Layout::replicated(), &to)).unwrap();
    let pairs: Vec<(usize, usize)> = transfers.iter().map(|transfer| (transfer.from.0, transfer.to.0)).collect();
    assert_eq!(pairs, [(0, 2), (1, 3), (0, 4), (1, 5)]);
}

/// Rows in parts of 2 and 3 to parts of 4 and 1: one local piece, one that moves, one local piece.
#[test]
fn uneven_rows() {
    let mesh = Mesh::new(&[(Axis::Tensor, 2)]).unwrap();
    let grid = Grid::new(mesh.clone(), vec![Rank(0), Rank(1)]).unwrap();
    let rows = |offsets: [usize; 3]| {
        let placement = Placement::Shard { dim: 0, offsets: offsets.to_vec() };
        Layout::new(vec![(Axis::Tensor, placement)], &[5, 3], &mesh).unwrap()
    };
    let transfers = reshard(&[5, 3], (&rows([0, 2, 5]), &grid), (&rows([0, 4, 5]), &grid)).unwrap();
    let moved: Vec<_> = transfers.iter().map(|t| (t.from.0, t.to.0, t.region.0[0].clone(), t.reduction)).collect();
    assert_eq!(moved, [(0, 0, 0..2, None), (1, 0, 2..4, None), (1, 1, 4..5, None)]);
}

/// The sum of two terms on one rank: an all-reduce's first half.
#[test]
fn terms_are_reduced() {
    let mesh = Mesh::new(&[(Axis::Data, 2)]).unwrap();
    let grid = Grid::new(mesh.clone(), vec![Rank(0), Rank(1)]).unwrap();
    let sum = Placement::Partial(Reduction::Sum);
    let partial = Layout::new(vec![(Axis::Data, sum.clone())], &[4], &mesh).unwrap();
    let one = Grid::single(Rank(1));
    let transfers = reshard(&[4], (&partial, &grid), (&Layout::replicated(), &one)).unwrap();
    let moved: Vec<_> = transfers.iter().map(|t| (t.from.0, t.to.0, t.reduction)).collect();
    assert_eq!(moved, [(0, 1, Some(Reduction::Sum)), (1, 1, Some(Reduction::Sum))]);

    let both = Mesh::new(&[(Axis::Data, 2), (Axis::Tensor, 2)]).unwrap();
    let max = Placement::Partial(Reduction::Max);
    let mixed = Layout::new(vec![(Axis::Data, sum), (Axis::Tensor, max)], &[4], &both).unwrap();
    let grid = Grid::new(both, (0..4).map(Rank).collect()).unwrap();
    let refused = reshard(&[4], (&mixed, &grid), (&Layout::replicated(), &one));
    assert!(matches!(refused, Err(MeshError::Layout { .. })), "{refused:?}");
}
