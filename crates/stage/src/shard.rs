//! A rank's shard of the vocabulary (Vocabulary Parallelism, Yeung et al., 2024, arXiv 2411.05288).
//!
//! With X the hidden states after the final norm, W the head, G the one-hot targets, and per token a derivative of the
//! loss by the target's log-probability, shard `r` keeps from pass S (`VS`) to pass T (`VT`) its exponentials
//! `E_r = exp(X W_r^T - m_r)`. That is the paper's `P'_r` before the division by the own sum: one pass over the logits
//! less. With the shares `c_r = exp(m_r - m) / s` of the softmax over all shards and `g` minus the derivative:
//!
//! - the logits' gradient is `(c_r E_r - G_r) g`, the head's `((c_r E_r - G_r) g)^T X`;
//! - the hidden gradient is the sum over shards, in rank order, of `(c_r E_r - G_r) g W_r` (two barriers, algorithm 1),
//!   or `g sum (c_r A_r - Q_r)` of the `A_r = E_r W_r` and `Q_r = G_r W_r` of pass S (one barrier, algorithm 2).
//!
//! A token's looked-up row and its `Q_r` come from one rank alone; only that rank sends them.
//!
//! Does not know about messages' ways: what it is handed and what it yields are buffers.

use crate::carry::{from_vec, into_vec};
use crate::cut::Cut;
use crate::objective::Objective;
use crate::softmax::{Softmax, Statistics};
use crate::training_state::TrainingState;
use burn::tensor::{Device, Int, Tensor, TensorData};
use kernels::{
    ShardSoftmax, WeightGrad, WeightPlace, linear_forward, linear_input_gradient, shard_softmax, shard_softmax_gradient,
};
use mesh::{Microbatch, Rank, Stage};
use model::Parameter;
use rayon::prelude::*;
use schedule::VocabularyAlgorithm;
use simulate::Category;
use std::collections::HashMap;
use wire::Buffer;

/// The head among a shard's parameters.
pub(crate) const HEAD: usize = 0;

/// One rank's rows of the vocabulary's matrices, with their gradients and moments.
#[derive(Debug)]
pub(crate) struct Shard {
    pub rank: Rank,
    pub cut: Cut,
    pub device: Device,
    /// Width of the model.
    pub width: usize,
    /// The head's rows, and those of an embedding that is sharded and not tied to it. None in an empty shard.
    pub parameters: Vec<Parameter>,
    /// Which of the parameters is looked up, where the embedding is sharded: the head's rows when they are tied.
    pub embedding: Option<usize>,
    pub training: TrainingState,
    /// Where the whole embedding lies that the head's rows are tied to, when only the head is sharded: stage, rank, and
    /// number of the parameter there.
    pub tied: Option<(Stage, Rank, usize)>,
    pub kept: HashMap<Microbatch, Kept>,
}

/// What `VS` leaves for `VT`.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Hidden states `[n, width]` and exponentials `[n, rows]`; none in an empty shard.
    tensors: Option<(Tensor<2>, Tensor<2>)>,
    targets: Vec<i32>,
    weights: Vec<f32>,
}

/// What `VS` gives to others.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub statistics: Statistics,
    /// With one barrier, `A_r` `[n, width]` and the rows of `Q_r` of the tokens whose target lies here.
    pub hidden_gradient: Option<[Vec<f32>; 2]>,
}

/// What `VT` gives to others.
#[derive(Debug)]
pub(crate) struct Backwarded {
    /// The shares of the loss of the microbatch's rows.
    pub loss: Vec<f64>,
    /// With two barriers, this shard's term of the hidden gradient `[n, width]`.
    pub hidden_gradient: Option<Vec<f32>>,
}

impl Shard {
    /// `VS` of an evaluated microbatch: statistics only.
    pub fn evaluate(&self, hidden: Vec<Buffer>) -> Statistics {
        let (hidden, targets, _) = unpack(hidden);
        match self.exponentials(self.matrix(hidden), &targets) {
            Some((_, _, statistics)) => statistics,
            None => Statistics::empty(targets.len()),
        }
    }

    /// `VS`, keeping what `VT` needs; `hidden` is the message of the last hop.
    pub fn forward(
        &mut self,
        microbatch: Microbatch,
        hidden: Vec<Buffer>,
        algorithm: VocabularyAlgorithm,
    ) -> Forwarded {
        let (hidden, targets, weights) = unpack(hidden);
        let found = self.exponentials(self.matrix(hidden), &targets);
        let (tensors, statistics) = match found {
            Some((hidden, exponentials, statistics)) => (Some((hidden, exponentials)), statistics),
            None => (None, Statistics::empty(targets.len())),
        };
        let hidden_gradient = match (algorithm, &tensors) {
            (VocabularyAlgorithm::TwoBarriers, _) => None,
            (VocabularyAlgorithm::OneBarrier, None) => Some([Vec::new(), Vec::new()]),
            (VocabularyAlgorithm::OneBarrier, Some((_, exponentials))) => {
                let _message = ledger::category(Category::Buffers);
                let head = self.parameters[HEAD].matrix();
                Some([into_vec(linear_input_gradient(exponentials.clone(), head)), self.own_rows(HEAD, &targets)])
            }
        };
        self.kept.insert(microbatch, Kept { tensors, targets, weights });
        Forwarded { statistics, hidden_gradient }
    }

