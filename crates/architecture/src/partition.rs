//! Where a model is cut into stages.

use crate::{Architecture, ArchitectureError, Block};

/// Consecutive blocks per stage, every stage at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    stages: Vec<Vec<Block>>,
}

impl Partition {
    /// A model's blocks cut so that stage `i` has `sizes[i]` of them.
    ///
    /// # Errors
    /// [`ArchitectureError::Partition`] when a size is 0 or the sizes do not add up to the number of blocks.
    pub fn new(architecture: &Architecture, sizes: &[usize]) -> Result<Self, ArchitectureError> {
        let blocks = architecture.blocks();
        if sizes.contains(&0) || sizes.iter().sum::<usize>() != blocks.len() {
            return Err(ArchitectureError::Partition { sizes: sizes.to_vec(), blocks: blocks.len() });
        }
        let mut rest = blocks.as_slice();
        let mut stages = Vec::new();
        for &size in sizes {
            let (stage, after) = rest.split_at(size);
            stages.push(stage.to_vec());
            rest = after;
        }
        Ok(Self { stages })
    }

    /// The blocks of each stage.
    pub fn stages(&self) -> &[Vec<Block>] {
        &self.stages
    }

    /// Number of stages.
    pub fn n_stages(&self) -> usize {
        self.stages.len()
    }
}
