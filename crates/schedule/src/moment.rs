//! A time to order events by.

/// A time, which is never negative, by its bits: they are ordered as the times are and compared faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// This time, in any unit.
    pub fn new(at: f64) -> Self {
        Self(at.to_bits())
    }

    /// The time.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}
