//! The stage runner: one rank playing its list.

use crate::carry::{Carry, from_vec, into_vec};
use crate::error::StageError;
use crate::permits::Permits;
use crate::play::Step;
use crate::shard::Shard;
use crate::statistics::Watch;
use crate::store::Store;
use crate::tied::{Gathered, Tie};
use crate::training_state::TrainingState;
use crate::updates::Updates;
use crate::visit::{self, Forwarded, Saved};
use crate::vocabulary::{Messages, vocabulary};
use architecture::Block;
use burn::tensor::Tensor;
use kernels::{Size, WeightGrad};
use mesh::{Key, Microbatch, Rank, Stage};
use model::Tape;
use schedule::{Action, Op, ShardOp, StageOp};
use simulate::{Category, MemorySample, Span};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;
use wire::{Buffer, Channel, Endpoint, Tag};

/// One rank: a thread's whole state.
pub(crate) struct Player {
    pub endpoint: Endpoint,
    pub stores: BTreeMap<Stage, Store>,
    pub shard: Option<Shard>,
    pub permits: Option<Arc<Permits>>,
    pub ties: Arc<Vec<Tie>>,
}

/// What a rank measured of a step.
#[derive(Debug, Default)]
pub(crate) struct Played {
    /// Microbatch and its rows' shares of the loss.
    pub losses: Vec<(usize, Vec<f64>)>,
    pub gradient_norm: Option<f64>,
    pub spans: Vec<Span>,
    pub memory: Vec<MemorySample>,
    /// The most visits whose activations were kept at once.
    pub most_kept: usize,
    /// What evaluated blocks gave, where the step is watched; an entry per block and microbatch.
    pub outputs: Vec<(Block, Size)>,
}

/// What is in flight on a rank within a step, by the key of the visit that will use it.
#[derive(Default)]
struct InFlight {
    carries: HashMap<Key, Carry>,
    gradients: HashMap<Key, Tensor<2>>,
    saved: HashMap<Key, Saved>,
    weight_grads: HashMap<Key, Vec<WeightGrad>>,
    /// Microbatches whose evaluation ended here in a sharded vocabulary, with their tokens' weights.
    evaluated: Vec<(Microbatch, Vec<f32>)>,
    /// Ties whose shares were gathered, and those of them that are to be summed now.
    gathered: BTreeSet<usize>,
    ties: Vec<Gathered>,
    updates: Updates,
    watch: Watch,
}

