//! `timeline.json`: a step as predicted and as measured.

use super::ByCategory;
use super::files::TIMELINES;
use crate::out_folder::write_whole;
use anyhow::{Context, bail};
use mesh::{Hop, Key, Microbatch, Rank, Segment, Stage};
use schedule::{Action, Op, StageOp};
use serde::{Deserialize, Serialize};
use simulate::{MemorySample, Span, Timeline};
use std::path::Path;

/// The timelines of one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timelines {
    /// As the simulator says.
    pub predicted: Option<TimelineFile>,
    /// As played.
    pub measured: Option<TimelineFile>,
}

/// A [`Timeline`] as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineFile {
    n_ranks: usize,
    spans: Vec<SpanRecord>,
    memory: Vec<MemoryRecord>,
}

/// A [`Span`]; times in seconds from the step's start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SpanRecord {
    rank: usize,
    stage: usize,
    label: String,
    /// The letters of [`Op`] and [`StageOp`].
    op: String,
    /// Absent for work on a whole stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    visit: Option<VisitRecord>,
    asked_s: f64,
    start_s: f64,
    end_s: f64,
}

/// A [`Key`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct VisitRecord {
    microbatch: usize,
    hop: usize,
    segment: usize,
}

/// A [`MemorySample`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct MemoryRecord {
    rank: usize,
    at_s: f64,
    bytes: ByCategory,
}

impl Timelines {
    /// Writes `timeline.json`, whole or not at all.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        write_whole(&folder.join(TIMELINES), &(serde_json::to_string(self)? + "\n"))
    }
}

impl From<&Timeline> for TimelineFile {
    fn from(timeline: &Timeline) -> Self {
        let spans = timeline.spans.iter().map(|span| {
            let (op, visit) = match span.action {
                Action::Visit { op, key: Key { microbatch, hop, segment } } => {
                    let visit = VisitRecord { microbatch: microbatch.0, hop: hop.0, segment: segment.0 };
                    (op.to_string(), Some(visit))
                }
                Action::Stage { op, .. } => (op.to_string(), None),
            };
            SpanRecord {
                rank: span.rank.0,
                stage: span.stage.0,
                label: span.label.clone(),
                op,
                visit,
                asked_s: span.asked_s,
                start_s: span.start_s,
                end_s: span.end_s,
            }
        });
        let memory = timeline.memory.iter().map(|sample| MemoryRecord {
            rank: sample.rank.0,
            at_s: sample.at_s,
            bytes: sample.bytes.into(),
        });
        Self { n_ranks: timeline.n_ranks, spans: spans.collect(), memory: memory.collect() }
    }
}

impl TryFrom<&TimelineFile> for Timeline {
    type Error = anyhow::Error;

    /// # Errors
    /// An operation has letters that no operation has, or a rank is not one of `n_ranks`.
    fn try_from(file: &TimelineFile) -> anyhow::Result<Self> {
        let rank = |rank: usize| match rank < file.n_ranks {
            true => Ok(Rank(rank)),
            false => bail!("a timeline of {} ranks names rank {rank}", file.n_ranks),
        };
        let span = |span: &SpanRecord| -> anyhow::Result<Span> {
            let action = match &span.visit {
                Some(VisitRecord { microbatch, hop, segment }) => Action::Visit {
                    op: named(&OPS, &span.op)?,
                    key: Key { microbatch: Microbatch(*microbatch), hop: Hop(*hop), segment: Segment(*segment) },
                },
                None => Action::Stage { op: named(&STAGE_OPS, &span.op)?, stage: Stage(span.stage) },
            };
            Ok(Span {
                rank: rank(span.rank)?,
                action,
                stage: Stage(span.stage),
                label: span.label.clone(),
                asked_s: span.asked_s,
                start_s: span.start_s,
                end_s: span.end_s,
            })
        };
        let sample = |sample: &MemoryRecord| -> anyhow::Result<MemorySample> {
            Ok(MemorySample { rank: rank(sample.rank)?, at_s: sample.at_s, bytes: sample.bytes.bytes() })
        };
        Ok(Timeline {
            n_ranks: file.n_ranks,
            spans: file.spans.iter().map(span).collect::<anyhow::Result<_>>()?,
            memory: file.memory.iter().map(sample).collect::<anyhow::Result<_>>()?,
        })
    }
}

const OPS: [Op; 14] = [
    Op::Forward,
    Op::BackwardInput,
    Op::BackwardWeight,
    Op::Backward,
    Op::Recompute,
    Op::ForwardNoGrad,
    Op::VocabForward,
    Op::VocabBackward,
    Op::EmbedForward,
    Op::EmbedBackward,
    Op::SendActivation,
    Op::RecvActivation,
    Op::SendGradient,
    Op::RecvGradient,
];

const STAGE_OPS: [StageOp; 6] = [
    StageOp::Unshard,
    StageOp::Reshard,
    StageOp::ReduceGradients,
    StageOp::LoadWeights,
    StageOp::EvictWeights,
    StageOp::OptimizerStep,
];

/// The operation that prints as `letters`.
fn named<T: Copy + ToString>(ops: &[T], letters: &str) -> anyhow::Result<T> {
    let op = ops.iter().copied().find(|op| op.to_string() == letters);
    op.with_context(|| format!("a timeline names the operation `{letters}`, which there is not"))
}
