//! Any route, any number of microbatches: what is generated is valid, what is broken is refused.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Rank, Route, Stage, Visit};
use proptest::prelude::*;
use schedule::{Action, Backward, Kind, Op, Schedule, Spec, StageOp, dependencies, generate, validate, with_transfers};

fn schedules() -> impl Strategy<Value = Schedule> {
    let spec = (
        prop_oneof![Just(Kind::Gpipe), Just(Kind::OneFOneB)],
        prop_oneof![Just(Backward::Fused), Just(Backward::Split)],
    );
    // A stage lies on rank `places[stage]`, so ranks share, skip and repeat.
    let route =
        (prop::collection::vec(0..4_usize, 5), prop::collection::vec(0..5_usize, 1..8)).prop_map(|(places, stages)| {
            Route::new(stages.iter().map(|&s| Visit { stage: Stage(s), rank: Rank(places[s]) }).collect())
        });
    (spec, route, 1..=12_usize, any::<bool>(), any::<bool>()).prop_map(
        |((kind, backward), route, n_microbatches, has_tied, has_transfers)| {
            let mut stages: Vec<Stage> = route.visits().iter().map(|visit| visit.stage).collect();
            stages.sort();
            stages.dedup();
            let tied = if has_tied { vec![stages] } else { vec![] };
            let schedule = generate(Spec { kind, backward }, &route, n_microbatches, &tied).unwrap();
            if has_transfers { with_transfers(&schedule) } else { schedule }
        },
    )
}

/// The place `(rank, position)` of one of the actions that `is_wanted`.
fn pick(
    schedule: &Schedule,
    choice: prop::sample::Index,
    is_wanted: impl Fn(Action) -> bool,
) -> Option<(usize, usize)> {
    let places: Vec<(usize, usize)> = (0..schedule.n_ranks())
        .flat_map(|rank| (0..schedule.ranks[rank].len()).map(move |position| (rank, position)))
        .filter(|&(rank, position)| is_wanted(schedule.ranks[rank][position]))
        .collect();
    (!places.is_empty()).then(|| places[choice.index(places.len())])
}

