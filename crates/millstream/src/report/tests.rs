//! Reports of made-up runs, and the files' way to the disk and back.

use super::files::{METRICS, RUN_FILE, RunFiles};
use super::*;
use mesh::{Cores, Rank, StageMap};
use schedule::{Backward, Kind, Spec, generate};
use simulate::{Category, Costs, Link, StageCost, Timeline, simulate};
use std::collections::BTreeMap;
use std::fs;
use tempfile::TempDir;
use train::{BlockMetrics, BlocksMetrics, RankMetrics, StepMetrics, ValidationMetrics};

fn kept() -> Vec<Kept> {
    (0..4).map(|i| Kept::from(&stage(i, 1.0))).collect()
}

fn stage(i: usize, slower: f64) -> StageCost {
    StageCost {
        forward_s: slower * 0.011 * (1.0 + 0.1 * i as f64),
        backward_input_s: slower * 0.013,
        backward_weight_s: slower * 0.009,
        backward_s: slower * 0.022,
        optimizer_s: 0.004,
        carry_bytes: 1_500_000,
        activation_bytes: 7_000_000,
        weight_grad_bytes: 2_000_000,
        backward_scratch: vec![(Category::Logits, 1_000_000 * i as u64)],
        resident: vec![
            (Category::Weights, 5_000_000),
            (Category::Gradients, 5_000_000),
            (Category::Optimizer, 10_000_000),
        ],
        ..StageCost::default()
    }
}

/// Four unequal stages on ranks that share three cores, with messages that take time.
fn timeline(backward: Backward, slower: f64) -> Timeline {
    let link = |from, to| Link { from: Rank(from), to: Rank(to), latency_s: 1e-4, bytes_per_s: 1e9 };
    let costs = Costs {
        stages: (0..4).map(|i| stage(i, slower)).collect(),
        links: (0..3).flat_map(|rank| [link(rank, rank + 1), link(rank + 1, rank)]).collect(),
        cores: vec![Cores { ranks: (0..4).map(Rank).collect(), permits: 3, threads: 1 }],
        ..Costs::default()
    };
    let spec = Spec { kind: Kind::OneFOneB, backward };
    let schedule = generate(spec, &StageMap::one_per_rank(4).route(), 7, &[]).unwrap();
    simulate(&schedule, &costs).unwrap()
}

fn step(step: u64) -> StepMetrics {
    let x = step as f64;
    StepMetrics {
        step,
        loss: 3.2 + 5.1 * (-x / 60.0).exp() + 0.15 * (x * 12.9898).sin(),
        gradient_norm: 0.6 + 3.0 * (-x / 20.0).exp() + 0.1 * (x * 7.7).sin(),
        learning_rate: 3e-3 * (x / 30.0).min(1.0) * (0.55 + 0.45 * (x / 96.0).cos()),
        tokens: 4096,
        step_s: 0.37,
        tokens_per_s: 11_000.0 + 400.0 * (x * 3.3).sin(),
        peak_share: Some(0.43),
        bubble: 0.21,
        loss_by_source: BTreeMap::new(),
        ranks: vec![RankMetrics { idle: 0.21, peak_bytes: 31_000_000 }; 4],
    }
}

fn validation(step: u64) -> ValidationMetrics {
    let loss = 3.3 + 5.0 * (-(step as f64) / 60.0).exp();
    let sources = [("books <b>".to_owned(), loss - 0.2), ("web".to_owned(), loss + 0.3)];
    ValidationMetrics {
        step,
        loss,
        perplexity: loss.exp(),
        bits_per_byte: 0.55 * loss,
        tokens: 16_384,
        wall_s: 0.9,
        validation_loss_by_source: sources.into(),
    }
}

fn blocks(step: u64) -> BlocksMetrics {
    let block = |i: usize| {
        let x = step as f64 * (1.0 + 0.1 * i as f64);
        BlockMetrics {
            block: if i == 9 { "head".to_owned() } else { format!("mlp {i}") },
            stage: i / 3,
            parameters: 49_152,
            weight_rms: 0.02 + 1e-5 * x,
            weight_max: 0.1,
            gradient_rms: 1e-4 / (1.0 + x),
            gradient_max: 1e-3,
            update_share: 1e-3,
            activation_rms: (i < 9).then_some(0.5 + 1e-3 * x),
            activation_max: (i < 9).then_some(9.0),
        }
    };
    BlocksMetrics { step, blocks: (0..10).map(block).collect() }
}

