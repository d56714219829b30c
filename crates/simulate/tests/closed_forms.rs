//! The simulator against closed forms of the papers and hand calculations. All numbers are sums of powers of two, so
//! every comparison is exact.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Cores, Rank, Stage, StageMap, Visit};
use schedule::{Backward, Kind, Schedule, Spec, generate, with_transfers};
use simulate::{Bubble, Category, Costs, Link, SimulateError, StageCost, Timeline, bubbles, idle_fraction, simulate};

fn plain(kind: Kind, backward: Backward, n_stages: usize, n_microbatches: usize) -> Schedule {
    generate(Spec { kind, backward }, &StageMap::one_per_rank(n_stages).route(), n_microbatches, &[]).unwrap()
}

fn stage(forward_s: f64, backward_input_s: f64, backward_weight_s: f64) -> StageCost {
    StageCost {
        forward_s,
        backward_input_s,
        backward_weight_s,
        backward_s: backward_input_s + backward_weight_s,
        activation_bytes: 100,
        weight_grad_bytes: 30,
        ..StageCost::default()
    }
}

fn equal(n_stages: usize, cost: StageCost) -> Costs {
    Costs { stages: vec![cost; n_stages], ..Costs::default() }
}

/// The parts of every rank's time sum to the makespan.
fn accounted(timeline: &Timeline) -> Vec<Bubble> {
    let all = bubbles(timeline, &Costs::default());
    for bubble in &all {
        assert_eq!(bubble.compute_s + bubble.idle_s(), timeline.makespan_s(), "{bubble:?}");
        assert_eq!(bubble.other_s, 0.0, "{bubble:?}");
    }
    all
}

/// (m + p - 1)(F + B), with recomputation in B; GPipe and PTD-P, section 2.2. Idle (p - 1) / (m + p - 1) of the time.
/// Peak activations: m microbatches in GPipe, min(m, p - i) on rank i in 1F1B.
#[test]
fn makespan_bubble_and_peak_of_equal_stages() {
    for (p, m) in [(1, 1), (1, 5), (2, 3), (3, 2), (4, 4), (4, 8), (5, 7), (7, 3), (8, 32)] {
        for kind in [Kind::Gpipe, Kind::OneFOneB] {
            for (forward_s, backward_input_s, backward_weight_s, recompute_s) in
                [(1.0, 1.0, 1.0, 0.0), (1.0, 1.0, 1.0, 1.0), (0.5, 1.25, 0.75, 0.0), (3.0, 0.25, 0.5, 3.0)]
            {
                let cost = StageCost { recompute_s, ..stage(forward_s, backward_input_s, backward_weight_s) };
                let per_microbatch_s = forward_s + backward_input_s + backward_weight_s + recompute_s;
                let schedule = plain(kind, Backward::Fused, p, m);
                let timeline = simulate(&schedule, &equal(p, cost.clone())).unwrap();
                assert_eq!(timeline, simulate(&with_transfers(&schedule), &equal(p, cost)).unwrap());
                assert_eq!(timeline.makespan_s(), (m + p - 1) as f64 * per_microbatch_s, "{kind:?} p {p} m {m}");
                let idle = idle_fraction(&accounted(&timeline));
                let expected = (p - 1) as f64 / (m + p - 1) as f64;
                // Two quotients of exact numbers: each is rounded once.
                assert!((idle - expected).abs() <= f64::EPSILON, "{idle} {expected}");
                for i in 0..p {
                    let in_flight = if kind == Kind::Gpipe { m } else { m.min(p - i) };
                    let peak = timeline.peak_by_category(Rank(i))[Category::Activations as usize];
                    assert_eq!(peak, 100 * in_flight as u64, "{kind:?} p {p} m {m} rank {i}");
                }
            }
        }
    }
}

/// 1F1B with the gradient sent before the weights' pass: idle (p - 1)(T_F + T_B) on every rank for m >= 2 p
/// (zero-bubble sheet, T_W <= min(T_F, T_B)).
#[test]
fn bubble_of_split_1f1b() {
    for (p, m, [f, b, w]) in [
        (2, 4, [1.0, 1.0, 1.0]),
        (4, 12, [1.0, 1.0, 1.0]),
        (4, 8, [10.0, 11.0, 8.0]),
        (8, 24, [10.0, 12.0, 6.0]),
        (8, 16, [10.0, 20.0, 10.0]),
    ] {
        let timeline = simulate(&plain(Kind::OneFOneB, Backward::Split, p, m), &equal(p, stage(f, b, w))).unwrap();
        for bubble in accounted(&timeline) {
            // A rank's bubble is what it idles within the span of the step.
            assert_eq!(bubble.idle_s(), (p - 1) as f64 * (f + b), "p {p} m {m} {bubble:?}");
        }
    }
}

