//! Whether a schedule can be played, and if not, why.

use crate::dependency::Dependencies;
use crate::index::{Index, shards};
use crate::{Action, Op, Schedule, ScheduleError, ShardOp, StageOp};
use mesh::{Hop, Key, Microbatch, Rank, Segment, Stage};
use std::collections::{BTreeMap, BTreeSet};

/// Checks that a schedule, with or without transfers, does its work completely and can be played to its end:
///
/// - every action names a visit of the routes, on the rank the route says, and none is repeated;
/// - every microbatch is trained (each visit has one `F` and one backward: `B`, or `I` and `W`) or evaluated (each
///   visit has one `E`);
/// - where the vocabulary is sharded, every rank does its shard's work once for every microbatch;
/// - sends and receives come in pairs between different ranks; either all messages are spelled out or none;
/// - either no stage has an optimizer step, or every stage with gradients has one, on each rank that has them: `OPT`, or
///   `TRY_OPT` and `VALIDATE`, all of one kind;
/// - where a stage of a tied group is updated or reduced, every stage of the group has gradients, and `REDUCE_GRAD` on
///   each rank that has them;
/// - work on a stage stands on a rank that the stage is visited on;
/// - everything on a list stands after what it waits for, and ranks do not wait for each other in a circle.
///
/// # Errors
/// Everything found, in rank and list order. Order and deadlock are looked at when nothing is missing or misplaced.
pub fn validate(schedule: &Schedule) -> Result<(), Vec<ScheduleError>> {
    let (index, mut problems) = Index::new(schedule).map_err(|problem| vec![problem])?;
    if schedule.routes.is_empty() || schedule.n_segments == 0 {
        problems.push(ScheduleError::NoMicrobatches);
    }
    if schedule.vocabulary.is_some() && schedule.n_segments > 1 {
        problems.push(ScheduleError::ShardedSegments { n_segments: schedule.n_segments });
    }
    if problems.is_empty() {
        places(&index, &mut problems);
        completeness(&index, &mut problems);
        transfers(&index, &mut problems);
        updates(&index, &mut problems);
        tied(&index, &mut problems);
    }
    if problems.is_empty() {
        order(&index, &mut problems);
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn places(index: &Index, problems: &mut Vec<ScheduleError>) {
    let mut visited: BTreeSet<(Rank, Stage)> = BTreeSet::new();
    for route in index.schedule.routes.iter() {
        visited.extend(route.visits().iter().map(|visit| (visit.rank, visit.stage)));
    }
    for (i, (rank, action)) in index.schedule.actions().enumerate() {
        match action {
            Action::Visit { key, .. } => {
                let wanted = index.schedule.visit(key).expect("invariant: the index refuses unknown visits").rank;
                if rank != wanted {
                    problems.push(ScheduleError::WrongRank { place: index.place(i), key, wanted });
                }
            }
            Action::Stage { stage, .. } if !visited.contains(&(rank, stage)) => {
                problems.push(ScheduleError::NotHere { place: index.place(i), stage, rank });
            }
            Action::Stage { .. } | Action::Shard { .. } => {}
        }
    }
}

fn completeness(index: &Index, problems: &mut Vec<ScheduleError>) {
    let schedule = index.schedule;
    let ranks_and = |ops: &'static [ShardOp]| {
        (0..schedule.n_ranks()).flat_map(move |rank| ops.iter().map(move |op| (Rank(rank), op)))
    };
    for (microbatch, route) in schedule.routes.iter().enumerate() {
        let keys = || {
            (0..route.n_hops()).flat_map(move |hop| {
                (0..schedule.n_segments).map(move |segment| Key {
                    microbatch: Microbatch(microbatch),
                    hop: Hop(hop),
                    segment: Segment(segment),
                })
            })
        };
        let is_evaluated = keys().any(|key| index.find(Op::ForwardNoGrad, key).is_some());
        for (rank, &op) in ranks_and(shards(schedule)) {
            let is_due = !is_evaluated || matches!(op, ShardOp::VocabForward | ShardOp::EmbedForward);
            let microbatch = Microbatch(microbatch);
            match index.find_shard(op, rank, microbatch) {
                None if is_due => problems.push(ScheduleError::MissingShard { rank, op, microbatch }),
                Some(i) if !is_due => problems.push(ScheduleError::NoShard { place: index.place(i) }),
                _ => {}
            }
        }
        for key in keys() {
            let has = |op: Op| index.find(op, key);
            let visit = route.get(key.hop).expect("invariant: a hop of this route");
            let mut missing = |what: &str| {
                let what = what.to_owned();
                problems.push(ScheduleError::MissingVisit { rank: visit.rank, stage: visit.stage, key, what });
            };
            let mut surplus = Vec::new();
            if is_evaluated {
                if has(Op::ForwardNoGrad).is_none() {
                    missing("the evaluation's forward (E)");
                }
                let trains = [Op::Forward, Op::Recompute, Op::Backward, Op::BackwardInput, Op::BackwardWeight];
                surplus.extend(trains.iter().filter_map(|&op| Some((has(op)?, has(Op::ForwardNoGrad)?))));
            } else {
                if has(Op::Forward).is_none() {
                    missing("the forward (F)");
                }
                match (has(Op::Backward), has(Op::BackwardInput), has(Op::BackwardWeight)) {
                    (None, None, None) => missing("the backward (B, or I and W)"),
                    (None, None, Some(_)) => missing("the backward of the input (I)"),
                    (None, Some(_), None) => missing("the backward of the weights (W)"),
                    (Some(whole), part, other) => surplus.extend(part.into_iter().chain(other).map(|i| (i, whole))),
                    (None, Some(_), Some(_)) => {}
                }
            }
            problems.extend(
                surplus
                    .into_iter()
                    .map(|(i, first)| ScheduleError::Repeated { place: index.place(i), first: index.place(first) }),
            );
        }
    }
}

fn transfers(index: &Index, problems: &mut Vec<ScheduleError>) {
    let schedule = index.schedule;
    let mut any = false;
    for (i, (rank, action)) in schedule.actions().enumerate() {
        let Action::Visit { op, key } = action else { continue };
        if op.is_compute() {
            continue;
        }
        any = true;
        let peer = op.other_half(key.hop).and_then(|(what, hop)| {
            let key = key.at(hop.0);
            Some((what, key, schedule.visit(key)?))
        });
        match peer {
            None => {
                let why = "the route has no hop on the other side";
                problems.push(ScheduleError::NeedlessTransfer { place: index.place(i), why });
            }
            Some((_, _, visit)) if visit.rank == rank => {
                let why = "both hops are on one rank, where tensors pass directly";
                problems.push(ScheduleError::NeedlessTransfer { place: index.place(i), why });
            }
            Some((what, key, visit)) => {
                if index.find(what, key).is_none() {
                    problems.push(ScheduleError::Unmatched { place: index.place(i), rank: visit.rank, what, key });
                }
            }
        }
    }
    if !any {
        return;
    }
    for (_, action) in schedule.actions() {
        let Action::Visit { op, key } = action else { continue };
        let route = schedule.route(key);
        let visit = route.get(key.hop).expect("invariant: the index refuses unknown visits");
        let (receive, neighbour) = match op {
            Op::Forward | Op::ForwardNoGrad => (Op::RecvActivation, route.before(key.hop)),
            Op::Backward | Op::BackwardInput => (Op::RecvGradient, route.after(key.hop)),
            _ => continue,
        };
        let is_needed = neighbour.is_some_and(|neighbour| neighbour.rank != visit.rank);
        let (send, hop) = receive.other_half(key.hop).unwrap_or((receive, key.hop));
        // With the send there, the missing receive is already named as its other half.
        if is_needed && index.find(receive, key).is_none() && index.find(send, key.at(hop.0)).is_none() {
            let what = format!("the message ({receive})");
            problems.push(ScheduleError::MissingVisit { rank: visit.rank, stage: visit.stage, key, what });
        }
    }
}

fn updates(index: &Index, problems: &mut Vec<ScheduleError>) {
    let schedule = index.schedule;
    let mut seen: BTreeMap<(Rank, Stage, StageOp), usize> = BTreeMap::new();
    let mut with_gradients: BTreeSet<(Rank, Stage)> = BTreeSet::new();
    for (i, (rank, action)) in schedule.actions().enumerate() {
        match action {
            Action::Stage {
                op:
                    op @ (StageOp::ReduceGradients
                    | StageOp::OptimizerStep
                    | StageOp::OptimisticStep
                    | StageOp::PostValidate),
                stage,
            } => {
                if let Some(first) = seen.insert((rank, stage, op), i) {
                    problems.push(ScheduleError::Repeated { place: index.place(i), first: index.place(first) });
                }
            }
            Action::Visit { op: Op::Backward | Op::BackwardWeight, .. } => {
                with_gradients.insert((rank, schedule.stage(action)));
            }
            _ => {}
        }
    }
    let has = |rank, stage, op| seen.contains_key(&(rank, stage, op));
    let step = |rank, stage| match has(rank, stage, StageOp::OptimizerStep) {
        true => !has(rank, stage, StageOp::OptimisticStep) && !has(rank, stage, StageOp::PostValidate),
        false => has(rank, stage, StageOp::OptimisticStep) && has(rank, stage, StageOp::PostValidate),
    };
    if seen.keys().any(|&(_, _, op)| op != StageOp::ReduceGradients) {
        let without = with_gradients.iter().filter(|&&(rank, stage)| !step(rank, stage));
        problems.extend(without.map(|&(rank, stage)| ScheduleError::MissingStep { rank, stage }));
    }
    let first = |wanted: StageOp| seen.iter().find(|((_, _, op), _)| *op == wanted).map(|(_, &i)| i);
    if let (Some(barrier), Some(optimistic)) = (first(StageOp::OptimizerStep), first(StageOp::OptimisticStep)) {
        problems.push(ScheduleError::MixedSteps { barrier: index.place(barrier), optimistic: index.place(optimistic) });
    }
    for (&(rank, stage, op), &i) in &seen {
        let is_idle = op != StageOp::ReduceGradients && !with_gradients.contains(&(rank, stage));
        let place = index.place(i);
        let is_told =
            |problem: &ScheduleError| matches!(problem, ScheduleError::NotHere { place: other, .. } if *other == place);
        if is_idle && !problems.iter().any(is_told) {
            problems.push(ScheduleError::NothingToUpdate { place });
        }
    }
}

/// Whether tied stages are summed, all of a group or none: copies that are updated by sums of their own drift apart.
fn tied(index: &Index, problems: &mut Vec<ScheduleError>) {
    let schedule = index.schedule;
    if schedule.tied.is_empty() {
        return;
    }
    let mut with_gradients: BTreeSet<(Stage, Rank)> = BTreeSet::new();
    let mut reduced: BTreeMap<(Stage, Rank), usize> = BTreeMap::new();
    let mut at_work: BTreeSet<Stage> = BTreeSet::new();
    for (i, (rank, action)) in schedule.actions().enumerate() {
        match action {
            Action::Visit { op: Op::Backward | Op::BackwardWeight, .. } => {
                with_gradients.insert((schedule.stage(action), rank));
            }
            Action::Stage { op: StageOp::ReduceGradients, stage } => {
                reduced.insert((stage, rank), i);
                at_work.insert(stage);
            }
            Action::Stage { op: StageOp::OptimizerStep | StageOp::OptimisticStep, stage } => {
                at_work.insert(stage);
            }
            _ => {}
        }
    }
    let all: Vec<Stage> = schedule.tied.iter().flatten().copied().collect();
    let twice = (0..all.len()).find(|&i| all[..i].contains(&all[i]));
    problems.extend(twice.map(|i| ScheduleError::TiedTwice { stage: all[i] }));
    for group in schedule.tied.iter().filter(|group| group.iter().any(|stage| at_work.contains(stage))) {
        for &stage in group {
            let of_stage = (stage, Rank(0))..=(stage, Rank(usize::MAX));
            if with_gradients.range(of_stage.clone()).next().is_none() {
                problems.push(ScheduleError::TiedNotVisited { stage });
            }
            let lacking = with_gradients.range(of_stage.clone()).filter(|of_stage| !reduced.contains_key(of_stage));
            problems.extend(lacking.map(|&(stage, rank)| {
                let others = group.iter().copied().filter(|&other| other != stage).collect();
                ScheduleError::MissingReduction { rank, stage, others }
            }));
            let idle = reduced.range(of_stage).filter(|(of_stage, _)| !with_gradients.contains(of_stage));
            problems.extend(idle.map(|(_, &i)| ScheduleError::NothingToUpdate { place: index.place(i) }));
        }
    }
}

/// Plays the schedule without time. What cannot be played waits for something; following that leads into a circle.
fn order(index: &Index, problems: &mut Vec<ScheduleError>) {
    let dependencies = Dependencies::new(index);
    let n_ranks = index.schedule.n_ranks();
    for rank in (0..n_ranks).map(Rank) {
        let own = dependencies.actions_of(rank);
        for i in own.clone() {
            if let Some(later) = dependencies.of(i).find(|&on| on > i && own.contains(&on)) {
                problems.push(ScheduleError::OutOfOrder { place: index.place(i), waits_for: index.place(later) });
            }
        }
    }
    if !problems.is_empty() {
        return;
    }

    let mut done = vec![false; dependencies.n_actions()];
    // What keeps a node from being done: itself, or the first of a meeting's members that is not.
    let undone = |done: &[bool], on: usize| match done.get(on) {
        Some(&is_done) => (!is_done).then_some(on),
        None => dependencies.of(on).find(|&member| !done[member]),
    };
    let mut next: Vec<usize> = index.starts[..n_ranks].to_vec();
    let mut waiting_for: Vec<Vec<usize>> = vec![Vec::new(); n_ranks];
    let mut runnable: Vec<usize> = (0..n_ranks).collect();
    while let Some(rank) = runnable.pop() {
        let before = next[rank];
        while next[rank] < index.starts[rank + 1] {
            if let Some(on) = dependencies.of(next[rank]).find_map(|on| undone(&done, on)) {
                waiting_for[index.rank_and_position(on).0.0].push(rank);
                break;
            }
            done[next[rank]] = true;
            next[rank] += 1;
        }
        if next[rank] > before {
            runnable.append(&mut waiting_for[rank]);
        }
    }

    let Some(stuck) = (0..n_ranks).find(|&rank| next[rank] < index.starts[rank + 1]) else { return };
    let mut chain: Vec<usize> = Vec::new();
    let mut action = next[stuck];
    while !chain.contains(&action) {
        chain.push(action);
        let (rank, _) = index.rank_and_position(action);
        let head = next[rank.0];
        // An action further down the list waits for the head of its list, the head for one that is not done.
        action = match action {
            _ if action != head => head,
            _ => dependencies
                .of(head)
                .find_map(|on| undone(&done, on))
                .expect("invariant: a stuck head waits for something"),
        };
    }
    let begin = chain.iter().position(|&other| other == action).expect("invariant: the chain closed");
    problems.push(ScheduleError::Deadlock { waiting: chain[begin..].iter().map(|&i| index.place(i)).collect() });
}
