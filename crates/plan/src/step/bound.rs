//! What a step takes and holds at least, without playing it.

use super::StagePlan;
use schedule::Kind;
use simulate::{Communication, StageCost};

/// Lower bounds of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// No schedule of this kind that fits takes less, exchange and update included.
    pub step_s: f64,
    /// Bytes missing on the rank that misses most, at least; 0 or less when it may fit.
    pub missing_bytes: i64,
}

impl StagePlan<'_> {
    /// Of this layout. The time: for every rank, forwards until its first stage has something to do, then all its work, then,
    /// where backward is played in one piece, the backwards that follow its last; and no less than the way of all microbatches
    /// takes through as much memory as there is. The memory: what is resident, and the microbatches that the schedule must
    /// have in flight.
    pub fn bound(&self) -> Bound {
        let n_ranks = self.layout.degrees.pipeline;
        let m = self.microbatches as f64;
        let costs: Vec<_> = (0..self.stages.len()).map(|stage| self.stage_cost(stage)).collect();
        let mut first_of = vec![None; n_ranks];
        let (mut fill_s, mut drain_s) = (0.0, 0.0);
        let (mut busy, mut kept, mut widest) = (vec![0.0; n_ranks], vec![0_u64; n_ranks], vec![0_u64; n_ranks]);
        for (stage, cost) in costs.iter().enumerate() {
            let rank = self.rank_of[stage];
            let backward = cost.backward_input_s + cost.recompute_s + cost.backward_weight_s;
            first_of[rank].get_or_insert((fill_s, drain_s));
            busy[rank] += cost.forward_s + backward;
            kept[rank] += cost.activation_bytes + cost.logit_bytes;
            let scratch: u64 = cost.backward_scratch.iter().map(|(_, bytes)| bytes).sum();
            // Of the rank's last stage, whose backward comes first: then all that a microbatch leaves here is live.
            widest[rank] = scratch;
            fill_s += cost.forward_s;
            drain_s += backward;
        }
        if self.task.software.communication == Communication::Blocking {
            for pair in self.rank_of.windows(2).filter(|pair| pair[0] != pair[1]) {
                let (seconds, latency_s) = self.message_s(pair[0], pair[1]);
                // A rank sends in one direction and at best receives in the other meanwhile.
                let on_rank = (seconds - latency_s).max(0.0);
                busy[pair[0]] += on_rank;
                busy[pair[1]] += on_rank;
            }
        }
        let is_fused = !self.splits_backward();
        let ranks = 0..n_ranks;
        let passes_s = ranks.clone().map(|rank| {
            let (fill, drain) = first_of[rank].unwrap_or_default();
            fill + m * busy[rank] + if is_fused { drain } else { 0.0 }
        });
        let passes_s = passes_s.fold(self.passage_s(&costs), f64::max);
        let after_s = ranks.clone().map(|rank| {
            let exchange = self.data_exchange(rank);
            exchange.exchange_s + exchange.optimizer_s
        });
        let after_s = after_s.fold(0.0, f64::max);
        let missing = ranks.map(|rank| {
            let in_flight = self.in_flight(rank) as u64;
            let resident: u64 = self.resident(rank).iter().map(|(_, bytes)| bytes).sum();
            (resident + in_flight * kept[rank] + widest[rank]) as i64 - self.usable_bytes(rank) as i64
        });
        Bound { step_s: passes_s + after_s, missing_bytes: missing.max().unwrap_or(0) }
    }

    /// Seconds in which all microbatches pass through every rank's memory, at least. A microbatch lies there from its forward
    /// until its backward has come back from the stages after it; bytes times seconds of all of them fit into what is free
    /// times the passes (Little's law).
    fn passage_s(&self, costs: &[StageCost]) -> f64 {
        let splits = self.splits_backward();
        let mut byte_s = vec![0.0; self.layout.degrees.pipeline];
        // From a stage's forward to the end of its backward.
        let mut way_s = 0.0;
        for (stage, cost) in costs.iter().enumerate().rev() {
            let rank = self.rank_of[stage];
            if let Some(&after) = self.rank_of.get(stage + 1).filter(|&&after| after != rank) {
                way_s += self.message_s(rank, after).0 + self.message_s(after, rank).0;
            }
            let weight_s = if splits { 0.0 } else { cost.backward_weight_s };
            way_s += cost.forward_s + cost.backward_input_s + cost.recompute_s + weight_s;
            byte_s[rank] += (cost.activation_bytes + cost.logit_bytes) as f64 * way_s;
            if splits {
                byte_s[rank] += cost.weight_grad_bytes as f64 * cost.backward_weight_s;
            }
        }
        let passages = byte_s.iter().enumerate().map(|(rank, byte_s)| {
            let resident: u64 = self.resident(rank).iter().map(|(_, bytes)| bytes).sum();
            match self.usable_bytes(rank).saturating_sub(resident) {
                // Misses in any case.
                0 => 0.0,
                free => self.microbatches as f64 * byte_s / free as f64,
            }
        });
        passages.fold(0.0, f64::max)
    }

    /// Microbatches of which a rank holds everything at once, at least.
    fn in_flight(&self, rank: usize) -> usize {
        let (m, p) = (self.microbatches, self.layout.degrees.pipeline);
        match self.layout.spec.kind {
            Kind::Gpipe | Kind::LoopedBfs => m,
            Kind::OneFOneB => m.min(p - rank),
            // Others by their own rules; one microbatch is there in any case.
            _ => 1,
        }
    }
}
