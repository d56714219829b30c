//! Strings at which a text ends.

use crate::{Result, ServeError};

/// Text on its way out: what may be the beginning of a stop string is held back until that is decided.
#[derive(Debug)]
pub(crate) struct StopStrings<'a> {
    strings: &'a [String],
    held: String,
}

/// What a piece of text lets out.
#[derive(Debug, PartialEq)]
pub(crate) struct Released<'a> {
    /// Text of which no part belongs to a stop string.
    pub(crate) text: String,
    /// The stop string that followed it.
    pub(crate) stop: Option<&'a str>,
}

impl<'a> StopStrings<'a> {
    /// # Errors
    /// An empty string.
    pub(crate) fn new(strings: &'a [String]) -> Result<Self> {
        match strings.iter().any(String::is_empty) {
            true => Err(ServeError::EmptyStopString),
            false => Ok(Self { strings, held: String::new() }),
        }
    }

    /// Adds `piece`. The stop is the one that is complete first, reading character by character; of several that end
    /// together, the longest. So it does not matter how a text is cut into pieces.
    pub(crate) fn push(&mut self, piece: &str) -> Released<'a> {
        self.held.push_str(piece);
        let found = self.strings.iter().filter_map(|stop| self.held.find(stop.as_str()).map(|start| (start, stop)));
        if let Some((start, stop)) = found.min_by_key(|(start, stop)| (start + stop.len(), *start)) {
            self.held.truncate(start);
            return Released { text: std::mem::take(&mut self.held), stop: Some(stop) };
        }
        let may_begin = |start: &usize| self.strings.iter().any(|stop| stop.starts_with(&self.held[*start..]));
        let mut starts = self.held.char_indices().map(|(start, _)| start);
        let safe = starts.find(may_begin).unwrap_or(self.held.len());
        let held = self.held.split_off(safe);
        Released { text: std::mem::replace(&mut self.held, held), stop: None }
    }

    /// What was held back: no stop string follows any more.
    pub(crate) fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out for `text` cut into `pieces`, and the stop.
    fn released(strings: &[String], pieces: &[&str]) -> (String, Option<String>) {
        let mut stops = StopStrings::new(strings).unwrap();
        let mut out = String::new();
        for piece in pieces {
            let Released { text, stop } = stops.push(piece);
            out.push_str(&text);
            if let Some(stop) = stop {
                return (out, Some(stop.to_owned()));
            }
        }
        (out + &stops.finish(), None)
    }

    /// By definition: the shortest beginning of the text that ends with a stop string, without the longest such one.
    fn expected(strings: &[String], text: &str) -> (String, Option<String>) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let ending = strings.iter().filter(|stop| text[..end].ends_with(stop.as_str()));
            if let Some(stop) = ending.max_by_key(|stop| stop.len()) {
                return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
            }
        }
        (text.to_owned(), None)
    }

    #[test]
    fn every_text_in_every_cut_ends_where_it_should() {
        let sets: [&[&str]; 6] = [&[], &["é"], &["ab", "ba"], &["aab"], &["abé", "b"], &["abab", "bé", "ééé"]];
        for strings in sets {
            let strings: Vec<String> = strings.iter().map(|&stop| stop.to_owned()).collect();
            for n in 0..3usize.pow(6) {
                let letters: Vec<&str> = (0..6).map(|i| ["a", "b", "é"][n / 3usize.pow(i) % 3]).collect();
                let wanted = expected(&strings, &letters.concat());
                for cuts in 0..1u32 << 5 {
                    let mut pieces = vec![letters[0].to_owned()];
                    for (i, letter) in letters[1..].iter().enumerate() {
                        match cuts >> i & 1 {
                            0 => pieces.last_mut().unwrap().push_str(letter),
                            _ => pieces.push((*letter).to_owned()),
                        }
                    }
                    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                    assert_eq!(released(&strings, &pieces), wanted, "{pieces:?}, stops {strings:?}");
                }
            }
        }
    }

    #[test]
    fn only_a_possible_beginning_is_held_back() {
        let strings = ["stop".to_owned(), "toe".to_owned()];
        let mut stops = StopStrings::new(&strings).unwrap();
        for (piece, wanted) in [("a st", "a "), ("o", ""), ("t", "sto"), ("x st", "tx "), ("oe", "s")] {
            assert_eq!(stops.push(piece).text, wanted, "after {piece}");
        }
        assert!(matches!(StopStrings::new(&[String::new()]), Err(ServeError::EmptyStopString)));
    }
}
