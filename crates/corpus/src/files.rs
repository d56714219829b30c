//! Documents from files and folders, one at a time.

use crate::document::{Document, PlainText};
use crate::input::{Compression, Input};
use crate::json_lines::JsonLines;
use crate::parquet::TextColumn;
use crate::{CorpusError, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The documents of `paths` in the order given; a folder yields its files and those below it, sorted by path.
///
/// A `.jsonl` or `.ndjson` file holds one document per line, the string in `field` of that line's object. A `.parquet`
/// file holds one per row, the string in the column `field`. Any other file is UTF-8 text, cut into documents of 8 to
/// 16 KiB at blank lines. Text and JSON Lines may be compressed (`.gz`, `.zst`). Blank documents and a leading byte
/// order mark are left out; so are, inside folders, names that start with a dot and symbolic links.
///
/// # Errors
/// A missing or unreadable path, a folder without files, damaged compression, bytes that are not UTF-8, a line that is
/// not an object or lacks a string in `field`, a Parquet file without that column of text, and no text at all.
pub fn read_documents(paths: &[PathBuf], field: &str) -> Result<Vec<Document>> {
    let documents: Vec<Document> = Documents::open(paths, field)?.collect::<Result<_>>()?;
    if documents.is_empty() { Err(no_text(paths)) } else { Ok(documents) }
}

pub(crate) fn no_text(paths: &[PathBuf]) -> CorpusError {
    let place = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    CorpusError::NoText { place }
}

/// The files that `paths` mean, in the order in which they are read.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    paths.iter().map(|path| files_of(path)).collect::<Result<Vec<_>>>().map(|files| files.concat())
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(CorpusError::Missing { path: path.to_owned() });
        }
        Err(source) => return Err(CorpusError::Read { path: path.to_owned(), source }),
    };
    if metadata.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    if !metadata.is_dir() {
        return Err(CorpusError::NotFileOrFolder { path: path.to_owned() });
    }
    let mut found = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let unreadable = |source| CorpusError::Read { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let kind = entry.file_type().map_err(unreadable)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    if found.is_empty() {
        return Err(CorpusError::FolderWithoutText { path: path.to_owned() });
    }
    found.sort();
    Ok(found)
}

/// How a file holds documents, told by its name without the ending of a compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    PlainText,
    JsonLines,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Format {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Format::JsonLines,
            "parquet" => Format::Parquet,
            _ => Format::PlainText,
        }
    }
}

/// The documents of files, in order, read as they are asked for; see [`read_documents`].
pub struct Documents {
    files: std::vec::IntoIter<PathBuf>,
    field: String,
    open: Option<Open>,
}

/// The file under way.
enum Open {
    PlainText(PlainText),
    JsonLines(JsonLines),
    Parquet(Box<TextColumn<File>>),
}

impl Documents {
    /// The documents of `paths`.
    ///
    /// # Errors
    /// A missing or unreadable path, and a folder without files; the rest as it is read.
    pub fn open(paths: &[PathBuf], field: &str) -> Result<Documents> {
        Ok(Documents::new(files(paths)?, field))
    }

    pub(crate) fn new(files: Vec<PathBuf>, field: &str) -> Documents {
        Documents { files: files.into_iter(), field: field.to_owned(), open: None }
    }

    fn next_document(&mut self) -> Result<Option<Document>> {
        loop {
            let found = match &mut self.open {
                None => None,
                Some(Open::PlainText(text)) => text.next_document()?,
                Some(Open::JsonLines(lines)) => lines.next_document()?,
                Some(Open::Parquet(column)) => next_of_column(column)?,
            };
            if found.is_some() {
                return Ok(found);
            }
            let Some(path) = self.files.next() else { return Ok(None) };
            self.open = Some(open(&path, &self.field)?);
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        self.next_document().transpose()
    }
}

fn next_of_column(column: &mut TextColumn<File>) -> Result<Option<Document>> {
    while let Some(text) = column.next_text()? {
        if !text.trim().is_empty() {
            return Ok(Some(Document { text }));
        }
    }
    Ok(None)
}

fn open(path: &Path, field: &str) -> Result<Open> {
    let (compression, name) = Compression::of(path);
    match (Format::of(&name), compression) {
        (Format::PlainText, _) => Ok(Open::PlainText(PlainText::new(Input::open(path, compression)?))),
        (Format::JsonLines, _) => Ok(Open::JsonLines(JsonLines::new(Input::open(path, compression)?, field))),
        (Format::Parquet, Compression::None) => {
            let file = File::open(path).map_err(|source| CorpusError::Read { path: path.to_owned(), source })?;
            Ok(Open::Parquet(Box::new(TextColumn::open(file, &path.display().to_string(), field)?)))
        }
        (Format::Parquet, _) => Err(CorpusError::CompressedParquet { path: path.to_owned() }),
    }
}
