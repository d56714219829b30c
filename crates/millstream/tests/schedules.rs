//! `millstream schedules` and `millstream simulate` as their users meet them: closed forms, memory limits, measured
//! tables, files of PyTorch, refusals, and every command that the documents show.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

mod common;

use common::Place;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn json(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&place.succeed(&[arguments, &["--json"]].concat())).unwrap()
}

/// The rows of a comparison by schedule.
fn rows(comparison: &Value) -> BTreeMap<String, Value> {
    let rows = comparison["schedules"].as_array().unwrap().iter();
    rows.map(|row| (row["schedule"].as_str().unwrap().to_owned(), row.clone())).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn equal(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() < 1e-9 * expected.max(1.0), "{what}: {found}, not {expected}");
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Passes of one microsecond on `p` ranks, `m` microbatches, `v` stages on a rank where their number is free.
#[test]
fn closed_forms() {
    let place = Place::new();
    for (p, m, v) in [(4, 8, 2), (2, 12, 3), (3, 9, 4), (8, 24, 2)] {
        let numbers = [p, m, v].map(|n: usize| n.to_string());
        let arguments = ["schedules", "--ranks", &numbers[0], "--microbatches", &numbers[1], "--chunks", &numbers[2]];
        let comparison = json(&place, &arguments);
        let rows = rows(&comparison);
        assert_eq!(comparison["unfit"], Value::Array(Vec::new()));
        let (n_each, p, m, v) = (v, p as f64, m as f64, v as f64);
        // Name, step in microseconds, microbatches of activations on the fullest rank, messages a microbatch.
        let cases: [(&str, f64, f64, f64, usize); 6] = [
            ("gpipe", 3.0 * (m + p - 1.0), m, 2.0 * (p - 1.0), 1),
            ("1f1b", 3.0 * (m + p - 1.0), p, 2.0 * (p - 1.0), 1),
            ("interleaved", 3.0 * (m + (p - 1.0) / v), p * (1.0 + (p - 1.0) / (p * v)), 2.0 * (p * v - 1.0), n_each),
            ("looped-bfs", 3.0 * (m + (p - 1.0) / v), m, 2.0 * (p * v - 1.0), n_each),
            ("zb-h1", 3.0 * m + (p - 1.0), p, 2.0 * (p - 1.0), 1),
            // Without a bubble inside each rank, but ranks begin one after the other.
            ("zb-h2", 3.0 * m + (p - 1.0), 2.0 * p - 1.0, 2.0 * (p - 1.0), 1),
        ];
        for (name, step_us, activations, messages, stages) in cases {
            let row = &rows[name];
            equal(number(&row["step_s"]) * 1e6, step_us, &format!("step of {name}, {numbers:?}"));
            equal(number(&row["bubble"]), 1.0 - 3.0 * m / step_us, &format!("bubble of {name}, {numbers:?}"));
            equal(number(&row["peak_activations"]), activations, &format!("memory of {name}, {numbers:?}"));
            equal(number(&row["messages_per_microbatch"]), messages, &format!("messages of {name}, {numbers:?}"));
            assert_eq!((&row["barriers_per_microbatch"], &row["vocabulary"]), (&0.into(), &"none".into()), "{name}");
            assert_eq!(row["stages_per_rank"], stages, "{name}");
            assert_eq!(row["peak_bytes"], Value::Null, "{name}");
        }
        for (name, inner_us) in [("zb-h1", p - 1.0), ("zb-h2", 0.0), ("zb-v", 0.0)] {
            equal(number(&rows[name]["span_s"]) * 1e6, 3.0 * m + inner_us, &format!("span of {name}, {numbers:?}"));
        }
        for name in ["zb-v", "v-half", "v-min", "dualpipe-v"] {
            let row = &rows[name];
            equal(number(&row["messages_per_microbatch"]), 4.0 * (p - 1.0), name);
            assert!(number(&row["peak_activations"]) <= p + 0.5 + 1e-9, "{row}");
        }
        assert!(number(&rows["v-half"]["peak_activations"]) <= p / 2.0 + 2.0, "{}", rows["v-half"]);
        assert!(number(&rows["v-min"]["peak_activations"]) <= p / 3.0 + 2.0, "{}", rows["v-min"]);
    }
}

/// A message of half a microsecond is waited for twice between any two ranks when all go one way and then the other.
#[test]
fn messages_and_unequal_stages() {
    let place = Place::new();
    let arguments = ["schedules", "--ranks", "4", "--microbatches", "8", "--message", "0.5"];
    equal(number(&rows(&json(&place, &arguments))["gpipe"]["step_s"]) * 1e6, 33.0 + 3.0, "gpipe with messages");
    // The slowest stage sets the pace; the others are passed once each way.
    let arguments = ["schedules", "--ranks", "3", "--microbatches", "5", "--set", "costs.forward_us=[1,4,2]"];
    equal(
        number(&rows(&json(&place, &arguments))["gpipe"]["step_s"]) * 1e6,
        1.0 + 5.0 * 4.0 + 2.0 + 2.0 * 7.0,
        "gpipe",
    );
}

#[test]
fn best_first_under_a_memory_limit() {
    let place = Place::new();
    let numbers = ["schedules", "--ranks", "4", "--microbatches", "9", "--set", "costs.activation_bytes=1_000_000"];
    for (limit, microbatches) in [("4", 4.0), ("4MB", 4.0), ("2.5", 2.5), ("4.5 MB", 4.5)] {
        let comparison = json(&place, &[&numbers[..], &["--memory-limit", limit]].concat());
        let unit = if limit.ends_with('B') { 1e6 } else { 1.0 };
        let rows = comparison["schedules"].as_array().unwrap();
        let (mut step_s, mut above, mut n_above) = (0.0, 0.0, 0);
        for row in rows {
            let found = number(&row["above_limit"]) / unit;
            equal(found, (number(&row["peak_activations"]) - microbatches).max(0.0), &format!("{limit}: {row}"));
            equal(number(&row["peak_bytes"]), number(&row["peak_activations"]) * 1e6, "bytes");
            assert!(found >= above, "{limit}: {row} comes after one that is further above");
            assert!(
                found > above || number(&row["step_s"]) >= step_s - 1e-12,
                "{limit}: {row} is faster than the one before"
            );
            (step_s, above) = (number(&row["step_s"]), found);
            n_above += usize::from(found > 0.0);
        }
        assert!(n_above > 0 && n_above < rows.len(), "{limit}: {n_above} of {}", rows.len());
    }
    let page = place.succeed(&[&numbers[..], &["--memory-limit", "4"]].concat());
    let (within, above) = page.split_once("\nAbove the memory limit of 4 microbatches:\n").unwrap();
    assert!(within.contains("\n1f1b ") && !within.contains("gpipe"), "{page}");
    assert!(above.contains("gpipe ") && above.contains("  by 5.00\n"), "{page}");
    let page = place.succeed(&[&numbers[..], &["--memory-limit", "4MB"]].concat());
    assert!(page.contains("\nAbove the memory limit of 4.00 MB:\n") && page.contains("  by 5.00 MB\n"), "{page}");
}

/// `simulate` says whether what it played keeps to the limit.
#[test]
fn one_schedule_under_a_memory_limit() {
    let place = Place::new();
    let numbers = ["simulate", "--ranks", "4", "--microbatches", "9", "--set", "costs.activation_bytes=1_000_000"];
    let cases = [
        ("gpipe", "4", 5.0, "Above the memory limit of 4 microbatches by 5.00; `millstream schedules` tells which"),
        ("gpipe", "4MB", 5e6, "Above the memory limit of 4.00 MB by 5.00 MB; `millstream schedules` tells which"),
        ("zb-h2", "6.5", 0.5, "Above the memory limit of 6.5 microbatches by 0.50; `millstream schedules` tells which"),
        ("1f1b", "4", 0.0, "Within the memory limit of 4 microbatches."),
        ("zb-auto", "4MB", 0.0, "Within the memory limit of 4.00 MB."),
    ];
    for (schedule, limit, above, verdict) in cases {
        let arguments = [&numbers[..], &["--schedule", schedule, "--memory-limit", limit]].concat();
        let page = place.succeed(&arguments);
        assert!(page.lines().last().unwrap().starts_with(verdict), "{page}");
        equal(number(&json(&place, &arguments)["above_limit"]), above, &format!("{schedule} under {limit}"));
    }
    let arguments = [&numbers[..], &["--schedule", "gpipe"]].concat();
    assert!(!place.succeed(&arguments).contains("limit"), "none was given");
    equal(number(&json(&place, &arguments)["above_limit"]), 0.0, "none was given");
}

/// What does not fit the numbers is listed with its reason.
#[test]
fn schedules_that_do_not_fit() {
    let place = Place::new();
    let numbers = ["schedules", "--ranks", "4", "--microbatches", "7"];
    let comparison = json(&place, &numbers);
    let unfit = &comparison["unfit"][0];
    assert_eq!(unfit["schedule"], "dualpipe-v");
    assert_eq!(
        unfit["reason"],
        "DualPipeV needs at least 8 microbatches on 4 ranks, not 7; use more or another schedule"
    );
    assert!(place.succeed(&numbers).contains("\nNot for these numbers:\ndualpipe-v: DualPipeV needs at least 8 "));
}

/// `simulate` with the same numbers says the same of each row, and both widths of the table hold.
#[test]
fn one_row_at_a_time() {
    let place = Place::new();
    let numbers = ["--ranks", "4", "--microbatches", "9", "--message", "0.1", "--set", "costs.vocabulary_us=0.6"];
    let comparison = json(&place, &[&["schedules"], &numbers[..]].concat());
    for row in comparison["schedules"].as_array().unwrap() {
        let text = |key: &str| row[key].as_str().unwrap();
        let which = ["simulate", "--schedule", text("schedule"), "--vocabulary", text("vocabulary")];
        let figures = json(&place, &[&which[..], &numbers[..]].concat());
        equal(number(&figures["makespan_s"]), number(&row["step_s"]), &row.to_string());
        equal(number(&figures["bubble"]), number(&row["bubble"]), &row.to_string());
        let of_ranks = figures["ranks"].as_array().unwrap().iter().map(|rank| number(&rank["peak_activations"]));
        equal(of_ranks.fold(0.0, f64::max), number(&row["peak_activations"]), &row.to_string());
        let barriers = match text("vocabulary") {
            "none" => 0,
            "one-barrier" => 1,
            _ => 2,
        };
        assert_eq!(row["barriers_per_microbatch"], barriers, "{row}");
    }
    for width in [80, 120] {
        let page = place.succeed(&["schedules", "--ranks", "4", "--microbatches", "9", "--width", &width.to_string()]);
        assert!(page.lines().all(|line| line.chars().count() <= width), "{page}");
    }
}

/// 1F1B with the vocabulary on all ranks keeps one or two microbatches more, interlaced half as many again as ranks.
#[test]
fn vocabulary_passes() {
    let place = Place::new();
    for p in [2, 4, 8] {
        let ranks = p.to_string();
        let numbers = ["--ranks", &ranks, "--microbatches", "32", "--set", "costs.vocabulary_us=0.6"];
        for (vocabulary, activations) in
            [("one-barrier", p as f64 + 1.0), ("two-barriers", p as f64 + 2.0), ("interlaced", 1.5 * p as f64)]
        {
            let figures = json(&place, &[&["simulate", "--vocabulary", vocabulary], &numbers[..]].concat());
            let peak = number(&figures["ranks"][0]["peak_activations"]);
            equal(peak, activations, &format!("{vocabulary} on {p} ranks"));
        }
    }
    // The longest stage sets the pace: with all of the head on one, p shards of it.
    let numbers = ["--ranks", "4", "--microbatches", "32", "--set", "costs.vocabulary_us=3", "--json"];
    let step_us = |vocabulary: &str| {
        let figures = json(&place, &[&["simulate", "--vocabulary", vocabulary], &numbers[..6]].concat());
        number(&figures["makespan_s"]) * 1e6
    };
    assert!(step_us("none") >= 32.0 * (3.0 + 4.0 * 3.0), "{}", step_us("none"));
    let sharded = step_us("one-barrier");
    // At least all work, at most with every rank idle for two rounds through the pipeline.
    assert!((32.0 * 6.0..=(32.0 + 2.0 * 4.0) * 6.0).contains(&sharded), "{sharded}");
}

/// The measured steps of 30 configurations, replayed from their measured passes by `docs/simulate.md`'s recipe. The
/// tolerance is that of an independent replay of the same table, which is within -1.6 % to +0.9 %.
#[test]
fn measured_tables_are_replayed() {
    let place = Place::new();
    let table = fs::read_to_string(repository("crates/simulate/tests/fixtures/vocabulary_passes.csv")).unwrap();
    let mut rows = table.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(rows.next().unwrap(), "V,s,method,last,iter_ms,mem_min,mem_max,mem_resv,F,B,S,IF,IB");
    let mut errors = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.split(',').collect();
        let list = |column: usize| match cells[column] {
            "0" => "0".to_owned(),
            on_ranks => format!("[{}]", on_ranks.replace(' ', ", ")),
        };
        place.write(
            "row.toml",
            format!(
                "schedule = \"1f1b\"\nranks = 8\nmicrobatches = 128\nvocabulary = \"in-backward\"\n[costs]\nforward_us = {}\n\
                 backward_us = {}\nvocabulary_us = {}\nembedding_forward_us = {}\nembedding_backward_us = {}\n",
                list(8),
                list(9),
                list(10),
                list(11),
                list(12)
            ),
        );
        let step_ms = number(&json(&place, &["simulate", "row.toml"])["makespan_s"]) * 1e3;
        let measured_ms: f64 = cells[4].parse().unwrap();
        let error = step_ms / measured_ms - 1.0;
        assert!(error.abs() < 0.02, "{}: {step_ms:.1} ms, measured {measured_ms} ms", cells[..4].join(" "));
        errors.push(error.abs());
    }
    assert_eq!(errors.len(), 30);
    let mean = errors.iter().sum::<f64>() / 30.0;
    assert!(mean < 0.01, "mean absolute error {mean}");
}

