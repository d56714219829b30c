//! Everything that is wrong with a file, told at once.

use super::Place;
use std::fmt;

/// One thing that is wrong: where, what was found, what was wanted, the way out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    place: Place,
    text: String,
}

impl Problem {
    /// A problem at `place` in a sentence.
    pub fn new(place: Place, text: String) -> Self {
        Self { place, text }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// All problems of one input, in the order of their places.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", joined(.what, .problems))]
pub struct Problems {
    what: &'static str,
    problems: Vec<Problem>,
}

impl Problems {
    /// The problems of `what` ("the run file"); sorted, each once.
    pub fn new(what: &'static str, mut problems: Vec<Problem>) -> Self {
        problems.sort();
        problems.dedup();
        Self { what, problems }
    }
}

fn joined(what: &str, problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    format!("{what} cannot be used: {count}{}", lines.concat())
}

/// The candidate that `word` was most likely meant to be: at most a third of its letters differ, or it begins so.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let far = word.chars().count().div_ceil(3);
    let near = candidates.clone().map(|candidate| (edits(word, candidate), candidate));
    let near = near.filter(|&(distance, _)| distance <= far).min().map(|(_, candidate)| candidate);
    near.or_else(|| candidates.clone().find(|candidate| word.len() > 2 && candidate.starts_with(word)))
}

/// Levenshtein's distance, in letters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..b.len() {
            let replaced = diagonal + usize::from(letter != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, distance) in [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("steps", "steps", 0)] {
            assert_eq!(edits(a, b), distance, "{a} {b}");
            assert_eq!(edits(b, a), distance, "{b} {a}");
        }
        let words = ["seed", "steps", "stages", "microbatches"];
        for (word, meant) in
            [("stesp", Some("steps")), ("micro", Some("microbatches")), ("learning", None), ("x", None)]
        {
            assert_eq!(nearest(word, words.into_iter()), meant, "{word}");
        }
    }
}
