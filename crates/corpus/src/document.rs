//! A document: the unit that is split, hashed and ended by the end-of-text token; and plain text cut into documents.

use crate::input::Input;
use crate::{CorpusError, Result};
use std::io::Read;

/// Plain text is cut at the first blank line after this many bytes.
///
/// 8 KiB leaves 140 documents in 1.1 MB, so that 5 % of them are a few and not one, and a training row of 512 tokens
/// (about 2 KB) still meets a border only in every fourth row.
pub(crate) const DOCUMENT_BYTES: usize = 8 * 1024;

/// Text without blank lines is cut at a line end, or failing that anywhere, before this many bytes.
const DOCUMENT_BYTES_MAX: usize = 2 * DOCUMENT_BYTES;

/// Bytes asked for at a time.
const READ_BYTES: usize = 1 << 16;

/// One document of the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its text, never blank.
    pub text: String,
}

/// The documents of a plain text, read as they are asked for.
///
/// A document ends after the first blank line that follows its first 8 KiB; where 16 KiB hold no such line, after the
/// last line end in them, and where they hold no line end either, at 16 KiB. Pieces that are blank are left out, and so
/// is a leading byte order mark.
pub(crate) struct PlainText {
    input: Input,
    /// Bytes that are no whole character yet.
    undecoded: Vec<u8>,
    /// Text that is not given out yet.
    text: String,
    has_ended: bool,
    /// Bytes and line ends decoded so far.
    n_decoded: u64,
    n_lines: usize,
}

impl PlainText {
    pub fn new(input: Input) -> PlainText {
        let (undecoded, text) = (Vec::new(), String::new());
        PlainText { input, undecoded, text, has_ended: false, n_decoded: 0, n_lines: 0 }
    }

    /// The next document; `None` after the last.
    pub fn next_document(&mut self) -> Result<Option<Document>> {
        loop {
            while !self.has_ended && self.text.len() <= DOCUMENT_BYTES_MAX {
                self.fill()?;
            }
            if self.text.is_empty() {
                return Ok(None);
            }
            let end = if self.text.len() > DOCUMENT_BYTES { piece_end(&self.text) } else { self.text.len() };
            let piece: String = self.text.drain(..end).collect();
            if !piece.trim().is_empty() {
                return Ok(Some(Document { text: piece }));
            }
        }
    }

    fn fill(&mut self) -> Result<()> {
        let kept = self.undecoded.len();
        self.undecoded.resize(kept + READ_BYTES, 0);
        let n = self.input.read(&mut self.undecoded[kept..]).map_err(|error| self.input.fault(error))?;
        self.undecoded.truncate(kept + n);
        self.has_ended = n == 0;
        let valid = match std::str::from_utf8(&self.undecoded) {
            Ok(text) => text.len(),
            // A character may go on in what is read next.
            Err(error) if error.error_len().is_none() && !self.has_ended => error.valid_up_to(),
            Err(error) => {
                let good = &self.undecoded[..error.valid_up_to()];
                return Err(CorpusError::NotUtf8 {
                    path: self.input.path().to_owned(),
                    offset: self.n_decoded + good.len() as u64,
                    line: 1 + self.n_lines + count_lines(good),
                });
            }
        };
        let rest = self.undecoded.split_off(valid);
        let decoded = std::mem::replace(&mut self.undecoded, rest);
        self.n_lines += count_lines(&decoded);
        let text = str::from_utf8(&decoded).expect("invariant: validated above");
        let text = if self.n_decoded == 0 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        self.text.push_str(text);
        self.n_decoded += decoded.len() as u64;
        Ok(())
    }
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

fn piece_end(text: &str) -> usize {
    let window = &text[..text.floor_char_boundary(DOCUMENT_BYTES_MAX)];
    let mut line_end = None;
    let mut at = 0;
    for line in window.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        at += line.len();
        if at >= DOCUMENT_BYTES && line.trim().is_empty() {
            return at;
        }
        line_end = Some(at);
    }
    line_end.unwrap_or(window.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Compression;

    fn cut(text: &str) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut plain = PlainText::new(Input::open(file.path(), Compression::None).unwrap());
        std::iter::from_fn(|| plain.next_document().unwrap()).map(|document| document.text).collect()
    }

    #[test]
    fn cuts_at_blank_lines_then_line_ends_then_anywhere() {
        let paragraph = format!("{}\n\n", "word ".repeat(60).trim_end());
        let crlf = format!("{}\r\n\r\n", "x".repeat(97));
        let cases: [(&str, String, usize); 8] = [
            ("empty", String::new(), 0),
            ("blank", " \n\n\t\n".repeat(50_000), 0),
            ("small", "a\n\nb\n".to_owned(), 1),
            ("paragraphs", paragraph.repeat(100), 4), // 301 bytes: cuts after 28, 56 and 84 paragraphs
            ("carriage returns", crlf.repeat(200), 3), // 101 bytes: cuts after 82 and 164 paragraphs
            ("lines", "a line of text\n".repeat(2500), 3), // 15 bytes: cuts every 1092 lines
            ("one long line", "é".repeat(20_000), 3), // 2 bytes each: cuts every 16,384
            ("longer than a read", "é".repeat(400_000), 49),
        ];
        for (name, text, wanted) in cases {
            let pieces = cut(&text);
            assert_eq!(pieces.len(), wanted, "{name}");
            if wanted > 0 {
                assert_eq!(pieces.concat(), text, "{name}");
            }
            for piece in pieces.iter().rev().skip(1) {
                assert!((DOCUMENT_BYTES..=DOCUMENT_BYTES_MAX).contains(&piece.len()), "{name}: {}", piece.len());
            }
        }
    }

    #[test]
    fn blank_stretches_are_no_documents() {
        let text = format!("{}\n{}b", "a".repeat(DOCUMENT_BYTES), "\n".repeat(100_000));
        let pieces: Vec<String> = cut(&text).iter().map(|piece| piece.trim().to_owned()).collect();
        assert_eq!(pieces, ["a".repeat(DOCUMENT_BYTES), "b".to_owned()]);
    }

    #[test]
    fn a_blank_line_is_preferred_to_a_later_line_end() {
        let text = format!("{}\n\n{}\n{}", "a".repeat(DOCUMENT_BYTES), "b".repeat(100), "c".repeat(DOCUMENT_BYTES));
        assert_eq!(cut(&text)[0].len(), DOCUMENT_BYTES + 2);
    }
}
