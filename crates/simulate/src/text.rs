//! A timeline for the terminal.

use crate::units::{nice_step, seconds};
use crate::{Span, Timeline};
use mesh::Rank;
use schedule::{Action, Op};
use std::fmt::Write;

/// The timeline as text, a row per rank, at most `width` columns wide (at least 40 are used): each action begins with
/// its letter and microbatch as far as there is room and is filled up with its own pattern; blanks are idle time. Below
/// are a time axis and a legend. Sends and receives are not shown.
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
    for (rank, label) in labels.iter().enumerate() {
        let mut row = vec![' '; n_columns];
        for span in timeline.rank(Rank(rank)).filter(|span| is_shown(span)) {
            let (letter, fill, name) = look(span.action);
            let (start, end) = (column(span.start_s), column(span.end_s));
            draw(&mut row, start, end, letter, fill, span.action);
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
    let legend: Vec<String> = legend.into_iter().map(|(letter, fill, name)| format!("{letter}{fill} {name}")).collect();
    writeln!(page, "{:margin$} {}", "", legend.join("   ")).expect("invariant: writing to a string");
    page
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
    let Action::Visit { key, .. } = action else { return };
    let microbatch: Vec<char> = key.microbatch.to_string().chars().collect();
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
            _ => ('V', '-', "vocabulary"),
        },
        Action::Stage { .. } => ('O', '.', "optimizer, reductions"),
    }
}
