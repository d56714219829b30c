//! What a forward leaves for its backward.

use burn::tensor::Tensor;
use kernels::{WeightGrad, WeightGrads};
use std::sync::mpsc::{Receiver, channel};

/// Whether a forward is to be differentiated.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack of a visit")]
#[derive(Debug)]
pub enum Tape {
    /// Plain values; nothing is kept.
    Untracked,
    /// Leaves are made and recorded.
    Tracked(Tracked),
}

/// Leaves of one tracked forward. Every visit makes its own, so that graphs of different microbatches never merge and
/// no leaf is shared between threads.
#[derive(Debug)]
pub struct Tracked {
    /// The part's input `[n, hidden]`: what the embedding looked up, or what arrived.
    pub source: Option<Tensor<2>>,
    /// Parameters that autodiff differentiates (norms, biases): number and leaf.
    pub leaves: Vec<(usize, Tensor<1>)>,
    /// What linear layers' backwards leave.
    pub weight_grads: Receiver<WeightGrad>,
    sender: WeightGrads,
}

impl Tape {
    /// A fresh tape that records.
    pub fn tracked() -> Self {
        let (sender, weight_grads) = channel();
        Tape::Tracked(Tracked { source: None, leaves: Vec::new(), weight_grads, sender: WeightGrads(sender) })
    }

    /// The parameter's values, as a recorded leaf when tracked.
    pub(crate) fn leaf(&mut self, parameter: usize, value: Tensor<1>) -> Tensor<1> {
        match self {
            Tape::Untracked => value,
            Tape::Tracked(tracked) => {
                let leaf = Tensor::from_inner(value).require_grad();
                tracked.leaves.push((parameter, leaf.clone()));
                leaf
            }
        }
    }

    /// The part's input, as a recorded leaf when tracked.
    pub(crate) fn source(&mut self, hidden: Tensor<2>) -> Tensor<2> {
        match self {
            Tape::Untracked => hidden,
            Tape::Tracked(tracked) => {
                let leaf = Tensor::from_inner(hidden).require_grad();
                tracked.source = Some(leaf.clone());
                leaf
            }
        }
    }

    /// `x w^T`, the weight's gradient queued when tracked.
    pub(crate) fn linear(&self, x: Tensor<2>, w: Tensor<2>, parameter: usize) -> Tensor<2> {
        match self {
            Tape::Untracked => x.matmul(w.transpose()),
            Tape::Tracked(tracked) => kernels::linear(x, w, parameter, tracked.sender.clone()),
        }
    }
}
