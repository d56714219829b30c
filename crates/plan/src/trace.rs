//! Traces of a step on one device, as PyTorch's profiler (Kineto) writes them for Chrome.

use crate::PlanError;
use serde_json::Value;
use std::collections::HashMap;

/// Kinds of work that a trace tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Matrix products of forward.
    Products,
    /// Those of backward.
    BackwardProducts,
    /// A fused attention's forward.
    Attention,
    /// Its backward.
    BackwardAttention,
    /// What moves bytes through memory: norms, activations, additions, copies.
    Elementwise,
    /// Cross-entropy over the vocabulary.
    Loss,
    /// The optimizer.
    Update,
    /// When nothing of these runs: the interpreter, launches.
    Gaps,
}

/// A step as it was: the mean of those in the trace.
#[derive(Clone, Debug, PartialEq)]
pub struct TracedStep {
    /// Of the whole step.
    pub step_s: f64,
    /// Of every class, indexed as [`Class::ALL`].
    pub seconds: [f64; Class::ALL.len()],
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 8] = [
        Class::Products,
        Class::BackwardProducts,
        Class::Attention,
        Class::BackwardAttention,
        Class::Elementwise,
        Class::Loss,
        Class::Update,
        Class::Gaps,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Class::Products => "products, forward",
            Class::BackwardProducts => "products, backward",
            Class::Attention => "attention, forward",
            Class::BackwardAttention => "attention, backward",
            Class::Elementwise => "element-wise",
            Class::Loss => "loss",
            Class::Update => "update",
            Class::Gaps => "nothing",
        }
    }

    /// Of an operator by its name.
    fn of(name: &str, place: Place) -> Class {
        let name = name.strip_prefix("aten::").unwrap_or(name);
        let is_attention = ["scaled_dot_product", "flash_attention", "efficient_attention", "cudnn_attention"];
        match place {
            Place::Optimizer => Class::Update,
            _ if is_attention.iter().any(|part| name.contains(part)) => {
                if name.contains("backward") {
                    Class::BackwardAttention
                } else {
                    Class::Attention
                }
            }
            _ if PRODUCTS.contains(&name) => {
                if place == Place::Backward {
                    Class::BackwardProducts
                } else {
                    Class::Products
                }
            }
            _ if ["log_softmax", "nll_loss", "cross_entropy"].iter().any(|part| name.contains(part)) => Class::Loss,
            _ => Class::Elementwise,
        }
    }
}

/// Operators that are matrix products.
const PRODUCTS: [&str; 9] =
    ["mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "_scaled_mm", "_grouped_mm", "mkldnn_linear"];

/// Around an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Forward,
    Backward,
    Optimizer,
}

/// An event of a trace, in microseconds.
struct Event<'a> {
    name: &'a str,
    category: &'a str,
    thread: String,
    begin: f64,
    end: f64,
    id: Option<u64>,
}

