//! Generated lists against published and hand-made ones.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Key, Rank, Route, Stage, StageMap, Visit};
use schedule::{
    Action, Backward, Kind, Op, Schedule, ScheduleError, Spec, StageOp, generate, validate, with_transfers,
};

const GPIPE: Spec = Spec { kind: Kind::Gpipe, backward: Backward::Fused };
const ONE_F_ONE_B: Spec = Spec { kind: Kind::OneFOneB, backward: Backward::Fused };
const SPLIT: Backward = Backward::Split;

fn route(visits: &[(usize, usize)]) -> Route {
    Route::new(visits.iter().map(|&(stage, rank)| Visit { stage: Stage(stage), rank: Rank(rank) }).collect())
}

fn lines(schedule: &Schedule) -> Vec<String> {
    let line = |list: &Vec<Action>| list.iter().map(|&action| schedule.label(action)).collect::<Vec<_>>().join(" ");
    schedule.ranks.iter().map(line).collect()
}

fn check(spec: Spec, visits: &[(usize, usize)], n_microbatches: usize, expected: &[&str]) {
    let schedule = generate(spec, &route(visits), n_microbatches, &[]).unwrap();
    assert_eq!(lines(&schedule), expected, "{}", schedule.name);
    assert_eq!(validate(&schedule), Ok(()));
    assert_eq!(validate(&with_transfers(&schedule)), Ok(()));
}

/// Ranks 0 to 2 as printed by `Schedule1F1B._get_pipeline_order` of PyTorch 2.15; that starts the last rank with
/// microbatch 1, so the last line is the published figure's (PTD-P, figure 4 without interleaving).
#[test]
fn one_f_one_b() {
    check(
        ONE_F_ONE_B,
        &[(0, 0), (1, 1), (2, 2), (3, 3)],
        8,
        &[
            "0F0 0F1 0F2 0F3 0B0 0F4 0B1 0F5 0B2 0F6 0B3 0F7 0B4 0B5 0B6 0B7 0OPT",
            "1F0 1F1 1F2 1B0 1F3 1B1 1F4 1B2 1F5 1B3 1F6 1B4 1F7 1B5 1B6 1B7 1OPT",
            "2F0 2F1 2B0 2F2 2B1 2F3 2B2 2F4 2B3 2F5 2B4 2F6 2B5 2F7 2B6 2B7 2OPT",
            "3F0 3B0 3F1 3B1 3F2 3B2 3F3 3B3 3F4 3B4 3F5 3B5 3F6 3B6 3F7 3B7 3OPT",
        ],
    );
}

/// Fewer microbatches than stages: the warm-up is all there is.
#[test]
fn fewer_microbatches_than_stages() {
    check(
        ONE_F_ONE_B,
        &[(0, 0), (1, 1), (2, 2)],
        2,
        &["0F0 0F1 0B0 0B1 0OPT", "1F0 1F1 1B0 1B1 1OPT", "2F0 2B0 2F1 2B1 2OPT"],
    );
}

/// Backward in reverse order, as in GPipe's figure 2 (PyTorch's goes forwards).
#[test]
fn gpipe() {
    let line = |s: usize| format!("{s}F0 {s}F1 {s}F2 {s}B2 {s}B1 {s}B0 {s}OPT");
    check(GPIPE, &[(0, 0), (1, 1)], 3, &[&line(0), &line(1)]);
    check(
        Spec { backward: SPLIT, ..GPIPE },
        &[(0, 0), (1, 1)],
        2,
        &["0F0 0F1 0I1 0W1 0I0 0W0 0OPT", "1F0 1F1 1I1 1W1 1I0 1W0 1OPT"],
    );
}

/// Two stages on one rank behave as one stage: depth first, one microbatch at a time.
#[test]
fn stages_that_share_a_rank() {
    check(ONE_F_ONE_B, &[(0, 0), (1, 0)], 2, &["0F0 1F0 1B0 0B0 0F1 1F1 1B1 0B1 0OPT 1OPT"]);
    check(
        ONE_F_ONE_B,
        &[(0, 0), (1, 0), (2, 1)],
        2,
        &["0F0 1F0 0F1 1F1 1B0 0B0 1B1 0B1 0OPT 1OPT", "2F0 2B0 2F1 2B1 2OPT"],
    );
}