fn sample(step: u64) -> SampleMetrics {
    SampleMetrics { step, prompt: "The ".to_owned(), text: format!("mill after {step} </blockquote><img onerror=1>") }
}

fn summary(predicted: &Timeline, measured: &Timeline) -> Summary {
    let last = validation(300);
    let stage = |stage: usize| StageSummary {
        stage,
        rank: stage,
        blocks: format!("attention {stage}, feed-forward {stage}"),
        parameters: 778_496,
    };
    Summary {
        status: Status::Finished,
        version: "0.1.0".to_owned(),
        preset: Some("small".to_owned()),
        model: Some(ModelSummary {
            family: "Llama".to_owned(),
            parameters: 3_113_984,
            blocks: 10,
            vocabulary: 4096,
            sequence_length: 256,
        }),
        stages: (0..4).map(stage).collect(),
        schedule: Some("1F1B".to_owned()),
        microbatches: Some(7),
        rows: Some(14),
        devices: vec!["cpu".to_owned(); 4],
        cores: Some(3),
        predicted: Some(StepSummary::of(predicted)),
        measured: Some(StepSummary::of(measured)),
        steps: 300,
        exported_step: None,
        train_loss: Some(3.21),
        validation: Some(ValidationSummary {
            loss: last.loss,
            perplexity: last.perplexity,
            bits_per_byte: last.bits_per_byte,
        }),
        yardsticks: Some(Yardsticks {
            unigram_nats_per_token: 6.4,
            unigram_bits_per_byte: 3.52,
            xz_bits_per_byte: 2.31,
            text_bytes: 61_234,
        }),
        sample: Some(Sample {
            prompt: "The ".to_owned(),
            text: "mill turns <script>alert('no')</script> & the stream\n\nflows on.".to_owned(),
        }),
        machine: Some(Machine {
            system: "Linux 6.1".to_owned(),
            cpu: "Some Processor".to_owned(),
            physical_cores: None,
            logical_cores: 4,
            available_cores: 3,
            memory_bytes: 8_000_000_000,
        }),
        matmul_gflops: Some(97.4),
        speed: Some(SpeedSummary { calibrated_gflops: Some(95.0), before_gflops: 90.0, after_gflops: 72.0 }),
        wall_s: Some(131.0),
    }
}

/// The lines of a run's metrics, with a validation, a look at the blocks and a sample every 50 steps.
fn lines(steps: impl IntoIterator<Item = u64>) -> String {
    let lines = steps.into_iter().flat_map(|i| {
        let looks = [Line::Validation(validation(i)), Line::Blocks(blocks(i)), Line::Sample(sample(i))];
        std::iter::once(Line::Step(step(i))).chain(looks.into_iter().filter(move |_| i % 50 == 0))
    });
    lines.map(|line| line.text()).collect()
}

fn run_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(RUN_FILE), "seed = 1\nname = \"a < b\"\n").unwrap();
    folder
}

/// A folder with all that a finished run leaves.
fn full_run() -> (TempDir, Timelines, Summary) {
    let folder = run_folder();
    let (predicted, measured) = (timeline(Backward::Fused, 1.0), timeline(Backward::Fused, 1.13));
    let timelines =
        Timelines { predicted: Some((&predicted).into()), measured: Some((&measured).into()), kept: kept() };
    let summary = summary(&predicted, &measured);
    timelines.write(folder.path()).unwrap();
    summary.write(folder.path()).unwrap();
    fs::write(folder.path().join(METRICS), lines(1..=300)).unwrap();
    (folder, timelines, summary)
}

/// The page of a folder, checked for what every page must be.
fn page(folder: &TempDir) -> String {
    let path = write_report(folder.path()).unwrap();
    assert_eq!(path, folder.path().join("report.html"));
    let page = fs::read_to_string(path).unwrap();
    check(&page);
    assert!(page.contains("a &lt; b"), "the run file is there, escaped");
    page
}

