//! The dashboard's picture.

use super::course::Course;
use super::state::State;
use crate::units::{bytes, count, percent, seconds};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, BorderType, Chart, Dataset, Gauge, GraphType, Paragraph, Wrap};

// The terminal's own colours, which its user has chosen to be readable.
const TRAINING: Color = Color::Cyan;
const VALIDATION: Color = Color::Yellow;
const SOFT: Color = Color::DarkGray;
const WARN: Color = Color::Red;

/// Draws all that there is room for.
pub fn draw(frame: &mut Frame, state: &State) {
    let area = frame.area();
    // Ranks take a line each, as long as curves keep half of the height.
    let ranks = (state.ranks.len() as u16).min(area.height / 4) + 2;
    let texts = if area.height >= 30 { 8 } else { 5 };
    let [title, progress, curves, ranks, texts, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(6),
        Constraint::Length(ranks),
        Constraint::Length(texts),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_title(frame, title, state);
    draw_progress(frame, progress, state);
    draw_curves(frame, curves, state);
    draw_ranks(frame, ranks, state);
    let [log, sample] = Layout::horizontal([Constraint::Percentage(45), Constraint::Fill(1)]).areas(texts);
    draw_log(frame, log, state);
    draw_sample(frame, sample, state);
    let help = match state.is_stopping {
        true => {
            Span::styled(" stopping after this step: the state is saved; q again ends at once", Style::new().fg(WARN))
        }
        false => Span::styled(" q or Ctrl-C: save and stop", Style::new().fg(SOFT)),
    };
    frame.render_widget(Line::from(help), keys);
}

fn draw_title(frame: &mut Frame, area: Rect, state: &State) {
    let (elapsed, left) = state.times();
    let left = left.map_or_else(String::new, |left| format!(", {} left", seconds(left.as_secs_f64().round())));
    let times = format!("{}{left} ", seconds(elapsed.as_secs_f64().round()));
    let room = Constraint::Length(times.chars().count() as u16);
    let [title, right] = Layout::horizontal([Constraint::Fill(1), room]).areas(area);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Line::styled(format!(" {}", state.title), bold), title);
    frame.render_widget(Line::from(times).right_aligned(), right);
}

fn draw_progress(frame: &mut Frame, area: Rect, state: &State) {
    let done = state.done();
    let share = if state.steps > 0 { (done as f64 / state.steps as f64).min(1.0) } else { 0.0 };
    let label = format!("step {done} of {}", state.steps);
    let gauge = Gauge::default().ratio(share).label(label).gauge_style(Style::new().fg(TRAINING)).use_unicode(true);
    frame.render_widget(gauge, area);
}

fn draw_curves(frame: &mut Frame, area: Rect, state: &State) {
    let [loss, others] = match area.width >= 90 {
        true => Layout::horizontal([Constraint::Percentage(60), Constraint::Fill(1)]).areas(area),
        false => [area, Rect::ZERO],
    };
    draw_loss(frame, loss, state);
    if others.area() == 0 {
        return;
    }
    let [speed, rate] = Layout::vertical([Constraint::Fill(1); 2]).areas(others);
    let step = state.step.as_ref();
    let peak = step.and_then(|step| step.peak_share).map(|share| format!(", {} of peak", percent(share)));
    let now = step.map(|step| count(step.tokens_per_s.round() as u64) + &peak.unwrap_or_default());
    draw_small(frame, speed, state, "tokens per second", now, &state.tokens_per_s, |y| count(y.round() as u64));
    let now = step.map(|step| format!("{:.2e}", step.learning_rate));
    draw_small(frame, rate, state, "learning rate", now, &state.learning_rate, |y| {
        if y == 0.0 { "0".to_owned() } else { format!("{y:.1e}") }
    });
}

fn draw_loss(frame: &mut Frame, area: Rect, state: &State) {
    let mut title = vec![Span::raw(" loss in nats per token ")];
    let mut entry = |name: &str, value: f64, colour: Color| {
        title.push(Span::styled(format!(" ● {name} {value:.3} "), Style::new().fg(colour)));
    };
    if let Some(step) = &state.step {
        entry("training", step.loss, TRAINING);
    }
    if let Some(validation) = &state.validated {
        entry("validation", validation.loss, VALIDATION);
    }
    let training = state.loss.smoothed(usize::from(area.width));
    let validation = state.validation.points();
    let (low, high) = range(training.iter().chain(validation).map(|point| point.1));
    let room = if high > low { 0.05 * (high - low) } else { 0.5 };
    let line = |points, colour, shape, marker| {
        Dataset::default().data(points).marker(marker).graph_type(shape).style(Style::new().fg(colour))
    };
    let curves = vec![
        line(&training, TRAINING, GraphType::Line, Marker::Braille),
        line(validation, VALIDATION, GraphType::Scatter, Marker::Dot),
    ];
    let text: fn(f64) -> String = |y| format!("{y:.2}");
    draw_chart(frame, area, state, Line::from(title), curves, (low - room, high + room, text));
}

