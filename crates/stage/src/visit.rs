//! One visit's forward and backward.

#![expect(clippy::large_enum_variant, reason = "values are kept one per visit and moved a few times a step")]

use crate::carry::{Carry, adopted, into_vec};
use crate::objective::Objective;
use crate::store::Store;
use burn::tensor::{Tensor, TensorData};
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
    /// In log-probabilities whose gradient the objective gave.
    Loss { seed: Seed<1>, gradient: Tensor<1> },
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
}

/// What the backward of a visit's input gives.
#[derive(Debug)]
pub(crate) struct BackwardResult {
    /// Gradient of the input `[n, hidden_size]`; `None` when the part looked tokens up.
    pub input: Option<Tensor<2>>,
    /// What the weight pass is to work on.
    pub weights: Vec<WeightGrad>,
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
        Recompute::None => track(store, rows, hidden, objective),
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
        Output::Hidden(hidden) => Forwarded::Carry(Carry { hidden, rows: without_ids(rows) }),
        Output::Normalised(hidden) => Forwarded::Normalised(Carry { hidden, rows: without_ids(rows) }),
        Output::LogProbability(y) => Forwarded::Loss(objective.loss(&into_vec(y), &rows.weights, rows.n_tokens).0),
    }
}

/// `R`: the graph again from the input.
pub(crate) fn recompute(store: &Store, saved: Saved, objective: &Objective) -> Saved {
    let _activations = ledger::category(Category::Activations);
    match saved {
        Saved::Input { rows, hidden } => track(store, rows, hidden, objective).0,
        graph @ Saved::Graph { .. } => graph,
    }
}

/// `I`: gradients of the input, the norms, the biases and the embedding; `gradient` is that of the visit's output,
/// absent at the loss.
///
/// # Panics
/// When a gradient is missing or superfluous.
pub(crate) fn backward_input(store: &mut Store, saved: Saved, gradient: Option<Tensor<2>>) -> BackwardResult {
    let Saved::Graph { end, tracked, rows } = saved else { panic!("a backward needs its graph") };
    let mut gradients = match (end, gradient) {
        (End::Hidden(seed), Some(gradient)) => seed.backward(gradient),
        (End::Loss { seed, gradient }, None) => seed.backward(gradient),
        (End::Hidden(_), None) => panic!("a backward that does not end in the loss needs its gradient"),
        (End::Loss { .. }, Some(_)) => panic!("a backward from the loss takes no gradient"),
    };
    for (parameter, leaf) in &tracked.leaves {
        if let Some(gradient) = leaf.grad_remove(&mut gradients) {
            store.training.add_leaf(*parameter, gradient);
        }
    }
    let source = tracked.source.as_ref().expect("invariant: a tracked forward has a source");
    let source = source.grad_remove(&mut gradients).expect("invariant: the input reaches the output");
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
    BackwardResult { input, weights: weights.collect() }
}

fn track(store: &Store, rows: Rows, hidden: Option<Tensor<2>>, objective: &Objective) -> (Saved, Forwarded) {
    let mut tape = Tape::tracked();
    let output = store.part.forward(&rows, hidden, &mut tape);
    let Tape::Tracked(tracked) = tape else { unreachable!("a tape does not change its kind") };
    let (end, forwarded) = match output {
        Output::Hidden(y) => {
            let (seed, hidden) = Seed::new(y);
            (End::Hidden(seed), Forwarded::Carry(Carry { hidden, rows: without_ids(&rows) }))
        }
        Output::Normalised(y) => {
            let (seed, hidden) = Seed::new(y);
            (End::Hidden(seed), Forwarded::Normalised(Carry { hidden, rows: without_ids(&rows) }))
        }
        Output::LogProbability(y) => {
            let (seed, y) = Seed::new(y);
            let (loss, gradient) = objective.loss(&into_vec(y), &rows.weights, rows.n_tokens);
            let gradient = Tensor::from_data(TensorData::new(gradient, [rows.n()]), store.part.device());
            (End::Loss { seed, gradient }, Forwarded::Loss(loss))
        }
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