/// Between `I` and `W` only the part that `W` needs is kept.
#[test]
fn memory_curve() {
    let cost = StageCost {
        backward_scratch: vec![(Category::Logits, 7)],
        resident: vec![(Category::Weights, 50), (Category::Optimizer, 80)],
        ..stage(1.0, 2.0, 4.0)
    };
    let timeline = simulate(&plain(Kind::Gpipe, Backward::Split, 1, 1), &equal(1, cost)).unwrap();
    let curve: Vec<(f64, [u64; 6])> = timeline.memory.iter().map(|sample| (sample.at_s, sample.bytes)).collect();
    assert_eq!(
        curve,
        [
            (0.0, [50, 0, 80, 100, 0, 0]),
            (1.0, [50, 0, 80, 100, 7, 0]),
            (3.0, [50, 0, 80, 30, 0, 0]),
            (7.0, [50, 0, 80, 0, 0, 0])
        ]
    );
    assert_eq!(timeline.peak_bytes(Rank(0)), 237);
}

fn both_ways(latency_s: f64, bytes_per_s: f64) -> Vec<Link> {
    let link = |from, to| Link { from: Rank(from), to: Rank(to), latency_s, bytes_per_s };
    vec![link(0, 1), link(1, 0)]
}

/// Two ranks, one microbatch, forward 1, backward 2, messages of 8 bytes. By hand: F to 1, message to 1 + t, F to
/// 2 + t, B to 4 + t, message to 4 + 2 t, B to 6 + 2 t, with t = latency + 8 / bandwidth.
#[test]
fn messages_take_time() {
    for (latency_s, bytes_per_s, t) in
        [(0.0, f64::INFINITY, 0.0), (0.5, f64::INFINITY, 0.5), (0.0, 4.0, 2.0), (0.5, 4.0, 2.5)]
    {
        let schedule = plain(Kind::OneFOneB, Backward::Fused, 2, 1);
        let cost = StageCost { carry_bytes: 8, ..stage(1.0, 1.0, 1.0) };
        let costs = Costs { links: both_ways(latency_s, bytes_per_s), ..equal(2, cost) };
        let timeline = simulate(&schedule, &costs).unwrap();
        assert_eq!(timeline.makespan_s(), 6.0 + 2.0 * t);
        let bubbles = accounted(&timeline);
        assert_eq!((bubbles[0].dependency_s, bubbles[0].communication_s), (3.0 + t, t));
        assert_eq!((bubbles[1].warm_up_s, bubbles[1].drain_s), (1.0 + t, 2.0 + t));
        // A message is live from its arrival until its user begins: here that is at once.
        assert_eq!(timeline.peak_by_category(Rank(1))[Category::Buffers as usize], 0);
    }
}

/// A slow link sends one message after the other; latency is not part of its occupation. GPipe, 3 microbatches,
/// forward 1, messages of 8 bytes at 4 bytes/s and latency 1: handed over at 1, 2, 3; taken at 1, 3, 5; there at 4, 6, 8.
#[test]
fn a_link_is_a_queue() {
    let cost = StageCost { carry_bytes: 8, ..stage(1.0, 4.0, 4.0) };
    let costs = Costs { links: both_ways(1.0, 4.0), ..equal(2, cost) };
    let timeline = simulate(&plain(Kind::Gpipe, Backward::Fused, 2, 3), &costs).unwrap();
    let sends: Vec<_> = timeline
        .spans
        .iter()
        .filter(|span| span.label().starts_with("0SEND_F"))
        .map(|span| (span.asked_s, span.start_s, span.end_s))
        .collect();
    assert_eq!(sends, [(1.0, 1.0, 4.0), (2.0, 3.0, 6.0), (3.0, 5.0, 8.0)]);
    let forwards: Vec<f64> =
        timeline.spans.iter().filter(|span| span.label().starts_with("1F")).map(|span| span.start_s).collect();
    assert_eq!(forwards, [4.0, 6.0, 8.0]);
}

/// A receiver that is busy keeps what arrives in its buffers: rank 1 takes 4 per forward, messages arrive every 1.
#[test]
fn early_messages_occupy_buffers() {
    let slow = StageCost { forward_s: 4.0, ..stage(1.0, 1.0, 1.0) };
    let cost = StageCost { carry_bytes: 8, ..stage(1.0, 1.0, 1.0) };
    let costs = Costs { stages: vec![cost, slow], ..Costs::default() };
    let timeline = simulate(&plain(Kind::Gpipe, Backward::Fused, 2, 4), &costs).unwrap();
    // Arrivals at 1, 2, 3, 4; uses at 1, 5, 9, 13: three wait from 4 to 5.
    assert_eq!(timeline.peak_by_category(Rank(1))[Category::Buffers as usize], 24);
}