/// A looped model comes back to stage 0 and to its rank; a route may skip a rank and a stage.
#[test]
fn repeats_and_skips() {
    check(
        Spec { backward: SPLIT, ..ONE_F_ONE_B },
        &[(0, 0), (1, 1), (0, 0)],
        1,
        &["0F0@0 0F0@2 0I0@2 0W0@2 0I0@0 0W0@0 0OPT", "1F0 1I0 1W0 1OPT"],
    );
    check(GPIPE, &[(0, 0), (3, 2)], 1, &["0F0 0B0 0OPT", "", "3F0 3B0 3OPT"]);
}

#[test]
fn tied_stages_reduce_before_any_update() {
    let tied = [vec![Stage(0), Stage(3)], vec![Stage(2), Stage(1)]];
    let schedule = generate(GPIPE, &StageMap::looped(4, 2).route(), 1, &tied).unwrap();
    let ends: Vec<String> = lines(&schedule).iter().map(|line| line[line.find("0B0").unwrap_or(0)..].into()).collect();
    assert_eq!(ends[0], "0B0 0REDUCE_GRAD 2REDUCE_GRAD 0OPT 2OPT");
    assert!(ends[1].ends_with("1B0 3REDUCE_GRAD 1REDUCE_GRAD 1OPT 3OPT"), "{}", ends[1]);

    let refused = |n_microbatches, tied: &[Vec<Stage>]| {
        generate(GPIPE, &StageMap::one_per_rank(2).route(), n_microbatches, tied).unwrap_err()
    };
    assert_eq!(refused(0, &[]), ScheduleError::NoMicrobatches);
    assert_eq!(refused(1, &[vec![Stage(0), Stage(2)]]), ScheduleError::TiedNotVisited { stage: Stage(2) });
    assert_eq!(refused(1, &[vec![Stage(0)], vec![Stage(0)]]), ScheduleError::TiedTwice { stage: Stage(0) });
}

/// `_add_send_recv` of PyTorch 2.15 on its GPipe order (backwards in microbatch order), without its reductions.
#[test]
fn transfers_as_pytorch_inserts_them() {
    let list = |hop: usize| {
        let of = |op| (0..4).map(move |microbatch| Action::visit(op, Key::new(microbatch, hop)));
        of(Op::Forward).chain(of(Op::Backward)).collect()
    };
    let schedule = Schedule {
        name: "GPipe".into(),
        routes: vec![StageMap::one_per_rank(3).route(); 4],
        vocabulary: None,
        tied: Vec::new(),
        n_segments: 1,
        ranks: (0..3).map(list).collect(),
    };
    let with = with_transfers(&schedule);
    assert_eq!(
        lines(&with),
        [
            "0F0 0SEND_F0 0F1 0SEND_F1 0F2 0SEND_F2 0F3 0SEND_F3 \
             0RECV_B0 0B0 0RECV_B1 0B1 0RECV_B2 0B2 0RECV_B3 0B3",
            "1RECV_F0 1F0 1SEND_F0 1RECV_F1 1F1 1SEND_F1 1RECV_F2 1F2 1SEND_F2 1RECV_F3 1F3 1SEND_F3 \
             1RECV_B0 1B0 1SEND_B0 1RECV_B1 1B1 1SEND_B1 1RECV_B2 1B2 1SEND_B2 1RECV_B3 1B3 1SEND_B3",
            "2RECV_F0 2F0 2RECV_F1 2F1 2RECV_F2 2F2 2RECV_F3 2F3 \
             2B0 2SEND_B0 2B1 2SEND_B1 2B2 2SEND_B2 2B3 2SEND_B3",
        ]
    );
    assert_eq!(with_transfers(&with), with);
    assert_eq!(validate(&with), Ok(()));
}

/// The gradient leaves after `I`, before `W`; on one rank nothing is sent.
#[test]
fn transfers_of_split_backward() {
    let spec = Spec { backward: SPLIT, ..GPIPE };
    let schedule = generate(spec, &route(&[(0, 0), (1, 1), (2, 1)]), 1, &[]).unwrap();
    assert_eq!(
        lines(&with_transfers(&schedule)),
        ["0F0 0SEND_F0 0RECV_B0 0I0 0W0 0OPT", "1RECV_F0 1F0 2F0 2I0 2W0 1I0 1SEND_B0 1W0 1OPT 2OPT"]
    );
}

#[test]
fn evaluation() {
    let visits = route(&[(0, 0), (1, 1)]);
    let list = |hop| (0..2).map(|m| Action::visit(Op::ForwardNoGrad, Key::new(m, hop))).collect();
    let schedule = Schedule {
        name: "evaluation".into(),
        routes: vec![visits; 2],
        vocabulary: None,
        tied: Vec::new(),
        n_segments: 1,
        ranks: vec![list(0), list(1)],
    };
    let with = with_transfers(&schedule);
    assert_eq!(lines(&with), ["0E0 0SEND_F0 0E1 0SEND_F1", "1RECV_F0 1E0 1RECV_F1 1E1"]);
    assert_eq!(validate(&with), Ok(()));
}