impl TracedStep {
    /// From a trace in Chrome's format. A step is what a `ProfilerStep#N` annotation spans: `profiler.step()` makes them, and
    /// so does `record_function("ProfilerStep#1")`. Where there are kernels, they count, each with the operator that launched
    /// it; else operators do, each without those inside it.
    ///
    /// # Errors
    /// [`PlanError::Trace`] when it is no such trace, has no step, or has collectives.
    pub fn from_kineto(text: &str) -> Result<Self, PlanError> {
        let refuse = |problem: &str| PlanError::Trace(problem.to_owned());
        let json: Value = serde_json::from_str(text).map_err(|error| PlanError::Trace(error.to_string()))?;
        let list = json["traceEvents"].as_array().or_else(|| json.as_array());
        let list = list.ok_or_else(|| refuse("there is no list `traceEvents`"))?;
        let events: Vec<Event> = list.iter().filter_map(Event::read).collect();
        let is_step = |event: &&Event| event.name.starts_with("ProfilerStep") && event.category == "user_annotation";
        let steps: Vec<&Event> = events.iter().filter(is_step).collect();
        if steps.is_empty() {
            return Err(refuse(
                "no event is named ProfilerStep#N; call profiler.step() after every step, or put the step into \
                 record_function(\"ProfilerStep#1\")",
            ));
        }
        if events.iter().any(|event| event.category == "kernel" && event.name.contains("nccl")) {
            return Err(refuse("it has collectives; trace a step on one device"));
        }
        let n = steps.len() as f64;
        let step_s = steps.iter().map(|step| step.end - step.begin).sum::<f64>() * 1e-6 / n;
        let is_within = |event: &Event| steps.iter().any(|step| event.begin >= step.begin && event.end <= step.end);
        let operators = operators(&events);
        let is_kernel = |event: &&Event| matches!(event.category, "kernel" | "gpu_memcpy" | "gpu_memset");
        let mut seconds = [0.0; Class::ALL.len()];
        if events.iter().any(|event| is_kernel(&event)) {
            let launched: HashMap<u64, &Operator> =
                operators.iter().filter_map(|operator| Some((operator.event.id?, operator))).collect();
            for kernel in events.iter().filter(is_kernel) {
                let by = kernel.id.and_then(|id| launched.get(&id));
                // A kernel may end after the step's annotation: what counts is who launched it.
                if by.is_some_and(|operator| is_within(operator.event)) {
                    let class = by.map_or(Class::Elementwise, |by| Class::of(by.event.name, by.place));
                    seconds[class as usize] += (kernel.end - kernel.begin) * 1e-6 / n;
                }
            }
        } else {
            for operator in operators.iter().filter(|operator| is_within(operator.event)) {
                let is_work = operator.event.category == "cpu_op"
                    && operator.event.name.contains("::")
                    && !operator.event.name.starts_with("autograd::");
                if is_work {
                    seconds[Class::of(operator.event.name, operator.place) as usize] += operator.own * 1e-6 / n;
                }
            }
        }
        let busy: f64 = seconds.iter().sum();
        if busy <= 0.0 {
            return Err(refuse("no operator lies within a step; record CPU or CUDA activities"));
        }
        seconds[Class::Gaps as usize] = (step_s - busy).max(0.0);
        Ok(Self { step_s, seconds })
    }
}

impl<'a> Event<'a> {
    /// Only whole ones ("X") with times.
    fn read(value: &'a Value) -> Option<Self> {
        if value["ph"] != "X" {
            return None;
        }
        let (begin, duration) = (value["ts"].as_f64()?, value["dur"].as_f64()?);
        Some(Self {
            name: value["name"].as_str()?,
            category: value["cat"].as_str().unwrap_or_default(),
            thread: format!("{} {}", value["pid"], value["tid"]),
            begin,
            end: begin + duration.max(0.0),
            id: value["args"]["External id"].as_u64(),
        })
    }
}

/// An operator or annotation on the host, with what is around it and the time that nothing inside it takes.
struct Operator<'a> {
    event: &'a Event<'a>,
    place: Place,
    own: f64,
}

/// Those of every thread, from how they lie in each other.
fn operators<'a>(events: &'a [Event<'a>]) -> Vec<Operator<'a>> {
    let mut ordered: Vec<&Event> =
        events.iter().filter(|event| matches!(event.category, "cpu_op" | "user_annotation")).collect();
    ordered.sort_by(|a, b| {
        let order = a.thread.cmp(&b.thread).then(a.begin.total_cmp(&b.begin));
        order.then(b.end.total_cmp(&a.end))
    });
    let mut operators: Vec<Operator> = Vec::with_capacity(ordered.len());
    let mut open: Vec<usize> = Vec::new();
    for event in ordered {
        // Ends are printed to a nanosecond.
        let is_over = |&at: &usize| {
            let outer: &Event = operators[at].event;
            outer.thread != event.thread || outer.end <= event.begin + 1e-3
        };
        while open.last().is_some_and(is_over) {
            open.pop();
        }
        let around = open.last().map_or(Place::Forward, |&at| operators[at].place);
        let place = match event.name {
            name if name.starts_with("Optimizer.step") => Place::Optimizer,
            name if name.starts_with("autograd::engine::evaluate_function") => Place::Backward,
            _ => around,
        };
        let own = event.end - event.begin;
        if let Some(&at) = open.last() {
            operators[at].own -= own;
        }
        open.push(operators.len());
        operators.push(Operator { event, place, own });
    }
    operators
}
