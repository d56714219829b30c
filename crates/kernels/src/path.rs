//! Which of its two ways the CPU computes operations.

use std::sync::atomic::{AtomicBool, Ordering};

/// How the CPU computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Path {
    /// Fused loops, for f32.
    #[default]
    Fused,
    /// As every other device does: compositions of the tensor library's operations.
    Composed,
}

/// The one piece of global state: the tensor library hands its operations nothing but tensors.
static COMPOSED: AtomicBool = AtomicBool::new(false);

impl Path {
    /// Makes this the way of all operations on activations in this process from now on, but for products with packed
    /// matrices: these, AdamW, sums of squares and sizes have one way. Not to be changed between a forward and its
    /// backward, which may want what only the other way keeps.
    pub fn choose(self) {
        COMPOSED.store(self == Path::Composed, Ordering::Relaxed);
    }

    /// The way chosen last.
    pub fn chosen() -> Self {
        if COMPOSED.load(Ordering::Relaxed) { Path::Composed } else { Path::Fused }
    }
}
