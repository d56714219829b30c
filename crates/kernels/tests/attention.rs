//! Attention, fused in f32 and composed in f64, against sums written out, and these against differences.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::{AttentionSpec, Seed, attention};
use proptest::prelude::*;

/// Relative to the largest entry: f32 rounds by 6e-8, and sums of up to 1000 terms of one size by some tens of that.
const F32: f64 = 4e-6;
const F64: f64 = 1e-12;

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    n_past: usize,
    head_dim: usize,
    window: Option<usize>,
    documents: Documents,
    /// Of the entries of q and k; scores are up to 0.3 times its square times the head's size.
    size: f64,
}

#[derive(Clone, Debug, PartialEq)]
enum Documents {
    One,
    /// Lengths of a row's documents, repeated; 0 skips a number.
    Lengths(Vec<usize>),
    /// Every third key goes on with another document.
    ComeBack,
}

const CASE: Case = Case {
    rows: 1,
    heads: 2,
    kv_heads: 1,
    queries: 7,
    n_past: 0,
    head_dim: 16,
    window: None,
    documents: Documents::One,
    size: 1.0,
};
const SCALE: f64 = 0.3;

impl Case {
    fn keys(&self) -> usize {
        self.n_past + self.queries
    }

    fn documents(&self) -> Vec<i32> {
        let of_row: Vec<i32> = match &self.documents {
            Documents::One => return Vec::new(),
            Documents::Lengths(lengths) => {
                let numbers = lengths.iter().cycle().enumerate();
                numbers.flat_map(|(i, &n)| std::iter::repeat_n(i as i32, n)).take(self.keys()).collect()
            }
            Documents::ComeBack => (0..self.keys()).map(|key| i32::from(key % 3 == 0)).collect(),
        };
        of_row.repeat(self.rows)
    }

    fn spec(&self) -> AttentionSpec {
        AttentionSpec { scale: SCALE, n_past: self.n_past, window: self.window, documents: self.documents() }
    }

    fn sees(&self, documents: &[i32], row: usize, query: usize, key: usize) -> bool {
        let place = self.n_past + query;
        let document = |key: usize| documents.get(row * self.keys() + key);
        key <= place && self.window.is_none_or(|window| key + window > place) && document(key) == document(place)
    }

    /// q, k, v and dy, all `[rows, tokens, heads, head_dim]`.
    fn inputs(&self) -> [(Vec<f64>, [usize; 4]); 4] {
        let [q, kv] = [(self.queries, self.heads), (self.keys(), self.kv_heads)]
            .map(|(tokens, heads)| [self.rows, tokens, heads, self.head_dim]);
        let draw = |shape: [usize; 4], seed, size: f64| {
            let values = noise(shape.iter().product(), seed);
            (values.into_iter().map(|x| f64::from((x * size) as f32)).collect(), shape)
        };
        [draw(q, 1, self.size), draw(kv, 2, self.size), draw(kv, 3, 1.0), draw(q, 4, 1.0)]
    }
}

/// Numbers in [-1, 1) that do not repeat soon (Weyl's sequence).
fn noise(n: usize, seed: usize) -> Vec<f64> {
    let at = |i: usize| (i + 1) as f64 * 0.618_033_988_75 + seed as f64 * 0.414_213_562;
    (0..n).map(|i| 2.0 * (at(i) * at(i)).fract() - 1.0).collect()
}

/// The result and the gradients of q, k and v, by the formulas, one query at a time.
fn reference(case: &Case, [q, k, v, dy]: &[Vec<f64>; 4]) -> [Vec<f64>; 4] {
    let Case { rows, heads, kv_heads, queries, head_dim: e, .. } = *case;
    let keys = case.keys();
    let documents = case.documents();
    let [mut y, mut dq] = [(); 2].map(|()| vec![0.0; q.len()]);
    let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; k.len()]);
    for (row, head, query) in (0..rows).flat_map(|r| (0..heads).flat_map(move |h| (0..queries).map(move |i| (r, h, i))))
    {
        let at = ((row * queries + query) * heads + head) * e;
        let of = |key: usize| ((row * keys + key) * kv_heads + head / (heads / kv_heads)) * e;
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let seen: Vec<usize> = (0..keys).filter(|&key| case.sees(&documents, row, query, key)).collect();
        let scores: Vec<f64> = seen.iter().map(|&key| SCALE * dot(&q[at..at + e], &k[of(key)..of(key) + e])).collect();
        let largest = scores.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(x));
        let total: f64 = scores.iter().map(|x| (x - largest).exp()).sum();
        let weights: Vec<f64> = scores.iter().map(|x| (x - largest).exp() / total).collect();
        let slopes: Vec<f64> = seen.iter().map(|&key| dot(&dy[at..at + e], &v[of(key)..of(key) + e])).collect();
        let mean = dot(&weights, &slopes);
        for ((&key, weight), slope) in seen.iter().zip(&weights).zip(&slopes) {
            let ds = weight * (slope - mean) * SCALE;
            for i in 0..e {
                y[at + i] += weight * v[of(key) + i];
                dv[of(key) + i] += weight * dy[at + i];
                dq[at + i] += ds * k[of(key) + i];
                dk[of(key) + i] += ds * q[at + i];
            }
        }
    }
    [y, dq, dk, dv]
}

