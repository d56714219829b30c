//! Shares fitted to traces of real steps, and what they predict of steps that were not fitted.

use flate2::read::GzDecoder;
use mesh::{Key, Rank, Stage};
use plan::machine::{DevicePreset, Network, NodeGroup, Precision};
use plan::{Batch, Class, Description, Granularity, Machine, Software, Task, TracedStep, calibrate, predict};
use plan::{Checkpointing, Degrees, Layout, OptimizerState};
use plan::{LocalPlan, LocalRates, LocalTask, Recompute, local_plans};
use schedule::{Action, Backward, Kind, LabelParts, Op, Spec, StageOp};
use serde_json::Value;
use simulate::{Span, Timeline};
use std::io::Read;

fn unpacked(bytes: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).expect("a fixture");
    text
}

/// A step of one of torch_trace.py's cases on one device.
fn task(case: &Value, machine: Machine, precision: Precision) -> Task {
    let whole = |key: &str| case[key].as_u64().expect("a number") as usize;
    Task {
        model: Description::from_config_json(&case["config"].to_string()).expect("a Llama"),
        machine,
        software: Software { precision, ..Software::torchtitan() },
        batch: Batch { rows: whole("rows"), tokens: whole("tokens") },
        granularity: Granularity::Layers,
    }
}

fn step_s(task: &Task) -> f64 {
    let layout = Layout {
        degrees: Degrees::ONE,
        microbatch_rows: task.batch.rows,
        spec: Spec { kind: Kind::OneFOneB, backward: Backward::Fused },
        chunks: 1,
        recompute: Checkpointing::None,
        optimizer: OptimizerState::Replicated,
        sizes: None,
    };
    predict(task, &layout).expect("a prediction").step_s
}

fn machine(preset: DevicePreset) -> Machine {
    let group = NodeGroup {
        name: "one".to_owned(),
        count: 1,
        cluster: "one".to_owned(),
        devices: 1,
        device: preset.device(),
        fabric: preset.fabric(),
        nics: Vec::new(),
    };
    Machine { name: "one".to_owned(), nodes: vec![group], network: Network::Cards }
}

/// `torch_trace.py` made both traces. The fitted step comes out as it was; the two others, of longer rows and of a larger
/// model, within what is said here and in docs/planner.md: the one of the GPU closely, those of the CPU as far as the machine
/// is the same from step to step (its eleven steps of one case spread by a half). The bounds were set after the fact, a little
/// above the largest error that was found: 4.1 % on the H200, 10.3 % on the CPU.
#[test]
fn other_steps_follow() {
    for (name, preset, precision, trace, cases, within) in [
        (
            "H200",
            DevicePreset::H200,
            Precision::Bf16,
            include_bytes!("fixtures/torch_cuda.json.gz").as_slice(),
            include_str!("fixtures/torch_cuda.json"),
            0.05,
        ),
        (
            "16 cores",
            DevicePreset::Rtx4090,
            Precision::F32,
            include_bytes!("fixtures/torch_cpu.json.gz").as_slice(),
            include_str!("fixtures/torch_cpu.json"),
            0.12,
        ),
    ] {
        let cases: Value = serde_json::from_str(cases).expect("a fixture");
        let cases = cases.as_array().expect("a list");
        let traced = TracedStep::from_kineto(&unpacked(trace)).expect("a trace");
        let measured = |case: &Value| case["step_s"].as_f64().expect("a number");
        assert!((traced.step_s / measured(&cases[0]) - 1.0).abs() < 1e-3, "the middle step was kept");
        let fitted_to = task(&cases[0], machine(preset), precision);
        let found = calibrate(&fitted_to, fitted_to.batch.rows, &traced).expect("a fit");
        for class in &found.classes {
            println!(
                "{name}, {}: {:.2} ms before, {:.2} measured, {:.2} after",
                class.class.name(),
                class.before_s * 1e3,
                class.measured_s * 1e3,
                class.after_s * 1e3
            );
        }
        println!("{:?}", found.device.efficiency);
        assert!((found.after_s / traced.step_s - 1.0).abs() < 0.01, "{} {}", found.after_s, traced.step_s);
        let mut calibrated = machine(preset);
        calibrated.nodes[0].device = found.device.clone();
        calibrated.check().expect("shares of at most 1");
        for case in cases {
            let predicted = step_s(&task(case, calibrated.clone(), precision));
            let error = predicted / measured(case) - 1.0;
            println!(
                "{name}: {:.1} ms predicted, {:.1} measured, {:+.1} %",
                predicted * 1e3,
                measured(case) * 1e3,
                error * 100.0
            );
            assert!(error.abs() < within, "{name}: {error}");
        }
    }
}

