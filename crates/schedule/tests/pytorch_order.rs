//! Our lists against those of torch.distributed.pipelining, rank by rank and action by action
//! (`fixtures/pytorch_orders.py` made the fixture).

use mesh::{Rank, Route, Stage, StageMap, Visit};
use schedule::{Action, Backward, Kind, Op, Schedule, Spec, generate, validate};

const FIXTURE: &str = include_str!("fixtures/pytorch_orders.txt");

#[test]
fn every_rank_plays_what_pytorch_orders() {
    let mut lines = FIXTURE.lines().filter(|line| !line.starts_with('#'));
    let mut n_cases = 0;
    while let Some(head) = lines.next() {
        let words: Vec<&str> = head.split(' ').collect();
        let [p, v, m] = [1, 2, 3].map(|i| words[i].parse().unwrap());
        let kind = kind(words[0]);
        let schedule = generate(Spec { kind, backward: Backward::Fused }, &route(kind, p, v), m, &[]).unwrap();
        assert_eq!(validate(&schedule), Ok(()), "{head}");
        for rank in 0..p {
            assert_eq!(as_pytorch_prints(kind, &schedule, rank), lines.next().unwrap(), "{head}, rank {rank}");
        }
        n_cases += 1;
    }
    assert_eq!(n_cases, 35);
}

fn kind(class: &str) -> Kind {
    match class {
        "GPipe" => Kind::Gpipe,
        "1F1B" => Kind::OneFOneB,
        "LoopedBFS" => Kind::LoopedBfs,
        "Interleaved1F1B" => Kind::Interleaved,
        "InterleavedZeroBubble" => Kind::InterleavedZb,
        "DualPipeV" => Kind::DualPipeV,
        _ => panic!("{class}: no kind of that name"),
    }
}

fn route(kind: Kind, p: usize, v: usize) -> Route {
    match kind {
        Kind::DualPipeV => {
            Route::new((0..2 * p).map(|s| Visit { stage: Stage(s), rank: Rank(s.min(2 * p - 1 - s)) }).collect())
        }
        _ => StageMap::looped(p * v, p).route(),
    }
}

/// The rank's compute actions, with what PyTorch does otherwise on purpose or by mistake:
/// - its GPipe goes backwards in the microbatches' order, ours in reverse;
/// - the order it prints for 1F1B counts the last rank's forwards from 1 (its own runtime plays them from 0).
fn as_pytorch_prints(kind: Kind, schedule: &Schedule, rank: usize) -> String {
    let n_microbatches = schedule.n_microbatches();
    let is_last = rank + 1 == schedule.n_ranks();
    let labels = schedule.ranks[rank].iter().filter_map(|&action| {
        let Action::Visit { op, key } = action else { return None };
        let microbatch = match (kind, op) {
            (Kind::Gpipe, Op::Backward) => n_microbatches - 1 - key.microbatch.0,
            (Kind::OneFOneB, Op::Forward) if is_last => key.microbatch.0 + 1,
            _ => key.microbatch.0,
        };
        Some(format!("{}{op}{microbatch}", schedule.stage(action)))
    });
    labels.collect::<Vec<String>>().join(" ")
}
