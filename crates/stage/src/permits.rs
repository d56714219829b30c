//! Cores as a resource that rank threads share.

use std::sync::{Condvar, Mutex};

/// Permits granted in the order they were asked for.
#[derive(Debug)]
pub(crate) struct Permits {
    // Guards the queue's numbers only; never held while computing.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    next_ticket: u64,
    now_serving: u64,
}

/// A permit, given back when dropped.
pub(crate) struct Permit<'a>(&'a Permits);

impl Permits {
    pub fn new(permits: usize) -> Self {
        Self { state: Mutex::new(State { free: permits, next_ticket: 0, now_serving: 0 }), changed: Condvar::new() }
    }

    /// Waits for a permit, first come first served.
    pub fn acquire(&self) -> Permit<'_> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        while state.free == 0 || state.now_serving != ticket {
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        state.free -= 1;
        state.now_serving += 1;
        self.changed.notify_all();
        Permit(self)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.lock().free += 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn never_more_than_granted() {
        let (permits, running, most) = (Permits::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _permit = permits.acquire();
                        most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                        std::thread::yield_now();
                        running.fetch_sub(1, SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.load(SeqCst), 2);
    }
}
