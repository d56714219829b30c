//! One visit's forward and backward.

#![expect(clippy::large_enum_variant, reason = "values are kept one per visit and moved a few times a step")]

use crate::carry::{Carry, adopted, f32, into_vec};
use crate::objective::Objective;
use crate::store::Store;
use burn::tensor::Tensor;
use kernels::{Seed, WeightGrad};
use model::{Output, Rows, Tape, Tracked};
use plan::Recompute;
use simulate::Category;

/// What a forward left under its key.
#[derive(Debug)]
pub(crate) enum Saved {
    /// The graph, ready for backward.
    Graph { end: End, tracked: Tracked, rows: Rows },
    /// The input only.
    Input { rows: Rows, hidden: Option<Tensor<2>> },
}

impl Saved {
    /// What was read.
    pub fn rows(&self) -> &Rows {
        match self {
            Saved::Graph { rows, .. } | Saved::Input { rows, .. } => rows,
        }
    }
}

/// Where a graph ends.
#[derive(Debug)]
pub(crate) enum End {
    /// In a residual stream, or its norm, whose gradient will arrive.
    Hidden(Seed<2>),
    /// Before the head, in the final norm and its values, which the backward takes through the head.
    Head { seed: Seed<2>, normalised: Tensor<2> },
}

/// What a forward gives to others.
#[derive(Debug)]
pub(crate) enum Forwarded {
    /// The carry for the next visit.
    Carry(Carry),
    /// The final norm's output, for the shards of the vocabulary.
    Normalised(Carry),
    /// Each row's share of the step's loss.
    Loss(Vec<f64>),
    /// Nothing: the loss comes with the backward.
    Nothing,
}

/// What the backward of a visit's input gives.
#[derive(Debug)]
pub(crate) struct BackwardResult {
    /// Gradient of the input `[n, hidden_size]`; `None` when the part looked tokens up.
    pub input: Option<Tensor<2>>,
    /// What the weight pass is to work on.
    pub weights: Vec<WeightGrad>,
    /// Each row's share of the step's loss, if the visit ends with the head.
    pub loss: Option<Vec<f64>>,
}

/// `F`: the forward, keeping what the stage's policy says.
pub(crate) fn forward(
    store: &Store,
    rows: Rows,
    hidden: Option<Tensor<2>>,
    objective: &Objective,
) -> (Saved, Forwarded) {
    // It came as a message and is kept from now on.
    let hidden = hidden.map(adopted);
    match store.recompute {
        Recompute::None => track(store, rows, hidden),
        // Its backward makes all of it.
        Recompute::Full if store.part.head_matrix().is_some() => (Saved::Input { rows, hidden }, Forwarded::Nothing),
        Recompute::Full => {
            let forwarded = evaluate(store, &rows, hidden.clone(), objective, &mut Tape::Untracked);
            (Saved::Input { rows, hidden }, forwarded)
        }
    }
}

/// `E`: the forward, keeping nothing but what a watching tape notes.
pub(crate) fn evaluate(
    store: &Store,
    rows: &Rows,
    hidden: Option<Tensor<2>>,
    objective: &Objective,
    tape: &mut Tape,
) -> Forwarded {
    match store.part.forward(rows, hidden, tape) {
        Output::Hidden(hidden) => Forwarded::Carry(Carry { hidden: f32(hidden), rows: without_ids(rows) }),
        Output::Normalised(hidden) => Forwarded::Normalised(Carry { hidden: f32(hidden), rows: without_ids(rows) }),
        Output::LogProbability(y) => Forwarded::Loss(objective.loss(&into_vec(y), &rows.weights, rows.n_tokens)),
    }
}

/// `R`: the graph again from the input.
pub(crate) fn recompute(store: &Store, saved: Saved) -> Saved {
    let _activations = ledger::category(Category::Activations);
    match saved {
        Saved::Input { rows, hidden } => track(store, rows, hidden).0,
        graph @ Saved::Graph { .. } => graph,
    }
}

