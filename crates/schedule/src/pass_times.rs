//! What the generators that weigh passes against each other are told.

/// Times and memory of the passes of every hop of a route, in any unit that is the same for all. A schedule made for
/// one set of times can be played with any other: it only fits less well.
#[derive(Clone, Debug, PartialEq)]
pub struct PassTimes {
    /// `F` of hop `i`.
    pub forward: Vec<f64>,
    /// `I` of hop `i`.
    pub backward_input: Vec<f64>,
    /// `W` of hop `i`.
    pub backward_weight: Vec<f64>,
    /// A message between two ranks.
    pub message: f64,
    /// Memory that `F` of hop `i` takes up.
    pub activation: Vec<f64>,
    /// The part of it that `I` leaves for `W` to free.
    pub kept_for_weight: Vec<f64>,
    /// Most memory of activations that a rank may hold at once; `None` leaves it to the schedule.
    pub memory_limit: Option<f64>,
}

impl PassTimes {
    /// Equal hops: every pass takes 1, messages nothing; a forward takes up 1, half of it until `W`.
    pub fn equal(n_hops: usize) -> Self {
        Self {
            forward: vec![1.0; n_hops],
            backward_input: vec![1.0; n_hops],
            backward_weight: vec![1.0; n_hops],
            message: 0.0,
            activation: vec![1.0; n_hops],
            kept_for_weight: vec![0.5; n_hops],
            memory_limit: None,
        }
    }
}
