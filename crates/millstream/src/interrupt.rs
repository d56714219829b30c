//! Ctrl-C and requests to terminate.

use anyhow::Context;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Raised by the first request to stop; a second one ends the process at once.
#[derive(Default)]
pub struct Interrupt {
    raised: AtomicBool,
    /// What is to be put in order before the process ends at once. Held while it is set or called.
    before_exit: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Interrupt {
    /// Raised from now on by Ctrl-C and by a request to terminate.
    ///
    /// # Errors
    /// The system takes no handler.
    pub fn installed() -> anyhow::Result<Arc<Self>> {
        let interrupt = Arc::new(Self::default());
        let raised = interrupt.clone();
        ctrlc::set_handler(move || raised.raise()).context("the handler for Ctrl-C cannot be installed")?;
        Ok(interrupt)
    }

    /// For those who finish what they are at and then look.
    pub fn flag(&self) -> &AtomicBool {
        &self.raised
    }

    /// Asks to stop; the second time, ends the process.
    pub fn raise(&self) {
        if self.raised.swap(true, Ordering::Relaxed) {
            if let Some(put_in_order) = &*self.before_exit.lock().unwrap_or_else(PoisonError::into_inner) {
                put_in_order();
            }
            std::process::exit(130);
        }
    }

    /// Lets `put_in_order` run before the process ends at once.
    pub fn before_exit(&self, put_in_order: impl Fn() + Send + 'static) {
        *self.before_exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(put_in_order));
    }
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupt").field("raised", &self.raised).finish_non_exhaustive()
    }
}
