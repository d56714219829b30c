//! Drawn tokens on their way to the reader.

use crate::Result;
use crate::stop_strings::{Released, StopStrings};
use corpus::{TextStream, Tokenizer};

/// Turns ids into text piece by piece, up to a stop string.
pub(crate) struct Writer<'a, F> {
    vocab_size: usize,
    stream: TextStream<'a>,
    stops: StopStrings<'a>,
    stopped: Option<&'a str>,
    on_text: F,
    text: String,
}

impl<'a, F: FnMut(&str)> Writer<'a, F> {
    /// # Errors
    /// An empty stop string.
    pub(crate) fn new(tokenizer: &'a Tokenizer, prompt: &[u32], stop: &'a [String], on_text: F) -> Result<Self> {
        let stops = StopStrings::new(stop)?;
        let vocab_size = tokenizer.vocab_size();
        let mut writer =
            Self { vocab_size, stream: tokenizer.stream(), stops, stopped: None, on_text, text: String::new() };
        // What the prompt ends with decides whether the next token begins with a space or completes a character.
        prompt.iter().try_for_each(|&id| writer.decode(id).map(drop))?;
        Ok(writer)
    }

    /// Writes what `id` completes, and tells the stop string that it completes.
    pub(crate) fn push(&mut self, id: u32) -> Result<Option<String>> {
        let piece = self.decode(id)?;
        Ok(self.write(&piece))
    }

    /// Writes what was held back: the whole text, and the stop string that ended it.
    pub(crate) fn finish(mut self) -> Result<(String, Option<String>)> {
        if self.stopped.is_none() {
            let piece = self.stream.finish()?;
            self.write(&piece);
        }
        if self.stopped.is_none() {
            let held = self.stops.finish();
            emit(&held, &mut self.text, &mut self.on_text);
        }
        Ok((self.text, self.stopped.map(str::to_owned)))
    }

    /// Models may have more ids than their tokenizer, to round their number up; these have no text.
    fn decode(&mut self, id: u32) -> Result<String> {
        match (id as usize) < self.vocab_size {
            true => Ok(self.stream.push(id)?),
            false => Ok(String::new()),
        }
    }

    fn write(&mut self, piece: &str) -> Option<String> {
        let Released { text, stop } = self.stops.push(piece);
        emit(&text, &mut self.text, &mut self.on_text);
        self.stopped = stop;
        stop.map(str::to_owned)
    }
}

fn emit(piece: &str, text: &mut String, on_text: &mut impl FnMut(&str)) {
    if !piece.is_empty() {
        text.push_str(piece);
        on_text(piece);
    }
}
