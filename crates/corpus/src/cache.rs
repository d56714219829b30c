//! Sealed files: written whole or not at all, recognised when truncated, altered or made from something else.
//!
//! Layout: magic (8 bytes), key (32), payload length (u64, little-endian), BLAKE3 of the payload (32), payload.

use memmap2::Mmap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

const MAGIC: [u8; 8] = *b"MILLSEA1";
const HEADER_BYTES: usize = 8 + 32 + 8 + 32;

/// Bytes read or written at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// A memory-mapped sealed file whose seal was checked.
#[derive(Debug)]
pub(crate) struct Sealed {
    map: Mmap,
}

impl Sealed {
    pub fn payload(&self) -> &[u8] {
        &self.map[HEADER_BYTES..]
    }

    /// BLAKE3 of the payload.
    pub fn hash(&self) -> blake3::Hash {
        blake3::Hash::from_bytes(self.map[48..HEADER_BYTES].try_into().expect("invariant: 32 bytes"))
    }
}

/// What stands at a path.
#[derive(Debug)]
pub(crate) enum Found {
    Valid(Sealed),
    Missing,
    Corrupt,
}

/// Opens the file at `path` if it was sealed under `key` and is unharmed. Reads it once to check its hash; not through
/// the map, whose pages would all stay in the process's memory.
pub(crate) fn open(path: &Path, key: &blake3::Hash) -> io::Result<Found> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(error) => return Err(error),
    };
    let mut found = [0; HEADER_BYTES];
    match file.read_exact(&mut found) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Found::Corrupt),
        Err(error) => return Err(error),
    }
    let (hash, length) = hash(&mut file)?;
    if found != header(key, length, &hash) {
        return Ok(Found::Corrupt);
    }
    // SAFETY: sealed files are never changed in place: a writer replaces the name, and this mapping keeps the old file.
    let map = unsafe { Mmap::map(&file)? };
    Ok(if map.len() as u64 == HEADER_BYTES as u64 + length { Found::Valid(Sealed { map }) } else { Found::Corrupt })
}

/// BLAKE3 and length of what is left of a reader.
pub(crate) fn hash(reader: &mut impl Read) -> io::Result<(blake3::Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut length = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finalize(), length)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                length += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A sealed file being written: a temporary file beside its place, renamed there when it is whole. Dropped before that,
/// it leaves nothing.
pub(crate) struct SealedWriter {
    payload: BufWriter<Hashed>,
    path: PathBuf,
}

struct Hashed {
    file: NamedTempFile,
    hasher: blake3::Hasher,
    length: u64,
}

impl SealedWriter {
    /// For the file at `path`; makes its folder.
    pub fn create(path: &Path) -> io::Result<SealedWriter> {
        let folder = path.parent().expect("invariant: a cache file lies in the cache folder");
        std::fs::create_dir_all(folder)?;
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(&[0; HEADER_BYTES])?;
        let hashed = Hashed { file, hasher: blake3::Hasher::new(), length: 0 };
        Ok(SealedWriter { payload: BufWriter::with_capacity(BUFFER_BYTES, hashed), path: path.to_owned() })
    }

    /// Seals under `key` what was written.
    pub fn finish(self, key: &blake3::Hash) -> io::Result<()> {
        let Hashed { mut file, hasher, length } = self.payload.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header(key, length, &hasher.finalize()))?;
        file.as_file().sync_all()?;
        file.persist(self.path)?;
        Ok(())
    }
}

impl Write for SealedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.payload.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.payload.flush()
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Seals a small `payload` under `key` at `path`.
pub(crate) fn write(path: &Path, key: &blake3::Hash, payload: &[u8]) -> io::Result<()> {
    let mut writer = SealedWriter::create(path)?;
    writer.write_all(payload)?;
    writer.finish(key)
}

fn header(key: &blake3::Hash, length: u64, hash: &blake3::Hash) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..40].copy_from_slice(key.as_bytes());
    header[40..48].copy_from_slice(&length.to_le_bytes());
    header[48..].copy_from_slice(hash.as_bytes());
    header
}