/// How the tensors lie in memory.
#[derive(Clone, Copy, Debug)]
enum Lie {
    ByToken,
    ByHead,
}

/// As [`reference`], by the operation.
fn run(case: &Case, inputs: &[(Vec<f64>, [usize; 4]); 4], dtype: DType, lie: Lie) -> [Vec<f64>; 4] {
    let by_head = |(values, shape): &(Vec<f64>, [usize; 4])| -> Tensor<4> {
        let exact: Tensor<4> =
            Tensor::from_data(TensorData::new(values.clone(), *shape), (&Device::flex(), DType::F64));
        let swapped = exact.cast(dtype).swap_dims(1, 2);
        match lie {
            Lie::ByToken => swapped,
            // In burn a sum with another tensor makes a new, contiguous one.
            Lie::ByHead => Tensor::cat(vec![swapped], 1) + 0.0,
        }
    };
    let values = |t: Tensor<4>| t.swap_dims(1, 2).cast(DType::F64).into_data().try_into_vec::<f64>().unwrap();
    let [q, k, v, dy] = inputs.each_ref().map(by_head);
    let leaves = [q, k, v].map(|t| Tensor::from_inner(t).require_grad());
    let [q, k, v] = leaves.clone();
    let (seed, y) = Seed::new(attention(q, k, v, &case.spec()));
    let mut gradients = seed.backward(dy);
    let [dq, dk, dv] = leaves.map(|leaf| values(leaf.grad_remove(&mut gradients).unwrap()));
    [values(y), dq, dk, dv]
}

fn assert_close(found: &[f64], wanted: &[f64], tolerance: f64, what: &str) {
    let largest = wanted.iter().fold(0.1f64, |max, x| max.max(x.abs()));
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let difference = (found - wanted).abs();
        assert!(difference <= tolerance * largest, "{what}: entry {i} is {found}, not {wanted}, of at most {largest}");
    }
}

fn check(case: &Case) {
    let inputs = case.inputs();
    let wanted = reference(case, &inputs.each_ref().map(|(values, _)| values.clone()));
    // A score is rounded to f32, which moves its exponential by as much as a part of it.
    let score = SCALE * case.size * case.size * case.head_dim as f64;
    for (dtype, lie, tolerance) in [
        (DType::F32, Lie::ByToken, F32.max(score * 1e-6)),
        (DType::F32, Lie::ByHead, F32.max(score * 1e-6)),
        (DType::F64, Lie::ByToken, F64.max(score * 1e-14)),
    ] {
        let found = run(case, &inputs, dtype, lie);
        for ((found, wanted), of) in found.iter().zip(&wanted).zip(["y", "dq", "dk", "dv"]) {
            // Gradients of q and k are as large as the other's entries.
            let size = if of == "dq" || of == "dk" { case.size } else { 1.0 };
            let [found, wanted] = [found, wanted].map(|x| x.iter().map(|x| x / size).collect::<Vec<_>>());
            assert_close(&found, &wanted, tolerance, &format!("{of} of {case:?} in {dtype:?} {lie:?}"));
        }
    }
}

