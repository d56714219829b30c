//! Documents from files and folders.

use crate::document::{Document, cut};
use crate::{CorpusError, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The documents of `paths` in the order given; a folder yields its files and those below it, sorted by path.
///
/// A `.jsonl` or `.ndjson` file holds one document per line, the string in `field` of that line's object. Any other file is
/// UTF-8 text, cut into documents of 8 to 16 KiB at blank lines. Blank documents and a leading byte order mark are left
/// out; so are, inside folders, names that start with a dot and symbolic links.
///
/// # Errors
/// A missing or unreadable path, a folder without files, bytes that are not UTF-8, a line that is not an object or lacks
/// a string in `field`, and no text at all.
pub fn read_documents(paths: &[PathBuf], field: &str) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for path in paths {
        for file in files(path)? {
            read_file(&file, field, &mut documents)?;
        }
    }
    if documents.is_empty() {
        let place = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(CorpusError::NoText { place });
    }
    Ok(documents)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
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

fn read_file(path: &Path, field: &str, documents: &mut Vec<Document>) -> Result<()> {
    let bytes = fs::read(path).map_err(|source| CorpusError::Read { path: path.to_owned(), source })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count();
        CorpusError::NotUtf8 { path: path.to_owned(), offset, line }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if ["jsonl", "ndjson"].iter().any(|lines| extension.eq_ignore_ascii_case(lines)) {
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let text = line_text(path, index + 1, line, field)?;
            if !text.trim().is_empty() {
                documents.push(Document { text });
            }
        }
    } else {
        documents.extend(cut(text).into_iter().map(|piece| Document { text: piece.to_owned() }));
    }
    Ok(())
}

fn line_text(path: &Path, line: usize, json: &str, field: &str) -> Result<String> {
    let not_object = |found| CorpusError::JsonLine { path: path.to_owned(), line, found };
    let value = serde_json::from_str(json).map_err(|error| not_object(format!("invalid JSON: {error}")))?;
    let Value::Object(mut object) = value else {
        return Err(not_object(format!("the line holds {}", kind(&value))));
    };
    match object.remove(field) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => {
            Err(CorpusError::FieldNotText { path: path.to_owned(), line, field: field.to_owned(), found: kind(&other) })
        }
        None => {
            let fields = object.keys().cloned().collect();
            Err(CorpusError::MissingField { path: path.to_owned(), line, field: field.to_owned(), fields })
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
