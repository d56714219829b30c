//! What a forward leaves for its backward.

use architecture::Block;
use burn::tensor::{DType, Tensor};
use kernels::{Size, WeightGrad, WeightGrads, WeightPlace};
use std::sync::mpsc::{Receiver, channel};

/// Whether a forward is to be differentiated.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack of a visit")]
#[derive(Debug)]
pub enum Tape {
    /// Plain values; nothing is kept.
    Untracked,
    /// Plain values; of the residual stream after each block only its size is kept.
    Watched(Vec<(Block, Size)>),
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

    /// Looks at the residual stream that a block gives, `[n, hidden_size]`.
    pub(crate) fn block(&mut self, block: Block, hidden: &Tensor<2>) {
        if let Tape::Watched(seen) = self {
            let [n, width] = hidden.dims();
            seen.push((block, Size::of(&hidden.clone().cast(DType::F32).reshape([n * width]))));
        }
    }

    /// The parameter's values, as a recorded leaf when tracked.
    pub(crate) fn leaf(&mut self, parameter: usize, value: Tensor<1>) -> Tensor<1> {
        match self {
            Tape::Untracked | Tape::Watched(_) => value,
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
            Tape::Untracked | Tape::Watched(_) => hidden,
            Tape::Tracked(tracked) => {
                let leaf = Tensor::from_inner(hidden).require_grad();
                tracked.source = Some(leaf.clone());
                leaf
            }
        }
    }

    /// `x w^T`, the weight's gradient queued when tracked.
    pub(crate) fn linear(&self, x: Tensor<2>, w: Tensor<2>, place: WeightPlace) -> Tensor<2> {
        match self {
            Tape::Untracked | Tape::Watched(_) => kernels::linear_forward(x, w),
            Tape::Tracked(tracked) => kernels::linear(x, w, place, tracked.sender.clone()),
        }
    }
}
