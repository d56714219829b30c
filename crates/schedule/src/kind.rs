//! The published schedules by name.

use std::fmt;

/// Which published schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// All forwards, then all backwards in reverse order (Huang et al., GPipe).
    Gpipe,
    /// One forward, one backward after a warm-up (PipeDream-Flush, Megatron-LM).
    OneFOneB,
    /// 1F1B over several stages per rank (Megatron-LM).
    Interleaved,
    /// All forwards stage by stage, then all backwards (breadth-first pipeline parallelism).
    LoopedBfs,
    /// Zero-bubble with the memory of 1F1B.
    ZbH1,
    /// Zero-bubble with twice the memory of 1F1B.
    ZbH2,
    /// The automatic zero-bubble scheduler: the best of several list schedules for the pass times and memory given.
    ZbAuto,
    /// Interleaved 1F1B with its weight passes in the gaps.
    InterleavedZb,
    /// Two stages per rank in a V, zero bubble with the memory of 1F1B.
    ZbV,
    /// Two stages per rank in a V, half the memory of 1F1B.
    VHalf,
    /// Two stages per rank in a V, a third of the memory of 1F1B.
    VMin,
    /// Two stages per rank in a V, forward and backward of different microbatches side by side (DeepSeek, DualPipeV).
    DualPipeV,
}

/// Which routes a schedule is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Any route over any ranks.
    Any,
    /// Each rank once.
    OnePerRank,
    /// Ranks in the same order again and again: hop `c * p + i` on the `i`-th rank.
    Looped,
    /// Down the ranks and back up: hops `i` and `2p - 1 - i` on the `i`-th rank.
    V,
}

impl Placement {
    /// The rank of each of `n_stages` stages, with `n_per_rank` of them on a rank where ranks are looped over. `None`
    /// when they cannot be dealt out so: an odd number in a V, or one that `n_per_rank` does not divide.
    pub fn ranks(self, n_stages: usize, n_per_rank: usize) -> Option<Vec<usize>> {
        match self {
            Placement::Any | Placement::OnePerRank => Some((0..n_stages).collect()),
            Placement::Looped => {
                let fits = n_per_rank > 0 && n_stages.is_multiple_of(n_per_rank);
                fits.then(|| (0..n_stages).map(|stage| stage % (n_stages / n_per_rank)).collect())
            }
            Placement::V => {
                let n_ranks = n_stages / 2;
                n_stages.is_multiple_of(2).then(|| (0..n_ranks).chain((0..n_ranks).rev()).collect())
            }
        }
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 12] = [
        Kind::Gpipe,
        Kind::OneFOneB,
        Kind::Interleaved,
        Kind::LoopedBfs,
        Kind::ZbH1,
        Kind::ZbH2,
        Kind::ZbAuto,
        Kind::InterleavedZb,
        Kind::ZbV,
        Kind::VHalf,
        Kind::VMin,
        Kind::DualPipeV,
    ];

    /// The name in run files and on the command line.
    pub const fn id(self) -> &'static str {
        match self {
            Kind::Gpipe => "gpipe",
            Kind::OneFOneB => "1f1b",
            Kind::Interleaved => "interleaved",
            Kind::LoopedBfs => "looped-bfs",
            Kind::ZbH1 => "zb-h1",
            Kind::ZbH2 => "zb-h2",
            Kind::ZbAuto => "zb-auto",
            Kind::InterleavedZb => "interleaved-zb",
            Kind::ZbV => "zb-v",
            Kind::VHalf => "v-half",
            Kind::VMin => "v-min",
            Kind::DualPipeV => "dualpipe-v",
        }
    }

    /// Which routes it is made for.
    pub fn placement(self) -> Placement {
        match self {
            Kind::Gpipe | Kind::OneFOneB => Placement::Any,
            Kind::ZbH1 | Kind::ZbH2 | Kind::ZbAuto => Placement::OnePerRank,
            Kind::Interleaved | Kind::LoopedBfs | Kind::InterleavedZb => Placement::Looped,
            Kind::ZbV | Kind::VHalf | Kind::VMin | Kind::DualPipeV => Placement::V,
        }
    }

    /// For schedules that keep to a memory limit: how many forwards each of `n_ranks` ranks holds at most when none is given.
    /// `None` for the others, whose memory is what it is.
    pub fn unlimited(self, n_ranks: usize) -> Option<usize> {
        match self {
            Kind::ZbAuto => Some(2 * n_ranks - 1),
            Kind::ZbV => Some(2 * n_ranks),
            _ => None,
        }
    }

    /// Whether the schedule itself says where weight passes go; the others play backward fused or split as asked.
    pub fn places_weight_passes(self) -> bool {
        !matches!(self, Kind::Gpipe | Kind::OneFOneB | Kind::Interleaved | Kind::LoopedBfs)
    }
}

impl fmt::Display for Kind {
    /// The name as the field writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Gpipe => "GPipe",
            Kind::OneFOneB => "1F1B",
            Kind::Interleaved => "interleaved 1F1B",
            Kind::LoopedBfs => "looped BFS",
            Kind::ZbH1 => "ZB-H1",
            Kind::ZbH2 => "ZB-H2",
            Kind::ZbAuto => "automatic zero-bubble",
            Kind::InterleavedZb => "interleaved zero-bubble",
            Kind::ZbV => "ZB-V",
            Kind::VHalf => "V-Half",
            Kind::VMin => "V-Min",
            Kind::DualPipeV => "DualPipeV",
        })
    }
}