/// Ranks that share cores: one permit serves two ranks one after the other; p ranks on c permits do their work in no
/// less than work / c, and with work at hand all the time in no more than that plus what one rank alone needs.
#[test]
fn cores_are_shared() {
    for (p, m, permits) in [(2, 5, 1), (4, 8, 2), (4, 3, 1), (5, 11, 3), (4, 8, 4)] {
        for backward in [Backward::Fused, Backward::Split] {
            let schedule = plain(Kind::OneFOneB, backward, p, m);
            let cores = Cores { permits, ..Cores::shared(p, 1) };
            let costs = Costs { cores: vec![cores], ..equal(p, stage(1.0, 1.5, 0.5)) };
            let timeline = simulate(&schedule, &costs).unwrap();
            let work_s = (p * m) as f64 * 3.0;
            let all = accounted(&timeline);
            assert_eq!(all.iter().map(|bubble| bubble.compute_s).sum::<f64>(), work_s);
            let makespan_s = timeline.makespan_s();
            assert!(makespan_s >= work_s / permits as f64, "{makespan_s}");
            if permits == 1 {
                assert_eq!(makespan_s, work_s, "one permit is never free while a microbatch can go on");
            }
            if permits == p {
                let alone = simulate(&schedule, &equal(p, stage(1.0, 1.5, 0.5))).unwrap();
                assert_eq!(timeline, alone, "with a permit each, nobody waits");
            }
            // Brute force: at every start, no more than `permits` spans overlap.
            let computes: Vec<_> = timeline.spans.iter().filter(|span| !span.label().contains('_')).collect();
            for span in computes.iter().filter(|span| span.end_s > span.start_s) {
                let running = computes.iter().filter(|o| o.start_s <= span.start_s && span.start_s < o.end_s).count();
                assert!(running <= permits, "{running} run at {}", span.start_s);
            }
        }
    }
}

/// Who asks first computes first, at the same moment the lower rank: three single-rank pipelines on one permit.
#[test]
fn permits_are_granted_in_order() {
    let routes: Vec<mesh::Route> =
        (0..3).map(|i| mesh::Route::new(vec![Visit { stage: Stage(i), rank: Rank(i) }])).collect();
    let list =
        |i| [schedule::Op::Forward, schedule::Op::Backward].map(|op| schedule::Action::visit(op, mesh::Key::new(i, 0)));
    let schedule = Schedule {
        name: "three".into(),
        routes,
        vocabulary: None,
        tied: Vec::new(),
        n_segments: 1,
        ranks: (0..3).map(|i| list(i).to_vec()).collect(),
    };
    let costs = Costs { cores: vec![Cores { permits: 1, ..Cores::shared(3, 1) }], ..equal(3, stage(1.0, 1.0, 1.0)) };
    let timeline = simulate(&schedule, &costs).unwrap();
    let mut begins: Vec<_> = timeline.spans.iter().map(|span| (span.start_s, span.label())).collect();
    begins.sort_by(|a, b| a.0.total_cmp(&b.0));
    let wanted = [(0.0, "0F0"), (1.0, "1F1"), (2.0, "2F2"), (3.0, "0B0"), (5.0, "1B1"), (7.0, "2B2")];
    assert_eq!(begins, wanted.map(|(at_s, label)| (at_s, label.to_owned())));
}

#[test]
fn refusals() {
    let schedule = plain(Kind::Gpipe, Backward::Fused, 2, 2);
    let good = equal(2, stage(1.0, 1.0, 1.0));
    let refuse = |schedule: &Schedule, costs: &Costs| simulate(schedule, costs).unwrap_err();

    let mut cut = schedule.clone();
    cut.ranks[1].remove(0);
    assert!(matches!(refuse(&cut, &good), SimulateError::Schedule { problems } if problems.len() == 1));
    assert_eq!(
        refuse(&schedule, &equal(1, stage(1.0, 1.0, 1.0))),
        SimulateError::MissingStage { stage: Stage(1), given: 1 }
    );
    assert!(matches!(refuse(&schedule, &equal(2, stage(-1.0, 1.0, 1.0))), SimulateError::Duration { found: -1.0, .. }));
    assert!(matches!(refuse(&schedule, &equal(2, stage(f64::NAN, 1.0, 1.0))), SimulateError::Duration { .. }));
    let slow = Costs { links: both_ways(0.0, 0.0), ..good.clone() };
    assert_eq!(refuse(&schedule, &slow), SimulateError::Bandwidth { from: Rank(0), to: Rank(1), found: 0.0 });
    let links = [both_ways(0.0, 1.0), both_ways(0.0, 1.0)].concat();
    let twice = Costs { links, ..good.clone() };
    assert_eq!(refuse(&schedule, &twice), SimulateError::LinkTwice { from: Rank(0), to: Rank(1) });
    let none = Costs { cores: vec![Cores { permits: 0, ..Cores::shared(2, 1) }], ..good.clone() };
    assert_eq!(refuse(&schedule, &none), SimulateError::NoPermits);
    let both = Costs { cores: vec![Cores::shared(1, 1), Cores::shared(2, 1)], ..good };
    assert_eq!(refuse(&schedule, &both), SimulateError::CoresTwice { rank: Rank(0) });
}
