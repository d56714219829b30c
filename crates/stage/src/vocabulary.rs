//! A rank's part in the collectives of a sharded vocabulary: what it sends where, and when it takes others' shares in.

use crate::carry::{Carry, into_vec};
use crate::error::StageError;
use crate::meeting::{self, TIED_ROWS_BACK, TIED_ROWS_OUT, awaited};
use crate::play::Step;
use crate::rank::{Played, Player};
use crate::shard::{self, HEAD, Shard};
use burn::tensor::{Tensor, TensorData};
use mesh::{Microbatch, Rank};
use schedule::{Action, Meeting, Schedule, ShardOp, Vocabulary};
use simulate::Category;
use wire::{Buffer, Channel, Tag};

/// Messages of other ranks, in rank order, that an action needs.
pub(crate) type Messages = Vec<Vec<Buffer>>;

impl Player {
    /// Waits for the shares of other ranks that `action` needs; none when it needs none.
    pub(crate) fn gather(&mut self, step: &Step, action: Action) -> Result<Messages, StageError> {
        match awaited(&step.schedule, action) {
            Some((meeting, from)) => self.take(step, meeting::channel(meeting), &from),
            None => Ok(Vec::new()),
        }
    }

    /// Plays `op` on this rank's shard.
    pub(crate) fn shard(
        &mut self,
        step: &Step,
        op: ShardOp,
        microbatch: Microbatch,
        messages: Messages,
        played: &mut Played,
    ) -> Result<(), StageError> {
        let end = meeting::end(&step.schedule, microbatch);
        let algorithm = vocabulary(&step.schedule).algorithm;
        let rank = self.endpoint.rank();
        let is_trained =
            step.schedule.ranks[rank.0].contains(&Action::Shard { op: ShardOp::VocabBackward, microbatch });
        let ids = || step.microbatches[microbatch.0].ids.as_slice();
        match op {
            ShardOp::VocabForward if !is_trained => {
                let statistics = self.own_shard().evaluate(only(messages));
                self.share(step, end, Meeting::Softmax(microbatch), vec![Buffer::F32(statistics.0)])?;
            }
            ShardOp::VocabForward => {
                let shard::Forwarded { statistics, hidden_gradient } =
                    self.own_shard_mut().forward(microbatch, only(messages), algorithm);
                let packed = || Buffer::F32(statistics.0.clone());
                for to in (0..step.schedule.n_ranks()).map(Rank) {
                    self.share(step, to, Meeting::Softmax(microbatch), vec![packed()])?;
                }
                if let Some([averages, target_rows]) = hidden_gradient {
                    let parts = vec![packed(), Buffer::F32(averages), Buffer::F32(target_rows)];
                    self.share(step, end, Meeting::HiddenGradient(microbatch), parts)?;
                }
            }
            ShardOp::VocabBackward => {
                let n_tokens = step.microbatches[microbatch.0].n_tokens;
                let shard::Backwarded { loss, hidden_gradient } =
                    self.own_shard_mut().backward(microbatch, messages, &step.objective, algorithm, n_tokens);
                if rank == end {
                    played.losses.push((microbatch.0, loss));
                }
                if let Some(term) = hidden_gradient {
                    self.share(step, end, Meeting::HiddenGradient(microbatch), vec![Buffer::F32(term)])?;
                }
            }
            ShardOp::EmbedForward => {
                let rows = self.own_shard().embed_forward(ids());
                let begin = step.schedule.routes[microbatch.0].visits()[0].rank;
                self.share(step, begin, Meeting::Embedded(microbatch), vec![Buffer::F32(rows)])?;
            }
            ShardOp::EmbedBackward => self.own_shard_mut().embed_backward(ids(), only(messages)),
        }
        Ok(())
    }

    /// The last hop's output to all shards.
    pub(crate) fn share_hidden(&self, step: &Step, microbatch: Microbatch, carry: Carry) -> Result<(), StageError> {
        let hidden = into_vec(carry.hidden);
        for to in (0..step.schedule.n_ranks()).map(Rank) {
            let message = shard::pack(hidden.clone(), carry.rows.targets.clone(), carry.rows.weights.clone());
            self.share(step, to, Meeting::Hidden(microbatch), message)?;
        }
        Ok(())
    }

    /// The gradient of what was looked up, to each shard that of its rows.
    pub(crate) fn share_embedded_gradient(
        &self,
        step: &Step,
        microbatch: Microbatch,
        gradient: Tensor<2>,
    ) -> Result<(), StageError> {
        let shard = self.own_shard();
        let parts = shard.cut.scatter(&step.microbatches[microbatch.0].ids, &into_vec(gradient), shard.width);
        for (to, part) in parts.into_iter().enumerate() {
            self.share(step, Rank(to), Meeting::EmbeddedGradient(microbatch), vec![Buffer::F32(part)])?;
        }
        Ok(())
    }

