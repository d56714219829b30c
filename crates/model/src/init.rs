//! Freshly drawn weights.

use architecture::{Architecture, Norm, Role, Weight};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

/// Starting values of a weight: norms that scale by 1, zeros for biases, normal with the architecture's standard deviation
/// for matrices and embeddings; projections back into the residual stream are scaled by `1 / sqrt(2 layers)` (GPT-2),
/// which transformers' own initialisation does not do.
///
/// A function of (seed, name) alone: the same whatever the stage, order or thread.
pub fn draw(architecture: &Architecture, weight: &Weight, seed: u64) -> Vec<f32> {
    let n = weight.n_elements();
    match weight.role {
        Role::Norm => match architecture.family.norm() {
            Norm::Rms | Norm::Layer => vec![1.0; n],
            Norm::RmsAroundOne => vec![0.0; n],
        },
        Role::Bias => vec![0.0; n],
        Role::Matrix | Role::TransposedMatrix | Role::Embedding => {
            let into_residual = INTO_RESIDUAL.iter().any(|name| weight.name.ends_with(name));
            let scale = if into_residual { (2.0 * architecture.num_hidden_layers as f64).sqrt().recip() } else { 1.0 };
            let deviation = architecture.initializer_range * scale;
            let normal = Normal::new(0.0, deviation).expect("invariant: a checked architecture's range is finite");
            let key = blake3::derive_key(
                "millstream parameter initialisation 1",
                &[&seed.to_le_bytes(), weight.name.as_bytes()].concat(),
            );
            let mut generator = ChaCha8Rng::from_seed(key);
            (0..n).map(|_| normal.sample(&mut generator) as f32).collect()
        }
    }
}

/// Ends of the names of matrices whose products are added to the residual stream.
const INTO_RESIDUAL: [&str; 3] = [".o_proj.weight", ".down_proj.weight", ".c_proj.weight"];
