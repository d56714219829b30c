//! One rank's end of the connections to all others.

use crate::{Buffer, WireError};
use mesh::{Key, Rank};
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// What a message belongs to. A message is received by whoever asks for its sender and tag, in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Of the membership: messages of another epoch are dropped.
    pub epoch: u64,
    /// Which step, so that what a failed step left behind is never taken for the next one's.
    pub step: u64,
    /// What kind of message.
    pub channel: Channel,
}

/// Kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// The carry into the visit.
    Activation(Key),
    /// The gradient of the visit's output.
    Gradient(Key),
    /// Gradients of a parameter that lies on several stages: its number, and the stage that sends.
    Tied(usize, usize),
    /// The n-th collective of the step.
    Collective(usize),
}

/// A receive that was asked for and not yet waited for.
#[derive(Debug)]
#[must_use = "a receive that nobody waits for loses its message"]
pub struct Pending {
    from: Rank,
    tag: Tag,
}

enum Envelope {
    Message { from: Rank, tag: Tag, buffers: Vec<Buffer> },
    Failed { from: Rank, message: String },
}

/// A rank's end. Sends never block; every wait has a deadline.
pub struct Endpoint {
    rank: Rank,
    deadline: Duration,
    peers: Vec<Sender<Envelope>>,
    inbox: Receiver<Envelope>,
    early: HashMap<(Rank, Tag), VecDeque<Vec<Buffer>>>,
    failed: Option<WireError>,
}

/// Connects `n_ranks` ranks of one process, each with every other. A wait longer than `deadline` is an error.
pub fn connect(n_ranks: usize, deadline: Duration) -> Vec<Endpoint> {
    let (peers, inboxes): (Vec<_>, Vec<_>) = (0..n_ranks).map(|_| channel()).unzip();
    inboxes
        .into_iter()
        .enumerate()
        .map(|(rank, inbox)| Endpoint {
            rank: Rank(rank),
            deadline,
            peers: peers.clone(),
            inbox,
            early: HashMap::new(),
            failed: None,
        })
        .collect()
}

impl Endpoint {
    /// This rank.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Number of ranks connected.
    pub fn n_ranks(&self) -> usize {
        self.peers.len()
    }

    /// Hands buffers to a peer.
    ///
    /// # Errors
    /// [`WireError::Gone`] when the peer's end was dropped.
    pub fn send(&self, to: Rank, tag: Tag, buffers: Vec<Buffer>) -> Result<(), WireError> {
        let envelope = Envelope::Message { from: self.rank, tag, buffers };
        self.peers[to.0].send(envelope).map_err(|_gone| WireError::Gone { peer: to })
    }

    /// Asks for a message; [`Endpoint::wait`] takes it.
    pub fn receive(&self, from: Rank, tag: Tag) -> Pending {
        Pending { from, tag }
    }

    /// Waits for a message that was asked for.
    ///
    /// # Errors
    /// When a peer failed (any peer: what it would have caused to be sent will not come), or the deadline passed.
    pub fn wait(&mut self, pending: Pending) -> Result<Vec<Buffer>, WireError> {
        let Pending { from, tag } = pending;
        let until = Instant::now() + self.deadline;
        loop {
            if let Some(buffers) = self.early.get_mut(&(from, tag)).and_then(VecDeque::pop_front) {
                return Ok(buffers);
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Envelope::Message { from, tag: found, buffers }) if found.epoch == tag.epoch => {
                    self.early.entry((from, found)).or_default().push_back(buffers);
                }
                Ok(Envelope::Message { .. }) => {}
                Ok(Envelope::Failed { from, message }) => {
                    self.failed = Some(WireError::PeerFailed { peer: from, message });
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(WireError::Deadline { rank: self.rank, peer: from, tag, deadline: self.deadline });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("an endpoint holds a sender to itself")
                }
            }
        }
    }

    /// The values of every rank of `group`, in the group's order: the basis of reductions that add in rank order.
    /// This rank is one of the group.
    ///
    /// # Errors
    /// As [`Endpoint::send`] and [`Endpoint::wait`].
    pub fn all_gather(&mut self, group: &[Rank], tag: Tag, values: Vec<f64>) -> Result<Vec<Vec<f64>>, WireError> {
        for &peer in group.iter().filter(|&&peer| peer != self.rank) {
            self.send(peer, tag, vec![Buffer::F64(values.clone())])?;
        }
        group
            .iter()
            .map(|&peer| {
                if peer == self.rank {
                    return Ok(values.clone());
                }
                let pending = self.receive(peer, tag);
                match self.wait(pending)?.as_slice() {
                    [Buffer::F64(values)] => Ok(values.clone()),
                    other => panic!("a collective carries one f64 buffer, found {} buffers", other.len()),
                }
            })
            .collect()
    }

    /// Tells every peer that this rank failed, in its own words. Peers that are gone already need no telling.
    pub fn fail(&self, message: &str) {
        for (peer, sender) in self.peers.iter().enumerate() {
            if peer != self.rank.0 {
                sender.send(Envelope::Failed { from: self.rank, message: message.to_owned() }).unwrap_or_default();
            }
        }
    }

    /// Drops messages of steps before `step` that nobody took.
    pub fn forget_before(&mut self, step: u64) {
        self.early.retain(|(_, tag), _| tag.step >= step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(n: usize) -> Tag {
        Tag { epoch: 0, step: 3, channel: Channel::Collective(n) }
    }

    #[test]
    fn ownership_moves_and_order_does_not_matter() {
        let mut ends = connect(2, Duration::from_secs(5));
        let (mut b, a) = (ends.pop().unwrap(), ends.pop().unwrap());
        let data = vec![1.0f32; 10_007];
        let address = data.as_ptr();
        a.send(Rank(1), tag(1), vec![Buffer::I32(vec![7])]).unwrap();
        a.send(Rank(1), tag(0), vec![Buffer::F32(data)]).unwrap();
        let first = b.receive(Rank(0), tag(0));
        match b.wait(first).unwrap().as_slice() {
            [Buffer::F32(data)] => assert_eq!(data.as_ptr(), address),
            other => panic!("{other:?}"),
        }
        let second = b.receive(Rank(0), tag(1));
        assert_eq!(b.wait(second).unwrap(), [Buffer::I32(vec![7])]);
    }

    #[test]
    fn values_gather_in_rank_order() {
        let threads: Vec<_> = connect(3, Duration::from_secs(5))
            .into_iter()
            .map(|mut end| {
                std::thread::spawn(move || {
                    end.all_gather(&[Rank(0), Rank(1), Rank(2)], tag(0), vec![end.rank().0 as f64; end.rank().0])
                        .unwrap()
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), [vec![], vec![1.0], vec![2.0, 2.0]]);
        }
    }

    #[test]
    fn failures_name_the_peer() {
        let mut ends = connect(3, Duration::from_millis(20));
        let late = ends[2].receive(Rank(0), tag(0));
        let error = ends[2].wait(late).unwrap_err();
        assert!(matches!(error, WireError::Deadline { rank: Rank(2), peer: Rank(0), .. }), "{error}");
        ends[1].fail("out of memory");
        let never = ends[0].receive(Rank(2), tag(0));
        let error = ends[0].wait(never).unwrap_err();
        assert_eq!(error.to_string(), "rank 1 failed: out of memory");
        drop(ends.remove(1));
        // A message of another epoch is not taken for one of this.
        let old = Tag { epoch: 9, ..tag(0) };
        ends[0].send(Rank(2), old, vec![]).unwrap();
        let pending = ends[1].receive(Rank(0), tag(0));
        assert!(ends[1].wait(pending).is_err());
    }
}
