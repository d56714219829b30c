//! `timeline.json`: a step as predicted and as measured.

use super::ByCategory;
use super::files::TIMELINES;
use crate::out_folder::write_whole;
use anyhow::{Context, bail};
use mesh::{Hop, Key, Microbatch, Rank, Segment, Stage};
use schedule::{Action, LabelParts, Meeting, Op, ShardOp, StageOp};
use serde::{Deserialize, Serialize};
use simulate::{Costs, MeetingSpan, MemorySample, Span, StageCost, Timeline};
use std::path::Path;

/// The timelines of one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timelines {
    /// As the simulator says.
    pub predicted: Option<TimelineFile>,
    /// As played.
    pub measured: Option<TimelineFile>,
    /// What each stage keeps of a microbatch; empty when it is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
}

/// What a stage keeps of a microbatch from its forward on, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Until the backward of the input, logits apart.
    activations: u64,
    /// Until the backward of the input.
    logits: u64,
    /// Of these, until the backward of the weights.
    for_weights: u64,
}

impl From<&StageCost> for Kept {
    fn from(cost: &StageCost) -> Self {
        Self { activations: cost.activation_bytes, logits: cost.logit_bytes, for_weights: cost.weight_grad_bytes }
    }
}

/// A [`Timeline`] as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineFile {
    n_ranks: usize,
    spans: Vec<SpanRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    meetings: Vec<MeetingRecord>,
    memory: Vec<MemoryRecord>,
}

/// A [`Span`]; times in seconds from the step's start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SpanRecord {
    rank: usize,
    stage: usize,
    label: String,
    /// The letters of [`Op`], [`ShardOp`] and [`StageOp`].
    op: String,
    /// Absent for work on a vocabulary shard or a whole stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    visit: Option<VisitRecord>,
    /// The microbatch of work on a vocabulary shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard: Option<usize>,
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

/// A [`MeetingSpan`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct MeetingRecord {
    meeting: MeetingName,
    /// For a tied group its number, for a partial norm the last rank in it; 0 for the norm, which is of all.
    microbatch: usize,
    start_s: f64,
    end_s: f64,
}

/// A [`Meeting`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MeetingName {
    Hidden,
    Softmax,
    HiddenGradient,
    Embedded,
    EmbeddedGradient,
    Tied,
    PartialNorm,
    Norm,
}

/// A [`MemorySample`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct MemoryRecord {
    rank: usize,
    at_s: f64,
    bytes: ByCategory,
}

