//! A timeline as a picture.

use crate::text::{first_stages, is_further};
use crate::units::{nice_step, seconds};
use crate::{Span, Timeline};
use schedule::{Action, Op, ShardOp};
use std::fmt::{self, Write};

const WIDTH: f64 = 1160.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 64.0;
const ROW: f64 = 30.0;
const BAR: f64 = 22.0;

/// The timeline as a self-contained SVG, readable on light and on dark pages: a row per rank, a bar per compute action
/// (colour: what it does, darker for a rank's further stages; number: the microbatch, where it fits; tooltip: label and
/// times), a thin bar below the sender's row for each message on its way, a time axis and a legend.
pub fn svg(timeline: &Timeline, title: &str) -> String {
    svg_until(timeline, title, timeline.makespan_s())
}

/// Like [`svg`], with a time axis that reaches to `until_s` seconds, so that several timelines can be compared one above
/// the other. An end before that of the timeline is taken for the timeline's.
pub fn svg_until(timeline: &Timeline, title: &str, until_s: f64) -> String {
    let mut page = String::new();
    write(&mut page, timeline, title, until_s.max(timeline.makespan_s())).expect("invariant: writing to a string");
    page
}

fn write(page: &mut String, timeline: &Timeline, title: &str, until_s: f64) -> fmt::Result {
    let bottom = TOP + ROW * timeline.n_ranks as f64;
    let height = bottom + 34.0;
    let x = |at_s: f64| LEFT + if until_s > 0.0 { at_s / until_s * (WIDTH - LEFT - RIGHT) } else { 0.0 };
    writeln!(
        page,
        r#"<svg xmlns="http://www.w3.org/2000/svg" class="gantt" data-until="{until_s}" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="12">"#
    )?;
    page.push_str(STYLE);
    writeln!(
        page,
        r#"<text class="ink" x="{LEFT}" y="20" font-size="15" font-weight="600">{}</text>"#,
        escaped(title)
    )?;
    legend(page, timeline)?;

    let step_s = nice_step((until_s / 10.0).max(1e-9));
    for tick in 0..=(until_s / step_s) as usize {
        let at_s = tick as f64 * step_s;
        let (at, below) = (x(at_s), bottom + 16.0);
        writeln!(page, r#"<path class="grid" d="M{at:.1} {TOP}V{bottom}"/>"#)?;
        writeln!(
            page,
            r#"<text class="faint tick" x="{at:.1}" y="{below}" text-anchor="middle">{}</text>"#,
            seconds(at_s, until_s, step_s)
        )?;
    }
    for rank in 0..timeline.n_ranks {
        let (y, at) = (TOP + ROW * rank as f64 + 17.0, LEFT - 10.0);
        writeln!(page, r#"<text class="ink" x="{at}" y="{y}" text-anchor="end">rank {rank}</text>"#)?;
    }
    let first_stages = first_stages(timeline);
    for span in timeline.spans.iter().filter(|span| span.end_s > span.start_s) {
        let Some(kind) = Kind::of(span.action) else { continue };
        let y = TOP + ROW * span.rank.0 as f64 + if kind == Kind::Message { BAR + 3.0 } else { 2.0 };
        let shade = if kind != Kind::Message && is_further(span, &first_stages) { " further" } else { "" };
        bar(page, span, kind, shade, (x(span.start_s), x(span.end_s)), y, until_s)?;
    }
    writeln!(page, "</svg>")
}

fn bar(
    page: &mut String,
    span: &Span,
    kind: Kind,
    shade: &str,
    (x, end): (f64, f64),
    y: f64,
    makespan_s: f64,
) -> fmt::Result {
    let (width, height) = ((end - x).max(0.3), if kind == Kind::Message { 3.0 } else { BAR });
    // Three digits of the whole are what a reader compares bars by.
    let time = |time_s: f64| seconds(time_s, makespan_s, makespan_s / 1e3);
    let (class, label) = (kind.class(), escaped(&span.label()));
    let (from, to, length) = (time(span.start_s), time(span.end_s), time(span.end_s - span.start_s));
    write!(
        page,
        r#"<g><title>{label}: {from} to {to} ({length})</title><rect class="{class}{shade}" x="{x:.2}" y="{y}" width="{width:.2}" height="{height}"/>"#
    )?;
    let microbatch = match span.action {
        Action::Visit { key, .. } if kind != Kind::Message => Some(key.microbatch),
        Action::Shard { microbatch, .. } => Some(microbatch),
        Action::Visit { .. } | Action::Stage { .. } => None,
    };
    if let Some(microbatch) = microbatch {
        let microbatch = microbatch.to_string();
        if width >= 7.0 * microbatch.len() as f64 + 3.0 {
            let (at, base) = (x + width / 2.0, y + 15.0);
            write!(page, r#"<text class="on{shade}" x="{at:.2}" y="{base}" text-anchor="middle">{microbatch}</text>"#)?;
        }
    }
    writeln!(page, "</g>")
}

fn legend(page: &mut String, timeline: &Timeline) -> fmt::Result {
    let mut x = LEFT;
    for kind in Kind::ALL {
        let is_kind = |span: &Span| span.end_s > span.start_s && Kind::of(span.action) == Some(kind);
        if !timeline.spans.iter().any(is_kind) {
            continue;
        }
        let (class, name) = (kind.class(), kind.name());
        let (y, height) = if kind == Kind::Message { (40.5, 3.0) } else { (36.0, 12.0) };
        let at = x + 18.0;
        writeln!(page, r#"<rect class="{class}" x="{x}" y="{y}" width="12" height="{height}"/>"#)?;
        writeln!(page, r#"<text class="ink" x="{at}" y="46">{name}</text>"#)?;
        x += 38.0 + 6.6 * name.len() as f64;
    }
    let first_stages = first_stages(timeline);
    if timeline.spans.iter().any(|span| is_further(span, &first_stages)) {
        writeln!(page, r#"<text class="faint" x="{x}" y="46">darker: a further stage of the rank</text>"#)?;
    }
    Ok(())
}

/// What is told apart by colour.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Forward,
    Backward,
    BackwardInput,
    BackwardWeight,
    Recompute,
    VocabularyForward,
    VocabularyBackward,
    Embedding,
    Other,
    Message,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Forward,
        Kind::Backward,
        Kind::BackwardInput,
        Kind::BackwardWeight,
        Kind::Recompute,
        Kind::VocabularyForward,
        Kind::VocabularyBackward,
        Kind::Embedding,
        Kind::Other,
        Kind::Message,
    ];

    /// `None` for a receive, which is waiting.
    fn of(action: Action) -> Option<Self> {
        let op = match action {
            Action::Visit { op, .. } => op,
            Action::Shard { op, .. } => {
                return Some(match op {
                    ShardOp::VocabForward => Kind::VocabularyForward,
                    ShardOp::VocabBackward => Kind::VocabularyBackward,
                    ShardOp::EmbedForward | ShardOp::EmbedBackward => Kind::Embedding,
                });
            }
            Action::Stage { .. } => return Some(Kind::Other),
        };
        Some(match op {
            Op::Forward | Op::ForwardNoGrad => Kind::Forward,
            Op::Backward => Kind::Backward,
            Op::BackwardInput => Kind::BackwardInput,
            Op::BackwardWeight => Kind::BackwardWeight,
            Op::Recompute => Kind::Recompute,
            Op::SendActivation | Op::SendGradient => Kind::Message,
            Op::RecvActivation | Op::RecvGradient => return None,
        })
    }

    fn class(self) -> &'static str {
        match self {
            Kind::Forward => "f",
            Kind::Backward => "b",
            Kind::BackwardInput => "i",
            Kind::BackwardWeight => "w",
            Kind::Recompute => "r",
            Kind::VocabularyForward => "s",
            Kind::VocabularyBackward => "t",
            Kind::Embedding => "e",
            Kind::Other => "o",
            Kind::Message => "m",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Forward => "forward",
            Kind::Backward => "backward",
            Kind::BackwardInput => "backward of the input",
            Kind::BackwardWeight => "backward of the weights",
            Kind::Recompute => "recompute",
            Kind::VocabularyForward => "vocabulary forward",
            Kind::VocabularyBackward => "vocabulary backward",
            Kind::Embedding => "embedding shard",
            Kind::Other => "optimizer and other",
            Kind::Message => "message on its way",
        }
    }
}

/// Okabe and Ito's colours, which people with any colour vision tell apart; text follows the page's theme.
const STYLE: &str = "<style>
.gantt { --ink: #24292f; --faint: #6e7781; --grid: #d0d7de; }
@media (prefers-color-scheme: dark) { .gantt { --ink: #e6edf3; --faint: #8b949e; --grid: #30363d; } }
.gantt .ink { fill: var(--ink); }
.gantt .faint { fill: var(--faint); }
.gantt .grid { stroke: var(--grid); }
.gantt .on { fill: #000; font-size: 11px; }
.gantt .f { fill: #56b4e9; }
.gantt .b { fill: #e69f00; }
.gantt .i { fill: #f0c040; }
.gantt .w { fill: #2fb58c; }
.gantt .r { fill: #cc79a7; }
.gantt .s { fill: #b9c6ff; }
.gantt .t { fill: #8f9bff; }
.gantt .e { fill: #d5b8e8; }
.gantt .f.further { fill: #0a6aa8; }
.gantt .b.further { fill: #a05c00; }
.gantt .i.further { fill: #8a6a00; }
.gantt .w.further { fill: #0b6b4e; }
.gantt .r.further { fill: #8f3f6b; }
.gantt .on.further { fill: #fff; }
.gantt .o { fill: #999; }
.gantt .m { fill: #d55e00; }
</style>
";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
