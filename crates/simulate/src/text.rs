//! A timeline for the terminal.

use crate::units::{nice_step, seconds};
use crate::{Span, Timeline};
use mesh::{Rank, Stage};
use schedule::{Action, Op, ShardOp};
use std::fmt::Write;

/// The timeline as text, a row per rank, at most `width` columns wide (at least 40 are used): each action begins with
/// its letter and microbatch as far as there is room and is filled up with its own pattern; blanks are idle time. The
/// letters of a rank's further stages are lower-case. Below are a time axis and a legend. Sends and receives are not
/// shown.
///
/// ```text
/// rank 0 │F0 F1 F2 F3       B0════B1════
/// ```
pub fn text(timeline: &Timeline, width: usize) -> String {
    let makespan_s = timeline.makespan_s();
    if makespan_s <= 0.0 {
        return "nothing was played\n".to_owned();
    }
    let labels: Vec<String> = (0..timeline.n_ranks).map(|rank| format!("rank {rank} ")).collect();
    let margin = labels.iter().map(String::len).max().unwrap_or(0);
    let n_columns = width.max(40) - margin - 1;
    let column = |at_s: f64| ((at_s / makespan_s * n_columns as f64).round() as usize).min(n_columns);

    let mut page = String::new();
    let mut legend: Vec<(char, char, &str)> = Vec::new();
    let first_stages = first_stages(timeline);
    let mut has_further = false;
    for (rank, label) in labels.iter().enumerate() {
        let mut row = vec![' '; n_columns];
        for span in timeline.rank(Rank(rank)).filter(|span| is_shown(span)) {
            let (letter, fill, name) = look(span.action);
            let (start, end) = (column(span.start_s), column(span.end_s));
            let is_further = is_further(span, &first_stages);
            has_further |= is_further;
            let shown = if is_further { letter.to_ascii_lowercase() } else { letter };
            draw(&mut row, start, end, shown, fill, span.action);
            if !legend.contains(&(letter, fill, name)) {
                legend.push((letter, fill, name));
            }
        }
        let row: String = row.into_iter().collect();
        writeln!(page, "{label:margin$}│{}", row.trim_end()).expect("invariant: writing to a string");
    }

    let step_s = nice_step(makespan_s / (n_columns as f64 / 14.0));
    let (mut axis, mut numbers) = (vec!['─'; n_columns], vec![' '; n_columns]);
    for tick in 0..=(makespan_s / step_s) as usize {
        let at = column(tick as f64 * step_s);
        let number: Vec<char> = seconds(tick as f64 * step_s, makespan_s, step_s).chars().collect();
        if at + number.len() <= n_columns {
            axis[at] = '┴';
            numbers[at..at + number.len()].copy_from_slice(&number);
        }
    }
    let line = |chars: Vec<char>| chars.into_iter().collect::<String>();
    let numbers = line(numbers);
    writeln!(page, "{:margin$}└{}\n{:margin$} {}", "", line(axis), "", numbers.trim_end())
        .expect("invariant: writing to a string");
    legend.sort();
    let mut legend: Vec<String> =
        legend.into_iter().map(|(letter, fill, name)| format!("{letter}{fill} {name}")).collect();
    legend.extend(has_further.then(|| "lower case: a further stage of the rank".to_owned()));
    let mut line = format!("{:margin$} {}", "", legend[0]);
    for entry in &legend[1..] {
        if line.chars().count() + 3 + entry.chars().count() > width.max(40) {
            writeln!(page, "{line}").expect("invariant: writing to a string");
            line = format!("{:margin$} {entry}", "");
        } else {
            line += &format!("   {entry}");
        }
    }
    writeln!(page, "{line}").expect("invariant: writing to a string");
    page
}

/// For each rank the first of the stages that it visits.
pub(crate) fn first_stages(timeline: &Timeline) -> Vec<Option<Stage>> {
    let mut first: Vec<Option<Stage>> = vec![None; timeline.n_ranks];
    for span in timeline.spans.iter().filter(|span| matches!(span.action, Action::Visit { .. })) {
        let first = &mut first[span.rank.0];
        *first = Some(first.map_or(span.stage, |first| first.min(span.stage)));
    }
    first
}

/// Whether a span is a visit to another stage than its rank's first.
pub(crate) fn is_further(span: &Span, first_stages: &[Option<Stage>]) -> bool {
    matches!(span.action, Action::Visit { .. }) && first_stages[span.rank.0] != Some(span.stage)
}

/// Letter and microbatch where they fit, then the pattern. What is narrower than a column shows in a free one.
fn draw(row: &mut [char], start: usize, end: usize, letter: char, fill: char, action: Action) {
    if start >= end {
        if let Some(cell) = row.get_mut(start).filter(|cell| **cell == ' ') {
            *cell = letter;
        }
        return;
    }
    row[start..end].fill(fill);
    row[start] = letter;
    let microbatch = match action {
        Action::Visit { key, .. } => key.microbatch,
        Action::Shard { microbatch, .. } => microbatch,
        Action::Stage { .. } => return,
    };
    let microbatch: Vec<char> = microbatch.to_string().chars().collect();
    if microbatch.len() < end - start {
        row[start + 1..start + 1 + microbatch.len()].copy_from_slice(&microbatch);
    }
}

fn is_shown(span: &Span) -> bool {
    !matches!(span.action, Action::Visit { op, .. } if !op.is_compute()) && span.end_s > span.start_s
}

fn look(action: Action) -> (char, char, &'static str) {
    match action {
        Action::Visit { op, .. } => match op {
            Op::Forward | Op::ForwardNoGrad => ('F', '─', "forward"),
            Op::Backward => ('B', '═', "backward"),
            Op::BackwardInput => ('I', '═', "backward, input"),
            Op::BackwardWeight => ('W', '~', "backward, weights"),
            Op::Recompute => ('R', '-', "recompute"),
            Op::SendActivation | Op::SendGradient | Op::RecvActivation | Op::RecvGradient => ('M', ' ', "message"),
        },
        Action::Shard { op: ShardOp::VocabForward, .. } => ('S', '-', "vocabulary forward"),
        Action::Shard { op: ShardOp::VocabBackward, .. } => ('T', '-', "vocabulary backward"),
        Action::Shard { op: ShardOp::EmbedForward, .. } => ('E', '-', "embedding forward"),
        Action::Shard { op: ShardOp::EmbedBackward, .. } => ('G', '-', "embedding backward"),
        Action::Stage { .. } => ('O', '.', "optimizer, reductions"),
    }
}
