//! What stages compute in.

/// The numbers that stages compute with. Parameters, their gradients' sums, moments and messages are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32 throughout.
    #[default]
    F32,
    /// bf16 for the residual stream and the operands of products; f32 inside norms, softmax and activations, and from the
    /// logits on.
    Bf16,
}
