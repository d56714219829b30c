//! How one tensor lies on a grid of ranks.

use crate::{Axis, Mesh, MeshError};

/// How partial values combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Values add.
    Sum,
    /// The largest counts.
    Max,
}

/// What the ranks along one axis hold of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Every rank holds all of it.
    Replicate,
    /// Rank `i` of the axis holds indices `offsets[i]..offsets[i + 1]` of dimension `dim`. Uneven and empty parts are
    /// allowed.
    Shard {
        /// The dimension that is cut.
        dim: usize,
        /// Degree + 1 ascending numbers from 0 to the dimension's size.
        offsets: Vec<usize>,
    },
    /// Every rank holds a term; the tensor is their sum or maximum.
    Partial(Reduction),
}

impl Placement {
    /// `size` cut into `degree` parts that differ by at most one, the larger ones first.
    pub fn even(dim: usize, size: usize, degree: usize) -> Self {
        let part = |i: usize| size / degree * i + i.min(size % degree);
        Placement::Shard { dim, offsets: (0..=degree).map(part).collect() }
    }
}

/// A placement for every axis of a mesh; axes not named replicate. An axis later in the list cuts what the earlier
/// ones left only if it names another dimension: one dimension is cut by at most one axis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Layout(Vec<(Axis, Placement)>);

impl Layout {
    /// Every rank holds all of the tensor.
    pub fn replicated() -> Self {
        Self(Vec::new())
    }

    /// The given placements, checked against a tensor's shape and a mesh.
    ///
    /// # Errors
    /// [`MeshError::Layout`] when an axis or a dimension is named twice, a dimension does not exist, or offsets are
    /// not degree + 1 ascending numbers from 0 to the dimension's size.
    pub fn new(placements: Vec<(Axis, Placement)>, shape: &[usize], mesh: &Mesh) -> Result<Self, MeshError> {
        let layout = Self(placements);
        layout.check(shape, mesh)?;
        Ok(layout)
    }

    /// The placement along `axis`.
    pub fn placement(&self, axis: Axis) -> &Placement {
        self.0.iter().find(|(a, _)| *a == axis).map_or(&Placement::Replicate, |(_, placement)| placement)
    }

    /// Whether the layout fits a shape and a mesh; see [`Layout::new`].
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn check(&self, shape: &[usize], mesh: &Mesh) -> Result<(), MeshError> {
        let bad = |problem: String| Err(MeshError::Layout { problem });
        let mut dims = Vec::new();
        for (i, (axis, placement)) in self.0.iter().enumerate() {
            if self.0[..i].iter().any(|(other, _)| other == axis) {
                return bad(format!("axis {axis:?} is placed twice"));
            }
            let Placement::Shard { dim, offsets } = placement else { continue };
            if *dim >= shape.len() {
                return bad(format!("{axis:?} cuts dimension {dim} of a tensor with {} dimensions", shape.len()));
            }
            if dims.contains(dim) {
                return bad(format!("dimension {dim} is cut by two axes"));
            }
            dims.push(*dim);
            let (degree, size) = (mesh.degree(*axis), shape[*dim]);
            let ascending = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
            if offsets.len() != degree + 1 || offsets[0] != 0 || offsets[degree] != size || !ascending {
                return bad(format!("{axis:?} of degree {degree} cuts {size} indices at {offsets:?}"));
            }
        }
        Ok(())
    }
}
