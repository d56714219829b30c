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

/// The middle one of the finite numbers.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.into_iter().filter(|number| number.is_finite()).collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}

/// Whether a rate that was `before` and is `after` is no yardstick for what was measured in between.
pub fn is_unsteady(before: f64, after: f64) -> bool {
    (after / before - 1.0).abs() > UNSTEADY
}
