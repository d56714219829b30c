//! Whole layers moved away from a stage that has the head.

/// Layers on each of `n_stages` stages, when the last one also has a head that costs as much as `head_layers` layers.
///
/// The baseline "redis" of Yeung et al., *Balancing Pipeline Parallelism with Vocabulary Parallelism* (2024): the last
/// stage keeps as many whole layers as with its head make up an equal share, rounded up, and none when the head alone
/// is more; the others get equal numbers, late stages those left over. Stages without a layer are those the head or the
/// number of layers leaves none. [`balance`](crate::balance()) cuts half-layers with the smallest largest stage; this is
/// what training frameworks that place whole layers do. Where
/// no stage is empty its slowest stage is never faster than the balanced cut's (`tests/redistribute.rs`).
///
/// # Panics
/// If there is no stage, or `head_layers` is negative or not finite.
pub fn redistribute(n_layers: usize, head_layers: f64, n_stages: usize) -> Vec<usize> {
    assert!(n_stages > 0, "{n_layers} layers in no stage");
    assert!(head_layers.is_finite() && head_layers >= 0.0, "a head of {head_layers} layers");
    let n_others = n_stages - 1;
    let share = (n_layers as f64 - n_others as f64 * head_layers) / n_stages as f64;
    let last = share.ceil().max(0.0) as usize;
    let moved = n_layers - last;
    let others = (0..n_others).map(|stage| moved / n_others + usize::from(stage >= n_others - moved % n_others));
    others.chain([last]).collect()
}
