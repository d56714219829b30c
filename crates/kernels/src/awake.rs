//! Threads that wait awake.

use std::sync::atomic::{AtomicBool, Ordering};

/// Has the current pool's other threads look for work for as long as `work` runs, instead of falling asleep between two
/// calls of it. A drawn token is tens of short calls with other work between: q8 weights were read at 78 instead of 76 % of
/// memory's speed (4 layers, two threads). Costs their cores' time, but lets others have it. While one does, others do
/// without.
pub fn awake<T>(work: impl FnOnce() -> T) -> T {
    // Two on threads of one pool could each come to wait for the other, beneath its own work.
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Acquire) {
        return work();
    }
    let _free = Free(&TAKEN);
    let (done, own) = (AtomicBool::new(false), rayon::current_thread_index());
    rayon::in_place_scope(|scope| {
        scope.spawn_broadcast(|_, thread| {
            // The own thread comes by here when it waits for others; it must go on with its work.
            while own != Some(thread.index()) && !done.load(Ordering::Relaxed) {
                if rayon::yield_now() != Some(rayon::Yield::Executed) {
                    std::thread::yield_now();
                }
            }
        });
        let _end = End(&done);
        work()
    })
}

/// Lets others have it, after a panic too.
struct Free(&'static AtomicBool);

impl Drop for Free {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Lets the threads go when it ends, by a panic too.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    fn sums() -> Vec<u64> {
        (0..100).map(|n| (0..1000_u64).into_par_iter().map(|i| i * n).sum()).collect()
    }

    /// From within a pool, from outside, nested, beside others that do the same, and after a panic.
    #[test]
    fn work_is_done_and_threads_are_let_go() {
        let wanted = sums();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| awake(sums)), wanted);
            assert_eq!(pool.install(|| awake(|| awake(sums))), wanted);
            let both = pool.install(|| rayon::join(|| awake(sums), || awake(sums)));
            assert_eq!(both, (wanted.clone(), wanted.clone()));
            let panicked = pool.install(|| std::panic::catch_unwind(|| awake(|| panic!("as planned"))));
            assert!(panicked.is_err());
            assert_eq!(pool.install(sums), wanted);
        }
        assert_eq!(awake(sums), wanted);
    }
}