/// What is written for PyTorch is read again as the same schedule, and files that PyTorch wrote are played.
#[test]
fn files_of_pytorch() {
    let place = Place::new();
    let numbers = ["--ranks", "3", "--microbatches", "6", "--message", "0.25"];
    for row in json(&place, &[&["schedules"], &numbers[..]].concat())["schedules"].as_array().unwrap() {
        let name = row["schedule"].as_str().unwrap();
        let outputs = ["--csv", "compute.csv", "--csv-with-communication", "with.csv"];
        place.succeed(&[&["simulate", "--schedule", name], &numbers[..], &outputs].concat());
        for file in ["compute.csv", "with.csv"] {
            let figures = json(&place, &["simulate", "--schedule", file, "--message", "0.25"]);
            equal(number(&figures["makespan_s"]), number(&row["step_s"]), &format!("{name} from {file}"));
        }
    }
    let folder = repository("crates/schedule/tests/fixtures/pytorch");
    for (file, microbatches) in [
        ("dualpipev_4x10_compute.csv", 10.0),
        ("dualpipev_4x10_comms.csv", 10.0),
        ("interleaved1f1b_4x8_compute.csv", 8.0),
        ("interleavedzerobubble_4x8_compute.csv", 8.0),
        ("zbvzerobubble_4x8_comms.csv", 8.0),
    ] {
        let path = folder.join(file).display().to_string();
        let figures = json(&place, &["simulate", "--schedule", &path]);
        for rank in figures["ranks"].as_array().unwrap() {
            equal(number(&rank["compute_s"]) * 1e6, 3.0 * microbatches, file);
        }
    }
}

