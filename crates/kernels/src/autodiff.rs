//! How autodiff plays the operations: forward keeps what backward needs, backward is the hand-written one.

use crate::AttentionSpec;
use crate::linear::{WeightGrad, WeightGrads, WeightPlace};
use crate::ops::Kernels;
use crate::seed::Slot;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, BackendTensor, DispatchKindConversion, DispatchTensor, TensorMetadata};
use burn::tensor::Tensor;
use std::sync::Arc;

#[derive(Debug)]
struct Linear;

impl<B: Kernels> Backward<B, 1> for Linear
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = (FloatTensor<B>, FloatTensor<B>, WeightPlace, WeightGrads);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (x, w, place, queue) = ops.state;
        if let [Some(x)] = ops.parents {
            grads.register::<B>(x.id, B::linear_input_gradient(dy.clone(), w));
        }
        let left = WeightGrad { place, x: Tensor::from_primitive::<B>(x), dy: Tensor::from_primitive::<B>(dy) };
        queue.0.send(left).expect("invariant: a visit's queue is open until its backward is done");
    }
}

#[derive(Debug)]
struct Seed;

impl<B: Kernels> Backward<B, 1> for Seed
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = Slot;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let one = grads.consume::<B>(&ops.node);
        debug_assert_eq!(one.shape().num_elements(), 1);
        let gradient = ops.state.lock().expect("invariant: nobody panics while holding the slot").take();
        let gradient = gradient.expect("invariant: the slot is filled before backward, once");
        if let [Some(y)] = ops.parents {
            match <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(gradient) {
                Ok(BackendTensor::Float(gradient)) => grads.register::<B>(y.id, gradient),
                _ => panic!("a gradient lives on its tensor's device"),
            }
        }
    }
}

#[derive(Debug)]
struct LogProbability;

impl<B: Kernels> Backward<B, 1> for LogProbability {
    type State = (FloatTensor<B>, IntTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (logits, targets, log_sum_exp) = ops.state;
        if let [Some(parent)] = ops.parents {
            grads.register::<B>(parent.id, B::log_probability_backward(logits, targets, log_sum_exp, gradient));
        }
    }
}

#[derive(Debug)]
struct Attention;

/// Queries, keys, values, the result, its statistics, and who sees whom.
type AttentionState<F> = (F, F, F, F, F, Arc<AttentionSpec>);

impl<B: Kernels> Backward<B, 3> for Attention {
    type State = AttentionState<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (q, k, v, y, statistics, spec) = ops.state;
        let (dq, dk, dv) = B::attention_backward(q, k, v, y, dy, statistics, spec);
        for (parent, gradient) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct RmsNorm;

impl<B: Kernels> Backward<B, 2> for RmsNorm {
    type State = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, w_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (x, w, inverse_rms) = ops.state;
        let (dx, dw) = B::rms_norm_backward(x, w, inverse_rms, dy);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, dx);
        }
        if let Some(node) = w_node {
            grads.register::<B>(node.id, dw);
        }
    }
}

#[derive(Debug)]
struct Swiglu;

impl<B: Kernels> Backward<B, 2> for Swiglu {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [gate_node, up_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (gate, up) = ops.state;
        let (dgate, dup) = B::swiglu_backward(gate, up, dy);
        if let Some(node) = gate_node {
            grads.register::<B>(node.id, dgate);
        }
        if let Some(node) = up_node {
            grads.register::<B>(node.id, dup);
        }
    }
}

#[derive(Debug)]
struct Rope;

impl<B: Kernels> Backward<B, 1> for Rope {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (cos, sin) = ops.state;
        if let [Some(x)] = ops.parents {
            grads.register::<B>(x.id, B::rope_backward(dy, cos, sin));
        }
    }
}

impl<B: Kernels, C: CheckpointStrategy> Kernels for Autodiff<B, C>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn linear(x: FloatTensor<Self>, w: FloatTensor<Self>, place: WeightPlace, grads: WeightGrads) -> FloatTensor<Self> {
        let prepared = Linear.prepare::<C>([x.node()]).compute_bound().stateful();
        let (x, w) = (x.into_primitive(), w.into_primitive());
        let y = B::linear_forward(x.clone(), w.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, w, place, grads), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn seeded(y: FloatTensor<Self>, slot: Slot) -> FloatTensor<Self> {
        let prepared = Seed.prepare::<C>([y.node()]).compute_bound().stateful();
        let zero = B::seeded(y.into_primitive(), slot.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(slot, zero),
            OpsKind::UnTracked(prepared) => prepared.finish(zero),
        }
    }

    fn log_probability(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        let prepared = LogProbability.prepare::<C>([logits.node()]).compute_bound().stateful();
        let logits = logits.into_primitive();
        let (y, log_sum_exp) = B::log_probability_forward(logits.clone(), targets.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((logits, targets, log_sum_exp), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spec: Arc<AttentionSpec>,
    ) -> FloatTensor<Self> {
        let prepared = Attention.prepare::<C>([q.node(), k.node(), v.node()]).compute_bound().stateful();
        let [q, k, v] = [q, k, v].map(|t| t.into_primitive());
        let (y, statistics) = B::attention_forward(q.clone(), k.clone(), v.clone(), spec.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((q, k, v, y.clone(), statistics, spec), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn rms_norm(x: FloatTensor<Self>, w: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let prepared = RmsNorm.prepare::<C>([x.node(), w.node()]).compute_bound().stateful();
        let (x, w) = (x.into_primitive(), w.into_primitive());
        let (y, inverse_rms) = B::rms_norm_forward(x.clone(), w.clone(), eps);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, w, inverse_rms), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = Swiglu.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful();
        let (gate, up) = (gate.into_primitive(), up.into_primitive());
        let y = B::swiglu_forward(gate.clone(), up.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((gate, up), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = Rope.prepare::<C>([x.node()]).compute_bound().stateful();
        let (x, cos, sin) = (x.into_primitive(), cos.into_primitive(), sin.into_primitive());
        let y = B::rope_forward(x, cos.clone(), sin.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((cos, sin), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}