/// Sequences in three pieces: forwards in order, backwards in reverse.
#[test]
fn segments() {
    let key = |segment| Key { segment: mesh::Segment(segment), ..Key::new(0, 0) };
    let with_order = |segments: [usize; 6]| {
        let ops = [Op::Forward, Op::Forward, Op::Forward, Op::Backward, Op::Backward, Op::Backward];
        let list = ops.iter().zip(segments).map(|(&op, segment)| Action::visit(op, key(segment))).collect();
        Schedule {
            name: "segments".into(),
            routes: vec![route(&[(0, 0)])],
            vocabulary: None,
            tied: Vec::new(),
            n_segments: 3,
            ranks: vec![list],
        }
    };
    assert_eq!(lines(&with_order([0, 1, 2, 2, 1, 0])), ["0F0.0 0F0.1 0F0.2 0B0.2 0B0.1 0B0.0"]);
    assert_eq!(validate(&with_order([0, 1, 2, 2, 1, 0])), Ok(()));
    assert!(validate(&with_order([0, 2, 1, 2, 1, 0])).is_err());
    assert!(validate(&with_order([0, 1, 2, 0, 1, 2])).is_err());
    assert!(validate(&with_order([0, 1, 1, 2, 1, 0])).is_err());
}

/// Messages of the validator, one case a kind of mistake.
#[test]
fn refusals_in_words() {
    let good = with_transfers(&generate(ONE_F_ONE_B, &StageMap::one_per_rank(2).route(), 2, &[]).unwrap());
    assert_eq!(
        lines(&good),
        [
            "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0OPT",
            "1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1 1OPT"
        ]
    );
    let check = |change: &dyn Fn(&mut Vec<Vec<Action>>), expected: &[&str]| {
        let mut bad = good.clone();
        change(&mut bad.ranks);
        let problems: Vec<String> = validate(&bad).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(problems, expected);
    };
    check(
        &|ranks| ranks[1].retain(|&action| action != Action::visit(Op::Forward, Key::new(0, 1))),
        &["rank 1 lacks the forward (F) of microbatch 0 hop 1 (stage 1)"],
    );
    check(
        &|ranks| ranks[0].retain(|&action| action != Action::visit(Op::SendActivation, Key::new(0, 0))),
        &["1RECV_F0 (rank 1, position 0) is without its other half: rank 0 lacks SEND_F of microbatch 0 hop 0"],
    );
    check(
        &|ranks| ranks[0].swap(5, 8),
        &["0OPT (rank 0, position 5) stands before 0B1 (rank 0, position 7), which it waits for"],
    );
    check(
        &|ranks| ranks[0].push(Action::visit(Op::Forward, Key::new(1, 0))),
        &["0F1 (rank 0, position 9) repeats 0F1 (rank 0, position 2); every visit is played once"],
    );
    check(
        &|ranks| {
            let forward = ranks[0].remove(0);
            ranks[1].insert(0, forward);
        },
        &["0F0 (rank 1, position 0): the route plays microbatch 0 hop 0 on rank 0"],
    );
    check(
        &|ranks| ranks[1].truncate(8),
        &["rank 1 lacks the optimizer step of stage 1 (OPT, or TRY_OPT and VALIDATE), though other stages have theirs"],
    );
    check(
        &|ranks| ranks[1].push(Action::stage(StageOp::OptimizerStep, 0)),
        &["0OPT (rank 1, position 9): no route visits stage 0 on rank 1; take it out or put it where the stage lies"],
    );
    check(
        &|ranks| {
            ranks[1].pop();
            ranks[1].push(Action::stage(StageOp::OptimisticStep, 1));
            ranks[1].push(Action::stage(StageOp::PostValidate, 1));
        },
        &["0OPT (rank 0, position 8) waits for the global norm and 1TRY_OPT (rank 1, position 8) does not; use OPT \
           everywhere, or TRY_OPT and VALIDATE"],
    );
    check(
        &|ranks| ranks[0][0] = Action::visit(Op::Forward, Key::new(2, 0)),
        &["F of microbatch 2 hop 0 (rank 0, position 0): no route has microbatch 2 hop 0; \
           the schedule has 2 microbatches of 1 segments"],
    );
    check(
        &|ranks| ranks[1].push(Action::visit(Op::SendActivation, Key::new(0, 1))),
        &["1SEND_F0 (rank 1, position 9): the route has no hop on the other side; take it out"],
    );
    check(
        &|ranks| ranks[0].push(Action::stage(StageOp::OptimizerStep, 0)),
        &["0OPT (rank 0, position 9) repeats 0OPT (rank 0, position 8); every visit is played once"],
    );
    // Rank 0 wants the gradient before it sends what the gradient comes from.
    check(
        &|ranks| ranks[0][1..6].rotate_left(3),
        &["deadlock: 0RECV_B0 (rank 0, position 1) waits for 1SEND_B0 (rank 1, position 3) waits for \
           1RECV_F0 (rank 1, position 0) waits for 0SEND_F0 (rank 0, position 3) waits for \
           0RECV_B0 (rank 0, position 1)"],
    );
}

