//! Updates that came too early.

/// How an update by the norm of only some ranks is taken back when the norm of all asks for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RollBack {
    /// From a copy of weights and moments, three f32 a parameter, that is kept until the update is validated. The step's
    /// outcome is that of a barrier, to the bit.
    #[default]
    Copy,
    /// By inverting the update's arithmetic (see `kernels::AdamW::undo`): nothing is kept, and what was taken back is as before
    /// up to rounding. Betas must be above 0 and the rate times the decay below 1, and the update finite in f32: squares
    /// of gradients after clipping, of all unless another rank's are not finite.
    Invert,
}