/// `I`: gradients of the input, the norms, the biases and the embedding; `gradient` is that of the visit's output,
/// absent at the head, whose own gradient is made here too.
///
/// # Panics
/// When a gradient is missing or superfluous.
pub(crate) fn backward_input(
    store: &mut Store,
    saved: Saved,
    gradient: Option<Tensor<2>>,
    objective: &Objective,
) -> BackwardResult {
    let Saved::Graph { end, tracked, rows } = saved else { panic!("a backward needs its graph") };
    let (mut gradients, loss) = match (end, gradient) {
        (End::Hidden(seed), Some(gradient)) => (seed.backward(gradient), None),
        (End::Head { seed, normalised }, None) => {
            let (gradient, loss) = head(store, &normalised, &rows, objective);
            drop(normalised);
            (seed.backward(gradient), Some(loss))
        }
        (End::Hidden(_), None) => panic!("a backward that does not end in the loss needs its gradient"),
        (End::Head { .. }, Some(_)) => panic!("a backward from the loss takes no gradient"),
    };
    for (parameter, leaf) in &tracked.leaves {
        if let Some(gradient) = leaf.grad_remove(&mut gradients) {
            store.training.add_leaf(*parameter, gradient);
        }
    }
    let source = tracked.source.as_ref().expect("invariant: a tracked forward has a source");
    let source = f32(source.grad_remove(&mut gradients).expect("invariant: the input reaches the output"));
    let input = match store.part.embedding() {
        Some(table) => {
            store.training.add_rows(table, rows.ids, source);
            None
        }
        None => Some(source),
    };
    // A backward made the output gradients; they are kept from now on as the inputs are.
    let _activations = ledger::category(Category::Activations);
    let weights = tracked.weight_grads.try_iter().map(|left| WeightGrad { dy: adopted(left.dy), ..left });
    BackwardResult { input, weights: weights.collect(), loss }
}

/// The head forward and backward at once, in chunks of tokens: adds the gradient of its matrix and gives that of its
/// input, with the loss. That it need not keep logits costs the schedule the choice of when the head's gradients are made.
fn head(store: &mut Store, normalised: &Tensor<2>, rows: &Rows, objective: &Objective) -> (Tensor<2>, Vec<f64>) {
    let _logits = ledger::category(Category::Logits);
    let number = store.part.head_matrix().expect("invariant: the visit ended before a head");
    let matrix = store.part.parameters()[number].matrix();
    let derivative = objective.derivative(&rows.weights);
    let found = store.training.add_head(number, normalised, &matrix, &rows.targets, &derivative);
    (found.0, objective.loss(&found.1.of_target, &rows.weights, rows.n_tokens))
}

fn track(store: &Store, rows: Rows, hidden: Option<Tensor<2>>) -> (Saved, Forwarded) {
    let mut tape = Tape::tracked();
    if store.part.head_matrix().is_some() {
        let (seed, normalised) = Seed::new(store.part.normalised(&rows, hidden, &mut tape));
        let Tape::Tracked(tracked) = tape else { unreachable!("a tape does not change its kind") };
        return (Saved::Graph { end: End::Head { seed, normalised }, tracked, rows }, Forwarded::Nothing);
    }
    let output = store.part.forward(&rows, hidden, &mut tape);
    let Tape::Tracked(tracked) = tape else { unreachable!("a tape does not change its kind") };
    let (end, forwarded) = match output {
        Output::Hidden(y) => {
            let (seed, hidden) = Seed::new(y);
            (End::Hidden(seed), Forwarded::Carry(Carry { hidden: f32(hidden), rows: without_ids(&rows) }))
        }
        Output::Normalised(y) => {
            let (seed, hidden) = Seed::new(y);
            (End::Hidden(seed), Forwarded::Normalised(Carry { hidden: f32(hidden), rows: without_ids(&rows) }))
        }
        Output::LogProbability(_) => unreachable!("a part with a head ends before it"),
    };
    (Saved::Graph { end, tracked, rows }, forwarded)
}

fn without_ids(rows: &Rows) -> Rows {
    let Rows { n_rows, n_tokens, positions, documents, targets, weights, ids: _ } = rows;
    Rows {
        n_rows: *n_rows,
        n_tokens: *n_tokens,
        ids: Vec::new(),
        positions: positions.clone(),
        documents: documents.clone(),
        targets: targets.clone(),
        weights: weights.clone(),
    }
}