/// Tied stages that do not all sum, or that cannot meet.
#[test]
fn refused_reductions_in_words() {
    let tied = [vec![Stage(1), Stage(0)]];
    let good = with_transfers(&generate(ONE_F_ONE_B, &StageMap::one_per_rank(2).route(), 2, &tied).unwrap());
    assert_eq!(
        lines(&good),
        [
            "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0REDUCE_GRAD 0OPT",
            "1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1 1REDUCE_GRAD 1OPT"
        ]
    );
    let check = |change: &dyn Fn(&mut Schedule), expected: &[&str]| {
        let mut bad = good.clone();
        change(&mut bad);
        let problems: Vec<String> = validate(&bad).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(problems, expected);
    };
    let lacks = "rank 1 lacks REDUCE_GRAD of stage 1, which shares weights with stage 0; every rank of a tied group sums \
                 its gradients";
    check(&|bad| bad.ranks[1].retain(|&action| action != Action::stage(StageOp::ReduceGradients, 1)), &[lacks]);
    // Rank 1 waits for the gradient of stage 0 before it sends what that comes from.
    check(
        &|bad| bad.ranks[1].swap(7, 8),
        &[
            "deadlock: 0RECV_B1 (rank 0, position 6) waits for 1SEND_B1 (rank 1, position 8) waits for 1REDUCE_GRAD (rank 1, \
           position 7) waits for 0B1 (rank 0, position 7) waits for 0RECV_B1 (rank 0, position 6)",
        ],
    );
    check(
        &|bad| bad.tied[0].push(Stage(7)),
        &["stage 7 shares weights with other stages, but no route trains it; let one visit it or untie it"],
    );
    check(
        &|bad| bad.tied.push(vec![Stage(0)]),
        &["stage 0 is named twice among the groups of stages that share weights; join its groups into one"],
    );
    // What neither sums nor updates needs no partners.
    let mut gradients_only = good.clone();
    gradients_only.ranks.iter_mut().for_each(|list| list.truncate(8));
    assert_eq!(validate(&gradients_only), Ok(()));
}

/// A rank gives its part of the norm at its first update: what another rank needs before its own update may not come later.
#[test]
fn an_update_before_what_others_wait_for() {
    let route = route(&[(0, 0), (1, 1)]);
    let visits = |op, microbatch| [0, 1].map(|hop| Action::visit(op, Key::new(microbatch, hop)));
    let (forwards, backwards) = (visits(Op::Forward, 0), visits(Op::Backward, 0));
    let evaluations = visits(Op::ForwardNoGrad, 1);
    let updates = [0, 1].map(|stage| Action::stage(StageOp::OptimizerStep, stage));
    let schedule = |first: [Action; 4], last: [Action; 4]| Schedule {
        name: "one trained, one evaluated".into(),
        routes: vec![route.clone(); 2],
        vocabulary: None,
        tied: Vec::new(),
        n_segments: 1,
        ranks: vec![first.to_vec(), last.to_vec()],
    };
    let last = [forwards[1], backwards[1], evaluations[1], updates[1]];
    let good = schedule([forwards[0], evaluations[0], backwards[0], updates[0]], last);
    assert_eq!(validate(&good), Ok(()));
    let bad = schedule([forwards[0], backwards[0], updates[0], evaluations[0]], last);
    let problems: Vec<String> = validate(&bad).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "deadlock: 0OPT (rank 0, position 2) waits for 1E1 (rank 1, position 2) waits for 0E1 (rank 0, position 3) waits \
          for 0OPT (rank 0, position 2)"
        ]
    );
}