/// Every refusal names the place, what was found, what was wanted and a way out.
#[test]
fn refusals() {
    let place = Place::new();
    place.write("costs.toml", "ranks = 2\nmicrobatches = 3\n[costs]\nforward_us = [1, 2, 3]\nbackward_us = 1\n");
    place.write("words.csv", "0F0,fish\n");
    place.write("half.csv", "0F0\n1F0\n");
    let numbers = ["--ranks", "4", "--microbatches", "8"];
    let cases: &[(&[&str], &str)] = &[
        (
            &["--schedule", "zb-h3"],
            "  --schedule zb-h3: `schedule` is \"zb-h3\", but must be one of \"gpipe\", \"1f1b\", \"interleaved\", \"looped-bfs\", \
             \"zb-h1\", \"zb-h2\", \"zb-auto\", \"interleaved-zb\", \"zb-v\", \"v-half\", \"v-min\", \"dualpipe-v\"; did \
             you mean \"zb-h1\"?\n",
        ),
        (
            &["--schedule", "v-min", "--chunks", "3"],
            "  --chunks 3: `chunks` is 3, but V-Min holds two stages on each rank; leave it out\n",
        ),
        (
            &["--schedule", "dualpipe-v", "--microbatches", "7"],
            "  --schedule dualpipe-v: DualPipeV needs at least 8 microbatches on 4 ranks, not 7; use more or another schedule\n",
        ),
        (
            &["--vocabulary", "one-barrier"],
            "  --vocabulary one-barrier: `vocabulary` is \"one-barrier\", but nothing says what a shard of the vocabulary costs; give \
             `costs.vocabulary_us`, such as --set costs.vocabulary_us=1\n",
        ),
        (
            &["--memory-limit", "20GB"],
            "  --memory-limit 20GB: `memory_limit` is \"20GB\", but nothing says how many bytes activations are; give \
             `costs.activation_bytes`, or a limit in microbatches, such as 4\n",
        ),
        (
            &["--memory-limit", "0"],
            "  --memory-limit 0: `memory_limit` is 0, but must be a number of microbatches, such as 4, or bytes, such as \
             \"20 GB\"\n",
        ),
        (
            &["--embedding", "sharded"],
            "  --embedding sharded: `embedding` is \"sharded\", but the embedding is sharded together with the head only; leave it \
             out, or set `vocabulary` to \"one-barrier\", \"two-barriers\" or \"interlaced\"\n",
        ),
        (
            &["--schedule", "zb-h1", "--backward", "fused"],
            "  --backward fused: `backward` is \"fused\", but ZB-H1 always splits it; leave it out\n",
        ),
        (
            &["--forward", "fast"],
            "  --forward fast: `costs.forward_us` is \"fast\", but must be a number of at least 0\n",
        ),
        (
            &["--set", "links.between=[{ranks=[0,4],latency_us=1}]"],
            "  --set links.between=[{ranks=[0,4],latency_us=1}]: `links.between[0].ranks` is [0, 4], but must be two of the ranks 0 \
             to 3; write a pair, such as [0, 1]\n",
        ),
        (
            &["--set", "costs.forwards_us=1"],
            "  --set costs.forwards_us=1: there is no key `costs.forwards_us`; did you mean `forward_us`?\n",
        ),
        (
            &["--microbatches", "1000000"],
            "  --microbatches 1000000: `microbatches` is 1000000, but on 4 ranks that makes more than 200000 visits to stages; use \
             fewer microbatches or ranks\n",
        ),
        (
            &["--schedule", "missing.csv"],
            "  --schedule missing.csv: `schedule` is \"missing.csv\", but it cannot be played: No such file or directory (os error \
             2); give a pipeline file of PyTorch, or a name that `millstream schedules` lists\n",
        ),
    ];
    let check = |arguments: &[&str], expected: &str| {
        let output = place.run(arguments);
        let found = String::from_utf8(output.stderr).unwrap();
        assert_eq!((found.as_str(), output.status.code()), (expected, Some(2)), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    };
    for (arguments, expected) in cases {
        // What comes last holds.
        let before = ["simulate", "--ranks", "4"];
        let microbatches: &[&str] = if arguments.contains(&"--microbatches") { &[] } else { &numbers[2..] };
        let all = [&before[..], microbatches, arguments].concat();
        check(&all, &format!("error: the simulation cannot be used: 1 problem\n{expected}"));
    }
    check(
        &["schedules"],
        "error: the simulation cannot be used: 2 problems\n  the command line: `microbatches` is missing; it gives the number of \
         microbatches\n  the command line: `ranks` is missing; it gives the number of ranks\n",
    );
    check(
        &["schedules", "--ranks", "4", "--microbatches", "8", "--set", "embedding=sharded"],
        "error: the simulation cannot be used: 1 problem\n  --set embedding=sharded: `embedding` is \"sharded\", but nothing says \
         what a shard of the vocabulary costs; give `costs.vocabulary_us`, or leave it out\n",
    );
    place.write("whole.csv", "0F0,0B0\n");
    check(
        &["simulate", "--schedule", "whole.csv", "--backward", "split"],
        "error: the simulation cannot be used: 1 problem\n  --backward split: `backward` is \"split\", but whole.csv says itself \
         how backward is played; leave it out\n",
    );
    check(
        &["schedules", "costs.toml"],
        "error: the simulation file cannot be used: 1 problem\n  costs.toml:4:14: `costs.forward_us` is [1, 2, 3], but must have one \
         value for each stage, 2 in all, not 3; change it or write one value for all\n",
    );
    check(
        &["schedules", "nothing.toml"],
        "error: the simulation file cannot be used: 1 problem\n  nothing.toml: the file cannot be read: No such file or directory (os \
         error 2)\n",
    );
    for file in ["words.csv", "half.csv"] {
        let output = place.run(&["simulate", "--schedule", file]);
        let found = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{file}: {found}");
        assert!(found.contains(&format!("`schedule` is \"{file}\", but it cannot be played: ")), "{found}");
    }
}

/// Every command of the documents works as it is printed, on the files that they print; those that are followed by
/// their output print it.
#[test]
fn documented_commands() {
    for name in ["docs/simulate.md", "docs/schedules.md", "README.md"] {
        let place = Place::new();
        let document = fs::read_to_string(repository(name)).unwrap();
        let mut n_commands = 0;
        let mut printed: Option<String> = None;
        for block in document.split("```").skip(1).step_by(2) {
            let (language, text) = block.split_once('\n').unwrap();
            match language {
                // The first line of a file is its name.
                "toml" => place.write(text.lines().next().unwrap().trim_start_matches("# "), text),
                "text" => assert_eq!(printed.take().as_deref(), Some(text), "{name}"),
                _ => {}
            }
            let is_ours =
                |line: &&str| line.starts_with("millstream simulate ") || line.starts_with("millstream schedules ");
            // A line with brackets says what may be given.
            for line in text.lines().filter(is_ours).filter(|line| language == "sh" || !line.contains('[')) {
                let command = line.split('#').next().unwrap();
                let arguments: Vec<&str> =
                    command.split_whitespace().skip(1).map(|word| word.trim_matches('\'')).collect();
                printed = Some(place.succeed(&arguments));
                n_commands += 1;
            }
        }
        assert!(n_commands > 0, "{name} shows no command");
    }
}
