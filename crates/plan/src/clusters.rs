//! Clusters with different network cards: how layers are shared (Holmes).
//!
//! Source: Yang et al., "Holmes: Towards Distributed Training Across Clusters with Heterogeneous NIC Environment", 2024.

/// Layers of every stage in proportion to the stages' `speeds`, times `alpha` for all but the slowest, rounded down; the
/// slowest take what is left, evenly, the later ones the more. The published splits have `alpha` 1.
///
/// # Panics
/// If there is no stage or a speed is not positive.
pub fn layer_shares(n_layers: usize, speeds: &[f64], alpha: f64) -> Vec<usize> {
    assert!(!speeds.is_empty() && speeds.iter().all(|speed| *speed > 0.0), "speeds are positive: {speeds:?}");
    let (sum, slowest) = (speeds.iter().sum::<f64>(), speeds.iter().copied().fold(f64::INFINITY, f64::min));
    let mut left = n_layers;
    let mut shares: Vec<usize> = speeds
        .iter()
        .map(|&speed| {
            if speed <= slowest {
                return 0;
            }
            let share = ((alpha * n_layers as f64 * speed / sum) as usize).min(left);
            left -= share;
            share
        })
        .collect();
    let slow: Vec<usize> = (0..speeds.len()).filter(|&stage| speeds[stage] <= slowest).collect();
    for (i, &stage) in slow.iter().enumerate() {
        let share = left / (slow.len() - i);
        shares[stage] = share;
        left -= share;
    }
    shares
}