    /// `VT`: adds to the head's gradient. `statistics` are the messages of all ranks.
    pub fn backward(
        &mut self,
        microbatch: Microbatch,
        statistics: Vec<Vec<Buffer>>,
        objective: &Objective,
        algorithm: VocabularyAlgorithm,
        n_tokens: usize,
    ) -> Backwarded {
        let Kept { tensors, targets, weights } =
            self.kept.remove(&microbatch).expect("invariant: VS before VT in a valid schedule");
        let softmax = softmax(statistics);
        let loss = objective.loss(&softmax.log_probability, &weights, n_tokens);
        let derivative = objective.derivative(&weights);
        let Some((hidden, exponentials)) = tensors else {
            let hidden_gradient = (algorithm == VocabularyAlgorithm::TwoBarriers).then(Vec::new);
            return Backwarded { loss, hidden_gradient };
        };
        let n = targets.len();
        let vector = |values: Vec<f32>| -> Tensor<1> { Tensor::from_data(TensorData::new(values, [n]), &self.device) };
        let of_shard = derivative.iter().zip(&softmax.shares[self.rank.0]).map(|(&derivative, &share)| {
            // A token that does not count may have any logits.
            if derivative == 0.0 { 0.0 } else { -derivative * share }
        });
        let own: Vec<Option<usize>> = targets.iter().map(|&target| self.local(target)).collect();
        let weight = own.iter().zip(&derivative).map(|(own, &derivative)| own.map_or(0.0, |_| -derivative));
        let targets = own.iter().map(|own| own.unwrap_or(0) as i32).collect();
        let (scale, weight) = (vector(of_shard.collect()), vector(weight.collect()));
        let logit_gradient = shard_softmax_gradient(exponentials, scale, weight, self.ids(targets));
        let hidden_gradient = match algorithm {
            VocabularyAlgorithm::OneBarrier => None,
            VocabularyAlgorithm::TwoBarriers => {
                Some(into_vec(linear_input_gradient(logit_gradient.clone(), self.parameters[HEAD].matrix())))
            }
        };
        let place = WeightPlace { parameter: HEAD, first: 0 };
        self.training.add_weight(WeightGrad { place, x: hidden, dy: logit_gradient });
        Backwarded { loss, hidden_gradient }
    }

    /// The gradient of the hidden states `[n, width]` from the messages of all ranks: their terms with two barriers, or
    /// with one the statistics and the parts that are combined only now.
    pub fn hidden_gradient(
        &self,
        messages: Vec<Vec<Buffer>>,
        targets: &[i32],
        weights: &[f32],
        objective: &Objective,
        algorithm: VocabularyAlgorithm,
    ) -> Tensor<2> {
        let n = targets.len();
        let mut sum = vec![0.0f32; n * self.width];
        match algorithm {
            VocabularyAlgorithm::TwoBarriers => {
                let terms = messages.into_iter().map(single);
                for term in terms.filter(|term| !term.is_empty()) {
                    sum.par_iter_mut().zip(term).for_each(|(sum, x)| *sum += x);
                }
            }
            VocabularyAlgorithm::OneBarrier => {
                let mut statistics = Vec::new();
                let (mut averages, mut target_rows) = (Vec::new(), Vec::new());
                for message in messages {
                    let [packed, average, rows] = floats(message);
                    statistics.push(Statistics(packed));
                    averages.push(average);
                    target_rows.push(rows);
                }
                let softmax = Softmax::new(&statistics);
                let derivative = objective.derivative(weights);
                let target_rows = self.cut.gather(targets, &target_rows, self.width);
                let rows = sum.par_chunks_mut(self.width).zip(target_rows.par_chunks(self.width)).enumerate();
                rows.for_each(|(token, (sum, target_row))| {
                    let weight = -derivative[token];
                    if weight == 0.0 {
                        return;
                    }
                    for (average, shares) in averages.iter().zip(&softmax.shares).filter(|(a, _)| !a.is_empty()) {
                        let average = &average[token * sum.len()..][..sum.len()];
                        sum.iter_mut().zip(average).for_each(|(sum, x)| *sum += shares[token] * x);
                    }
                    sum.iter_mut().zip(target_row).for_each(|(sum, x)| *sum = weight * (*sum - x));
                });
            }
        }
        from_vec(sum, n, &self.device)
    }

