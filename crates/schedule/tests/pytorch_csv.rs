//! Pipeline files and passes against torch.distributed.pipelining 2.15, whose files `fixtures/pytorch/make_fixtures.py`
//! wrote. The other way round, `fixtures/pytorch/load_in_torch.py` reads ours.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mesh::{Rank, Route, Stage, StageMap, Visit};
use proptest::prelude::*;
use schedule::pytorch::{Cell, Letters, Table};
use schedule::{
    Action, Backward, Kind, Op, Placement, Schedule, ScheduleError, Spec, StageOp, dependencies, forward_only,
    fuse_backward, generate, validate, with_reductions, with_transfers, with_transfers_in_lockstep, with_unshards,
};
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pytorch")
}

fn file(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

fn table(name: &str) -> Table {
    file(name).parse().unwrap()
}

/// The lists as in `passes.txt`, without the optimizer steps that no pipeline file has.
fn text(schedule: &Schedule) -> String {
    let list = |list: &Vec<Action>| {
        let labels = list.iter().filter(|&&action| !is_step(action)).map(|&action| schedule.label(action));
        labels.collect::<Vec<String>>().join(" ")
    };
    schedule.ranks.iter().map(list).collect::<Vec<_>>().join(" | ")
}

#[test]
fn every_form_of_a_cell() {
    let check = |text: &str, letters: Letters| {
        let table: Table = text.parse().unwrap();
        assert_eq!(table.letters, letters, "{text}");
        assert_eq!(table.to_string(), text);
    };
    let rest = "1UNSHARD,3RESHARD,2REDUCE_GRAD,2WAIT_REDUCE_GRAD,2SEND_F10,3RECV_F10,3SEND_B2,2RECV_B2,2WAIT_SEND_F10,\
                3WAIT_SEND_B2";
    check(&format!("1F0,2I1,0W3,0B3,{rest},(0F3;7B1)OVERLAP_F_B\n"), Letters::New);
    check(&format!("1F0,2B1,0W3,0BW3,{rest},(0F3;7BW1)OVERLAP_F_B\n"), Letters::Old);
    check("0F0,0F1,,0B0,,0B1\n,1F0,1B0,1F1,1B1,\n", Letters::New);
    // Without `I`, a `W` shows that `B` is only half a backward.
    check("0F0,0B0,0W0\n", Letters::Old);
    // Rows of no cells, of one and of two idle ones.
    check("\n\"\"\n,\n0F0\n", Letters::New);
    check("(0F1;1B0;2W0)OVERLAP_F_B,2I0\n", Letters::New);

    // Blank lines at the end are no ranks.
    assert_eq!("0F0,0B0\n1F0\n\n  \n\n".parse::<Table>().unwrap().ranks.len(), 2);
    let spaced: Table = "0F0,   ,\"0B0\"\r\n ( 1F1 ; 1B0 )OVERLAP_F_B\r\n".parse().unwrap();
    assert_eq!(spaced.to_string(), "0F0,,0B0\n(1F1;1B0)OVERLAP_F_B\n");
}

#[test]
fn every_file_of_pytorch_comes_back() {
    let mut n_files = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "csv") {
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text.parse::<Table>().unwrap().to_string(), text, "{}", path.display());
            n_files += 1;
        }
    }
    assert_eq!(n_files, 21);
}

