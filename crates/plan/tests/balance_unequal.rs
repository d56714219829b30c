//! Cuts for stages of unequal speed against all cuts there are.

use plan::{balance, balance_unequal};
use proptest::prelude::*;

/// The slowest stage of the best of all cuts.
fn best_of_all(seconds: &[Vec<f64>], stage: usize, begin: usize) -> f64 {
    let n = seconds[stage].len();
    let run = |end: usize| seconds[stage][begin..end].iter().sum::<f64>();
    if stage + 1 == seconds.len() {
        return if begin < n { run(n) } else { f64::INFINITY };
    }
    let ends = begin + 1..n;
    ends.map(|end| run(end).max(best_of_all(seconds, stage + 1, end))).fold(f64::INFINITY, f64::min)
}

fn slowest(seconds: &[Vec<f64>], sizes: &[usize]) -> f64 {
    let mut begin = 0;
    let stages = seconds.iter().zip(sizes).map(|(of, size)| {
        begin += size;
        of[begin - size..begin].iter().sum::<f64>()
    });
    stages.fold(0.0, f64::max)
}

proptest! {
    /// Whole numbers, so that sums are exact in any order.
    #[test]
    fn equals_brute_force(
        costs in prop::collection::vec(0u32..20, 1..9),
        speeds in prop::collection::vec(1u32..5, 1..5),
    ) {
        prop_assume!(costs.len() >= speeds.len());
        let seconds: Vec<Vec<f64>> = speeds.iter()
            .map(|slow| costs.iter().map(|cost| f64::from(cost * slow)).collect()).collect();
        let of: Vec<&[f64]> = seconds.iter().map(Vec::as_slice).collect();
        let sizes = balance_unequal(&of);
        prop_assert_eq!(sizes.iter().sum::<usize>(), costs.len());
        prop_assert!(sizes.iter().all(|&size| size > 0));
        prop_assert_eq!(slowest(&seconds, &sizes), best_of_all(&seconds, 0, 0));
    }

    /// At equal speeds as even as the cut that training uses.
    #[test]
    fn equal_speeds(costs in prop::collection::vec(0u32..20, 1..12), n_stages in 1usize..5) {
        prop_assume!(costs.len() >= n_stages);
        let costs: Vec<f64> = costs.into_iter().map(f64::from).collect();
        let seconds = vec![costs.clone(); n_stages];
        let of: Vec<&[f64]> = seconds.iter().map(Vec::as_slice).collect();
        let trained = balance(&costs, n_stages);
        prop_assert_eq!(slowest(&seconds, &balance_unequal(&of)), slowest(&seconds, &trained));
    }
}
