//! Steps whose gradients are no numbers.

/// What becomes of a step whose gradient norm is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NotFinite {
    /// It fails, and the pipeline stops.
    #[default]
    Stop,
    /// It updates nothing: weights and moments keep their bits.
    Skip,
}
