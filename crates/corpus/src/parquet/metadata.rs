//! What a Parquet footer says about one text column.

use super::thrift::{self, Broken, Thrift};
use std::io::{Read, Seek, SeekFrom};

/// A footer of thousands of columns and row groups takes a few MB.
const FOOTER_BYTES_MAX: u64 = 16 << 20;

/// The column's pieces, a piece per row group.
#[derive(Debug)]
pub(super) struct Column {
    pub chunks: Vec<Chunk>,
    /// Whether values may be missing: then each has a definition level of 0 or 1.
    pub is_optional: bool,
}

/// The column within one row group: pages one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub start: u64,
    pub end: u64,
    /// Values, missing ones included.
    pub n_values: u64,
    pub codec: i64,
}

/// What is wrong with a footer.
#[derive(Debug)]
pub(super) enum Fault {
    Io(std::io::Error),
    /// The file is no sound Parquet file.
    Broken(String),
    /// There is no such column; these there are.
    Missing(Vec<String>),
    /// The column does not hold text but this.
    NotText(&'static str),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Fault {
        Fault::Io(error)
    }
}

/// Finds the top-level column `name`.
pub(super) fn column(file: &mut (impl Read + Seek), name: &str) -> Result<Column, Fault> {
    let broken = |problem: &str| Fault::Broken(problem.to_owned());
    let length = file.seek(SeekFrom::End(0))?;
    if length < 12 {
        return Err(broken("it is too short for a Parquet file"));
    }
    let mut tail = [0; 8];
    file.seek(SeekFrom::Start(length - 8))?;
    file.read_exact(&mut tail)?;
    match &tail[4..] {
        b"PAR1" => {}
        b"PARE" => return Err(broken("it is encrypted")),
        _ => return Err(broken("it does not end in `PAR1`, as a whole Parquet file does")),
    }
    let footer_bytes = u64::from(u32::from_le_bytes(tail[..4].try_into().expect("invariant: 4 bytes")));
    if footer_bytes > FOOTER_BYTES_MAX || footer_bytes + 12 > length {
        return Err(Fault::Broken(format!("its footer is said to have {footer_bytes} bytes")));
    }
    file.seek(SeekFrom::Start(length - 8 - footer_bytes))?;
    let mut footer = Vec::new();
    file.take(footer_bytes).read_to_end(&mut footer)?;
    let (footer, _) = thrift::read_struct(&footer).map_err(|kind| match kind {
        Broken::Short => broken("its footer is cut off"),
        Broken::Wrong => broken("its footer is damaged"),
    })?;
    let is_optional = find(footer.list(2), name)?;
    let chunks = footer.list(4).iter().map(|group| chunk(group, name, length - 8 - footer_bytes));
    Ok(Column { chunks: chunks.collect::<Option<_>>().ok_or_else(|| broken("a row group is damaged"))?, is_optional })
}

/// Whether the column of that name, which must hold text, is optional.
fn find(schema: &[Thrift], name: &str) -> Result<bool, Fault> {
    let mut names = Vec::new();
    // The first element is the root. The others follow depth first: one with children is followed by them.
    let mut at = 1;
    while let Some(element) = schema.get(at) {
        let found = element.text(4).unwrap_or_default();
        let n_children = element.whole(5).unwrap_or(0);
        if found == name {
            return match (n_children, element.whole(1), element.whole(3)) {
                (0, Some(6), Some(0)) => Ok(false),
                (0, Some(6), Some(1)) => Ok(true),
                (0, _, Some(2)) => Err(Fault::NotText("lists")),
                (0, Some(kind), _) => Err(Fault::NotText(kind_in_words(kind))),
                _ => Err(Fault::NotText("groups or lists")),
            };
        }
        names.push(found);
        at = after(schema, at);
    }
    Err(Fault::Missing(names))
}

/// The index after an element and all that lies below it.
fn after(schema: &[Thrift], at: usize) -> usize {
    let mut left: i64 = 1;
    let mut at = at;
    while left > 0 && at < schema.len() {
        left = (left - 1).saturating_add(schema[at].whole(5).unwrap_or(0).max(0));
        at += 1;
    }
    at
}

fn kind_in_words(kind: i64) -> &'static str {
    match kind {
        0 => "truth values",
        1 => "32-bit integers",
        2 => "64-bit integers",
        3 => "96-bit integers",
        4 => "32-bit floats",
        5 => "64-bit floats",
        7 => "byte strings of fixed length",
        _ => "values of an unknown type",
    }
}

/// The column's chunk in a row group; `end` is where the footer starts.
fn chunk(group: &Thrift, name: &str, end: u64) -> Option<Chunk> {
    let path = |meta: &Thrift| meta.list(3).iter().filter_map(Thrift::as_text).collect::<Vec<_>>();
    let meta = group.list(1).iter().filter_map(|chunk| chunk.field(3)).find(|meta| path(meta) == [name])?;
    let whole = |number| meta.whole(number).and_then(|value| u64::try_from(value).ok());
    let data = whole(9)?;
    if whole(5)? == 0 {
        // There need not be a page, and then no place for one.
        return Some(Chunk { start: 0, end: 0, n_values: 0, codec: 0 });
    }
    // Some writers put 0 where there is no dictionary.
    let start = whole(11).filter(|&dictionary| dictionary > 0).map_or(data, |dictionary| dictionary.min(data));
    let chunk_end = start.checked_add(whole(7)?).filter(|&chunk_end| start >= 4 && chunk_end <= end)?;
    Some(Chunk { start, end: chunk_end, n_values: whole(5)?, codec: meta.whole(4)? })
}
