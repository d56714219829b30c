//! Blocking communication by hand. All numbers are sums of powers of two, so every comparison is exact.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Rank, StageMap};
use schedule::{Backward, Kind, Op, Schedule, Spec, generate};
use simulate::{Communication, Costs, Link, StageCost, Timeline, bubbles, simulate};

fn plain(kind: Kind, p: usize, m: usize) -> Schedule {
    generate(Spec { kind, backward: Backward::Fused }, &StageMap::one_per_rank(p).route(), m, &[]).unwrap()
}

/// Two ranks whose forwards take `forwards_s`; backwards take 2, messages `transfer_s` and the latency.
fn costs(communication: Communication, forwards_s: [f64; 2], transfer_s: f64, latency_s: f64) -> Costs {
    let stage = |forward_s| StageCost { forward_s, backward_s: 2.0, carry_bytes: 8, ..StageCost::default() };
    let link = |from, to| Link { from: Rank(from), to: Rank(to), latency_s, bytes_per_s: 8.0 / transfer_s };
    Costs {
        stages: forwards_s.map(stage).to_vec(),
        links: vec![link(0, 1), link(1, 0)],
        communication,
        ..Costs::default()
    }
}

fn begins(timeline: &Timeline, rank: usize, wanted: Op) -> Vec<f64> {
    let is_wanted = |action| matches!(action, schedule::Action::Visit { op, .. } if op == wanted);
    timeline.rank(Rank(rank)).filter(|span| is_wanted(span.action)).map(|span| span.start_s).collect()
}

/// One microbatch, F 1, B 2, message t + l. Rank 0: F to 1, sends to 1 + t, waits for the send of rank 1 at 4 + t + l,
/// which is there at 4 + 2 (t + l), B to 6 + 2 (t + l). Rank 1: F and B from 1 + t + l, sends to 4 + 2 t + l.
#[test]
fn ranks_are_occupied_by_their_messages() {
    for (t, l) in [(2.0, 0.5), (0.25, 4.0), (1.0, 0.0)] {
        let costs = costs(Communication::Blocking, [1.0; 2], t, l);
        let timeline = simulate(&plain(Kind::OneFOneB, 2, 1), &costs).unwrap();
        assert_eq!(timeline.makespan_s(), 6.0 + 2.0 * (t + l));
        let all = bubbles(&timeline, &costs);
        let parts = [0, 1].map(|rank| {
            let bubble = &all[rank];
            (bubble.compute_s, bubble.warm_up_s, bubble.dependency_s, bubble.communication_s, bubble.drain_s)
        });
        assert_eq!(parts[0], (3.0, 0.0, 3.0 + l, t + (t + l), 0.0), "t {t} l {l}");
        assert_eq!(parts[1], (3.0, 1.0 + t + l, 0.0, t, 2.0 + l), "t {t} l {l}");
    }
}

/// GPipe, a second rank no faster than the first. Overlapped, the first rank's forwards follow each other, and the
/// second's as long as messages are no slower: k-th at f0 + t + l + k f1. Blocking, both pay for every message: k-th at
/// k (f0 + t) and f0 + t + l + k (f1 + t), though all messages but the first are there before they are received.
#[test]
fn blocking_messages_cost_both_ranks() {
    let m = 5;
    for ([f0, f1], t, l) in [([1.0, 1.0], 0.5, 0.0), ([1.0, 4.0], 1.0, 0.25), ([0.5, 2.0], 2.0, 8.0)] {
        for (communication, per_message_s) in [(Communication::Overlapped, 0.0), (Communication::Blocking, t)] {
            let timeline = simulate(&plain(Kind::Gpipe, 2, m), &costs(communication, [f0, f1], t, l)).unwrap();
            let expected =
                |first_s: f64, every_s: f64| (0..m).map(|k| first_s + k as f64 * every_s).collect::<Vec<_>>();
            assert_eq!(begins(&timeline, 0, Op::Forward), expected(0.0, f0 + per_message_s));
            assert_eq!(begins(&timeline, 1, Op::Forward), expected(f0 + t + l, f1 + per_message_s));
        }
    }
}

/// Two ranks in the middle of 1F1B, forward 1, backward 2: the first sends an activation when the second sends a gradient,
/// and each receives what the other sent. Both messages move at once: a round takes 3 + t, and would take 3 + 2 t if the
/// directions took turns.
#[test]
fn a_send_and_the_receive_after_it_move_at_once() {
    for t in [0.25, 1.0, 2.0] {
        let costs = costs(Communication::Blocking, [1.0; 2], t, 0.0);
        let timeline = simulate(&plain(Kind::OneFOneB, 2, 6), &costs).unwrap();
        for rank in 0..2 {
            let backwards = begins(&timeline, rank, Op::Backward);
            let rounds: Vec<f64> = backwards.windows(2).take(4).map(|pair| pair[1] - pair[0]).collect();
            assert_eq!(rounds, [3.0 + t; 4], "rank {rank}, t {t}");
        }
    }
}
