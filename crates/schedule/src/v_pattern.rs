//! What V-Half and V-Min share: a pattern that repeats, squeezed and fitted to the times things take.
//!
//! Time is cut into slots of one pass each. A rank plays two forwards, two input passes and two `W` of every
//! microbatch, so what it does for microbatch `k` it does 6 slots after it did it for microbatch `k - 1`; the memory
//! held is then the sum of the times between a forward and the end of its backward, over 6. The pattern leaves slots
//! free while it fills and drains: passes are [squeezed](squeeze()) into them within the pattern's own memory, and `W`
//! placed anew for the times given ([`retime()`]). A memory limit in these times is not looked at: the pattern's offsets
//! fix how much it takes.

use crate::player::as_schedule;
use crate::{Action, Op, PassTimes, retime, squeeze};
use mesh::Key;
use std::collections::VecDeque;

const PERIOD: usize = 6;

/// When microbatch 0 is played on a rank, in slots: `F` of the hop down and of the hop up, `I` of the hop up and of the
/// hop down.
pub(crate) type Offsets = [usize; 4];

/// The lists of the pattern, squeezed and fitted to `times`. `offsets` are asked for rank and number of ranks.
pub(crate) fn fitted(
    n_ranks: usize,
    n_microbatches: usize,
    times: &PassTimes,
    offsets: impl Fn(usize, usize) -> Offsets,
) -> Vec<Vec<Action>> {
    let pattern = as_schedule(pattern(n_ranks, n_microbatches, offsets), &ranks_of_v(n_ranks), n_microbatches);
    let slots = PassTimes {
        activation: times.activation.clone(),
        kept_for_weight: times.kept_for_weight.clone(),
        ..PassTimes::equal(2 * n_ranks)
    };
    squeeze(&retime(&squeeze(&pattern, &slots), times), times).ranks
}

/// The rank of every hop: down and back up.
pub(crate) fn ranks_of_v(n_ranks: usize) -> Vec<usize> {
    (0..2 * n_ranks).map(|hop| hop.min(2 * n_ranks - 1 - hop)).collect()
}

/// The pattern as it repeats; `W` in the slots left free, first come first served.
fn pattern(n_ranks: usize, n_microbatches: usize, offsets: impl Fn(usize, usize) -> Offsets) -> Vec<Vec<Action>> {
    let list = |rank: usize| {
        let (down, up) = (rank, 2 * n_ranks - 1 - rank);
        let passes = [(Op::Forward, down), (Op::Forward, up), (Op::BackwardInput, up), (Op::BackwardInput, down)];
        let mut slots: Vec<(usize, Op, Key)> = Vec::with_capacity(4 * n_microbatches);
        for microbatch in 0..n_microbatches {
            let of_first = offsets(rank, n_ranks).into_iter().zip(passes);
            slots.extend(of_first.map(|(slot, (op, hop))| (slot + PERIOD * microbatch, op, Key::new(microbatch, hop))));
        }
        slots.sort_by_key(|&(slot, ..)| slot);

        let mut list = Vec::with_capacity(PERIOD * n_microbatches);
        let mut weights: VecDeque<Action> = VecDeque::new();
        let mut free = 0;
        for (slot, op, key) in slots {
            assert!(slot >= free, "rank {rank} of {n_ranks} has two passes in slot {slot}");
            list.extend(weights.drain(..weights.len().min(slot - free)));
            list.push(Action::visit(op, key));
            free = slot + 1;
            if op == Op::BackwardInput {
                weights.push_back(Action::visit(Op::BackwardWeight, key));
            }
        }
        list.extend(weights);
        list
    };
    (0..n_ranks).map(list).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::player::{Player, peak};
    use crate::{v_half, v_min, validate};

    /// Peaks of the pattern before squeezing, in activations of one stage that `W` keeps whole (zero-bubble sheet,
    /// replayed from the paper's construction).
    #[test]
    fn peaks_of_the_patterns() {
        let peak_of = |p: usize, offsets: fn(usize, usize) -> Offsets| {
            let times = PassTimes { kept_for_weight: vec![1.0; 2 * p], ..PassTimes::equal(2 * p) };
            let lists = pattern(p, 4 * p, offsets);
            lists.iter().map(|list| peak(list, &times)).fold(0.0, f64::max)
        };
        for (p, expected) in [(4, 6.0), (6, 8.0), (8, 10.0), (12, 14.0), (16, 18.0)] {
            assert_eq!(peak_of(p, v_half::offsets), expected, "V-Half p {p}");
        }
        for (p, expected) in [(4, 4.0), (6, 6.0), (8, 8.0), (12, 10.0), (16, 12.0)] {
            assert_eq!(peak_of(p, v_min::offsets), expected, "V-Min p {p}");
        }
    }

    /// The assertion in `pattern` looks for collisions; that inputs are there in their slot, the play does.
    #[test]
    fn every_pass_begins_in_its_slot() {
        for offsets in [v_half::offsets, v_min::offsets] {
            for p in 1..=16 {
                let schedule = as_schedule(pattern(p, 3 * p, offsets), &ranks_of_v(p), 3 * p);
                assert_eq!(validate(&schedule), Ok(()));
                let times = PassTimes::equal(2 * p);
                let mut player = Player::new(&schedule, &times);
                player.play();
                for ((rank, action), start) in schedule.actions().zip(&player.start) {
                    let Action::Visit { op, key } = action else { panic!("{action:?}") };
                    let pass = match (op, key.hop.0 < p) {
                        (Op::Forward, true) => 0,
                        (Op::Forward, false) => 1,
                        (Op::BackwardInput, false) => 2,
                        (Op::BackwardInput, true) => 3,
                        _ => continue,
                    };
                    let slot = offsets(rank.0, p)[pass] + PERIOD * key.microbatch.0;
                    assert!(*start <= slot as f64, "p {p}: {} begins at {start}, not {slot}", schedule.label(action));
                }
            }
        }
    }
}
