//! Sealed files: written whole or not at all, recognised when truncated, altered or made from something else.
//!
//! Layout: magic (8 bytes), key (32), payload length (u64, little-endian), BLAKE3 of the payload (32), payload.

use memmap2::Mmap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

const MAGIC: [u8; 8] = *b"MILLSEA1";
const HEADER_BYTES: usize = 8 + 32 + 8 + 32;

/// A memory-mapped sealed file whose seal was checked.
#[derive(Debug)]
pub(crate) struct Sealed {
    map: Mmap,
}

impl Sealed {
    pub(crate) fn payload(&self) -> &[u8] {
        &self.map[HEADER_BYTES..]
    }
}

/// What stands at a path.
#[derive(Debug)]
pub(crate) enum Found {
    Valid(Sealed),
    Missing,
    Corrupt,
}

/// Opens the file at `path` if it was sealed under `key` and is unharmed. Reads it once to check its hash.
pub(crate) fn open(path: &Path, key: &blake3::Hash) -> io::Result<Found> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() < HEADER_BYTES as u64 {
        return Ok(Found::Corrupt);
    }
    // SAFETY: sealed files are never changed in place: `write` replaces the name, and this mapping keeps the old file.
    let map = unsafe { Mmap::map(&file)? };
    let (header, payload) = map.split_at(HEADER_BYTES);
    match header == self::header(key, payload) {
        true => Ok(Found::Valid(Sealed { map })),
        false => Ok(Found::Corrupt),
    }
}

/// Seals `payload` under `key` at `path`: a temporary file beside it, synced, then renamed over it.
pub(crate) fn write(path: &Path, key: &blake3::Hash, payload: &[u8]) -> io::Result<()> {
    let folder = path.parent().expect("invariant: a cache file lies in the cache folder");
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&header(key, payload))?;
    file.write_all(payload)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn header(key: &blake3::Hash, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..40].copy_from_slice(key.as_bytes());
    header[40..48].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    header[48..].copy_from_slice(blake3::hash(payload).as_bytes());
    header
}
