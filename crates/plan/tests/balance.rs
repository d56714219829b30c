//! Cuts against published examples and against all cuts there are.

use architecture::{Architecture, from_config_json};
use plan::{MicrobatchShape, balance, partition, partition_by};
use proptest::prelude::*;

#[test]
fn published_examples() {
    let cases: &[(&[f64], usize, &[usize])] = &[
        // torchgpipe, blockpartition.solve.
        (&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, &[4, 2]),
        // Skiena, The Algorithm Design Manual, section on the linear partition problem.
        (&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 3, &[5, 2, 2]),
        (&[100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 900.0], 3, &[5, 2, 2]),
        (&[1.0; 9], 3, &[3, 3, 3]),
        // The largest cost is that of the first block alone; the rest is still cut evenly, early stages with less.
        (&[9.0, 1.0, 1.0, 1.0, 1.0], 3, &[1, 2, 2]),
        (&[9.0, 1.0, 1.0, 1.0], 3, &[1, 1, 2]),
        (&[0.0, 3.0, 3.0], 2, &[2, 1]),
    ];
    for &(costs, n_stages, wanted) in cases {
        assert_eq!(balance(costs, n_stages), wanted, "{costs:?} in {n_stages}");
    }
}

/// All ways to write `n` as `parts` positive numbers.
fn compositions(n: usize, parts: usize) -> Vec<Vec<usize>> {
    match parts {
        0 if n == 0 => vec![vec![]],
        0 => vec![],
        _ => (1..=n)
            .flat_map(|first| {
                compositions(n - first, parts - 1).into_iter().map(move |rest| [vec![first], rest].concat())
            })
            .collect(),
    }
}

proptest! {
    /// Small whole costs, so that sums are exact and ties frequent.
    #[test]
    fn best_of_all(costs in prop::collection::vec(0_u8..5, 1..10), share in 0.0..1.0_f64) {
        let n_stages = 1 + (share * costs.len() as f64) as usize;
        let sorted_costs = |sizes: &[usize]| {
            let mut rest = costs.as_slice();
            let mut sums: Vec<u32> = sizes.iter().map(|&size| {
                let (stage, after) = rest.split_at(size);
                rest = after;
                stage.iter().map(|&cost| u32::from(cost)).sum()
            }).collect();
            sums.sort_by(|a, b| b.cmp(a));
            sums
        };
        let all = compositions(costs.len(), n_stages);
        let wanted = all.into_iter().min_by_key(|sizes| (sorted_costs(sizes), sizes.clone())).expect("one at least");
        let floats: Vec<f64> = costs.iter().map(|&cost| f64::from(cost)).collect();
        prop_assert_eq!(balance(&floats, n_stages), wanted);
    }
}

fn small() -> Architecture {
    let text = r#"{"model_type": "llama", "hidden_size": 12, "num_hidden_layers": 5, "num_attention_heads": 2,
        "intermediate_size": 32, "vocab_size": 97}"#;
    from_config_json(text).expect("a valid configuration")
}

#[test]
fn models() {
    let shape = MicrobatchShape { rows: 2, tokens: 7 };
    let sizes = |n| -> Vec<usize> {
        partition(&small(), shape, n, None).unwrap_or_else(|e| panic!("{e}")).stages().iter().map(Vec::len).collect()
    };
    assert_eq!(sizes(1), [12]);
    assert_eq!(sizes(12), [1; 12]);
    // Forward per token, in multiples of 2: embedding 0, attention 4 x 144 + 2 x 12 x 4 = 672, MLP 3 x 12 x 32 = 1152, head
    // 12 x 97 = 1164. Stages of 3648, 3648 and 2988; a largest stage below 3648 holds at most 3 blocks with a cost, or
    // (attention, MLP, attention and no more) 2496, and 3 x 3 < 11.
    assert_eq!(sizes(3), [5, 4, 3]);
}

#[test]
fn impossible() {
    let error = |n| partition_by(&small(), &[1.0; 12], n).unwrap_err().to_string();
    assert_eq!(
        error(13),
        "the model has 12 half-layer blocks and cannot be cut into 13 stages; use at most 12 stages or more layers"
    );
    assert!(error(0).starts_with("stages of [] blocks do not fit the model's 12 half-layer blocks"), "{}", error(0));
}

/// A model of 80 layers: the smallest bound under which filling stages from the front needs no more than there are.
#[test]
fn large() {
    let costs: Vec<f64> = (0..162).map(|i| 1.0 + f64::from(i % 2)).collect();
    let filled = |bound: f64| {
        let fill =
            |(n, sum): (usize, f64), cost: &f64| if sum + cost <= bound { (n, sum + cost) } else { (n + 1, *cost) };
        costs.iter().fold((1, 0.0), fill).0
    };
    for n_stages in [7, 16, 81] {
        let wanted = (2..).map(f64::from).find(|&bound| filled(bound) <= n_stages).expect("the sum is a bound");
        let mut rest = costs.as_slice();
        let sums = balance(&costs, n_stages).into_iter().map(|size| {
            let (stage, after) = rest.split_at(size);
            rest = after;
            stage.iter().sum::<f64>()
        });
        assert_eq!(sums.fold(0.0, f64::max), wanted, "{n_stages}");
    }
}
