//! The commands, a file each.

pub mod bench;
mod chat;
pub mod completions;
pub mod convert;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod layout;
pub mod man;
pub mod plan;
pub mod presets;
pub mod report;
pub mod schedules;
mod setting;
pub mod simulate;
mod table;
pub mod tokenizer;
pub mod train;
pub mod weights;

use clap::builder::RangedU64ValueParser;
use std::io::{IsTerminal, Write};
use std::ops::RangeInclusive;

/// What can be asked for.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Train a model, or fine-tune one; without a run file, the preset `default`.
    Train(train::Args),
    /// Write a model folder anew: another number format, other files, a tied or untied head.
    Convert(convert::Args),
    /// Continue a text.
    Generate(generate::Args),
    /// Measure loss, perplexity and bits per byte on texts, with confidence intervals, or write logits.
    Eval(eval::Args),
    /// Find the best layout of a training on given machines: time, memory, what binds.
    Plan(Box<plan::Args>),
    /// Show how the weights of any model are cut for tensor parallelism, from their names and shapes.
    Layout(layout::Args),
    /// List the pipeline schedules with their step time, bubble, memory and messages, best first.
    Schedules(schedules::Args),
    /// Play a schedule with given costs and show where the time goes.
    Simulate(simulate::Args),
    /// Train a tokenizer, turn text into ids and back, or look at one.
    Tokenizer(tokenizer::Args),
    /// Write a run's report.html and trace.json again, or compare several runs.
    Report(report::Args),
    /// List the run files that come with the program, or print one.
    Presets(presets::Args),
    /// Show what this machine and this build offer.
    Doctor(doctor::Args),
    /// Measure what the machine can do, and how much of it training and generation reach.
    Bench(bench::Args),
    /// Print a script that completes commands and options in your shell.
    Completions(completions::Args),
    /// Print the manual page, or write a page for every command.
    Man(man::Args),
}

/// Writes to standard output. A reader that closed it early (`| head`) is no failure.
pub fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// A model's text for a terminal: control characters, which an untrained model writes and a terminal obeys, become
/// `U+FFFD`. Elsewhere the text is as it is.
pub fn harmless(text: &str) -> String {
    if !std::io::stdout().is_terminal() {
        return text.to_owned();
    }
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.chars().map(|c| if obeyed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Text of files in sentences of ours: control characters, with which a file could write over what a terminal shows, are
/// escaped (`\u{1b}`), all but line breaks and tabs.
pub fn visible(text: &str) -> String {
    escaped(text, |c| c.is_control() && !matches!(c, '\n' | '\t'))
}

/// A name of a file's within a line: every control character is escaped.
pub fn visible_in_line(text: &str) -> String {
    escaped(text, char::is_control)
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        if is_escaped(c) { visible.extend(c.escape_default()) } else { visible.push(c) }
    }
    visible
}

/// Says something beside the result, to standard error.
#[expect(clippy::print_stderr, reason = "a remark is not the command's output")]
pub fn note(text: &str) {
    eprintln!("note: {}", visible(text));
}

/// What an option takes that says how much there is of something: beyond the limits of a size, other sizes are products
/// that no machine holds and 64 bits do not either.
pub fn size(range: RangeInclusive<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        for (text, shown, in_line) in [
            ("plain \u{fc}\u{1f980}", "plain \u{fc}\u{1f980}", "plain \u{fc}\u{1f980}"),
            ("a\u{1b}[2Jb\u{7}\u{9b}", "a\\u{1b}[2Jb\\u{7}\\u{9b}", "a\\u{1b}[2Jb\\u{7}\\u{9b}"),
            ("one\n\ttwo\r", "one\n\ttwo\\r", "one\\n\\ttwo\\r"),
        ] {
            assert_eq!((visible(text).as_str(), visible_in_line(text).as_str()), (shown, in_line));
        }
    }
}