    /// The rows' shares of the loss of an evaluated microbatch, whose last hop lies here, from all shards' statistics.
    pub(crate) fn evaluated_loss(
        &mut self,
        step: &Step,
        microbatch: Microbatch,
        weights: &[f32],
    ) -> Result<Vec<f64>, StageError> {
        let from: Vec<Rank> = (0..step.schedule.n_ranks()).map(Rank).collect();
        let statistics = self.take(step, meeting::channel(Meeting::Softmax(microbatch)), &from)?;
        let n_tokens = step.microbatches[microbatch.0].n_tokens;
        Ok(step.objective.loss(&shard::softmax(statistics).log_probability, weights, n_tokens))
    }

    /// Where only the head is sharded and the embedding, whole on one stage, is the same matrix: sums the gradients of
    /// both row by row, the embedding's first, on both sides.
    pub(crate) fn sum_tied_rows(&mut self, step: &Step) -> Result<(), StageError> {
        let Some((stage, home, parameter)) = self.shard.as_ref().and_then(|shard| shard.tied) else { return Ok(()) };
        let rank = self.endpoint.rank();
        let _account = ledger::scope(rank.0, Category::Buffers);
        let Shard { cut, width, device, .. } = self.own_shard();
        let (cut, width, device) = (cut.clone(), *width, device.clone());
        if rank == home {
            let whole = into_vec(self.stores[&stage].training.gradients[parameter].clone());
            for to in (0..cut.n_ranks()).map(Rank) {
                let rows = cut.rows(to);
                let part = whole[rows.start * width..rows.end * width].to_vec();
                self.send(to, tag(step, TIED_ROWS_OUT), vec![Buffer::F32(part)])?;
            }
        }
        let vector = |values: Vec<f32>| -> Tensor<1> {
            let n = values.len();
            Tensor::from_data(TensorData::new(values, [n]), &device)
        };
        let embedding = only(self.take(step, TIED_ROWS_OUT, &[home])?);
        let mut sum = Vec::new();
        if !cut.rows(rank).is_empty() {
            let gradients = &mut self.own_shard_mut().training.gradients;
            gradients[HEAD] = vector(shard::single(embedding)) + gradients[HEAD].clone();
            sum = into_vec(gradients[HEAD].clone());
        }
        self.send(home, tag(step, TIED_ROWS_BACK), vec![Buffer::F32(sum)])?;
        if rank == home {
            let all: Vec<Rank> = (0..cut.n_ranks()).map(Rank).collect();
            let sums = self.take(step, TIED_ROWS_BACK, &all)?;
            let whole = vector(sums.into_iter().flat_map(shard::single).collect());
            let store = self.stores.get_mut(&stage).expect("invariant: the embedding lies on its rank");
            store.training.gradients[parameter] = whole;
        }
        Ok(())
    }

    pub(crate) fn own_shard(&self) -> &Shard {
        self.shard.as_ref().expect("invariant: a schedule with shards is played on a pipeline with shards")
    }

    fn own_shard_mut(&mut self) -> &mut Shard {
        self.shard.as_mut().expect("invariant: a schedule with shards is played on a pipeline with shards")
    }

    fn share(&self, step: &Step, to: Rank, meeting: Meeting, buffers: Vec<Buffer>) -> Result<(), StageError> {
        self.send(to, tag(step, meeting::channel(meeting)), buffers)
    }

    fn take(&mut self, step: &Step, channel: Channel, from: &[Rank]) -> Result<Messages, StageError> {
        let mut messages = Vec::new();
        for &from in from {
            let pending = self.endpoint.receive(from, tag(step, channel));
            messages.push(self.endpoint.wait(pending)?);
        }
        Ok(messages)
    }
}

/// How the vocabulary of a schedule with shards is sharded.
pub(crate) fn vocabulary(schedule: &Schedule) -> Vocabulary {
    schedule.vocabulary.expect("invariant: only a schedule with shards works on them")
}

fn tag(step: &Step, channel: Channel) -> Tag {
    Tag { epoch: 0, step: step.number, channel }
}

/// The message of one rank.
fn only(messages: Messages) -> Vec<Buffer> {
    let [message] = <[Vec<Buffer>; 1]>::try_from(messages).expect("invariant: one rank sends");
    message
}