    /// `IF`: the rows of the tokens that lie here, in the tokens' order.
    pub fn embed_forward(&self, ids: &[i32]) -> Vec<f32> {
        self.embedding.map_or_else(Vec::new, |table| self.own_rows(table, ids))
    }

    /// What was looked up `[n, width]`, from the messages of all ranks.
    pub fn embedded(&self, ids: &[i32], messages: Vec<Vec<Buffer>>) -> Tensor<2> {
        let parts: Vec<Vec<f32>> = messages.into_iter().map(single).collect();
        from_vec(self.cut.gather(ids, &parts, self.width), ids.len(), &self.device)
    }

    /// `IB`: adds the gradient of the tokens that lie here to their rows; `gradient` is the first hop's message.
    pub fn embed_backward(&mut self, ids: &[i32], gradient: Vec<Buffer>) {
        let gradient = single(gradient);
        let own: Vec<i32> = ids.iter().filter_map(|&id| self.local(id)).map(|row| row as i32).collect();
        if let Some(table) = self.embedding.filter(|_| !own.is_empty()) {
            let gradient = from_vec(gradient, own.len(), &self.device);
            self.training.add_rows(table, own, gradient);
        }
    }

    /// Hidden states, exponentials of the own logits, and their statistics; none in an empty shard.
    fn exponentials(&self, hidden: Tensor<2>, targets: &[i32]) -> Option<(Tensor<2>, Tensor<2>, Statistics)> {
        let own: Vec<Option<usize>> = targets.iter().map(|&target| self.local(target)).collect();
        let head = self.parameters.get(HEAD)?.matrix();
        let n = targets.len();
        let logits = linear_forward(hidden.clone(), head);
        let at = self.ids(own.iter().map(|own| own.unwrap_or(0) as i32).collect());
        let at_targets = into_vec(logits.clone().gather(1, at.reshape([n, 1])));
        let ShardSoftmax { exponentials, max, sum } = shard_softmax(logits);
        let mut packed = into_vec(max);
        packed.append(&mut into_vec(sum));
        packed.extend(own.iter().zip(at_targets).map(|(own, logit)| own.map_or(0.0, |_| logit)));
        Some((hidden, exponentials, Statistics(packed)))
    }

    /// The rows of a table of the tokens that lie here, in the tokens' order.
    fn own_rows(&self, table: usize, ids: &[i32]) -> Vec<f32> {
        let own: Vec<i32> = ids.iter().filter_map(|&id| self.local(id)).map(|row| row as i32).collect();
        if own.is_empty() {
            return Vec::new();
        }
        into_vec(self.parameters[table].matrix().select(0, self.ids(own)))
    }

    /// Which of the own rows is that of token `id`, if one is.
    fn local(&self, id: i32) -> Option<usize> {
        let (rank, row) = self.cut.locate(id);
        (rank == self.rank).then_some(row)
    }

    fn ids(&self, ids: Vec<i32>) -> Tensor<1, Int> {
        let n = ids.len();
        Tensor::from_data(TensorData::new(ids, [n]), &self.device)
    }

    fn matrix(&self, hidden: Vec<f32>) -> Tensor<2> {
        let n = hidden.len() / self.width;
        from_vec(hidden, n, &self.device)
    }
}

/// The softmax over all shards, from the messages of all ranks.
pub(crate) fn softmax(statistics: Vec<Vec<Buffer>>) -> Softmax {
    Softmax::new(&statistics.into_iter().map(|message| Statistics(single(message))).collect::<Vec<_>>())
}

/// The message of hidden states, targets and weights.
pub(crate) fn pack(hidden: Vec<f32>, targets: Vec<i32>, weights: Vec<f32>) -> Vec<Buffer> {
    vec![Buffer::F32(hidden), Buffer::I32(targets), Buffer::F32(weights)]
}

fn unpack(message: Vec<Buffer>) -> (Vec<f32>, Vec<i32>, Vec<f32>) {
    let [Buffer::F32(hidden), Buffer::I32(targets), Buffer::F32(weights)] =
        <[Buffer; 3]>::try_from(message).expect("invariant: hidden states come in three buffers")
    else {
        panic!("the buffers of hidden states have their types");
    };
    (hidden, targets, weights)
}

/// The buffers of a message of floats.
fn floats<const N: usize>(message: Vec<Buffer>) -> [Vec<f32>; N] {
    let buffers = <[Buffer; N]>::try_from(message).expect("invariant: a message has its number of buffers");
    buffers.map(|buffer| match buffer {
        Buffer::F32(values) => values,
        Buffer::F64(_) | Buffer::I32(_) => panic!("a collective of shards carries f32"),
    })
}

pub(crate) fn single(message: Vec<Buffer>) -> Vec<f32> {
    let [values] = floats(message);
    values
}