/// That the validator refuses `bad` and names the action `label` or the visit `key`.
fn refused(bad: &Schedule, action: Action, good: &Schedule) -> Result<(), TestCaseError> {
    let problems = validate(bad).err();
    prop_assert!(problems.is_some(), "accepted:\n{bad}");
    let text: Vec<String> = problems.into_iter().flatten().map(|problem| problem.to_string()).collect();
    let names = match action {
        Action::Visit { key, .. } => vec![good.label(action), key.to_string()],
        Action::Shard { .. } => vec![good.label(action)],
        Action::Stage { stage, .. } => vec![good.label(action), format!("stage {stage}")],
    };
    prop_assert!(text.iter().any(|line| names.iter().any(|name| line.contains(name))), "{names:?} not in {text:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn generated_schedules_are_valid(schedule in schedules()) {
        prop_assert_eq!(validate(&schedule), Ok(()), "{}", schedule);
        plays(&schedule)?;
    }

    #[test]
    fn activations_in_flight_are_bounded(schedule in schedules()) {
        // 1F1B never holds more visits of a hop than there are messages ahead of it, plus itself.
        prop_assume!(schedule.name.starts_with("1F1B"));
        let route = &schedule.routes[0];
        for list in &schedule.ranks {
            let mut live = vec![0_usize; route.n_hops()];
            for action in list {
                match action {
                    Action::Visit { op: Op::Forward, key } => {
                        live[key.hop.0] += 1;
                        let ahead = route.visits()[key.hop.0..].windows(2).filter(|w| w[0].rank != w[1].rank).count();
                        prop_assert!(live[key.hop.0] <= ahead + 1);
                    }
                    Action::Visit { op: Op::Backward | Op::BackwardInput, key } => live[key.hop.0] -= 1,
                    _ => {}
                }
            }
            prop_assert!(live.iter().all(|&live| live == 0));
        }
    }

    #[test]
    fn a_dropped_action_is_missed(schedule in schedules(), choice: prop::sample::Index) {
        // An update is due only if other stages have theirs.
        let n_updates = schedule.actions().filter(|(_, action)| is_update(*action)).count();
        let is_due = |action| match action {
            Action::Stage { op, .. } => op == StageOp::ReduceGradients || n_updates > 1,
            Action::Visit { .. } | Action::Shard { .. } => true,
        };
        let (rank, position) = pick(&schedule, choice, is_due).unwrap();
        let mut bad = schedule.clone();
        let action = bad.ranks[rank].remove(position);
        refused(&bad, other_half(&schedule, action), &schedule)?;
    }

    #[test]
    fn a_repeated_action_is_refused(schedule in schedules(), choice: prop::sample::Index, at: prop::sample::Index) {
        let (rank, position) = pick(&schedule, choice, |_| true).unwrap();
        let mut bad = schedule.clone();
        let action = bad.ranks[rank][position];
        let at = at.index(bad.ranks[rank].len() + 1);
        bad.ranks[rank].insert(at, action);
        refused(&bad, action, &schedule)?;
    }

    #[test]
    fn a_visit_on_a_wrong_rank_is_refused(schedule in schedules(), choice: prop::sample::Index) {
        let (rank, position) = pick(&schedule, choice, |action| matches!(action, Action::Visit { .. })).unwrap();
        let mut bad = schedule.clone();
        let action = bad.ranks[rank].remove(position);
        let other = (rank + 1) % (schedule.n_ranks() + 1);
        bad.ranks.resize(schedule.n_ranks() + 1, Vec::new());
        bad.ranks[other].push(action);
        refused(&bad, action, &schedule)?;
    }

    /// What of it is accepted is played to its end, see also the runtime's test of the same.
    #[test]
    fn a_misplaced_reduction_is_refused_or_played(
        schedule in schedules(),
        moves in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let is_reduction = |action| matches!(action, Action::Stage { op: StageOp::ReduceGradients, .. });
        prop_assume!(pick(&schedule, moves[0].0, is_reduction).is_some());
        let mut moved = schedule.clone();
        for (which, to) in moves {
            let (rank, position) = pick(&moved, which, is_reduction).unwrap();
            let action = moved.ranks[rank].remove(position);
            let to = to.index(moved.ranks[rank].len() + 1);
            moved.ranks[rank].insert(to, action);
        }
        let Err(problems) = validate(&moved) else { return plays(&moved) };
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        prop_assert!(text.iter().any(|line| line.contains("REDUCE_GRAD")), "{text:?}");
    }

    #[test]
    fn a_swapped_dependent_pair_is_refused(schedule in schedules(), choice: prop::sample::Index) {
        let dependencies = dependencies(&schedule).unwrap();
        let starts: Vec<usize> = (0..schedule.n_ranks()).map(|r| dependencies.actions_of(Rank(r)).start).collect();
        let pairs: Vec<(usize, usize, usize)> = (0..schedule.n_ranks())
            .flat_map(|rank| {
                let own = dependencies.actions_of(Rank(rank));
                let pairs: Vec<_> = own
                    .clone()
                    .flat_map(|i| dependencies.of(i).map(move |on| (rank, on, i)))
                    .filter(|(_, on, _)| own.contains(on))
                    .collect();
                pairs
            })
            .collect();
        prop_assume!(!pairs.is_empty());
        let (rank, first, second) = pairs[choice.index(pairs.len())];
        let mut bad = schedule.clone();
        bad.ranks[rank].swap(first - starts[rank], second - starts[rank]);
        let action = schedule.ranks[rank][second - starts[rank]];
        refused(&bad, action, &schedule)?;
    }
}

/// Brute force: some order of all actions keeps the lists and the dependencies.
fn plays(schedule: &Schedule) -> Result<(), TestCaseError> {
    let dependencies = dependencies(schedule).unwrap();
    let n_nodes = dependencies.n_actions() + dependencies.meetings().len();
    let mut done = vec![false; n_nodes];
    let mut left = done.len();
    while left > 0 {
        let before = left;
        for meeting in dependencies.n_actions()..n_nodes {
            if !done[meeting] && dependencies.of(meeting).all(|on| done[on]) {
                done[meeting] = true;
                left -= 1;
            }
        }
        for rank in (0..schedule.n_ranks()).map(Rank) {
            if let Some(head) = dependencies.actions_of(rank).find(|&i| !done[i])
                && dependencies.of(head).all(|on| done[on])
            {
                done[head] = true;
                left -= 1;
            }
        }
        prop_assert!(left < before, "deadlock in\n{schedule}");
    }
    Ok(())
}

fn is_update(action: Action) -> bool {
    matches!(action, Action::Stage { op: StageOp::OptimizerStep, .. })
}

/// Of a send or receive, what is left when it is dropped: the other half, which the message is about.
fn other_half(schedule: &Schedule, action: Action) -> Action {
    let Action::Visit { op, key } = action else { return action };
    let (op, hop) = match op {
        Op::SendActivation => (Op::RecvActivation, key.hop.0 + 1),
        Op::RecvActivation => (Op::SendActivation, key.hop.0 - 1),
        Op::SendGradient => (Op::RecvGradient, key.hop.0 - 1),
        Op::RecvGradient => (Op::SendGradient, key.hop.0 + 1),
        _ => return action,
    };
    assert!(schedule.visit(key.at(hop)).is_some());
    Action::visit(op, key.at(hop))
}
