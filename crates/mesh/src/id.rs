//! Newtypes for the things that are counted: a number of one kind cannot be passed for another.

use std::fmt;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub usize);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index!(
    /// One place where work is done: a thread or a process, with its own device. Counted from 0.
    Rank
);
index!(
    /// A run of consecutive half-layer blocks. A virtual stage is just a stage; several may lie on one rank.
    Stage
);
index!(
    /// One of the equal parts of a step's batch that travel through the pipeline one after the other.
    Microbatch
);
index!(
    /// Position in a microbatch's [`Route`](crate::Route): the n-th stage it visits, which is not the n-th stage.
    Hop
);
index!(
    /// A piece of a sequence that travels by itself; 0 when sequences are not cut.
    Segment
);

/// One visit: what saved activations, queued weight gradients and message tags are keyed by.
///
/// Never keyed by stage alone: a looped model visits a stage twice with the same microbatch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Which microbatch.
    pub microbatch: Microbatch,
    /// Which visit of its route.
    pub hop: Hop,
    /// Which piece of its sequence.
    pub segment: Segment,
}

impl Key {
    /// The visit of `microbatch` at `hop`, for a sequence that is not cut.
    pub fn new(microbatch: usize, hop: usize) -> Self {
        Self { microbatch: Microbatch(microbatch), hop: Hop(hop), segment: Segment(0) }
    }

    /// The same microbatch and segment at another hop.
    pub fn at(self, hop: usize) -> Self {
        Self { hop: Hop(hop), ..self }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "microbatch {} hop {}", self.microbatch, self.hop)?;
        match self.segment {
            Segment(0) => Ok(()),
            segment => write!(f, " segment {segment}"),
        }
    }
}