/// Operators in operators, on two threads, and kernels: times counted by hand.
#[test]
fn traces_by_hand() {
    let event = |category: &str, name: &str, thread: u32, begin: u32, duration: u32, id: u32| {
        serde_json::json!({"ph": "X", "cat": category, "name": name, "pid": 1, "tid": thread, "ts": begin, "dur": duration,
            "args": {"External id": id}})
    };
    let mut events = vec![
        event("user_annotation", "ProfilerStep#3", 1, 0, 1000, 1),
        event("cpu_op", "aten::linear", 1, 100, 100, 2),
        event("cpu_op", "aten::addmm", 1, 110, 70, 3),
        event("cpu_op", "aten::copy_", 1, 120, 10, 4),
        event("cpu_op", "autograd::engine::evaluate_function: AddmmBackward0", 2, 300, 200, 5),
        event("cpu_op", "aten::mm", 2, 310, 150, 6),
        event("user_annotation", "Optimizer.step#AdamW.step", 1, 600, 300, 7),
        event("cpu_op", "aten::mul_", 1, 610, 200, 8),
        event("cpu_op", "aten::mm", 1, 2000, 500, 9),
    ];
    let read = |events: &Vec<Value>| {
        TracedStep::from_kineto(&serde_json::json!({ "traceEvents": events }).to_string()).expect("a trace")
    };
    let us = |step: &TracedStep, class: Class| (step.seconds[class as usize] * 1e6).round() as u32;
    let classes = [Class::Products, Class::BackwardProducts, Class::Elementwise, Class::Update, Class::Gaps];
    let on_host = read(&events);
    assert_eq!(classes.map(|class| us(&on_host, class)), [90, 150, 10, 200, 550]);
    // The last one was launched after the step.
    for (id, begin, duration) in [(3, 500, 40), (6, 600, 90), (8, 980, 60), (9, 2100, 5)] {
        events.push(event("kernel", "gemm", 7, begin, duration, id));
    }
    let on_device = read(&events);
    assert_eq!(classes.map(|class| us(&on_device, class)), [40, 90, 0, 60, 810]);
}

#[test]
fn refusals() {
    for (text, wanted) in [
        ("[", "EOF"),
        ("{}", "no list `traceEvents`"),
        ("{\"traceEvents\": []}", "call profiler.step()"),
        (
            r#"[{"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#1", "ts": 0, "dur": 5, "pid": 1, "tid": 1}]"#,
            "no operator lies within a step",
        ),
        (
            r#"[{"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#1", "ts": 0, "dur": 5, "pid": 1, "tid": 1},
                {"ph": "X", "cat": "kernel", "name": "ncclDevKernel_AllReduce", "ts": 0, "dur": 5, "pid": 1, "tid": 1}]"#,
            "trace a step on one device",
        ),
    ] {
        let told = TracedStep::from_kineto(text).expect_err(wanted).to_string();
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
}

const SLOW: LocalRates = LocalRates {
    forward_flops_per_s: 1e9,
    backward_flops_per_s: 1e9,
    update_bytes_per_s: 1e9,
    memory_bytes_per_s: 1e9,
};

/// What microbatches cost on one rank, against the sum by hand: parameters move 16 bytes for every microbatch, a head's for
/// every 512 tokens of one; recomputing does not add to it, for a stage with a head then has its forward in its backward
/// alone. Rates fitted to such a step are those it was played with. What ties goes to few microbatches.
#[test]
fn small_microbatches_cost() {
    let runs: Value = serde_json::from_str(include_str!("fixtures/local_steps.json")).expect("a fixture");
    let architecture = architecture::from_config_json(&runs[0]["config"].to_string()).expect("a Llama");
    let rates = LocalRates { forward_flops_per_s: 50e9, backward_flops_per_s: 40e9, update_bytes_per_s: 7e9, ..SLOW };
    let task = LocalTask { architecture: &architecture, rows: 10, tokens: 160, cores: 2, rates, memory_bytes: 1 << 40 };
    let plans = local_plans(&task, &[Kind::OneFOneB]);
    // A norm of 192, and a matrix of 2048 rows; as large is the embedding, which is not read as a whole.
    let head = 192 + 2048 * 192;
    let layers = architecture.n_parameters() - head - 2048 * 192;
    let moved_bytes = |plan: &LocalPlan| {
        let m = plan.microbatches;
        (16 * m * (layers + head * (1600 / m).div_ceil(512))) as f64
    };
    let moved_s = |plan: &LocalPlan| moved_bytes(plan) / rates.memory_bytes_per_s;
    for recompute in [Recompute::None, Recompute::Full] {
        let of_one: Vec<&LocalPlan> =
            plans.iter().filter(|plan| plan.n_ranks == 1 && plan.recompute == recompute).collect();
        let mut counts: Vec<usize> = of_one.iter().map(|plan| plan.microbatches).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 2, 5, 10]);
        for plan in &of_one {
            let (found, wanted) = (plan.step_s - of_one[0].step_s, moved_s(plan) - moved_s(of_one[0]));
            assert!((found - wanted).abs() < 1e-9, "{} microbatches: {found} {wanted}", plan.microbatches);
            if recompute == Recompute::Full {
                continue;
            }
            let start =
                LocalTask { rates: LocalRates { memory_bytes_per_s: rates.memory_bytes_per_s, ..SLOW }, ..task };
            let fitted = LocalRates::of_step(&start, &plan.timeline);
            for (found, wanted) in [
                (fitted.forward_flops_per_s, rates.forward_flops_per_s),
                (fitted.backward_flops_per_s, rates.backward_flops_per_s),
                (fitted.update_bytes_per_s, rates.update_bytes_per_s),
            ] {
                assert!((found / wanted - 1.0).abs() < 1e-6, "{} microbatches: {fitted:?}", plan.microbatches);
            }
        }
    }
    // With memory this fast all of them are within a fiftieth on one rank; with memory this slow they are not.
    for (memory_bytes_per_s, is_tied) in [(1e15, true), (1e9, false)] {
        let task = LocalTask { rates: LocalRates { memory_bytes_per_s, ..rates }, ..task };
        let plans = local_plans(&task, &[Kind::OneFOneB]);
        assert!((plans[0].n_ranks, plans[0].microbatches) == (1, 1), "{:?}", plans[0].sizes);
        let ten = plans.iter().find(|plan| plan.n_ranks == 1 && plan.microbatches == 10).expect("ten rows");
        let wanted = (moved_bytes(ten) - moved_bytes(&plans[0])) / memory_bytes_per_s;
        assert!((ten.step_s - plans[0].step_s - wanted).abs() < 1e-9, "{} {}", ten.step_s, plans[0].step_s);
        assert_eq!(ten.step_s <= 1.02 * plans[0].step_s, is_tied, "{} {}", ten.step_s, plans[0].step_s);
    }
}

