//! Which ranks hold which stage.

use crate::{Axis, MeshError, Rank, Route, Stage, Visit};

/// The ranks of one stage, arranged along the axes within a stage (data, context, expert, tensor). Stages may have
/// different grids; equal grids are the special case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// How the ranks are arranged; the pipeline degree is 1.
    pub mesh: crate::Mesh,
    /// The ranks, indexed by their place in `mesh`.
    pub ranks: Vec<Rank>,
}

impl Grid {
    /// A stage on one rank.
    pub fn single(rank: Rank) -> Self {
        Self { mesh: crate::Mesh::new(&[]).expect("invariant: no degrees, no error"), ranks: vec![rank] }
    }

    /// A stage over several ranks.
    ///
    /// # Errors
    /// When the mesh spans the pipeline axis, its size is not the number of ranks, or a rank is named twice.
    pub fn new(mesh: crate::Mesh, ranks: Vec<Rank>) -> Result<Self, MeshError> {
        if mesh.degree(Axis::Pipeline) != 1 || mesh.n_ranks() != ranks.len() {
            return Err(MeshError::GridSize { mesh: mesh.n_ranks(), ranks: ranks.len() });
        }
        match ranks.iter().enumerate().find(|(i, rank)| ranks[..*i].contains(rank)) {
            Some((_, &rank)) => Err(MeshError::RankTwice { rank }),
            None => Ok(Self { mesh, ranks }),
        }
    }
}

/// For each stage the grid of ranks that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageMap(Vec<Grid>);

impl StageMap {
    /// Stage `i` on the grid `grids[i]`.
    ///
    /// # Errors
    /// [`MeshError::NoStages`] when there are none.
    pub fn new(grids: Vec<Grid>) -> Result<Self, MeshError> {
        if grids.is_empty() { Err(MeshError::NoStages) } else { Ok(Self(grids)) }
    }

    /// Stage `i` on rank `i`.
    pub fn one_per_rank(n_stages: usize) -> Self {
        Self::looped(n_stages, n_stages)
    }

    /// Stage `i` on rank `i % n_ranks`.
    ///
    /// # Panics
    /// If either count is 0.
    pub fn looped(n_stages: usize, n_ranks: usize) -> Self {
        assert!(n_stages > 0 && n_ranks > 0, "{n_stages} stages on {n_ranks} ranks");
        Self((0..n_stages).map(|stage| Grid::single(Rank(stage % n_ranks))).collect())
    }

    /// Number of stages.
    pub fn n_stages(&self) -> usize {
        self.0.len()
    }

    /// One more than the highest rank named.
    pub fn n_ranks(&self) -> usize {
        self.0.iter().flat_map(|grid| &grid.ranks).map(|rank| rank.0 + 1).max().unwrap_or(0)
    }

    /// The grid of a stage.
    pub fn grid(&self, stage: Stage) -> &Grid {
        &self.0[stage.0]
    }

    /// The stages that lie on `rank`, in order.
    pub fn stages_on(&self, rank: Rank) -> Vec<Stage> {
        (0..self.0.len()).map(Stage).filter(|stage| self.0[stage.0].ranks.contains(&rank)).collect()
    }

    /// The route through all stages in order, on the first rank of each.
    pub fn route(&self) -> Route {
        Route::new(self.0.iter().enumerate().map(|(i, grid)| Visit { stage: Stage(i), rank: grid.ranks[0] }).collect())
    }
}
