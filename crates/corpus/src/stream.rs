//! Text piece by piece as ids arrive, never cutting a character.

use crate::{Result, Tokenizer};

/// Ids after which held-back bytes are given out as `U+FFFD`: no character of UTF-8 has more bytes.
const HELD_MAX: usize = 4;

/// Decodes ids one at a time. A piece ends at a character's end; bytes of an unfinished character wait for the next id.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The ids of the last piece, as context for what follows, then those held back.
    ids: Vec<u32>,
    /// How many of `ids` are context.
    context: usize,
}

impl<'a> TextStream<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer) -> TextStream<'a> {
        TextStream { tokenizer, ids: Vec::new(), context: 0 }
    }

    /// The text that `id` completes; empty while a character is unfinished and for special tokens.
    ///
    /// Four ids that complete no character are given out as `U+FFFD`.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        if text.ends_with('\u{fffd}') && self.ids.len() - self.context < HELD_MAX {
            return Ok(String::new());
        }
        self.give_out(&text)
    }

    /// What is still held back, unfinished characters as `U+FFFD`. The stream can then start anew.
    ///
    /// # Errors
    /// None in practice: every id was decoded before.
    pub fn finish(&mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        let piece = self.give_out(&text);
        self.ids.clear();
        self.context = 0;
        piece
    }

    fn give_out(&mut self, text: &str) -> Result<String> {
        // Decoded with its context, because some tokenizers drop the space that a text starts with.
        let context = self.tokenizer.decode(&self.ids[..self.context])?;
        let piece = text.strip_prefix(&context).unwrap_or_default().to_owned();
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        Ok(piece)
    }
}