/// What every page must be: whole, without a need for anything else, and with no script but its own.
fn check(page: &str) {
    let namespaces = page.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(page.matches("http://").count(), namespaces, "the page loads nothing");
    for forbidden in ["https://", "src=", "url(", "@import", "<link", "NaN", "Infinity", "{{", "{%", "<img"] {
        assert!(!page.contains(forbidden), "the page has `{forbidden}`");
    }
    let data = page.matches(r#"<script type="application/json">"#).count();
    assert_eq!((data, page.matches("<script").count()), (page.matches("<figure").count(), data + 1));
    for tag in ["section", "table", "tr", "td", "svg", "div", "ul", "dl", "details", "main", "figure", "script"] {
        let opened = page.matches(&format!("<{tag} ")).count() + page.matches(&format!("<{tag}>")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "<{tag}> and </{tag}>");
    }
}

fn has_heading(page: &str, heading: &str) -> bool {
    page.contains(&format!("<h2>{heading}</h2>"))
}

const HEADINGS: [&str; 10] = [
    "How good is it?",
    "Loss",
    "One step, rank by rank",
    "A step, predicted and measured",
    "Where the time went",
    "Memory",
    "Samples",
    "Block by block",
    "Stages",
    "Machine and run",
];

#[test]
fn files_come_back_as_they_were_written() {
    let (folder, timelines, summary) = full_run();
    let files = RunFiles::read(folder.path()).unwrap();
    assert_eq!(files.timelines, Some(timelines));
    assert_eq!(files.summary, Some(summary.clone()));
    assert_eq!(files.metrics.steps, (1..=300).map(step).collect::<Vec<_>>());
    assert_eq!(files.metrics.validations, (1..=6).map(|i| validation(50 * i)).collect::<Vec<_>>());
    assert_eq!(files.metrics.n_unreadable, 0);

    for status in [Status::Interrupted, Status::Failed("the disk is full".to_owned())] {
        let summary = Summary { status, ..summary.clone() };
        summary.write(folder.path()).unwrap();
        assert_eq!(RunFiles::read(folder.path()).unwrap().summary, Some(summary));
    }
}

#[test]
fn timelines_come_back_as_they_were() {
    for backward in [Backward::Fused, Backward::Split] {
        let timeline = timeline(backward, 1.0);
        let text = serde_json::to_string(&TimelineFile::from(&timeline)).unwrap();
        let file: TimelineFile = serde_json::from_str(&text).unwrap();
        assert_eq!(Timeline::try_from(&file).unwrap(), timeline);
    }
    let broken = r#"{"n_ranks":1,"spans":[{"rank":RANK,"stage":0,"label":"","op":"OP","asked_s":0,"start_s":0,"end_s":1}],"memory":[]}"#;
    for (rank, op, problem) in [
        ("0", "OPT", None),
        ("0", "F", Some("the operation `F`")),
        ("0", "opt", Some("the operation `opt`")),
        ("1", "OPT", Some("a timeline of 1 ranks names rank 1")),
    ] {
        let text = broken.replace("RANK", rank).replace("OP", op);
        let file: TimelineFile = serde_json::from_str(&text).unwrap();
        let found = Timeline::try_from(&file).err().map(|error| error.to_string());
        assert_eq!(found.is_some(), problem.is_some(), "{op}: {found:?}");
        assert!(found.unwrap_or_default().contains(problem.unwrap_or_default()), "{op}");
    }
}

/// A number that is not finite is null on the disk.
#[test]
fn report_of_a_run_that_diverged() {
    let (folder, _, mut summary) = full_run();
    let diverged = ValidationSummary { loss: 800.0, perplexity: f64::INFINITY, bits_per_byte: f64::NAN };
    summary.validation = Some(diverged);
    summary.write(folder.path()).unwrap();
    let read = RunFiles::read(folder.path()).unwrap().summary.and_then(|summary| summary.validation).unwrap();
    assert!(read.loss == 800.0 && read.perplexity.is_nan() && read.bits_per_byte.is_nan(), "{read:?}");
    let page = fs::read_to_string(write_report(folder.path()).unwrap()).unwrap();
    assert!(page.contains("800.000") && !has_heading(&page, "How good is it?"));
}

/// A resumed run goes back to its checkpoint; a killed one leaves a line half written.
#[test]
fn metrics_of_resumed_and_killed_runs() {
    let whole = lines(1..=101);
    let cut = |n_bytes: usize| whole[..whole.len() - n_bytes].to_owned();
    for (text, n_steps, n_validations, n_unreadable) in [
        (String::new(), 0, 0, 0),
        (whole.clone(), 101, 2, 0),
        (cut(1), 101, 2, 0),
        (cut(2), 100, 2, 1),
        (whole.clone() + &lines(71..=90), 90, 1, 0),
        (cut(9) + "\n" + &lines(101..=103), 103, 2, 1),
        (lines(1..=50) + &lines(50..=50), 50, 1, 0),
    ] {
        let metrics = Metrics::parse(&text);
        assert_eq!(metrics.steps, (1..=n_steps).map(step).collect::<Vec<_>>());
        assert_eq!(metrics.validations, (1..=n_validations).map(|i| validation(50 * i)).collect::<Vec<_>>());
        assert_eq!(metrics.blocks, (1..=n_validations).map(|i| blocks(50 * i)).collect::<Vec<_>>());
        assert_eq!(metrics.samples, (1..=n_validations).map(|i| sample(50 * i)).collect::<Vec<_>>());
        assert_eq!(metrics.n_unreadable, n_unreadable);
    }
}

#[test]
fn report_of_a_finished_run() {
    let (folder, ..) = full_run();
    let page = page(&folder);
    for heading in HEADINGS {
        assert!(has_heading(&page, heading), "{heading}");
    }
    assert!(page.contains("mill turns &lt;script&gt;alert"), "the sample is there, escaped");
    assert!(page.contains("Llama with 3.11 M parameters"));
    // 0.55 x (3.3 + 5 e^-5) = 1.834 bits against 3.52 and 2.31: 47.9 % and 20.6 % less.
    assert!(page.contains("needs 1.83 bits"));
    assert!(page.contains("48 % less than token frequencies alone, 21 % less than xz\u{a0}-9"), "{page}");
    // The loss, six other curves, and memory of four ranks predicted and measured; both Gantt pictures.
    assert_eq!(page.matches(r#"<figure class="chart">"#).count(), 1 + 6 + 2 * 4);
    assert_eq!(page.matches(r#"class="gantt""#).count(), 2);
    assert_eq!(page.matches(r#"<div class="heat">"#).count(), 5);
    // One bar per rank, predicted and measured, of time and of memory.
    assert_eq!(page.matches(r#"<span class="name">rank 3 measured</span>"#).count(), 2);
    // A curve per source, and what the last look saw.
    assert!(page.contains("validation, books &lt;b&gt;") && page.contains("after step 300"), "{page}");
    assert_eq!(page.matches("<blockquote>").count(), 7);
}

/// A page of a long run opens fast: its size does not follow the number of steps.
#[test]
fn report_of_a_long_run() {
    let (folder, ..) = full_run();
    let size = |n_steps: u64| {
        fs::write(folder.path().join(METRICS), lines(1..=n_steps)).unwrap();
        page(&folder).len()
    };
    let (shorter, longer) = (size(10_000), size(20_000));
    assert!(shorter < 1_000_000 && longer < shorter + shorter / 10, "{shorter} and {longer} bytes");
}

#[test]
fn comparison_of_runs() {
    let parent = tempfile::tempdir().unwrap();
    let run = |name: &str, n_steps: u64, rate: &str| {
        let folder = parent.path().join(name);
        fs::create_dir(&folder).unwrap();
        let file = format!("seed = 1\n[optimizer]\nlearning_rate = {rate}\nname = \"x\"\n");
        fs::write(folder.join(RUN_FILE), file).unwrap();
        fs::write(folder.join(METRICS), lines(1..=n_steps)).unwrap();
        folder
    };
    let folders = [run("a<b>", 100, "1e-3"), run("other", 150, "2e-3"), run("empty", 0, "1e-3")];
    let failed = Summary { status: Status::Failed("no <space>".to_owned()), ..Summary::default() };
    failed.write(&folders[2]).unwrap();
    let path = parent.path().join("comparison.html");
    write_comparison(&folders, &path).unwrap();
    let page = fs::read_to_string(path).unwrap();
    check(&page);
    for part in [
        "3 runs compared",
        "a&lt;b&gt;",
        "no &lt;space&gt;",
        "<td>optimizer.learning_rate</td><td>0.001</td><td>0.002</td><td>0.001</td>",
        // 3.3 + 5 exp(-100 / 60) = 4.244 and 3.3 + 5 exp(-150 / 60) = 3.710: the second is the better one.
        r#"<td>Validation loss, nats per token</td><td>4.244</td><td class="best">3.710</td><td>–</td>"#,
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
    assert!(!page.contains("optimizer.name"), "what does not differ is left out");
    assert_eq!(page.matches(r#"<figure class="chart">"#).count(), 3 + 3);
}

#[test]
fn report_of_a_run_that_failed_at_once() {
    let folder = run_folder();
    let page_before = page(&folder);
    assert!(page_before.contains("not finished"));
    assert!(!folder.path().join("trace.json").exists());
    Summary { status: Status::Failed("no <space> left".to_owned()), ..Summary::default() }
        .write(folder.path())
        .unwrap();
    let page_after = page(&folder);
    assert!(page_after.contains("no &lt;space&gt; left"));
    for heading in HEADINGS.into_iter().filter(|&heading| heading != "Machine and run") {
        assert!(!has_heading(&page_before, heading) && !has_heading(&page_after, heading), "{heading}");
    }
}

#[test]
fn report_of_a_run_killed_after_its_first_step() {
    let folder = run_folder();
    let text = lines(1..=2);
    fs::write(folder.path().join(METRICS), &text[..text.len() - 20]).unwrap();
    let predicted = TimelineFile::from(&timeline(Backward::Split, 1.0));
    Timelines { predicted: Some(predicted), ..Timelines::default() }.write(folder.path()).unwrap();
    let page = page(&folder);
    assert!(page.contains("1 line of metrics.jsonl could not be read."));
    // As of a finished run, but memory only as predicted, and no more than one look at anything.
    assert_eq!(page.matches(r#"<figure class="chart">"#).count(), 1 + 6 + 4);
    assert_eq!(page.matches(r#"class="gantt""#).count(), 1);
    assert!(has_heading(&page, "Where the time went") && !has_heading(&page, "How good is it?"));
}

#[test]
fn a_folder_without_a_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = write_report(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("is not the folder of a run: it has no run.toml"), "{error}");
    fs::write(folder.path().join(RUN_FILE), "").unwrap();
    fs::write(folder.path().join("summary.json"), "{").unwrap();
    let error = write_report(folder.path()).unwrap_err().to_string();
    assert!(error.contains("summary.json:1:1: this is not what a run writes: EOF while parsing an object"), "{error}");
}

#[test]
fn trace_holds_every_action() {
    let timeline = timeline(Backward::Fused, 1.0);
    let file = TimelineFile::from(&timeline);
    let text = trace(&Timelines { predicted: Some(file.clone()), measured: Some(file), kept: Vec::new() }).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let count = |phase: &str, category: Option<&str>| {
        let is_wanted = |event: &&serde_json::Value| event["ph"] == phase && event["cat"].as_str() == category;
        events.iter().filter(is_wanted).count()
    };
    // Per process: 4 ranks x 7 microbatches x (F and B), and an optimizer step per rank. Receives that wait come on top.
    let receives =
        timeline.spans.iter().filter(|span| span.label().contains("RECV") && span.end_s > span.start_s).count();
    assert_eq!(count("X", Some("action")), 2 * (4 * 7 * 2 + 4 + receives));
    // 3 borders x 7 microbatches x 2 directions.
    assert_eq!((count("b", Some("message")), count("e", Some("message"))), (2 * 42, 2 * 42));
    assert_eq!(count("C", None), 2 * timeline.memory.len());
    assert_eq!(count("M", None), 2 * (1 + 4));

    // What a thread shows does not overlap.
    for (process, rank) in (1..=2).flat_map(|process| (0..4).map(move |rank| (process, rank))) {
        let own = events.iter().filter(|event| event["ph"] == "X" && event["pid"] == process && event["tid"] == rank);
        let mut slices: Vec<(f64, f64)> =
            own.map(|event| (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap())).collect();
        slices.sort_by(|a, b| a.0.total_cmp(&b.0));
        // A nanosecond: sums of microseconds are rounded.
        assert!(slices.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0 + 1e-3), "rank {rank}");
    }
    let last_us =
        events.iter().filter_map(|event| Some(event["ts"].as_f64()? + event["dur"].as_f64()?)).fold(0.0, f64::max);
    assert!((last_us / 1e6 / timeline.makespan_s() - 1.0).abs() < 1e-12, "{last_us}");
}
