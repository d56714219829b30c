//! `trace.json`: the timelines for Perfetto (ui.perfetto.dev) and chrome://tracing, in Chrome's trace event format.

use super::Timelines;
use mesh::Rank;
use schedule::{Action, Op};
use serde_json::{Map, Value, json};
use simulate::{Category, Span, Timeline};

/// Predicted and measured timeline as two processes, ranks as threads, messages as asynchronous events beside them,
/// live memory as counters. Times are in microseconds, as the format wants.
///
/// # Errors
/// A timeline names what there is not.
pub fn trace(timelines: &Timelines) -> anyhow::Result<String> {
    let mut events = Vec::new();
    for (process, name, file) in [(1, "predicted", &timelines.predicted), (2, "measured", &timelines.measured)] {
        let Some(file) = file else { continue };
        add(&mut events, process, name, &Timeline::try_from(file)?);
    }
    Ok(json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string() + "\n")
}

fn add(events: &mut Vec<Value>, process: usize, name: &str, timeline: &Timeline) {
    events.push(json!({ "ph": "M", "name": "process_name", "pid": process, "args": { "name": name } }));
    for rank in 0..timeline.n_ranks {
        let args = json!({ "name": format!("rank {rank}") });
        events.push(json!({ "ph": "M", "name": "thread_name", "pid": process, "tid": rank, "args": args }));
    }
    for (i, span) in timeline.spans.iter().enumerate() {
        add_span(events, process, i, span);
    }
    for rank in (0..timeline.n_ranks).map(Rank) {
        for sample in timeline.memory.iter().filter(|sample| sample.rank == rank) {
            let names = Category::ALL.iter().map(|category| category.name().to_owned());
            let bytes: Map<String, Value> = names.zip(sample.bytes.map(Value::from)).collect();
            let name = format!("bytes on rank {rank}");
            events.push(json!({ "ph": "C", "name": name, "pid": process, "ts": us(sample.at_s), "args": bytes }));
        }
    }
}

fn add_span(events: &mut Vec<Value>, process: usize, i: usize, span: &Span) {
    let (rank, label) = (span.rank.0, span.label());
    let mut args = json!({ "stage": span.stage.0 });
    match span.action {
        Action::Visit { key, .. } => {
            args["microbatch"] = key.microbatch.0.into();
            args["hop"] = key.hop.0.into();
            args["segment"] = key.segment.0.into();
        }
        Action::Shard { microbatch, .. } => args["microbatch"] = microbatch.0.into(),
        Action::Stage { .. } => {}
    }
    if let Action::Visit { op: Op::SendActivation | Op::SendGradient, .. } = span.action {
        // Messages overlap what the rank plays meanwhile, which slices of one thread must not.
        for (phase, at_s) in [("b", span.start_s), ("e", span.end_s)] {
            events.push(json!({
                "ph": phase, "cat": "message", "id": i, "name": label, "pid": process, "tid": rank, "ts": us(at_s),
                "args": args,
            }));
        }
        return;
    }
    let mut slice = |name: &str, category: &str, from_s: f64, to_s: f64| {
        if to_s > from_s {
            events.push(json!({
                "ph": "X", "cat": category, "name": name, "pid": process, "tid": rank, "ts": us(from_s),
                "dur": us(to_s - from_s), "args": args,
            }));
        }
    };
    slice("waiting for a core", "wait", span.asked_s, span.start_s);
    slice(&label, "action", span.start_s, span.end_s);
}

fn us(s: f64) -> f64 {
    s * 1e6
}
