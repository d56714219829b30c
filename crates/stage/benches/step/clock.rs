//! What time is taken from.

use burn::tensor::{Device, Tensor};
use std::time::Instant;

/// Of one thread the process's own CPU time, which busy neighbours do not lengthen; of several the wall's.
#[derive(Clone, Copy)]
pub enum Clock {
    Wall,
    Cpu,
}

impl Clock {
    pub fn of(threads: usize) -> Self {
        if threads == 1 { Self::Cpu } else { Self::Wall }
    }

    /// As [`crate::comparison`] names it to the peer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall",
            Self::Cpu => "cpu",
        }
    }

    /// What `work` gives, and the seconds it took.
    pub fn time<T>(self, work: impl FnOnce() -> T) -> (f64, T) {
        match self {
            Self::Wall => {
                let begin = Instant::now();
                let result = work();
                (begin.elapsed().as_secs_f64(), result)
            }
            Self::Cpu => {
                let begin = process_s();
                let result = work();
                (process_s() - begin, result)
            }
        }
    }

    /// GFLOP/s of a product of 2048-cubed matrices on `threads` threads, the middle of several.
    pub fn product_gflops(self, threads: usize) -> f64 {
        const SIDE: usize = 2048;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let matrix = |value| -> Tensor<2> { Tensor::full([SIDE, SIDE], value, &Device::flex()) };
        let (a, b) = (matrix(3.0), matrix(0.5));
        let product = || drop(pool.install(|| kernels::linear_input_gradient(a.clone(), b.clone())));
        let seconds: Vec<f64> = (0..9).map(|_| self.time(product).0).collect();
        2e-9 * (SIDE as f64).powi(3) / crate::median(&seconds)
    }
}

/// CPU time of all threads of this process.
fn process_s() -> f64 {
    #[cfg(unix)]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: it writes to the structure, which outlives the call.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
        assert_eq!(result, 0, "a process has a clock");
        time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
    }
    #[cfg(not(unix))]
    panic!("CPU time is taken on Unix only; ask for two threads")
}
