//! The documents of JSON Lines: one per line.

use crate::input::Input;
use crate::{CorpusError, Document, Result};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};

/// Longest line: it is held in memory as a whole, and a damaged or hostile file may have no line end.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// Lines with an object each, whose `field` is a document; blank lines and documents are left out.
pub(crate) struct JsonLines {
    input: BufReader<Input>,
    field: String,
    line: Vec<u8>,
    /// Lines read.
    n_lines: usize,
    /// Bytes before the present line.
    offset: u64,
}

impl JsonLines {
    pub fn new(input: Input, field: &str) -> JsonLines {
        let input = BufReader::with_capacity(1 << 16, input);
        JsonLines { input, field: field.to_owned(), line: Vec::new(), n_lines: 0, offset: 0 }
    }

    /// The next document; `None` after the last.
    pub fn next_document(&mut self) -> Result<Option<Document>> {
        loop {
            self.offset += self.line.len() as u64;
            self.line.clear();
            let read = (&mut self.input).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut self.line);
            read.map_err(|error| self.input.get_ref().fault(error))?;
            if self.line.is_empty() {
                return Ok(None);
            }
            self.n_lines += 1;
            let (path, line) = (|| self.input.get_ref().path().to_owned(), self.n_lines);
            if self.line.len() as u64 > LINE_BYTES_MAX {
                return Err(CorpusError::LineTooLong { path: path(), line, most: LINE_BYTES_MAX });
            }
            let json = std::str::from_utf8(&self.line).map_err(|error| CorpusError::NotUtf8 {
                path: path(),
                offset: self.offset + error.valid_up_to() as u64,
                line,
            })?;
            let json = if line == 1 { json.strip_prefix('\u{feff}').unwrap_or(json) } else { json };
            if json.trim().is_empty() {
                continue;
            }
            let text = self.text(json)?;
            if !text.trim().is_empty() {
                return Ok(Some(Document { text }));
            }
        }
    }

    fn text(&self, json: &str) -> Result<String> {
        let (path, line) = (|| self.input.get_ref().path().to_owned(), self.n_lines);
        let not_object = |found| CorpusError::JsonLine { path: path(), line, found };
        let value = serde_json::from_str(json).map_err(|error| not_object(format!("invalid JSON: {error}")))?;
        let Value::Object(mut object) = value else {
            return Err(not_object(format!("the line holds {}", kind(&value))));
        };
        let field = || self.field.clone();
        match object.remove(&self.field) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(CorpusError::FieldNotText { path: path(), line, field: field(), found: kind(&other) }),
            None => {
                let fields = object.keys().cloned().collect();
                Err(CorpusError::MissingField { path: path(), line, field: field(), fields })
            }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
