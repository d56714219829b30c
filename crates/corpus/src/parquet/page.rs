//! The values of one page.

use super::packed::{Deltas, Hybrid};
use super::thrift::Thrift;
use std::io::Read;
use std::ops::Range;

/// A dictionary: strings as places in the page that holds them.
#[derive(Debug)]
pub(super) struct Dictionary {
    bytes: Vec<u8>,
    strings: Vec<Range<usize>>,
}

/// A decompressed data page, read value by value.
#[derive(Debug)]
pub(super) struct Page {
    bytes: Vec<u8>,
    /// Values left, missing ones included.
    left: u64,
    /// Whether each is there; `None` where none may be missing.
    levels: Option<Hybrid>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Plain { at: usize },
    Dictionary(Hybrid),
    Lengths { lengths: Deltas, at: usize },
    Prefixes { prefixes: Deltas, lengths: Deltas, at: usize, last: Vec<u8> },
}

/// What a header says of its page, and the page as it lies in the file.
#[derive(Debug)]
pub(super) struct Stored {
    pub header: Thrift,
    pub bytes: Vec<u8>,
    pub codec: i64,
}

/// Kinds of pages by their number in the header.
pub(super) const DATA: i64 = 0;
pub(super) const DICTIONARY: i64 = 2;
pub(super) const DATA_V2: i64 = 3;

/// Decoded values are given out one by one, so this bounds only what a damaged number can make us do.
const VALUES_MAX: i64 = 1 << 26;

impl Dictionary {
    /// Of a stored dictionary page.
    pub fn read(stored: &Stored) -> Result<Dictionary, String> {
        let header = stored.header.field(7).ok_or("a dictionary page without its header")?;
        match header.whole(2) {
            // "Plain dictionary" was this page's name for plain.
            Some(0 | 2) => {}
            encoding => return Err(format!("a dictionary in encoding {encoding:?}")),
        }
        let n = header.whole(1).filter(|n| (0..=VALUES_MAX).contains(n)).ok_or("a dictionary of no sound size")?;
        let bytes = stored.decompress(&stored.bytes, stored.size()?)?;
        let mut at = 0;
        let strings = (0..n).map(|_| plain(&bytes, &mut at)).collect::<Option<_>>();
        Ok(Dictionary { strings: strings.ok_or("a dictionary that is cut off")?, bytes })
    }
}

impl Page {
    /// Of a stored data page of version 1 or 2.
    pub fn read(stored: &Stored, is_optional: bool) -> Result<Page, String> {
        match stored.header.whole(1) {
            Some(DATA_V2) => Page::version_2(stored, is_optional),
            _ => Page::version_1(stored, is_optional),
        }
    }

    fn version_1(stored: &Stored, is_optional: bool) -> Result<Page, String> {
        let header = stored.header.field(5).ok_or("a data page without its header")?;
        let left = n_values(header, 1)?;
        let bytes = stored.decompress(&stored.bytes, stored.size()?)?;
        let mut at = 0;
        let mut levels = None;
        if is_optional {
            match header.whole(3) {
                Some(3) => {}
                encoding => return Err(format!("definition levels in encoding {encoding:?}; known is 3")),
            }
            let length = bytes.first_chunk().ok_or("definition levels that are cut off")?;
            let end = 4 + u32::from_le_bytes(*length) as usize;
            if end > bytes.len() {
                return Err("definition levels that are cut off".to_owned());
            }
            levels = Hybrid::new(4, end, 1);
            at = end;
        }
        let values = Values::new(header.whole(2), &bytes, at)?;
        Ok(Page { bytes, left, levels, values })
    }

    fn version_2(stored: &Stored, is_optional: bool) -> Result<Page, String> {
        let header = stored.header.field(8).ok_or("a data page without its header")?;
        let left = n_values(header, 1)?;
        let length = |number| header.whole(number).and_then(|length| usize::try_from(length).ok());
        let (definition, repetition) = (length(5).unwrap_or(0), length(6).unwrap_or(0));
        let at = definition.saturating_add(repetition);
        let body = stored.bytes.get(at..).ok_or("levels that are cut off")?;
        let mut bytes = stored.bytes[..at].to_vec();
        match header.flag(7).unwrap_or(true) {
            true => {
                let size = stored.size()?.checked_sub(at).ok_or("a page smaller than its levels")?;
                bytes.extend(stored.decompress(body, size)?);
            }
            false => bytes.extend_from_slice(body),
        }
        let levels = if is_optional { Hybrid::new(repetition, at, 1) } else { None };
        let values = Values::new(header.whole(4), &bytes, at)?;
        Ok(Page { bytes, left, levels, values })
    }

    /// The next value, `None` inside for a missing one; `None` at the end of the page.
    pub fn next<'a>(&'a mut self, dictionary: Option<&'a Dictionary>) -> Result<Option<Option<&'a [u8]>>, String> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        if let Some(levels) = &mut self.levels {
            match levels.next(&self.bytes) {
                Some(0) => return Ok(Some(None)),
                Some(_) => {}
                None => return Err("fewer definition levels than values".to_owned()),
            }
        }
        self.values.next(&self.bytes, dictionary).map(|value| Some(Some(value)))
    }
}

