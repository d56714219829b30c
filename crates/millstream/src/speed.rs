//! How fast this machine is, in matrix products.

/// Products that are timed: their best is the machine's peak, their middle one its speed now.
pub const PRODUCTS: usize = 5;

/// A change of the machine's speed that is told: as large as makes a measurement void (docs/prediction.md).
const UNSTEADY: f64 = 0.05;

/// What this machine can do.
#[derive(Clone, Copy)]
pub struct Speed {
    /// At most.
    pub peak_gflops: f64,
    /// At this moment.
    pub gflops: f64,
}

impl Speed {
    /// On the threads of the current pool.
    pub fn now() -> Self {
        let mut rates = kernels::matmul_rates(PRODUCTS);
        rates.sort_by(f64::total_cmp);
        Self { peak_gflops: rates[PRODUCTS - 1], gflops: rates[PRODUCTS / 2] }
    }
}

/// Whether a rate that was `before` and is `after` is no yardstick for what was measured in between.
pub fn is_unsteady(before: f64, after: f64) -> bool {
    (after / before - 1.0).abs() > UNSTEADY
}