impl Timelines {
    /// What is known of the costs that the step was played with: what stages keep.
    pub fn costs(&self) -> Costs {
        let stage = |kept: &Kept| StageCost {
            activation_bytes: kept.activations,
            logit_bytes: kept.logits,
            weight_grad_bytes: kept.for_weights,
            ..StageCost::default()
        };
        Costs { stages: self.kept.iter().map(stage).collect(), ..Costs::default() }
    }

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
            let (op, visit, shard) = match span.action {
                Action::Visit { op, key: Key { microbatch, hop, segment } } => {
                    let visit = VisitRecord { microbatch: microbatch.0, hop: hop.0, segment: segment.0 };
                    (op.to_string(), Some(visit), None)
                }
                Action::Shard { op, microbatch } => (op.to_string(), None, Some(microbatch.0)),
                Action::Stage { op, .. } => (op.to_string(), None, None),
            };
            SpanRecord {
                rank: span.rank.0,
                stage: span.stage.0,
                label: span.label(),
                op,
                visit,
                shard,
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
        let meetings = timeline.meetings.iter().map(|&MeetingSpan { meeting, start_s, end_s }| {
            let (meeting, microbatch) = match meeting {
                Meeting::Hidden(microbatch) => (MeetingName::Hidden, microbatch.0),
                Meeting::Softmax(microbatch) => (MeetingName::Softmax, microbatch.0),
                Meeting::HiddenGradient(microbatch) => (MeetingName::HiddenGradient, microbatch.0),
                Meeting::Embedded(microbatch) => (MeetingName::Embedded, microbatch.0),
                Meeting::EmbeddedGradient(microbatch) => (MeetingName::EmbeddedGradient, microbatch.0),
                Meeting::Tied(group) => (MeetingName::Tied, group),
                Meeting::PartialNorm(rank) => (MeetingName::PartialNorm, rank.0),
                Meeting::Norm => (MeetingName::Norm, 0),
            };
            MeetingRecord { meeting, microbatch, start_s, end_s }
        });
        Self {
            n_ranks: timeline.n_ranks,
            spans: spans.collect(),
            meetings: meetings.collect(),
            memory: memory.collect(),
        }
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
            let action = match (&span.visit, span.shard) {
                (Some(VisitRecord { microbatch, hop, segment }), _) => Action::Visit {
                    op: named(&OPS, &span.op)?,
                    key: Key { microbatch: Microbatch(*microbatch), hop: Hop(*hop), segment: Segment(*segment) },
                },
                (None, Some(microbatch)) => Action::shard(named(&SHARD_OPS, &span.op)?, microbatch),
                (None, None) => Action::Stage { op: named(&STAGE_OPS, &span.op)?, stage: Stage(span.stage) },
            };
            Ok(Span {
                rank: rank(span.rank)?,
                action,
                stage: Stage(span.stage),
                label: LabelParts { hop: span.label.contains('@'), segment: span.label.contains('.') },
                asked_s: span.asked_s,
                start_s: span.start_s,
                end_s: span.end_s,
            })
        };
        let sample = |sample: &MemoryRecord| -> anyhow::Result<MemorySample> {
            Ok(MemorySample { rank: rank(sample.rank)?, at_s: sample.at_s, bytes: sample.bytes.bytes() })
        };
        let meeting = |record: &MeetingRecord| {
            let microbatch = Microbatch(record.microbatch);
            let meeting = match record.meeting {
                MeetingName::Hidden => Meeting::Hidden(microbatch),
                MeetingName::Softmax => Meeting::Softmax(microbatch),
                MeetingName::HiddenGradient => Meeting::HiddenGradient(microbatch),
                MeetingName::Embedded => Meeting::Embedded(microbatch),
                MeetingName::EmbeddedGradient => Meeting::EmbeddedGradient(microbatch),
                MeetingName::Tied => Meeting::Tied(record.microbatch),
                MeetingName::PartialNorm => Meeting::PartialNorm(Rank(record.microbatch)),
                MeetingName::Norm => Meeting::Norm,
            };
            MeetingSpan { meeting, start_s: record.start_s, end_s: record.end_s }
        };
        Ok(Timeline {
            n_ranks: file.n_ranks,
            spans: file.spans.iter().map(span).collect::<anyhow::Result<_>>()?,
            meetings: file.meetings.iter().map(meeting).collect(),
            memory: file.memory.iter().map(sample).collect::<anyhow::Result<_>>()?,
        })
    }
}

const OPS: [Op; 10] = [
    Op::Forward,
    Op::BackwardInput,
    Op::BackwardWeight,
    Op::Backward,
    Op::Recompute,
    Op::ForwardNoGrad,
    Op::SendActivation,
    Op::RecvActivation,
    Op::SendGradient,
    Op::RecvGradient,
];

const SHARD_OPS: [ShardOp; 4] =
    [ShardOp::VocabForward, ShardOp::VocabBackward, ShardOp::EmbedForward, ShardOp::EmbedBackward];

const STAGE_OPS: [StageOp; 8] = [
    StageOp::Unshard,
    StageOp::Reshard,
    StageOp::ReduceGradients,
    StageOp::LoadWeights,
    StageOp::EvictWeights,
    StageOp::OptimizerStep,
    StageOp::OptimisticStep,
    StageOp::PostValidate,
];

/// The operation that prints as `letters`.
fn named<T: Copy + ToString>(ops: &[T], letters: &str) -> anyhow::Result<T> {
    let op = ops.iter().copied().find(|op| op.to_string() == letters);
    op.with_context(|| format!("a timeline names the operation `{letters}`, which there is not"))
}