#[test]
fn refusals_name_row_column_and_cell() {
    let check = |text: &str, expected: &str| {
        let problem = text.parse::<Table>().and_then(|table| table.schedule("refused")).unwrap_err();
        assert_eq!(problem.to_string(), expected);
    };
    let form = "wanted [stage][action][microbatch], as in 2F0 or 1UNSHARD";
    check("0F0,F1\n", &format!("row 1, column 2 of the pipeline file: found \"F1\", {form}"));
    check(
        "0F0\n,1F99999999999999999999\n",
        &format!("row 2, column 2 of the pipeline file: found \"1F99999999999999999999\", {form}"),
    );
    let known = "SEND_F, RECV_F, SEND_B, RECV_B, WAIT_SEND_F, WAIT_SEND_B, UNSHARD, RESHARD, REDUCE_GRAD, \
                 WAIT_REDUCE_GRAD after the stage";
    check(
        "0X0\n",
        &format!("row 1, column 1 of the pipeline file: found \"0X0\", wanted one of the actions F, I, W, B, {known}"),
    );
    check(
        "0BW0,0I1\n",
        &format!("row 1, column 2 of the pipeline file: found \"0I1\", wanted one of the actions F, B, W, BW, {known}"),
    );
    check("0F\n", "row 1, column 1 of the pipeline file: found \"0F\", wanted a microbatch after F");
    check(
        "0UNSHARD1\n",
        "row 1, column 1 of the pipeline file: found \"0UNSHARD1\", wanted no microbatch after UNSHARD, which is for \
         the whole stage",
    );
    let brackets = "wanted actions in brackets before OVERLAP_F_B, as in (0F3;7B1)OVERLAP_F_B";
    for cell in ["(0F0;1B0)", "(0F0;1B0", "(0F0)F"] {
        check(cell, &format!("row 1, column 1 of the pipeline file: found \"{cell}\", {brackets}"));
    }
    check("()OVERLAP_F_B", &format!("row 1, column 1 of the pipeline file: found \"()OVERLAP_F_B\", {form}"));
    check(
        "0F0\n1F0,0B0\n",
        "row 2, column 2 of the pipeline file: found \"0B0\", wanted stage 0 in row 1, where it began",
    );
    check("0F0\n2F0\n", "the pipeline file names stage 2 but no stage 1; count from 0 without gaps");
    check(
        "0F0,0F99999999999\n",
        "the pipeline file names microbatch 99999999999 but no microbatch 1; count from 0 without gaps",
    );
    check("", "a schedule needs at least one microbatch");
    check("\"\"\n0UNSHARD\n", "a schedule needs at least one microbatch");
}

/// What Schedule1F1B of PyTorch 2.15 prints for its last rank it does not run, and its validator refuses.
#[test]
fn a_wrong_print_is_refused() {
    let problems = validate(&table("1f1b_as_printed.csv").schedule("1F1B").unwrap()).unwrap_err();
    let named = |wanted: &str| problems.iter().any(|problem| problem.to_string() == wanted);
    assert!(named("rank 3 lacks the forward (F) of microbatch 0 hop 3 (stage 3)"), "{problems:?}");
}

/// File, with the number of stages.
const CLASSES: [(&str, usize); 10] = [
    ("gpipe_3x4", 3),
    ("1f1b_4x7", 4),
    ("loopedbfs_2x4", 6),
    ("interleaved1f1b_4x8", 8),
    ("interleaved1f1b_3x6", 9),
    ("interleavedzerobubble_4x8", 8),
    ("zbvzerobubble_3x7", 6),
    ("zbvzerobubble_4x8", 8),
    ("dualpipev_4x10", 8),
    ("dualpipev_2x5", 4),
];

/// The file's actions alone: overlapped ones one by one, without idle cells and without those that `is_out`.
fn flat(table: &Table, is_out: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
    let row = |row: &Vec<Cell>| {
        let actions = row.iter().flat_map(Cell::actions).map(|&action| Cell::Action(action).text(table.letters));
        actions.filter(|text| !is_out(text)).collect()
    };
    table.ranks.iter().map(row).collect()
}

#[test]
fn every_class_of_pytorch_loads() {
    for (name, n_stages) in CLASSES {
        let compute = table(&format!("{name}_compute.csv"));
        let schedule = compute.schedule(name).unwrap();
        assert_eq!(validate(&schedule), Ok(()), "{name}");
        assert_eq!(schedule.routes[0].n_hops(), n_stages, "{name}");
        let (ranks, microbatches) = name.split_once('_').unwrap().1.split_once('x').unwrap();
        assert_eq!(schedule.n_ranks().to_string(), ranks, "{name}");
        assert_eq!(schedule.n_microbatches().to_string(), microbatches, "{name}");
        let back = Table::compute_only(&schedule).unwrap();
        assert_eq!(flat(&back, |_| false), flat(&compute, |text| text.contains("REDUCE_GRAD")), "{name}");

        if n_stages == schedule.n_ranks() {
            continue;
        }
        let comms = table(&format!("{name}_comms.csv"));
        let schedule = comms.schedule(name).unwrap();
        assert_eq!(validate(&schedule), Ok(()), "{name}");
        let back = Table::compute_comms(&schedule).unwrap();
        let is_wait = |text: &str| text.contains("WAIT");
        assert_eq!(flat(&back, is_wait), flat(&comms, is_wait), "{name}");
        // PyTorch waits for every send once; where, is left to the writer.
        let waits = |table: &Table| {
            let mut waits = flat(table, |text| !text.contains("WAIT"));
            waits.iter_mut().for_each(|row| row.sort());
            waits
        };
        assert_eq!(waits(&back), waits(&comms), "{name}");
    }
}