impl Player {
    /// Plays this rank's list of `step`, whose clock started at `start`.
    ///
    /// # Errors
    /// When a message does not come, or the gradient is not finite and that stops the run.
    pub fn play(&mut self, step: &Step, start: Instant, watch: Watch) -> Result<Played, StageError> {
        let rank = self.endpoint.rank();
        let mut played = Played::default();
        let mut in_flight = InFlight { watch, ..InFlight::default() };
        let shares = self.shares(step);
        self.endpoint.forget_before(step.number);
        if step.schedule.ranks[rank.0].iter().any(|&action| is_trained(action)) {
            let _account = ledger::scope(rank.0, Category::Gradients);
            self.training_states().for_each(TrainingState::clear_gradients);
        }
        let now_s = || start.elapsed().as_secs_f64();
        ledger::take_peak(rank.0);
        played.memory.push(MemorySample { rank, at_s: now_s(), bytes: ledger::live(rank.0) });
        for (position, &action) in step.schedule.ranks[rank.0].iter().enumerate() {
            let asked_s = now_s();
            let stage = step.schedule.stage(action);
            let waits = self.before_permit(step, action, &mut in_flight)?;
            let messages = self.gather(step, action)?;
            let permits = self.permits.clone();
            let permit = match (permits.as_ref(), action) {
                (Some(_), Action::Visit { op, .. }) if !op.is_compute() => None,
                (permits, _) => permits.map(|permits| permits.acquire()),
            };
            let start_s = if waits == Waits::AreWork { asked_s } else { now_s() };
            let _account = ledger::scope(rank.0, category(action));
            match action {
                Action::Visit { op, key } => self.visit(step, op, key, messages, &mut in_flight, &mut played)?,
                Action::Shard { op, microbatch } => self.shard(step, op, microbatch, messages, &mut played)?,
                Action::Stage { op, stage } => self.stage(step, op, stage, &mut in_flight),
            }
            played.most_kept = played.most_kept.max(in_flight.saved.len());
            self.give_shares(step, &shares, position)?;
            self.wait_for_device(stage)?;
            drop(permit);
            let end_s = now_s();
            played.spans.push(Span {
                rank,
                action,
                stage,
                label: step.schedule.label_parts(action),
                asked_s,
                start_s,
                end_s,
            });
            let middle_s = (start_s + end_s) / 2.0;
            played.memory.push(MemorySample { rank, at_s: middle_s, bytes: ledger::take_peak(rank.0) });
            played.memory.push(MemorySample { rank, at_s: end_s, bytes: ledger::live(rank.0) });
        }
        for (microbatch, weights) in std::mem::take(&mut in_flight.evaluated) {
            let loss = self.evaluated_loss(step, microbatch, &weights)?;
            played.losses.push((microbatch.0, loss));
        }
        played.gradient_norm = in_flight.updates.norm;
        let left = in_flight.carries.len()
            + in_flight.gradients.len()
            + in_flight.saved.len()
            + in_flight.weight_grads.len()
            + self.shard.as_ref().map_or(0, |shard| shard.kept.len());
        assert_eq!(left, 0, "a valid schedule uses everything it makes");
        Ok(played)
    }

    /// Waits that need no core: for messages, and for other ranks' norms before the first optimizer step.
    fn before_permit(&mut self, step: &Step, action: Action, in_flight: &mut InFlight) -> Result<Waits, StageError> {
        let rank = self.endpoint.rank();
        let tag = |channel| Tag { epoch: 0, step: step.number, channel };
        match action {
            Action::Visit { op: Op::RecvActivation, key } => {
                let from = step.schedule.route(key).before(key.hop).expect("invariant: a receive has a sender").rank;
                let pending = self.endpoint.receive(from, tag(Channel::Activation(key)));
                let message = self.endpoint.wait(pending)?;
                let _account = ledger::scope(rank.0, Category::Buffers);
                let n_rows = step.microbatches[key.microbatch.0].n_rows;
                let device = self.store(step.schedule.stage(action)).part.device();
                in_flight.carries.insert(key, Carry::from_message(message, n_rows, device));
                Ok(Waits::AreWork)
            }
            Action::Visit { op: Op::RecvGradient, key } => {
                let from = step.schedule.route(key).after(key.hop).expect("invariant: a receive has a sender").rank;
                let pending = self.endpoint.receive(from, tag(Channel::Gradient(key)));
                let message = self.endpoint.wait(pending)?;
                let _account = ledger::scope(rank.0, Category::Buffers);
                let [Buffer::F32(gradient)] =
                    <[Buffer; 1]>::try_from(message).expect("invariant: a gradient is one buffer")
                else {
                    panic!("a gradient is f32");
                };
                let n = step.microbatches[key.microbatch.0].n();
                let device = self.store(step.schedule.stage(action)).part.device();
                in_flight.gradients.insert(key, from_vec(gradient, n, device));
                Ok(Waits::AreWork)
            }
            Action::Stage { op: StageOp::ReduceGradients, stage } => {
                in_flight.ties = self.gather_ties(step, stage, &mut in_flight.gathered)?;
                Ok(Waits::AreNone)
            }
            Action::Stage { op, .. } => {
                self.agree(step, op, &mut in_flight.updates)?;
                Ok(Waits::AreNone)
            }
            _ => Ok(Waits::AreNone),
        }
    }