fn draw_small(
    frame: &mut Frame,
    area: Rect,
    state: &State,
    name: &str,
    now: Option<String>,
    course: &Course,
    text: fn(f64) -> String,
) {
    let now = now.map_or_else(String::new, |now| format!(": {now}"));
    let points = course.smoothed(usize::from(area.width));
    let (_, high) = range(points.iter().map(|point| point.1));
    let curve = Dataset::default().data(&points).marker(Marker::Braille).graph_type(GraphType::Line);
    let curves = vec![curve.style(Style::new().fg(TRAINING))];
    draw_chart(frame, area, state, Line::from(format!(" {name}{now} ")), curves, (0.0, 1.05 * high, text));
}

fn draw_chart(
    frame: &mut Frame,
    area: Rect,
    state: &State,
    title: Line,
    curves: Vec<Dataset>,
    (low, high, text): (f64, f64, fn(f64) -> String),
) {
    // All of the run from its begin; of a resumed one, what this session has done.
    let (first, last) = (state.done_before as f64 + 1.0, (state.done() as f64).max(state.done_before as f64 + 2.0));
    let soft = Style::new().fg(SOFT);
    let label = |text: String| Span::styled(text, soft);
    let x = Axis::default().bounds([first, last]).style(soft);
    let y = Axis::default().bounds([low, high]).style(soft);
    let y_labels: Vec<Span> = match area.height {
        ..10 => vec![label(text(low)), label(text(high))],
        _ => vec![label(text(low)), label(text((low + high) / 2.0)), label(text(high))],
    };
    let chart = Chart::new(curves)
        .block(block(title))
        .x_axis(x.labels([label(format!("{first:.0}")), label(format!("{last:.0}"))]))
        .y_axis(y.labels(y_labels));
    frame.render_widget(chart, area);
}

/// A line per rank: idle share of the last step, and memory against the prediction.
fn draw_ranks(frame: &mut Frame, area: Rect, state: &State) {
    let title = match &state.step {
        Some(step) => format!(" ranks: idle {} of the last step ", percent(step.bubble)),
        None => " ranks ".to_owned(),
    };
    let widest = state.ranks.iter().map(|(stages, _)| stages.chars().count()).max().unwrap_or(0);
    // What a line holds besides: number, two bars' numbers, spaces.
    let spare = usize::from(area.width).saturating_sub(58);
    let (words, bar) = (widest.min(spare / 2), (spare - widest.min(spare / 2)).min(60) / 2);
    let line = |(rank, (stages, predicted)): (usize, &(String, u64))| {
        let stages: String = stages.chars().take(words).collect();
        let mut spans = vec![Span::raw(format!(" {rank:>2}  {stages:<words$}  "))];
        if let Some(part) = state.step.as_ref().and_then(|step| step.ranks.get(rank)) {
            spans.push(Span::styled("busy ", Style::new().fg(SOFT)));
            spans.extend(bar_of(1.0 - part.idle, bar, Color::Green));
            spans.push(Span::raw(format!(" {:>6}  ", percent(1.0 - part.idle))));
            spans.push(Span::styled("memory ", Style::new().fg(SOFT)));
            let share = if *predicted > 0 { part.peak_bytes as f64 / *predicted as f64 } else { 0.0 };
            spans.extend(bar_of(share, bar, if share > 1.05 { WARN } else { Color::Blue }));
            spans.push(Span::raw(format!(" {:>7} of {}", bytes(part.peak_bytes), bytes(*predicted))));
        }
        Line::from(spans)
    };
    let lines: Vec<Line> = state.ranks.iter().enumerate().map(line).collect();
    frame.render_widget(Paragraph::new(lines).block(block(title)), area);
}