/// Our lowering of PyTorch's compute-only files, against PyTorch's own. Of DualPipeV the rows hold the same actions, but
/// not in the same order: PyTorch sends after both halves of an overlapped pair, we play one after the other.
#[test]
fn lowering() {
    for (name, n_stages) in CLASSES {
        let compute = table(&format!("{name}_compute.csv")).schedule(name).unwrap();
        if n_stages == compute.n_ranks() {
            continue;
        }
        let is_wait = |text: &str| text.contains("WAIT");
        let mut ours = flat(&Table::compute_comms(&compute).unwrap(), is_wait);
        let mut theirs = flat(&table(&format!("{name}_comms.csv")), is_wait);
        if name.starts_with("dualpipev") {
            ours.iter_mut().chain(&mut theirs).for_each(|row| row.sort());
        }
        assert_eq!(ours, theirs, "{name}");
    }
}

/// As PyTorch's tests compare it.
#[test]
fn dualpipe_v() {
    let spec = Spec { kind: Kind::DualPipeV, backward: Backward::Fused };
    let schedule = generate(spec, &route(Placement::V, 4), 10, &[]).unwrap();
    let theirs = flat(&table("dualpipev_4x10_compute.csv"), |_| false);
    assert_eq!(flat(&Table::compute_only(&schedule).unwrap(), |_| false), theirs);
}

/// The shortest route of a placement that is more than a chain where it can be.
fn route(placement: Placement, n_ranks: usize) -> Route {
    match placement {
        Placement::Any | Placement::OnePerRank => StageMap::one_per_rank(n_ranks).route(),
        Placement::Looped => StageMap::looped(3 * n_ranks, n_ranks).route(),
        Placement::V => {
            let rank = |stage: usize| Rank(stage.min(2 * n_ranks - 1 - stage));
            Route::new((0..2 * n_ranks).map(|stage| Visit { stage: Stage(stage), rank: rank(stage) }).collect())
        }
    }
}

/// What we write is what we read. With a folder in `SCHEDULE_CSV_FOLDER` the files are also left there, for
/// `fixtures/pytorch/load_in_torch.py`.
#[test]
fn every_kind_is_written() {
    let folder = std::env::var_os("SCHEDULE_CSV_FOLDER").map(PathBuf::from);
    for kind in Kind::ALL {
        for (n_ranks, n_microbatches) in [(2, 4), (3, 7), (4, 8), (4, 13)] {
            for backward in [Backward::Fused, Backward::Split] {
                let spec = Spec { kind, backward };
                let schedule = generate(spec, &route(kind.placement(), n_ranks), n_microbatches, &[]).unwrap();
                let compute = Table::compute_only(&schedule).unwrap();
                let comms = Table::compute_comms(&schedule).unwrap();
                let read =
                    |table: &Table| table.to_string().parse::<Table>().unwrap().schedule(&schedule.name).unwrap();
                assert_eq!(read(&compute), schedule);
                assert_eq!(validate(&read(&comms)), Ok(()), "{schedule}");
                assert!(plays_with_blocking_messages(&read(&comms)), "{schedule}");
                if let Some(folder) = &folder {
                    let name = format!("{}_{backward:?}_{n_ranks}x{n_microbatches}", kind.id()).to_lowercase();
                    fs::write(folder.join(format!("{name}_compute.csv")), compute.to_string()).unwrap();
                    fs::write(folder.join(format!("{name}_comms.csv")), comms.to_string()).unwrap();
                }
            }
        }
    }
}

