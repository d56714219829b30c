//! 1F1B: after a warm-up, one forward and one backward in turn.
//!
//! PipeDream-Flush (Narayanan et al., *Memory-Efficient Pipeline-Parallel DNN Training*, 2021) as Megatron-LM plays it
//! (Narayanan et al., *Efficient Large-Scale Language Model Training on GPU Clusters*, 2021, section 2.2.1). With `w`
//! messages still ahead of a hop, it plays `min(m, w)` forwards, then forward and backward in turn, then the backwards
//! that are left. With one hop per rank, `w` is `p - 1 - i` on rank `i`: the published warm-up. Neighbouring hops on
//! one rank count as one, so stages that share a rank hold no more microbatches than if they were one stage.
//!
//! Closed forms for `p` equal stages on `p` ranks, `m` microbatches, messages that take no time: makespan
//! `(m + p - 1)(F + B)` as in GPipe; activations of `min(m, p - i)` microbatches on rank `i`. With split backward
//! (`m >= p`), the gradient leaves before `W` runs and the idle time of a rank is `(p - 1)(F + I)`.

use crate::generate::Turn;

/// What one hop plays, in order, with `n_messages_ahead` of its route's messages after it.
pub(crate) fn turns(n_microbatches: usize, n_messages_ahead: usize) -> Vec<Turn> {
    let n_warm_up = n_microbatches.min(n_messages_ahead);
    let mut turns: Vec<Turn> = (0..n_warm_up).map(Turn::Forward).collect();
    for backward in 0..n_microbatches {
        let forward = n_warm_up + backward;
        turns.extend((forward < n_microbatches).then_some(Turn::Forward(forward)));
        turns.push(Turn::Backward(backward));
    }
    turns
}