fn bar_of(share: f64, width: usize, colour: Color) -> [Span<'static>; 2] {
    let full = ((share.clamp(0.0, 1.0)) * width as f64).round() as usize;
    [
        Span::styled("█".repeat(full), Style::new().fg(colour)),
        Span::styled("░".repeat(width - full), Style::new().fg(SOFT)),
    ]
}

fn draw_log(frame: &mut Frame, area: Rect, state: &State) {
    let room = usize::from(area.height.saturating_sub(2));
    let first = state.log.len().saturating_sub(room);
    let lines: Vec<Line> = state.log.range(first..).map(|text| Line::from(format!(" {text}"))).collect();
    frame.render_widget(Paragraph::new(lines).block(block(" log ")), area);
}

fn draw_sample(frame: &mut Frame, area: Rect, state: &State) {
    let (title, text) = match &state.sample {
        None => (" sample ".to_owned(), Line::styled(" none yet; sample.every asks for some", Style::new().fg(SOFT))),
        Some(sample) => {
            // A model's text on a terminal: what it obeys is not shown, and line breaks cost too much room here.
            let shown = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
            let prompt = Span::styled(shown(&sample.prompt), Style::new().add_modifier(Modifier::BOLD));
            let title = format!(" sample after step {} ", sample.step);
            (title, Line::from(vec![prompt, Span::raw(shown(&sample.text))]))
        }
    };
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }).block(block(title)), area);
}

fn block<'a>(title: impl Into<Line<'a>>) -> Block<'a> {
    Block::bordered().border_type(BorderType::Rounded).border_style(Style::new().fg(SOFT)).title(title)
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Line as MetricsLine, SampleMetrics};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use train::{RankMetrics, StepMetrics, ValidationMetrics};

    fn state(n_steps: u64, n_ranks: usize) -> State {
        let ranks = (0..n_ranks).map(|rank| (format!("stage {rank}: mlp {rank} to head"), 50_000_000)).collect();
        let mut state = State::new("runs/7: Llama, 3.11 M parameters".to_owned(), 100, 0, ranks);
        for step in 1..=n_steps {
            let metrics = StepMetrics {
                step,
                loss: 7.5 - 0.02 * step as f64,
                gradient_norm: 1.0,
                learning_rate: 1e-3,
                tokens: 512,
                step_s: 0.1,
                tokens_per_s: 5120.0,
                peak_share: Some(0.25),
                bubble: 0.125,
                loss_by_source: std::collections::BTreeMap::new(),
                ranks: vec![RankMetrics { idle: 0.25, peak_bytes: 40_000_000 }; n_ranks],
            };
            state.take(&MetricsLine::Step(metrics));
        }
        state
    }

    fn picture(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_is_there() {
        let mut state = state(50, 2);
        state.take(&MetricsLine::Validation(ValidationMetrics {
            step: 50,
            loss: 6.125,
            perplexity: 457.0,
            bits_per_byte: 2.5,
            tokens: 100,
            wall_s: 0.1,
            validation_loss_by_source: Default::default(),
        }));
        let text = "mill\u{1b}[2J turns\nround".to_owned();
        state.take(&MetricsLine::Sample(SampleMetrics { step: 50, prompt: "The ".to_owned(), text }));
        state.say("saved runs/7/checkpoints/step-00000050");
        let page = picture(&state, 120, 36);
        for part in [
            "runs/7: Llama, 3.11 M parameters",
            "step 50 of 100",
            "training 6.500",
            "validation 6.125",
            "tokens per second: 5120, 25.0 % of peak",
            "learning rate: 1.00e-3",
            "ranks: idle 12.5 % of the last step",
            "stage 1: mlp 1 to head",
            "75.0 %",
            "40.0 MB of 50.0 MB",
            "validation after step 50: loss 6.125",
            "saved runs/7/checkpoints",
            "sample after step 50",
            "The mill [2J turns round",
            "q or Ctrl-C: save and stop",
        ] {
            assert!(page.contains(part), "{part} is missing:\n{page}");
        }
        state.stop();
        assert!(picture(&state, 120, 36).contains("q again ends at once"));
    }

    #[test]
    fn any_size_will_do() {
        for n_steps in [0, 1, 2, 3000] {
            for n_ranks in [0, 1, 64] {
                let state = state(n_steps, n_ranks);
                for (width, height) in [(1, 1), (10, 3), (40, 12), (80, 24), (300, 100)] {
                    picture(&state, width, height);
                }
            }
        }
    }
}