/// A step of `millstream train` on two shared cores, and what its rates predict of other runs: other ranks, schedule, rows and
/// row lengths. All ranks compute on the two cores. The bound was set after the fact: the largest error found was 3.1 %.
#[test]
fn other_runs_follow() {
    let runs: Value = serde_json::from_str(include_str!("fixtures/local_steps.json")).expect("a fixture");
    let runs = runs.as_array().expect("a list");
    let whole = |run: &Value, key: &str| run[key].as_u64().expect("a number") as usize;
    // Bandwidth as `millstream doctor` measures it on two such cores; what is fitted depends on it little.
    let given = LocalRates { memory_bytes_per_s: 37e9, ..SLOW };
    let mut fitted = given;
    for (i, run) in runs.iter().enumerate() {
        let architecture = architecture::from_config_json(&run["config"].to_string()).expect("a Llama");
        let task = |rates: LocalRates| LocalTask {
            architecture: &architecture,
            rows: whole(run, "rows"),
            tokens: whole(run, "tokens"),
            cores: whole(run, "cores"),
            rates,
            memory_bytes: 1 << 32,
        };
        let timeline = timeline(run);
        if i == 0 {
            fitted = LocalRates::of_step(&task(given), &timeline);
            println!("{fitted:?}");
        }
        let kind = Kind::ALL.into_iter().find(|kind| run["schedule"] == kind.id()).expect("a schedule");
        let plans = local_plans(&task(fitted), &[kind]);
        let is_run = |plan: &&LocalPlan| {
            let sizes = (plan.n_ranks, plan.microbatches);
            sizes == (whole(run, "ranks"), whole(run, "microbatches")) && plan.recompute == Recompute::None
        };
        let plan = plans.iter().find(is_run).expect("the run's plan");
        let measured = timeline.makespan_s();
        let error = plan.step_s / measured - 1.0;
        println!(
            "{}: {:.1} ms predicted, {:.1} measured, {:+.1} %",
            run["schedule"],
            plan.step_s * 1e3,
            measured * 1e3,
            error * 100.0
        );
        assert!(error.abs() < 0.05, "{error}");
    }
}

fn timeline(run: &Value) -> Timeline {
    let spans = run["spans"].as_array().expect("a list").iter().map(|span| {
        let whole = |i: usize| span[i].as_u64().expect("a number") as usize;
        let stage = Stage(whole(1));
        let ops = [("F", Op::Forward), ("B", Op::Backward), ("I", Op::BackwardInput), ("W", Op::BackwardWeight)];
        let action = match ops.iter().find(|(name, _)| span[2] == *name) {
            Some((_, op)) => Action::visit(*op, Key::new(whole(3), stage.0)),
            None => Action::Stage { op: StageOp::OptimizerStep, stage },
        };
        let second = |i: usize| span[i].as_f64().expect("a number");
        let (start_s, end_s) = (second(4), second(5));
        Span { rank: Rank(whole(0)), action, stage, label: LabelParts::default(), asked_s: start_s, start_s, end_s }
    });
    let n_ranks = run["ranks"].as_u64().expect("a number") as usize;
    Timeline { n_ranks, spans: spans.collect(), ..Timeline::default() }
}