#[test]
fn what_no_file_can_tell_is_refused() {
    let spec = Spec { kind: Kind::OneFOneB, backward: Backward::Fused };
    let visits = |visits: &[(usize, usize)]| {
        Route::new(visits.iter().map(|&(stage, rank)| Visit { stage: Stage(stage), rank: Rank(rank) }).collect())
    };
    let check = |schedule: &Schedule, expected: &str| {
        for written in [Table::compute_only(schedule), Table::compute_comms(schedule)] {
            assert_eq!(written.unwrap_err().to_string(), expected);
        }
    };
    let along = |route: &[(usize, usize)]| generate(spec, &visits(route), 2, &[]).unwrap();
    let no_words = "PyTorch's pipeline files have no words for";
    let in_order = "they need the stages 0, 1, 2 .. in order";
    check(&along(&[(0, 0), (1, 1), (0, 0)]), &format!("{no_words} a route through the stages 0 1 0; {in_order}"));
    check(&along(&[(0, 0), (2, 1)]), &format!("{no_words} a route through the stages 0 2; {in_order}"));
    check(
        &along(&[(0, 0), (1, 2)]),
        &format!("{no_words} rank 1, which has no stage; they need a stage on every rank"),
    );
    let good = along(&[(0, 0), (1, 1)]);
    let mut other = good.clone();
    other.routes[1] = visits(&[(0, 1), (1, 0)]);
    check(&other, &format!("{no_words} another route of microbatch 1; they need the same route for all microbatches"));
    let segments = Schedule { n_segments: 2, ..good.clone() };
    check(&segments, &format!("{no_words} sequences in 2 segments; they need whole sequences"));
    let mut recomputed = good.clone();
    recomputed.ranks[1].insert(1, Action::visit(Op::Recompute, mesh::Key::new(0, 1)));
    check(&recomputed, "1R0 (rank 1, position 1): PyTorch's pipeline files have no such action; take it out");
    assert_eq!(Table::compute_only(&Schedule { routes: vec![], ..good }), Err(ScheduleError::NoMicrobatches));
}

/// The lists of `passes.txt` as a table, and what is to be made of them.
struct Case {
    pass: String,
    before: Table,
    after: String,
    n_steps: Option<usize>,
}

fn cases() -> Vec<Case> {
    let text = file("passes.txt");
    let cases = text.split("\n\n").map(|case| {
        let lines: Vec<&str> = case.lines().collect();
        let before = lines[1].replace(" | ", "\n").replace(' ', ",").replace('_', "");
        Case {
            pass: lines[0].to_owned(),
            before: before.parse().unwrap(),
            after: lines[2].to_owned(),
            n_steps: lines.get(3).and_then(|n| n.parse().ok()),
        }
    });
    cases.collect()
}

#[test]
fn passes() {
    let cases = cases();
    assert_eq!(cases.len(), 9);
    for case in cases {
        let schedule = case.before.schedule(&case.pass).unwrap();
        let after = match case.pass.as_str() {
            "merge" => fuse_backward(&schedule),
            "unshard" => with_unshards(&schedule, 3),
            "reduce" => with_reductions(&schedule),
            _ => case.before.schedule_in_lockstep(&case.pass).unwrap(),
        };
        assert_eq!(text(&after), case.after, "{}", case.pass);
        assert_eq!(validate(&after), Ok(()), "{}", case.pass);
        if let Some(n_steps) = case.n_steps {
            assert_eq!(unit_steps(&after), n_steps, "{}", case.after);
        }
    }
}

/// The interleaved zero-bubble order of PyTorch's tests: halves merged, messages inserted, 113 steps. Earlier releases
/// stored it in the old letters.
#[test]
fn zb1p() {
    let schedule = fuse_backward(&table("zb1p_compute.csv").schedule("ZB1P").unwrap());
    let with = with_transfers_in_lockstep(&schedule);
    let wanted = table("zb1p_comms.csv");
    assert_eq!(text(&with), text(&wanted.schedule("ZB1P").unwrap()));
    assert_eq!(unit_steps(&with), 113);
    let old = Table { letters: Letters::Old, ..wanted };
    let read: Table = old.to_string().parse().unwrap();
    assert!(read.to_string().contains("2BW0,2SEND_B0") && read.to_string().contains("3B0,3SEND_B0"));
    assert_eq!(read, old);
}

/// Played one action a step, as `_simulate_comms_compute` plays: ranks in order, each seeing what those before it did in
/// this step; those that could not begin are asked a second time when all have been.
fn unit_steps(schedule: &Schedule) -> usize {
    let without_steps = Schedule {
        ranks: schedule.ranks.iter().map(|list| list.iter().copied().filter(|&a| !is_step(a)).collect()).collect(),
        ..schedule.clone()
    };
    let dependencies = dependencies(&without_steps).unwrap();
    let mut done = vec![false; dependencies.n_actions()];
    let mut next: Vec<_> = (0..schedule.n_ranks()).map(|rank| dependencies.actions_of(Rank(rank))).collect();
    let mut n_steps = 0;
    while next.iter().any(|range| !range.is_empty()) {
        let mut waiting: Vec<usize> = (0..next.len()).filter(|&rank| !next[rank].is_empty()).collect();
        let n_before = done.iter().filter(|&&done| done).count();
        for _ in 0..2 {
            waiting.retain(|&rank| {
                let can_begin = dependencies.of(next[rank].start).all(|on| done[on]);
                if can_begin {
                    done[next[rank].start] = true;
                    next[rank].start += 1;
                }
                !can_begin
            });
        }
        assert!(done.iter().filter(|&&done| done).count() > n_before, "deadlock in\n{schedule}");
        n_steps += 1;
    }
    n_steps
}

