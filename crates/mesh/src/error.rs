//! What can be wrong with a geometry.

use crate::{Axis, Rank};

/// An arrangement that cannot exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// A degree of 0.
    #[error("axis {axis:?} has degree 0; give at least 1")]
    ZeroDegree {
        /// Which axis.
        axis: Axis,
    },
    /// The same axis given two degrees.
    #[error("axis {axis:?} is given twice")]
    AxisTwice {
        /// Which axis.
        axis: Axis,
    },
    /// A grid whose mesh does not match its list of ranks.
    #[error("a grid of {mesh} places is given {ranks} ranks (and spans no pipeline axis)")]
    GridSize {
        /// Places in the mesh.
        mesh: usize,
        /// Ranks given.
        ranks: usize,
    },
    /// A rank twice in one grid.
    #[error("rank {rank} is named twice in one stage")]
    RankTwice {
        /// Which rank.
        rank: Rank,
    },
    /// A stage map without stages.
    #[error("a pipeline needs at least one stage")]
    NoStages,
    /// A layout that does not fit the tensor or the mesh.
    #[error("layout: {problem}")]
    Layout {
        /// In words, with the numbers found and wanted.
        problem: String,
    },
}