#[test]
fn every_option() {
    let lengths = |of: &[usize]| Documents::Lengths(of.to_vec());
    let long = Case { queries: 131, ..CASE };
    let cases = [
        // Head sizes: whole vectors and not, one and several tiles of columns.
        Case { head_dim: 1, ..CASE },
        Case { head_dim: 17, ..CASE },
        Case { head_dim: 24, queries: 67, ..CASE },
        Case { head_dim: 64, queries: 67, ..CASE },
        Case { head_dim: 80, queries: 67, ..CASE },
        Case { head_dim: 128, queries: 67, ..CASE },
        // Lengths about those of tiles.
        Case { queries: 1, ..CASE },
        Case { queries: 2, ..CASE },
        Case { queries: 6, ..CASE },
        Case { queries: 63, ..CASE },
        Case { queries: 64, ..CASE },
        Case { queries: 65, ..CASE },
        Case { queries: 97, ..CASE },
        Case { queries: 1000, heads: 1, head_dim: 16, ..CASE },
        // Heads and rows.
        Case { rows: 3, heads: 6, kv_heads: 2, ..long.clone() },
        Case { rows: 2, heads: 3, kv_heads: 3, ..long.clone() },
        // Earlier keys, few and many queries after them.
        Case { n_past: 1, ..CASE },
        Case { n_past: 5, queries: 1, ..CASE },
        Case { n_past: 200, queries: 3, ..CASE },
        Case { n_past: 77, ..long.clone() },
        // Windows; 0 hides everything.
        Case { window: Some(0), ..CASE },
        Case { window: Some(1), ..long.clone() },
        Case { window: Some(5), ..long.clone() },
        Case { window: Some(70), n_past: 11, ..long.clone() },
        Case { window: Some(1000), ..long.clone() },
        Case { window: Some(3), n_past: 9, queries: 2, ..CASE },
        // Documents; of no length; longer than a row; that come back.
        Case { documents: lengths(&[1]), ..long.clone() },
        Case { documents: lengths(&[3, 0, 0, 11, 64, 1]), rows: 2, ..long.clone() },
        Case { documents: lengths(&[1000]), ..long.clone() },
        Case { documents: lengths(&[50, 29]), n_past: 40, window: Some(33), ..long.clone() },
        Case { documents: Documents::ComeBack, rows: 2, ..long.clone() },
        Case { documents: Documents::ComeBack, n_past: 4, queries: 3, window: Some(4), ..CASE },
        // Scores of up to 1e4 of either sign.
        Case { size: 45.0, ..long.clone() },
        Case { size: 45.0, documents: Documents::ComeBack, ..long },
        Case { size: 45.0, queries: 3, ..CASE },
    ];
    cases.iter().for_each(check);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_option(
        (rows, kv_heads, group, queries) in (1..3usize, 1..3usize, 1..4usize, 1..90usize),
        (n_past, head_dim) in (0..80usize, 1..40usize),
        window in proptest::option::of(0..100usize),
        documents in prop_oneof![
            Just(Documents::One),
            Just(Documents::ComeBack),
            proptest::collection::vec(0..30usize, 1..5).prop_filter("some key", |n| n.iter().sum::<usize>() > 0)
                .prop_map(Documents::Lengths),
        ],
    ) {
        let heads = kv_heads * group;
        check(&Case { rows, heads, kv_heads, queries, n_past, head_dim, window, documents, size: 1.0 });
    }
}

/// The formulas of the reference themselves. Central differences with a step of 1e-5 are exact to its square and to
/// 1e-16 / 1e-5.
#[test]
fn gradients_are_slopes() {
    const H: f64 = 1e-5;
    let documents = Documents::Lengths(vec![3, 0, 5]);
    let case = Case { heads: 4, kv_heads: 2, n_past: 2, window: Some(4), documents, head_dim: 3, ..CASE };
    let inputs = case.inputs().map(|(values, _)| values);
    let [_, gradients @ ..] = reference(&case, &inputs);
    for (of, gradient) in gradients.iter().enumerate() {
        for (i, gradient) in gradient.iter().enumerate() {
            let along = |step: f64| {
                let mut inputs = inputs.clone();
                inputs[of][i] += step;
                let [y, ..] = reference(&case, &inputs);
                y.iter().zip(&inputs[3]).map(|(y, dy)| y * dy).sum::<f64>()
            };
            let slope = (along(H) - along(-H)) / (2.0 * H);
            assert!((slope - gradient).abs() < 1e-8 * (1.0 + slope.abs()), "{of} {i}: {gradient}, not {slope}");
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let case = Case { rows: 2, heads: 6, kv_heads: 2, queries: 101, head_dim: 24, ..CASE };
    let inputs = case.inputs();
    let of = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&case, &inputs, DType::F32, Lie::ByToken))
    };
    assert_eq!(of(1), of(5));
}

#[test]
#[should_panic(expected = "7 queries after 1 keys of 7")]
fn queries_past_the_last_key_are_refused() {
    let t = || Tensor::<4>::zeros([1, 1, 7, 4], &Device::flex());
    attention(t(), t(), t(), &AttentionSpec { scale: 1.0, n_past: 1, window: None, documents: Vec::new() });
}
