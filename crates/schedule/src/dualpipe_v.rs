//! DualPipeV: two stages per rank in a V, forward and backward of different microbatches side by side.
//!
//! DeepSeek-AI, *DeepSeek-V3 Technical Report* (2024) and the DualPipe repository; the order is that of
//! torch.distributed.pipelining's `ScheduleDualPipeV`. Rank `i` of `p` holds hop `i` of the way down (0 below) and hop
//! `2 p - 1 - i` of the way up (1 below). It plays, with `r = p - 1 - i`:
//!
//! 1. `2 r` times `F0`;
//! 2. `i + 1` times `F0 F1`;
//! 3. `r` times `I1 W1 F1`;
//! 4. `m - 2 p + i + 1` times `F0 B1 F1 B0`: each `F B` is the pair that DeepSeek overlaps, communication of one under
//!    computation of the other. A rank's list has no overlap, so the pair is a forward and then a backward, as PyTorch
//!    orders its two halves;
//! 5. `r` times `B1 F1 B0`;
//! 6. `i + 1` times `B1 B0`, the second half of these passes as `I` with `W` put off;
//! 7. `r` times `W I0`, `W` being the oldest put off;
//! 8. `i + 1` times `W`.
//!
//! It needs `m >= 2 p`. Closed forms for equal stages, `F = I = W`, `m > 2 p`, messages that take no time: makespan
//! `(6 m + p - 1) F`; activations of `2 p + 1` stages on every rank, as much as `p + 1/2` microbatches.

use crate::{Action, Kind, Op, ScheduleError};
use mesh::Key;
use std::collections::{BTreeMap, VecDeque};

/// What each rank plays.
pub(crate) fn lists(n_ranks: usize, n_microbatches: usize) -> Result<Vec<Vec<Action>>, ScheduleError> {
    let wanted = 2 * n_ranks;
    if n_microbatches < wanted {
        return Err(ScheduleError::TooFewMicrobatches {
            kind: Kind::DualPipeV,
            n_ranks,
            found: n_microbatches,
            wanted,
        });
    }
    Ok((0..n_ranks).map(|rank| list(n_ranks, n_microbatches, rank)).collect())
}

fn list(n_ranks: usize, n_microbatches: usize, rank: usize) -> Vec<Action> {
    use Turn::{Backward, Forward, Input, Weight};
    let (down, up) = (rank, 2 * n_ranks - 1 - rank);
    let (n_after, n_upto) = (n_ranks - 1 - rank, rank + 1);
    let mut turns: Vec<Turn> = Vec::new();
    let mut play = |times: usize, what: &[Turn]| (0..times).for_each(|_| turns.extend(what));
    play(2 * n_after, &[Forward(down)]);
    play(n_upto, &[Forward(down), Forward(up)]);
    play(n_after, &[Input(up), Weight, Forward(up)]);
    play(n_microbatches - 2 * n_ranks + n_upto, &[Forward(down), Backward(up), Forward(up), Backward(down)]);
    play(n_after, &[Backward(up), Forward(up), Backward(down)]);
    for pass in 0..2 * n_upto {
        let hop = if pass % 2 == 0 { up } else { down };
        play(1, &[if pass < n_upto { Backward(hop) } else { Input(hop) }]);
    }
    play(n_after, &[Weight, Input(down)]);
    play(n_upto, &[Weight]);
    numbered(&turns)
}

/// What a rank does with the next microbatch.
#[derive(Clone, Copy)]
enum Turn {
    /// Forward at this hop.
    Forward(usize),
    /// Both halves of backward at this hop.
    Backward(usize),
    /// Backward of the input at this hop.
    Input(usize),
    /// The oldest weight pass put off, at whichever hop.
    Weight,
}

/// The turns with their microbatches: every hop takes them in order, forwards and backwards apart.
fn numbered(turns: &[Turn]) -> Vec<Action> {
    let (mut forwards, mut backwards) = (BTreeMap::new(), BTreeMap::new());
    let next = |of: &mut BTreeMap<usize, usize>, hop: usize| {
        let n_before = of.entry(hop).or_default();
        *n_before += 1;
        Key::new(*n_before - 1, hop)
    };
    let mut put_off = VecDeque::new();
    let action = |&turn: &Turn| match turn {
        Turn::Forward(hop) => Action::visit(Op::Forward, next(&mut forwards, hop)),
        Turn::Backward(hop) => Action::visit(Op::Backward, next(&mut backwards, hop)),
        Turn::Input(hop) => {
            let key = next(&mut backwards, hop);
            put_off.push_back(key);
            Action::visit(Op::BackwardInput, key)
        }
        Turn::Weight => {
            Action::visit(Op::BackwardWeight, put_off.pop_front().expect("invariant: an input pass before every W"))
        }
    };
    turns.iter().map(action).collect()
}
