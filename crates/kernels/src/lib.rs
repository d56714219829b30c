//! Operations with hand-written gradients, as burn backend extensions.
//!
//! On the CPU backend they run fused; on every other backend the compositions in the trait's default bodies run, so a
//! gradient formula is written once. Does not know about models, schedules or stages.

mod adamw;
mod attention;
mod attention_tiles;
mod autodiff;
mod awake;
mod cuda;
#[cfg(target_arch = "x86_64")]
mod dots_x86;
mod flex;
mod gelu;
mod head;
mod huge_pages;
mod layer_norm;
mod linear;
mod log_probability;
mod matrix_vector;
mod ops;
mod packed_linear;
mod path;
mod peak;
mod product;
mod rms_norm;
mod rope;
mod seed;
mod shard_softmax;
mod size;
mod swiglu;
mod tile;
mod vector;

pub use adamw::{AdamW, Moments, Trained, sum_of_squares, sums_of_squares};
pub use attention::{AttentionSpec, attention};
pub use awake::awake;
pub use cuda::{CudaError, cuda, cuda_names};
pub use gelu::{Gelu, geglu, gelu};
pub use head::{HEAD_CHUNK, HeadGradient, HeadSpec, LogProbabilities, head_gradient, head_log_probability};
pub use huge_pages::{hold_in_huge_pages, hold_tensor_in_huge_pages};
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::{
    WeightGrad, WeightGrads, WeightPlace, linear, linear_forward, linear_input_gradient, weight_gradient,
};
pub use log_probability::log_probability;
pub use ops::Kernels;
pub use packed_linear::{packed_linear, packed_linears};
pub use path::Path;
pub use peak::{MatmulPeak, Sweep, matmul_peak, matmul_rates, memory_gbytes_per_s};
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use seed::{Seed, Slot};
pub use shard_softmax::{ShardSoftmax, shard_softmax, shard_softmax_gradient};
pub use size::Size;
pub use swiglu::swiglu;
