//! What a trainer does with memory and wires: conventions that change what a plan costs.

use crate::machine::Precision;
use simulate::Communication;

/// The conventions of a trainer.
#[derive(Clone, Debug, PartialEq)]
pub struct Software {
    /// What to call it.
    pub name: &'static str,
    /// Format of weights, activations and products.
    pub precision: Precision,
    /// Bytes of an accumulated gradient.
    pub gradient_bytes: u64,
    /// Bytes of a gradient on the wire.
    pub reduced_bytes: u64,
    /// Bytes per parameter that the optimizer holds: master copy and two moments.
    pub optimizer_bytes: u64,
    /// How attention is computed.
    pub attention: AttentionKernel,
    /// Whether activations are dropped at random.
    pub dropout: Dropout,
    /// What tensor parallelism does between its products.
    pub between_products: BetweenProducts,
    /// What travels from stage to stage.
    pub hops: Hops,
    /// What weight gradients take beside their buffers.
    pub dummy_gradients: DummyGradients,
    /// When gradients are summed over replicas.
    pub exchange: Exchange,
    /// Whether ranks compute while messages between stages move.
    pub communication: Communication,
    /// The vocabulary is padded to a multiple of this, times the tensor degree.
    pub vocabulary_multiple: usize,
}

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionKernel {
    /// In one operation that keeps no scores (FlashAttention).
    Fused,
    /// Products with a softmax between them; scores and probabilities are in memory.
    Unfused,
}

/// Whether activations are dropped at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropout {
    /// No.
    Off,
    /// After attention's probabilities and before residual additions; masks are kept.
    On,
}

/// What tensor parallelism does between its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BetweenProducts {
    /// Everything on every rank; outputs are summed.
    Replicated,
    /// Tokens are split; inputs are gathered, outputs reduced and scattered (sequence parallelism). Backward gathers inputs
    /// again instead of keeping them.
    Split,
}

/// What the tensor ranks of a stage send to those of the next, when all of them hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hops {
    /// Everybody everything.
    Whole,
    /// Everybody a part, which is gathered on the other side (Megatron's scatter-gather optimisation).
    Scattered,
}

/// What weight gradients take beside the buffers that they are added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DummyGradients {
    /// Nothing.
    None,
    /// Products add to the buffer themselves (Megatron's fused gradient accumulation), but the automatic differentiation
    /// wants a gradient to hand on: Transformer Engine's `get_dummy_wgrad` keeps one per shape for ever, and that of the
    /// head is made when it is needed.
    PerShape,
}

/// When gradients are summed over replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// After the last backward.
    After,
    /// While backwards go on, as far as they last.
    Overlapped,
}

impl Software {
    /// Megatron-Core with Transformer Engine: bf16, gradients in 32 bits, fused attention, sequence parallelism.
    pub fn megatron() -> Self {
        Self {
            name: "megatron",
            precision: Precision::Bf16,
            gradient_bytes: 4,
            reduced_bytes: 4,
            optimizer_bytes: 12,
            attention: AttentionKernel::Fused,
            dropout: Dropout::Off,
            between_products: BetweenProducts::Split,
            hops: Hops::Scattered,
            dummy_gradients: DummyGradients::PerShape,
            exchange: Exchange::After,
            communication: Communication::Blocking,
            vocabulary_multiple: 128,
        }
    }

    /// Megatron-LM as its paper of 2021 measured it: fp16, attention in parts, dropout, everything on every tensor rank.
    pub fn megatron_2021() -> Self {
        Self {
            name: "megatron-2021",
            gradient_bytes: 4,
            reduced_bytes: 2,
            attention: AttentionKernel::Unfused,
            dropout: Dropout::On,
            between_products: BetweenProducts::Replicated,
            dummy_gradients: DummyGradients::None,
            ..Self::megatron()
        }
    }

    /// torchtitan: bf16 with 32-bit masters that are sharded, gradients reduced in 32 bits while backwards go on.
    pub fn torchtitan() -> Self {
        Self {
            name: "torchtitan",
            dummy_gradients: DummyGradients::None,
            exchange: Exchange::Overlapped,
            communication: Communication::Overlapped,
            vocabulary_multiple: 1,
            ..Self::megatron()
        }
    }

    /// The vocabulary's rows on one of `tensor` ranks.
    pub fn vocabulary_on(&self, rows: usize, tensor: usize) -> usize {
        rows.div_ceil(self.vocabulary_multiple * tensor) * self.vocabulary_multiple
    }
}