    fn visit(
        &mut self,
        step: &Step,
        op: Op,
        key: Key,
        messages: Messages,
        in_flight: &mut InFlight,
        played: &mut Played,
    ) -> Result<(), StageError> {
        let visit = step.schedule.visit(key).expect("invariant: validated schedule");
        let route = step.schedule.route(key);
        let tag = |channel| Tag { epoch: 0, step: step.number, channel };
        match op {
            Op::Forward | Op::ForwardNoGrad => {
                let (rows, hidden) = match in_flight.carries.remove(&key) {
                    Some(Carry { hidden, rows }) => (rows, Some(hidden)),
                    None => {
                        let rows = step.microbatches[key.microbatch.0].clone();
                        let embedded = (!messages.is_empty()).then(|| self.own_shard().embedded(&rows.ids, messages));
                        (rows, embedded)
                    }
                };
                let store = self.store(visit.stage);
                let forwarded = if op == Op::Forward {
                    let (saved, forwarded) = visit::forward(store, rows, hidden, &step.objective);
                    in_flight.saved.insert(key, saved);
                    forwarded
                } else {
                    let mut tape = match in_flight.watch {
                        Watch::Nothing => Tape::Untracked,
                        Watch::Blocks => Tape::Watched(Vec::new()),
                    };
                    let forwarded = visit::evaluate(store, &rows, hidden, &step.objective, &mut tape);
                    if let Tape::Watched(seen) = tape {
                        played.outputs.extend(seen);
                    }
                    forwarded
                };
                match forwarded {
                    Forwarded::Carry(carry) => {
                        in_flight.carries.insert(key.at(key.hop.0 + 1), carry);
                    }
                    Forwarded::Normalised(carry) => {
                        if op == Op::ForwardNoGrad {
                            in_flight.evaluated.push((key.microbatch, carry.rows.weights.clone()));
                        }
                        self.share_hidden(step, key.microbatch, carry)?;
                    }
                    Forwarded::Loss(loss) => played.losses.push((key.microbatch.0, loss)),
                    Forwarded::Nothing => {}
                }
            }
            Op::Recompute => {
                let saved = in_flight.saved.remove(&key).expect("invariant: forward before recompute");
                let graph = visit::recompute(self.store(visit.stage), saved);
                in_flight.saved.insert(key, graph);
            }
            Op::BackwardInput | Op::Backward => {
                let saved = in_flight.saved.remove(&key).expect("invariant: forward before backward");
                let mut gradient = in_flight.gradients.remove(&key);
                if !messages.is_empty() {
                    let (rows, algorithm) = (saved.rows(), vocabulary(&step.schedule).algorithm);
                    let shard = self.own_shard();
                    let of_hidden =
                        shard.hidden_gradient(messages, &rows.targets, &rows.weights, &step.objective, algorithm);
                    gradient = Some(of_hidden);
                }
                let store = self.stores.get_mut(&visit.stage).expect("invariant: the stage lies on its rank");
                let graph = visit::recompute(store, saved);
                let result = visit::backward_input(store, graph, gradient, &step.objective);
                played.losses.extend(result.loss.map(|loss| (key.microbatch.0, loss)));
                if op == Op::Backward {
                    result.weights.into_iter().for_each(|left| store.training.add_weight(left));
                } else {
                    in_flight.weight_grads.insert(key, result.weights);
                }
                match (result.input, key.hop.0) {
                    (Some(gradient), 0) => self.share_embedded_gradient(step, key.microbatch, gradient)?,
                    (Some(gradient), hop) => {
                        in_flight.gradients.insert(key.at(hop - 1), gradient);
                    }
                    (None, _) => {}
                }
            }
            Op::BackwardWeight => {
                let weights = in_flight.weight_grads.remove(&key).expect("invariant: I before W");
                let store = self.stores.get_mut(&visit.stage).expect("invariant: the stage lies on its rank");
                weights.into_iter().for_each(|left| store.training.add_weight(left));
            }
            Op::SendActivation => {
                let next = key.at(key.hop.0 + 1);
                let carry = in_flight.carries.remove(&next).expect("invariant: forward before send");
                let to = route.after(key.hop).expect("invariant: a send has a receiver").rank;
                self.send(to, tag(Channel::Activation(next)), carry.into_message())?;
            }
            Op::SendGradient => {
                let previous = key.at(key.hop.0 - 1);
                let gradient = in_flight.gradients.remove(&previous).expect("invariant: backward before send");
                let to = route.before(key.hop).expect("invariant: a send has a receiver").rank;
                let message = vec![Buffer::F32(into_vec(gradient))];
                self.send(to, tag(Channel::Gradient(previous)), message)?;
            }
            // Taken in while waiting.
            Op::RecvActivation | Op::RecvGradient => {}
        }
        Ok(())
    }

