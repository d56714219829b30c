//! Logical coordinates of ranks along named axes.

use crate::{MeshError, Rank};

/// A dimension of the device mesh. *Axis* is for meshes, *dim* for tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    /// Stages of a pipeline.
    Pipeline,
    /// Copies that see different data.
    Data,
    /// Pieces of one sequence.
    Context,
    /// Experts of a mixture.
    Expert,
    /// Pieces of one weight.
    Tensor,
}

impl Axis {
    /// All axes, slowest varying first: neighbours along `Tensor` have neighbouring ranks (Megatron's order).
    pub const ALL: [Axis; 5] = [Axis::Pipeline, Axis::Data, Axis::Context, Axis::Expert, Axis::Tensor];
}

/// Ranks arranged in a grid with one degree per axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    degrees: [usize; 5],
}

impl Mesh {
    /// A mesh with the given degrees; axes not named have degree 1.
    ///
    /// # Errors
    /// [`MeshError::ZeroDegree`] when a degree is 0, [`MeshError::AxisTwice`] when an axis is named twice.
    pub fn new(degrees: &[(Axis, usize)]) -> Result<Self, MeshError> {
        let mut all = [None; 5];
        for &(axis, degree) in degrees {
            if degree == 0 {
                return Err(MeshError::ZeroDegree { axis });
            }
            if all[axis as usize].replace(degree).is_some() {
                return Err(MeshError::AxisTwice { axis });
            }
        }
        Ok(Self { degrees: all.map(|degree| degree.unwrap_or(1)) })
    }

    /// Number of ranks along `axis`.
    pub fn degree(&self, axis: Axis) -> usize {
        self.degrees[axis as usize]
    }

    /// Number of ranks in all.
    pub fn n_ranks(&self) -> usize {
        self.degrees.iter().product()
    }

    /// Position of `rank` along every axis, in the order of [`Axis::ALL`].
    ///
    /// # Panics
    /// If the rank is outside the mesh.
    pub fn coordinates(&self, rank: Rank) -> [usize; 5] {
        assert!(rank.0 < self.n_ranks(), "rank {rank} in a mesh of {}", self.n_ranks());
        let mut rest = rank.0;
        let mut at = [0; 5];
        for axis in (0..5).rev() {
            at[axis] = rest % self.degrees[axis];
            rest /= self.degrees[axis];
        }
        at
    }

    /// The rank at the given coordinates.
    ///
    /// # Panics
    /// If a coordinate is outside its axis.
    pub fn rank(&self, at: [usize; 5]) -> Rank {
        Rank((0..5).fold(0, |rank, axis| {
            assert!(at[axis] < self.degrees[axis], "coordinate {} on {:?}", at[axis], Axis::ALL[axis]);
            rank * self.degrees[axis] + at[axis]
        }))
    }

    /// The groups along `axis`: lists of ranks that differ in that coordinate only, in order of their first rank.
    pub fn groups(&self, axis: Axis) -> Vec<Vec<Rank>> {
        (0..self.n_ranks())
            .map(Rank)
            .filter(|&rank| self.coordinates(rank)[axis as usize] == 0)
            .map(|first| {
                let mut at = self.coordinates(first);
                (0..self.degree(axis))
                    .map(|i| {
                        at[axis as usize] = i;
                        self.rank(at)
                    })
                    .collect()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 16-device example of Megatron-LM (tensor 2, pipeline 4, so data 2).
    #[test]
    fn megatron_groups() {
        let mesh = Mesh::new(&[(Axis::Pipeline, 4), (Axis::Data, 2), (Axis::Tensor, 2)]).unwrap();
        let groups = |axis| -> Vec<Vec<usize>> {
            mesh.groups(axis).into_iter().map(|g| g.into_iter().map(|r| r.0).collect()).collect()
        };
        assert_eq!(groups(Axis::Tensor)[..2], [vec![0, 1], vec![2, 3]]);
        assert_eq!(groups(Axis::Data)[..3], [vec![0, 2], vec![1, 3], vec![4, 6]]);
        assert_eq!(groups(Axis::Pipeline)[..2], [vec![0, 4, 8, 12], vec![1, 5, 9, 13]]);
        assert_eq!(groups(Axis::Expert).len(), 16);
        for rank in (0..16).map(Rank) {
            assert_eq!(mesh.rank(mesh.coordinates(rank)), rank);
        }
    }

    #[test]
    fn bad_degrees() {
        assert_eq!(Mesh::new(&[(Axis::Data, 0)]), Err(MeshError::ZeroDegree { axis: Axis::Data }));
        assert_eq!(Mesh::new(&[(Axis::Data, 2), (Axis::Data, 3)]), Err(MeshError::AxisTwice { axis: Axis::Data }));
    }
}