fn is_step(action: Action) -> bool {
    matches!(action, Action::Stage { op: StageOp::OptimizerStep, .. })
}

/// Whether the lists come to their end where a send waits until it is received.
fn plays_with_blocking_messages(schedule: &Schedule) -> bool {
    let mut next = vec![0; schedule.n_ranks()];
    let head = |next: &[usize], rank: usize| schedule.ranks[rank].get(next[rank]).copied();
    let other_half = |action: Action| {
        let Action::Visit { op, key } = action else { return None };
        let (op, hop) = match op {
            Op::SendActivation => (Op::RecvActivation, key.hop.0 + 1),
            Op::SendGradient => (Op::RecvGradient, key.hop.0 - 1),
            _ => return None,
        };
        let there = key.at(hop);
        Some((schedule.visit(there)?.rank.0, Action::visit(op, there)))
    };
    loop {
        let before = next.clone();
        for rank in 0..next.len() {
            while let Some(action) = head(&next, rank) {
                let is_message = matches!(action, Action::Visit { op, .. } if !op.is_compute());
                match other_half(action) {
                    Some((peer, receive)) if head(&next, peer) == Some(receive) => next[peer] += 1,
                    None if !is_message => {}
                    _ => break,
                }
                next[rank] += 1;
            }
        }
        if next == before {
            return (0..next.len()).all(|rank| head(&next, rank).is_none());
        }
    }
}

#[test]
fn lockstep_is_free_of_deadlock_even_with_blocking_messages() {
    let visits = |visits: &[(usize, usize)]| {
        Route::new(visits.iter().map(|&(stage, rank)| Visit { stage: Stage(stage), rank: Rank(rank) }).collect())
    };
    let routes = [
        StageMap::one_per_rank(2).route(),
        StageMap::one_per_rank(5).route(),
        StageMap::looped(7, 3).route(),
        visits(&[(0, 0), (1, 1), (2, 1), (3, 0)]),
        // Back to the first rank and stage, and a skipped one.
        visits(&[(0, 0), (1, 1), (3, 3), (0, 0), (4, 1)]),
    ];
    for route in routes {
        for n_microbatches in [1, 2, 3, 7, 11] {
            let kinds = [Kind::Gpipe, Kind::OneFOneB].into_iter();
            let specs =
                kinds.flat_map(|kind| [Backward::Fused, Backward::Split].map(|backward| Spec { kind, backward }));
            let trained = specs.map(|spec| generate(spec, &route, n_microbatches, &[]).unwrap());
            for schedule in trained.chain([forward_only(&route, n_microbatches, None).unwrap()]) {
                let with = with_transfers_in_lockstep(&schedule);
                assert_eq!(validate(&with), Ok(()), "{schedule}");
                assert!(plays_with_blocking_messages(&with), "{with}");
                assert_eq!(with_transfers_in_lockstep(&with_transfers(&schedule)), with);
            }
        }
    }
    // The other pass counts on sends that do not wait.
    let spec = Spec { kind: Kind::OneFOneB, backward: Backward::Fused };
    let schedule = generate(spec, &StageMap::one_per_rank(2).route(), 2, &[]).unwrap();
    assert!(!plays_with_blocking_messages(&with_transfers(&schedule)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever a file holds, reading it ends in a table or a refusal, and a table is lossless.
    #[test]
    fn any_text_is_read_or_refused(cells in prop::collection::vec(prop_oneof![
        4 => "[0-3](F|I|B|W|BW|SEND_F|RECV_F|SEND_B|RECV_B)[0-3]",
        2 => "[0-3](UNSHARD|RESHARD|REDUCE_GRAD)",
        2 => "\\([0-3]F[0-3];[0-3]B[0-3]\\)OVERLAP_F_B",
        1 => " *",
        2 => "\n",
        1 => "[0-9FB();_\" é]{0,6}",
    ], 0..12)) {
        if let Ok(table) = cells.join(",").parse::<Table>() {
            prop_assert_eq!(&table.to_string().parse::<Table>().unwrap(), &table);
            if let Ok(schedule) = table.schedule("read") {
                // Refused or played, but never stuck.
                let valid = validate(&schedule).is_ok();
                prop_assert!(!valid || table.schedule_in_lockstep("read").is_ok());
            }
        }
    }
}
