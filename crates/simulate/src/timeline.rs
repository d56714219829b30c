//! What happened, or is predicted to happen, on every rank.

use mesh::{Rank, Stage};
use schedule::{Action, LabelParts, Meeting, Op};

/// One action as it was played.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Where.
    pub rank: Rank,
    /// What.
    pub action: Action,
    /// The stage it worked on.
    pub stage: Stage,
    /// What [`Span::label`] has.
    pub label: LabelParts,
    /// When the rank asked, in seconds from the step's start, never after `start_s`: for a core permit, or for the link
    /// of a send. Otherwise equal to `start_s`.
    pub asked_s: f64,
    /// Start, in seconds from the step's start. For a receive: when the rank began to wait. For an action that needs
    /// a core permit: when it was granted. For a send: when the link took it.
    pub start_s: f64,
    /// End, in seconds from the step's start. For a send: when the last byte is there, the rank plays on meanwhile; where
    /// communication blocks, when the last byte has left and the rank plays on.
    pub end_s: f64,
}

impl Span {
    /// The action as [`schedule::Schedule::label`] prints it. Made when asked for: a step has as many as actions, and who
    /// compares steps reads none.
    pub fn label(&self) -> String {
        self.action.label(self.stage, self.label)
    }
}

/// A collective as it was played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeetingSpan {
    /// Which.
    pub meeting: Meeting,
    /// When the last rank was there, in seconds from the step's start.
    pub start_s: f64,
    /// When those who wait could go on.
    pub end_s: f64,
}

/// What memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// Parameters.
    Weights,
    /// Parameter gradients.
    Gradients,
    /// Optimizer moments and other state per parameter.
    Optimizer,
    /// What a forward keeps for its backward, queued weight-gradient inputs included.
    Activations,
    /// Logits and their gradient.
    Logits,
    /// Messages, scratch space and everything else.
    Buffers,
}

impl Category {
    /// All categories, in the order they are shown.
    pub const ALL: [Category; 6] = [
        Category::Weights,
        Category::Gradients,
        Category::Optimizer,
        Category::Activations,
        Category::Logits,
        Category::Buffers,
    ];

    /// Lower-case name for tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Category::Weights => "weights",
            Category::Gradients => "gradients",
            Category::Optimizer => "optimizer",
            Category::Activations => "activations",
            Category::Logits => "logits",
            Category::Buffers => "buffers",
        }
    }
}

/// Live bytes on a rank from one moment on, by category.
#[derive(Clone, Debug, PartialEq)]
pub struct MemorySample {
    /// Where.
    pub rank: Rank,
    /// From when, in seconds from the step's start.
    pub at_s: f64,
    /// Live bytes, indexed as [`Category::ALL`].
    pub bytes: [u64; 6],
}

/// A step as played: predicted by the simulator or measured by the runtime.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Number of ranks, idle ones included.
    pub n_ranks: usize,
    /// Spans; per rank in the order of its list.
    pub spans: Vec<Span>,
    /// Collectives, in ascending order. The runtime does not measure them: its ranks' waits show them.
    pub meetings: Vec<MeetingSpan>,
    /// Memory curve; per rank in order of time.
    pub memory: Vec<MemorySample>,
}

impl Timeline {
    /// End of the last span, in seconds; 0 when empty.
    pub fn makespan_s(&self) -> f64 {
        self.spans.iter().map(|span| span.end_s).fold(0.0, f64::max)
    }

    /// Spans of one rank, in list order.
    pub fn rank(&self, rank: Rank) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(move |span| span.rank == rank)
    }

    /// The most visits whose activations a rank keeps at once: each from its `F` until its `I` or `B` has ended.
    pub fn most_kept(&self, rank: Rank) -> usize {
        let (mut kept, mut most) = (0, 0);
        for span in self.rank(rank) {
            match span.action {
                Action::Visit { op: Op::Forward, .. } => kept += 1,
                Action::Visit { op: Op::BackwardInput | Op::Backward, .. } => kept -= 1,
                Action::Visit { .. } | Action::Shard { .. } | Action::Stage { .. } => {}
            }
            most = most.max(kept);
        }
        most
    }

    /// Peak live bytes on a rank by category (each category's own peak), indexed as [`Category::ALL`].
    pub fn peak_by_category(&self, rank: Rank) -> [u64; 6] {
        self.memory.iter().filter(|sample| sample.rank == rank).fold([0; 6], |mut peak, sample| {
            for (peak, bytes) in peak.iter_mut().zip(sample.bytes) {
                *peak = (*peak).max(bytes);
            }
            peak
        })
    }

    /// Peak of the sum over categories on a rank, in bytes.
    pub fn peak_bytes(&self, rank: Rank) -> u64 {
        let total = |sample: &MemorySample| sample.bytes.iter().sum();
        self.memory.iter().filter(|sample| sample.rank == rank).map(total).max().unwrap_or(0)
    }
}
