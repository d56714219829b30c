//! Processor cores as a resource that ranks share.

use crate::Rank;

/// A group of ranks that share `permits` permits for compute, granted in list order: a rank holds one permit for the
/// length of one compute action and runs its kernels on `threads` threads. The simulator and the runtime read the
/// same value, so four stages on two cores are predictable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Who shares. A rank is in at most one group; a rank in none has its device to itself.
    pub ranks: Vec<Rank>,
    /// How many of them may compute at once. At least 1.
    pub permits: usize,
    /// Kernel threads that one permit grants. At least 1.
    pub threads: usize,
}

impl Cores {
    /// `n_cores` shared by ranks `0..n_ranks`: as many permits as can each have a whole core, the cores spread over
    /// the permits.
    pub fn shared(n_ranks: usize, n_cores: usize) -> Self {
        let n_cores = n_cores.max(1);
        let permits = n_ranks.clamp(1, n_cores);
        Self { ranks: (0..n_ranks).map(Rank).collect(), permits, threads: n_cores / permits }
    }
}