impl Values {
    fn new(encoding: Option<i64>, bytes: &[u8], at: usize) -> Result<Values, String> {
        let deltas = |at| Deltas::new(bytes, at).ok_or("lengths that are damaged");
        match encoding {
            Some(0) => Ok(Values::Plain { at }),
            Some(2 | 8) => {
                let width = *bytes.get(at).ok_or("dictionary indices that are cut off")?;
                let indices = Hybrid::new(at + 1, bytes.len(), u32::from(width));
                Ok(Values::Dictionary(indices.ok_or("dictionary indices of over 32 bits")?))
            }
            Some(6) => {
                let lengths = deltas(at)?;
                Ok(Values::Lengths { at: end_of(&lengths, bytes)?, lengths })
            }
            Some(7) => {
                let prefixes = deltas(at)?;
                let lengths = deltas(end_of(&prefixes, bytes)?)?;
                Ok(Values::Prefixes { at: end_of(&lengths, bytes)?, prefixes, lengths, last: Vec::new() })
            }
            encoding => Err(format!("values in encoding {encoding:?}; known are 0, 2, 6, 7 and 8")),
        }
    }

    fn next<'a>(&'a mut self, bytes: &'a [u8], dictionary: Option<&'a Dictionary>) -> Result<&'a [u8], String> {
        let cut_off = || "values that are cut off".to_owned();
        match self {
            Values::Plain { at } => plain(bytes, at).map(|place| &bytes[place]).ok_or_else(cut_off),
            Values::Dictionary(indices) => {
                let index = indices.next(bytes).ok_or_else(cut_off)?;
                let dictionary = dictionary.ok_or("dictionary indices without a dictionary")?;
                let place = dictionary.strings.get(index as usize).cloned();
                Ok(&dictionary.bytes[place.ok_or("an index outside the dictionary")?])
            }
            Values::Lengths { lengths, at } => taken(bytes, lengths, at).ok_or_else(cut_off),
            Values::Prefixes { prefixes, lengths, at, last } => {
                let suffix = taken(bytes, lengths, at).ok_or_else(cut_off)?;
                let prefix = prefixes.next(bytes).and_then(|prefix| usize::try_from(prefix).ok());
                let prefix = prefix.filter(|&prefix| prefix <= last.len()).ok_or("a prefix of no sound length")?;
                last.truncate(prefix);
                last.extend_from_slice(suffix);
                Ok(last)
            }
        }
    }
}

impl Stored {
    /// Bytes of the page when decompressed.
    fn size(&self) -> Result<usize, String> {
        let size = self.header.whole(2).and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| "a page of no sound size".to_owned())
    }

    /// `bytes` decompressed, `size` of them. Nothing is reserved on the word of a header.
    fn decompress(&self, bytes: &[u8], size: usize) -> Result<Vec<u8>, String> {
        let damaged = |name: &str, error: &dyn std::fmt::Display| format!("damaged {name} data: {error}");
        let read = |name: &str, reader: &mut dyn Read| {
            let mut out = Vec::new();
            reader.take(size as u64 + 1).read_to_end(&mut out).map_err(|error| damaged(name, &error))?;
            Ok::<_, String>(out)
        };
        let out = match self.codec {
            0 => bytes.to_vec(),
            1 => {
                // Snappy's densest code makes 64 bytes of 3.
                let told = snap::raw::decompress_len(bytes).map_err(|error| damaged("Snappy", &error))?;
                if told != size || told > bytes.len().saturating_mul(32) {
                    return Err(format!("Snappy data of {} bytes that are said to hold {told}", bytes.len()));
                }
                snap::raw::Decoder::new().decompress_vec(bytes).map_err(|error| damaged("Snappy", &error))?
            }
            2 => read("gzip", &mut flate2::bufread::MultiGzDecoder::new(bytes))?,
            6 => {
                let decoder = zstd::stream::read::Decoder::with_buffer(bytes);
                read("Zstandard", &mut decoder.map_err(|error| damaged("Zstandard", &error))?)?
            }
            codec => {
                let name =
                    ["LZO", "Brotli", "LZ4", "", "LZ4"].get(codec.wrapping_sub(3) as usize).unwrap_or(&"unknown");
                return Err(format!(
                    "{name} compression (codec {codec}), which is not read here; write the file with Snappy, gzip, \
                     Zstandard or none"
                ));
            }
        };
        if out.len() != size {
            return Err(format!("a page of {} bytes that is said to have {size}", out.len()));
        }
        Ok(out)
    }
}

fn n_values(header: &Thrift, number: i64) -> Result<u64, String> {
    let n = header.whole(number).filter(|n| (0..=VALUES_MAX).contains(n));
    n.map(|n| n as u64).ok_or_else(|| "a page with no sound number of values".to_owned())
}

/// The place of a string after its length of 4 bytes.
fn plain(bytes: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let length = bytes.get(*at..)?.first_chunk()?;
    let start = *at + 4;
    let end = start.checked_add(u32::from_le_bytes(*length) as usize).filter(|&end| end <= bytes.len())?;
    *at = end;
    Some(start..end)
}

/// The string at `at` whose length comes next.
fn taken<'a>(bytes: &'a [u8], lengths: &mut Deltas, at: &mut usize) -> Option<&'a [u8]> {
    let length = usize::try_from(lengths.next(bytes)?).ok()?;
    let start = *at;
    *at = start.checked_add(length)?;
    bytes.get(start..*at)
}

/// Where the bytes after packed numbers start: they are read through once to find it.
fn end_of(deltas: &Deltas, bytes: &[u8]) -> Result<usize, String> {
    if deltas.left() > VALUES_MAX as u64 {
        return Err("a page with no sound number of lengths".to_owned());
    }
    let mut deltas = deltas.clone();
    while deltas.left() > 0 {
        deltas.next(bytes).ok_or("lengths that are cut off")?;
    }
    Ok(deltas.end())
}