    /// Hands a visit's buffers to a peer, and books them to it at once: a message that waits is the receiver's, as the
    /// simulator has it.
    pub(crate) fn send(&self, to: Rank, tag: Tag, buffers: Vec<Buffer>) -> Result<(), StageError> {
        let _account = ledger::scope(to.0, Category::Buffers);
        for buffer in &buffers {
            match buffer {
                Buffer::F32(values) => ledger::adopt(values),
                Buffer::F64(values) => ledger::adopt(values),
                Buffer::I32(values) => ledger::adopt(values),
            }
        }
        Ok(self.endpoint.send(to, tag, buffers)?)
    }

    fn stage(&mut self, step: &Step, op: StageOp, stage: Stage, in_flight: &mut InFlight) {
        match op {
            StageOp::OptimizerStep | StageOp::OptimisticStep | StageOp::PostValidate => {
                self.update(step, op, stage, &mut in_flight.updates);
            }
            StageOp::ReduceGradients => self.sum_ties(std::mem::take(&mut in_flight.ties)),
            // Weights are whole and in memory: nothing is sharded or streamed here.
            StageOp::Unshard | StageOp::Reshard | StageOp::LoadWeights | StageOp::EvictWeights => {}
        }
    }

    /// Of the stages in order, then of the shard.
    pub(crate) fn training_states(&mut self) -> impl Iterator<Item = &mut TrainingState> {
        let of_shard = self.shard.iter_mut().map(|shard| &mut shard.training);
        self.stores.values_mut().map(|store| &mut store.training).chain(of_shard)
    }

    /// Until the stage's device has done what it was given, so that a span is the work and not the asking for it.
    fn wait_for_device(&self, stage: Stage) -> Result<(), StageError> {
        let Some(store) = self.stores.get(&stage) else { return Ok(()) };
        let device = store.part.device();
        device.sync().map_err(|error| StageError::Device {
            rank: self.endpoint.rank(),
            device: format!("{device:?}"),
            reason: error.to_string(),
        })
    }

    fn store(&self, stage: Stage) -> &Store {
        self.stores.get(&stage).expect("invariant: the stage lies on its rank")
    }
}

/// Whether the wait before an action is the action.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    AreNone,
    AreWork,
}

/// Whether an action begins a training step, before which gradients are zero.
fn is_trained(action: Action) -> bool {
    matches!(action, Action::Visit { op: Op::Forward, .. } | Action::Shard { op: ShardOp::VocabBackward, .. })
}

/// What an action's allocations are booked to.
fn category(action: Action) -> Category {
    match action {
        Action::Visit { op: Op::Forward | Op::Recompute, .. } => Category::Activations,
        Action::Shard { op: ShardOp::VocabForward, .. } => Category::Logits,
        Action::Stage { op: StageOp::OptimizerStep | StageOp::OptimisticStep | StageOp::PostValidate, .. } => {
            Category::Optimizer
        }
        _ => Category::Buffers,
    }
}
