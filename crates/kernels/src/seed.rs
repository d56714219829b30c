//! Starting a backward pass from a gradient that comes from elsewhere, later.

use crate::Kernels;
use burn::backend::{Dispatch, DispatchTensor};
use burn::tensor::{DType, Gradients, Tensor};
use std::sync::{Arc, Mutex};

/// Where a backward pass finds the gradient it starts from.
pub type Slot = Arc<Mutex<Option<DispatchTensor>>>;

/// The end of a tracked computation, waiting for its gradient. Holds the graph but not the output's values, so these
/// can be sent away without a copy.
#[derive(Debug)]
pub struct Seed<const D: usize> {
    shape: [usize; D],
    dtype: DType,
    scalar: Tensor<1>,
    slot: Slot,
}

impl<const D: usize> Seed<D> {
    /// Splits a tracked output into its seed and its plain values.
    pub fn new(y: Tensor<D>) -> (Self, Tensor<D>) {
        let slot = Slot::default();
        let (shape, dtype, values) = (y.dims(), y.dtype(), y.clone().inner());
        let scalar = Tensor::from_dispatch(<Dispatch as Kernels>::seeded(y.into_dispatch(), slot.clone()));
        (Self { shape, dtype, scalar, slot }, values)
    }

    /// The backward pass with `gradient` (plain, of any dtype) as the output's gradient. A hundred times cheaper than
    /// `(y * gradient).sum().backward()` and equal to the bit.
    ///
    /// # Panics
    /// When the gradient's shape is not the output's: burn does not check.
    pub fn backward(self, gradient: Tensor<D>) -> Gradients {
        assert_eq!(gradient.dims(), self.shape, "a gradient has the shape of its tensor");
        let gradient = if gradient.dtype() == self.dtype { gradient } else { gradient.cast(self.dtype) };
        *self.slot.lock().expect("invariant: nobody panics while holding the slot") = Some(gradient.into_dispatch());
        self.scalar.backward()
    }
}
