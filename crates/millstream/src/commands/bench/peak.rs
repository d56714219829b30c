//! What the machine can do at most.

use crate::speed::{PRODUCTS, Speed, is_unsteady};
use burn::tensor::{DType, Device, Distribution, Tensor};
use serde::Serialize;
use stage::Precision;
use std::time::{Duration, Instant};

/// Rows and columns of the products' matrices: on a GPU large enough to fill it.
const OF_CORES: usize = 2048;
const OF_A_GPU: usize = 8192;
/// Sums of which the best is the bandwidth of reading: about a second.
const SUMS: usize = 100;
/// Elements of each of a GPU's arrays: 1 GB, outside every cache.
const ELEMENTS: usize = 1 << 28;

/// Rates on the threads of the current pool, or of a GPU.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Peak {
    /// The best of several products of square matrices.
    pub matmul_gflops: f64,
    /// The same once everything else was measured.
    matmul_gflops_after: Option<f64>,
    /// Of what: their rows and columns, and the numbers.
    matmul_size: usize,
    matmul_precision: &'static str,
    /// Of `a = b + 3 c` on arrays outside every cache (a GPU's: `b + c`), two reads and a write.
    pub memory_gbytes_per_s: f64,
    /// Of reading alone; a GPU's is not measured.
    pub memory_read_gbytes_per_s: Option<f64>,
}

/// Takes about three seconds. A GPU's products are of the library that training uses, in the precision that it uses; cores'
/// are f32.
pub fn measure(device: &Device, precision: Precision) -> Peak {
    if *device == Device::flex() {
        return Peak {
            matmul_gflops: Speed::now().peak_gflops,
            matmul_gflops_after: None,
            matmul_size: OF_CORES,
            matmul_precision: "f32",
            memory_gbytes_per_s: kernels::memory_gbytes_per_s(Duration::from_secs(1)),
            memory_read_gbytes_per_s: Some(kernels::Sweep::new().best_gbytes_per_s(SUMS)),
        };
    }
    let (dtype, matmul_precision) = match precision {
        Precision::F32 => (DType::F32, "f32"),
        Precision::Bf16 => (DType::BF16, "bf16"),
    };
    let drawn = || Tensor::<2>::random([OF_A_GPU; 2], Distribution::Normal(0.0, 1.0), device).cast(dtype);
    let [a, b] = [drawn(), drawn()];
    let product_s = quickest_s(device, || a.clone().matmul(b.clone()));
    let [b, c] = [1.0, 2.0].map(|value| Tensor::<1>::full([ELEMENTS], value, device));
    let sum_s = quickest_s(device, || b.clone() + c.clone());
    Peak {
        matmul_gflops: 1e-9 * 2.0 * (OF_A_GPU as f64).powi(3) / product_s,
        matmul_gflops_after: None,
        matmul_size: OF_A_GPU,
        matmul_precision,
        memory_gbytes_per_s: 1e-9 * 3.0 * 4.0 * ELEMENTS as f64 / sum_s,
        memory_read_gbytes_per_s: None,
    }
}

/// The least time, after three times not counted in which its kernels are compiled and chosen. The result is held until
/// the device is done: what nobody holds is not computed.
fn quickest_s<T>(device: &Device, work: impl Fn() -> T) -> f64 {
    let seconds = |_| {
        let start = Instant::now();
        let _result = work();
        device.sync().expect("invariant: a device that was opened computes");
        start.elapsed().as_secs_f64()
    };
    (0..3 + PRODUCTS).map(seconds).skip(3).fold(f64::INFINITY, f64::min)
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
        let reading = self.memory_read_gbytes_per_s.map(|rate| format!(", reading {rate:.1} GB/s")).unwrap_or_default();
        let Self { matmul_gflops, matmul_size, matmul_precision, memory_gbytes_per_s, .. } = self;
        format!(
            "product     {matmul_gflops:.1} GFLOP/s ({matmul_precision}, {matmul_size} cubed, best of {PRODUCTS}){moved}\n\
             bandwidth   {memory_gbytes_per_s:.1} GB/s{reading}\n"
        )
    }
}
