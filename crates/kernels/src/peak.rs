//! What this machine can do at most, measured: the yardstick of a run's speed.

use crate::product::{Into, Matrix, product};
use crate::tile::Isa;
use crate::vector::{sum, vectorised};
use std::time::{Duration, Instant};

/// Sides of the product that is timed.
const SIDE: usize = 2048;

/// Floating-point operations per second of a large f32 product, the best of several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatmulPeak {
    /// On one thread, in GFLOP/s.
    pub one_thread_gflops: f64,
    /// On all cores of the current thread pool, in GFLOP/s.
    pub all_cores_gflops: f64,
}

/// Times products of 2048-cubed matrices for about `budget` in all, at least two of each kind. Alternates, so that a
/// busy neighbour slows both kinds.
pub fn matmul_peak(budget: Duration) -> MatmulPeak {
    let (lhs, rhs) = (matrix(3), matrix(5));
    let mut product = vec![0.0; SIDE * SIDE];
    let mut peak = MatmulPeak { one_thread_gflops: 0.0, all_cores_gflops: 0.0 };
    let begin = Instant::now();
    let mut n_rounds = 0;
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can be started");
    while n_rounds < 2 || begin.elapsed() < budget {
        let alone = one_thread.install(|| gflops(&mut product, &lhs, &rhs));
        peak.one_thread_gflops = peak.one_thread_gflops.max(alone);
        peak.all_cores_gflops = peak.all_cores_gflops.max(gflops(&mut product, &lhs, &rhs));
        n_rounds += 1;
    }
    peak
}

/// The rates of `n` such products on all cores of the current thread pool, in GFLOP/s: their best is the machine's peak,
/// their middle one its speed at this moment.
pub fn matmul_rates(n: usize) -> Vec<f64> {
    let (lhs, rhs) = (matrix(3), matrix(5));
    let mut product = vec![0.0; SIDE * SIDE];
    (0..n).map(|_| gflops(&mut product, &lhs, &rhs)).collect()
}

fn gflops(c: &mut [f32], lhs: &[f32], rhs: &[f32]) -> f64 {
    let begin = Instant::now();
    product(Isa::detect(), c, [SIDE; 3], Matrix::new(lhs, SIDE), Matrix::new(rhs, SIDE), Into::Place);
    let gflops = 2e-9 * (SIDE as f64).powi(3) / begin.elapsed().as_secs_f64();
    std::hint::black_box(c);
    gflops
}

/// Small whole numbers, so that no value is special.
fn matrix(step: usize) -> Vec<f32> {
    (0..SIDE * SIDE).map(|i| (i * step % 17) as f32).collect()
}

/// Memory bandwidth of `a[i] = b[i] + 3 c[i]` on all cores, in GB/s counting two reads and a write; the best of about
/// `budget`. Arrays of 96 MB in all lie outside every cache.
pub fn memory_gbytes_per_s(budget: Duration) -> f64 {
    use rayon::prelude::*;
    const LENGTH: usize = 8 << 20;
    const CHUNK: usize = 1 << 16;
    let (b, c) = (vec![1.0_f32; LENGTH], vec![2.0_f32; LENGTH]);
    let mut a = vec![0.0_f32; LENGTH];
    let mut best = 0.0_f64;
    let begin = Instant::now();
    while best == 0.0 || begin.elapsed() < budget {
        let round = Instant::now();
        a.par_chunks_mut(CHUNK).zip(b.par_chunks(CHUNK)).zip(c.par_chunks(CHUNK)).for_each(|((a, b), c)| {
            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                *a = b + 3.0 * c;
            }
        });
        best = best.max(12e-9 * LENGTH as f64 / round.elapsed().as_secs_f64());
        std::hint::black_box(&mut a);
    }
    best
}

/// Memory to read, 256 MiB in pages of 2 MB: outside every cache.
#[derive(Debug)]
pub struct Sweep(Vec<f32>);

impl Sweep {
    /// Memory of this process's own.
    #[expect(clippy::new_without_default, reason = "it takes 256 MiB")]
    pub fn new() -> Self {
        let data = vec![1.0; 64 << 20];
        crate::huge_pages::collapse(&data);
        Self(data)
    }

    /// Memory bandwidth of reading alone on all cores of the current thread pool, in GB/s, by one sum of everything: what
    /// drawing tokens one by one is held against. Some 10 ms.
    pub fn gbytes_per_s(&self) -> f64 {
        use rayon::prelude::*;
        const CHUNK: usize = 1 << 18;
        let begin = Instant::now();
        let total: f32 = self.0.par_chunks(CHUNK).map(read).sum();
        std::hint::black_box(total);
        4e-9 * self.0.len() as f64 / begin.elapsed().as_secs_f64()
    }

    /// The best of `n` sums.
    pub fn best_gbytes_per_s(&self, n: usize) -> f64 {
        (0..n).map(|_| self.gbytes_per_s()).fold(0.0, f64::max)
    }
}

#[inline(always)]
fn read_all<const FMA: bool>(data: &[f32]) -> f32 {
    sum(data.len(), |i| data[i])
}
vectorised!(fn read(data: &[f32]) -> f32 = read_all);

#[cfg(test)]
mod tests {
    use super::*;

    /// The product that is timed is a product: an element against the sum that defines it, exact in whole numbers.
    #[test]
    fn the_timed_product_is_right() {
        let (lhs, rhs) = (matrix(3), matrix(5));
        let mut product = vec![0.0; SIDE * SIDE];
        for threads in [1, 2] {
            product.fill(f32::NAN);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(|| gflops(&mut product, &lhs, &rhs)) > 0.0);
            for (row, column) in [(0, 0), (7, 1999), (2047, 2047)] {
                let sum: f32 = (0..SIDE).map(|k| lhs[row * SIDE + k] * rhs[k * SIDE + column]).sum();
                assert_eq!(product[row * SIDE + column], sum, "element {row} {column}");
            }
        }
    }
}
