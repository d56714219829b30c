//! A file's bytes, decompressed on the way.

use crate::{CorpusError, Result};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// How a file is compressed, told by the end of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// The compression of `path`, and its name without that ending.
    pub fn of(path: &Path) -> (Compression, PathBuf) {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "gz" | "gzip" => (Compression::Gzip, path.with_extension("")),
            "zst" | "zstd" => (Compression::Zstd, path.with_extension("")),
            _ => (Compression::None, path.to_owned()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Compression::None => "text",
            Compression::Gzip => "gzip",
            Compression::Zstd => "Zstandard",
        }
    }
}

/// An open file as plain bytes. Several gzip members or Zstandard frames one after the other read as one.
pub(crate) struct Input {
    bytes: Bytes,
    compression: Compression,
    path: PathBuf,
    /// Plain bytes given out.
    n_given: u64,
}

enum Bytes {
    Plain(File),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<File>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<File>>>),
}

impl Input {
    pub fn open(path: &Path, compression: Compression) -> Result<Input> {
        let unreadable = |source| CorpusError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let bytes = match compression {
            Compression::None => Bytes::Plain(file),
            Compression::Gzip => {
                Bytes::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file))))
            }
            // A frame may ask for a window of 128 MiB at most, the library's limit: memory stays bounded.
            Compression::Zstd => Bytes::Zstd(Box::new(zstd::stream::read::Decoder::new(file).map_err(unreadable)?)),
        };
        Ok(Input { bytes, compression, path: path.to_owned(), n_given: 0 })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a failed read means: the disk, or compressed data that are damaged.
    pub fn fault(&self, source: io::Error) -> CorpusError {
        let path = self.path.clone();
        match self.compression != Compression::None && source.raw_os_error().is_none() {
            true => CorpusError::Compressed { path, format: self.compression.name(), n_good: self.n_given, source },
            false => CorpusError::Read { path, source },
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match &mut self.bytes {
            Bytes::Plain(file) => file.read(buffer),
            Bytes::Gzip(decoder) => decoder.read(buffer),
            Bytes::Zstd(decoder) => decoder.read(buffer),
        }?;
        self.n_given += n as u64;
        Ok(n)
    }
}
