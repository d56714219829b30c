//! One text column of a Parquet file, page by page: memory is bounded by a page and a dictionary, not by a row group.
//!
//! Our own reader of the small part of the format that a column of text needs: top-level columns of byte strings,
//! required or optional, data pages of both versions, plain, dictionary and delta encodings, no compression or Snappy,
//! gzip, Zstandard. No length that a file claims is believed before its bytes are there.

mod metadata;
mod packed;
mod page;
mod thrift;

use crate::{CorpusError, Result};
use metadata::{Chunk, Column, Fault};
use page::{DATA, DATA_V2, DICTIONARY, Dictionary, Page, Stored};
use std::io::{Read, Seek, SeekFrom};
use thrift::Broken;

/// Bytes read at first for a page's header; statistics may make it longer.
const HEADER_BYTES: u64 = 256;

/// Longest header: it may quote two values of the column.
const HEADER_BYTES_MAX: u64 = 16 << 20;

/// Strings of one column, in order of rows; missing ones are left out.
#[derive(Debug)]
pub struct TextColumn<R> {
    file: R,
    place: String,
    column: Column,
    /// The next row group.
    next_chunk: usize,
    /// The one under way: where its next page starts, and how many values its pages still hold.
    chunk: Option<(Chunk, u64, u64)>,
    dictionary: Option<Dictionary>,
    page: Option<Page>,
    /// Rows given out, missing values included.
    row: u64,
}

impl<R: Read + Seek> TextColumn<R> {
    /// The top-level column `name` of the Parquet file `file`, which `place` names in errors.
    ///
    /// # Errors
    /// A file that is no whole Parquet file, has no such column, or holds something other than text in it.
    pub fn open(mut file: R, place: &str, name: &str) -> Result<TextColumn<R>> {
        let column = metadata::column(&mut file, name).map_err(|fault| match fault {
            Fault::Io(source) => CorpusError::Read { path: place.into(), source },
            Fault::Broken(problem) => CorpusError::Parquet { place: place.to_owned(), problem },
            Fault::Missing(columns) => {
                CorpusError::MissingColumn { place: place.to_owned(), column: name.to_owned(), columns }
            }
            Fault::NotText(found) => {
                CorpusError::ColumnNotText { place: place.to_owned(), column: name.to_owned(), found }
            }
        })?;
        let place = place.to_owned();
        Ok(TextColumn { file, place, column, next_chunk: 0, chunk: None, dictionary: None, page: None, row: 0 })
    }

    /// The next string; `None` after the last.
    ///
    /// # Errors
    /// Damaged pages, compressions and encodings that are not read here, bytes that are not UTF-8.
    pub fn next_text(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(page) = &mut self.page {
                match page.next(self.dictionary.as_ref()) {
                    Ok(Some(value)) => {
                        self.row += 1;
                        let Some(value) = value else { continue };
                        return match std::str::from_utf8(value) {
                            Ok(text) => Ok(Some(text.to_owned())),
                            Err(_not_utf8) => Err(CorpusError::RowNotUtf8 { place: self.place.clone(), row: self.row }),
                        };
                    }
                    Ok(None) => self.page = None,
                    Err(problem) => return Err(self.broken(format!("row {}: {problem}", self.row + 1))),
                }
            }
            match self.chunk {
                Some((chunk, at, left)) if left > 0 => self.read_page(chunk, at, left)?,
                _ => {
                    let Some(&chunk) = self.column.chunks.get(self.next_chunk) else { return Ok(None) };
                    self.next_chunk += 1;
                    self.dictionary = None;
                    self.chunk = Some((chunk, chunk.start, chunk.n_values));
                }
            }
        }
    }

    /// Reads the page at `at`, of a chunk whose pages still hold `left` values.
    fn read_page(&mut self, chunk: Chunk, at: u64, left: u64) -> Result<()> {
        let here = format!("row group {}, page at byte {at}", self.next_chunk);
        let (header, header_bytes) = self.header(chunk, at, &here)?;
        let start = at + header_bytes;
        let size = header.whole(3).and_then(|size| u64::try_from(size).ok());
        let end = size.and_then(|size| start.checked_add(size)).filter(|&end| end <= chunk.end);
        let Some(end) = end else {
            return Err(self.broken(format!("{here}: a page that reaches beyond its row group")));
        };
        let stored = Stored { header, bytes: self.read(start, end - start)?, codec: chunk.codec };
        let said = |problem| (here.clone(), problem);
        let result = match stored.header.whole(1) {
            Some(DICTIONARY) => Dictionary::read(&stored).map(|dictionary| {
                self.dictionary = Some(dictionary);
                left
            }),
            Some(kind @ (DATA | DATA_V2)) => Page::read(&stored, self.column.is_optional).and_then(|page| {
                let n = stored.header.field(if kind == DATA { 5 } else { 8 }).and_then(|header| header.whole(1));
                let n = n.map_or(0, |n| n.max(0) as u64);
                self.page = Some(page);
                left.checked_sub(n).ok_or_else(|| "more values than its row group".to_owned())
            }),
            // An index page is of no use here.
            Some(_) => Ok(left),
            None => Err("a page of no kind".to_owned()),
        };
        match result.map_err(said) {
            Ok(left) => {
                self.chunk = Some((chunk, end, left));
                Ok(())
            }
            Err((here, problem)) => Err(self.broken(format!("{here}: {problem}"))),
        }
    }

    /// A page's header and its length.
    fn header(&mut self, chunk: Chunk, at: u64, here: &str) -> Result<(thrift::Thrift, u64)> {
        let mut wanted = HEADER_BYTES;
        loop {
            let length = wanted.min(chunk.end.saturating_sub(at));
            let bytes = self.read(at, length)?;
            match thrift::read_struct(&bytes) {
                Ok((header, length)) => return Ok((header, length as u64)),
                Err(Broken::Short) if length == wanted && wanted < HEADER_BYTES_MAX => wanted *= 8,
                Err(Broken::Short) => return Err(self.broken(format!("{here}: a page header that is cut off"))),
                Err(Broken::Wrong) => return Err(self.broken(format!("{here}: a page header that is damaged"))),
            }
        }
    }

    fn read(&mut self, at: u64, length: u64) -> Result<Vec<u8>> {
        let unreadable = |source| CorpusError::Read { path: self.place.clone().into(), source };
        self.file.seek(SeekFrom::Start(at)).map_err(unreadable)?;
        let mut bytes = Vec::new();
        (&mut self.file).take(length).read_to_end(&mut bytes).map_err(unreadable)?;
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(self.broken("it became shorter while it was read".to_owned())),
        }
    }

    fn broken(&self, problem: String) -> CorpusError {
        CorpusError::Parquet { place: self.place.clone(), problem }
    }
}
