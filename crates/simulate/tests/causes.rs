//! What memory keeps a rank from: waits in which a forward was there and would not have fitted, by closed form and by
//! hand. All numbers are whole, so every comparison is exact.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Key, StageMap};
use schedule::{Action, Backward, Kind, Op, Schedule, Spec, generate};
use simulate::{Costs, StageCost, bubbles, simulate};

fn stage(forward_s: f64, backward_s: f64) -> StageCost {
    StageCost { forward_s, backward_s, activation_bytes: 10, logit_bytes: 1, ..StageCost::default() }
}

/// For every rank what it waited for others, and the part of it that memory is the cause of.
fn waits(schedule: &Schedule, costs: &Costs) -> Vec<(f64, f64)> {
    let timeline = simulate(schedule, costs).unwrap();
    let (all, untold) = (bubbles(&timeline, costs), bubbles(&timeline, &Costs::default()));
    for (bubble, untold) in all.iter().zip(&untold) {
        assert_eq!(bubble.compute_s + bubble.idle_s(), timeline.makespan_s());
        assert_eq!((untold.dependency_s, untold.memory_s), (bubble.dependency_s + bubble.memory_s, 0.0));
    }
    all.iter().map(|bubble| (bubble.dependency_s, bubble.memory_s)).collect()
}

fn check(kind: Kind, (p, m): (usize, usize), (f, b): (f64, f64), expected: impl Fn(usize) -> (f64, f64)) {
    let spec = Spec { kind, backward: Backward::Fused };
    let schedule = generate(spec, &StageMap::one_per_rank(p).route(), m, &[]).unwrap();
    let costs = Costs { stages: vec![stage(f, b); p], ..Costs::default() };
    assert_eq!(waits(&schedule, &costs), (0..p).map(expected).collect::<Vec<_>>(), "{kind} p {p} m {m} f {f} b {b}");
}

/// In 1F1B rank `i` holds `p - i` microbatches when it first waits, (p - 1 - i) b long for the first backward: the next
/// forward's input is there all the while. When forwards are used up it waits (p - 1 - i) f more. GPipe waits only
/// when forwards are used up.
#[test]
fn of_equal_stages() {
    for (p, m) in [(1, 3), (2, 3), (2, 4), (3, 4), (5, 7), (5, 16)] {
        for (f, b) in [(1.0, 2.0), (3.0, 3.0), (2.0, 7.0)] {
            let rest = |i: usize| (p - 1 - i) as f64;
            check(Kind::OneFOneB, (p, m), (f, b), |i| (rest(i) * f, rest(i) * b));
            check(Kind::Gpipe, (p, m), (f, b), |i| (rest(i) * (f + b), 0.0));
        }
    }
}

/// Rank 1 of three, forwards 2, 1, 1 and backwards 4: it waits 1 for its second forward's input, from 5 to 8 for its
/// first gradient, where its third forward's input is there from 6 on, and 1 for its last gradient.
#[test]
fn from_when_the_input_is_there() {
    let spec = Spec { kind: Kind::OneFOneB, backward: Backward::Fused };
    let schedule = generate(spec, &StageMap::one_per_rank(3).route(), 3, &[]).unwrap();
    let costs = Costs { stages: [2.0, 1.0, 1.0].map(|f| stage(f, 4.0)).to_vec(), ..Costs::default() };
    assert_eq!(waits(&schedule, &costs)[1], (3.0, 2.0));
}

/// Rank 0 waits from 1 to 4 with one microbatch held where later it holds two: the order is the cause.
#[test]
fn not_where_a_forward_would_have_fitted() {
    let list = |turns: [(Op, usize); 6], hop| turns.map(|(op, i)| Action::visit(op, Key::new(i, hop))).to_vec();
    let (f, b) = (Op::Forward, Op::Backward);
    let schedule = Schedule {
        name: "late second forward".into(),
        routes: vec![StageMap::one_per_rank(2).route(); 3],
        vocabulary: None,
        tied: Vec::new(),
        n_segments: 1,
        ranks: vec![
            list([(f, 0), (b, 0), (f, 1), (f, 2), (b, 1), (b, 2)], 0),
            list([(f, 0), (b, 0), (f, 1), (b, 1), (f, 2), (b, 2)], 1),
        ],
    };
    let costs = Costs { stages: vec![stage(1.0, 2.0); 2], ..Costs::default() };
    assert_eq!(waits(&schedule, &costs)[0], (6.0, 0.0));
}
