//! What the machine can do at most.

use crate::speed::{PRODUCTS, Speed, is_unsteady};
use serde::Serialize;
use std::time::Duration;

/// Rates on the threads of the current pool.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Peak {
    /// The best of several f32 products of 2048-cubed matrices.
    pub matmul_gflops: f64,
    /// The same once everything else was measured.
    matmul_gflops_after: Option<f64>,
    /// Of `a = b + 3 c` on arrays outside every cache, two reads and a write.
    pub memory_gbytes_per_s: f64,
    /// Of reading alone.
    pub memory_read_gbytes_per_s: f64,
}

/// Takes about three seconds.
pub fn measure() -> Peak {
    Peak {
        matmul_gflops: Speed::now().peak_gflops,
        matmul_gflops_after: None,
        memory_gbytes_per_s: kernels::memory_gbytes_per_s(Duration::from_secs(1)),
        memory_read_gbytes_per_s: kernels::memory_read_gbytes_per_s(Duration::from_secs(1)),
    }
}

impl Peak {
    /// With what a later measurement found.
    pub fn moved_to(self, after: &Peak) -> Self {
        Self { matmul_gflops_after: Some(after.matmul_gflops), ..self }
    }

    pub fn page(&self) -> String {
        let after = self.matmul_gflops_after.unwrap_or(self.matmul_gflops);
        let moved = match is_unsteady(self.matmul_gflops, after) {
            true => format!("; {after:.0} at the end: the machine is not steady, measure again"),
            false => String::new(),
        };
        format!(
            "product     {:.1} GFLOP/s (f32, 2048 cubed, best of {PRODUCTS}){moved}\nbandwidth   {:.1} GB/s, \
             reading {:.1} GB/s\n",
            self.matmul_gflops, self.memory_gbytes_per_s, self.memory_read_gbytes_per_s
        )
    }
}
