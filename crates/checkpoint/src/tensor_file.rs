//! One safetensors file: mapped for reading, streamed for writing.

use crate::{CheckpointError, Dtype};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{SafeTensorError, SafeTensors};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A mapped file whose header has been checked: every tensor lies within it.
pub(crate) struct TensorFile {
    path: PathBuf,
    bytes: Mmap,
    data_start: usize,
    header: Metadata,
}

impl TensorFile {
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let bytes = map(path)?;
        let (header_bytes, header) = SafeTensors::read_metadata(&bytes).map_err(|source| match source {
            SafeTensorError::HeaderTooSmall
            | SafeTensorError::InvalidHeaderLength
            | SafeTensorError::MetadataIncompleteBuffer => {
                CheckpointError::Truncated { path: path.to_owned(), found: bytes.len() as u64 }
            }
            source => CheckpointError::Header { path: path.to_owned(), source },
        })?;
        Ok(Self { path: path.to_owned(), data_start: size_of::<u64>() + header_bytes, bytes, header })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.info(name).shape
    }

    /// Shape and number format fit.
    pub(crate) fn check(&self, name: &str, wanted: &[usize]) -> Result<(), CheckpointError> {
        let info = self.info(name);
        if info.shape != wanted {
            return Err(CheckpointError::Shape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                found: info.shape.clone(),
                wanted: wanted.to_vec(),
            });
        }
        self.dtype(name).map(|_| ())
    }

    /// One tensor as `f32`. Pages of the file are brought in as they are read.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        Ok(self.dtype(name)?.decode(self.raw(name)))
    }

    /// The stored bytes of one tensor.
    fn raw(&self, name: &str) -> &[u8] {
        let (start, end) = self.info(name).data_offsets;
        &self.bytes[self.data_start + start..self.data_start + end]
    }

    /// The stored bytes of one tensor, from the file itself, in pieces of [`PIECE`] bytes and a last one. Pages of a map
    /// count as the process's memory as long as the system has room for them; these pieces do not.
    pub(crate) fn pieces(&self, name: &str) -> Result<Pieces<'_>, CheckpointError> {
        let (start, end) = self.info(name).data_offsets;
        let mut file = File::open(&self.path).map_err(CheckpointError::io("open", &self.path))?;
        let at = SeekFrom::Start((self.data_start + start) as u64);
        file.seek(at).map_err(CheckpointError::io("read", &self.path))?;
        Ok(Pieces { path: &self.path, file, buffer: vec![0; PIECE.min(end - start)], left: end - start })
    }

    pub(crate) fn dtype(&self, name: &str) -> Result<Dtype, CheckpointError> {
        let stored = self.info(name).dtype;
        Dtype::from_file(stored).ok_or_else(|| CheckpointError::UnsupportedDtype {
            path: self.path.clone(),
            tensor: name.to_owned(),
            found: stored.to_string(),
        })
    }

    fn info(&self, name: &str) -> &TensorInfo {
        self.header.info(name).expect("invariant: names are looked up before they are read")
    }
}

/// Bytes read at once: a whole number of values of every format.
const PIECE: usize = 1 << 20;

/// The bytes of a tensor, to be read once.
pub(crate) struct Pieces<'a> {
    path: &'a Path,
    file: File,
    buffer: Vec<u8>,
    left: usize,
}

impl Pieces<'_> {
    /// The next bytes; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, CheckpointError> {
        let n = self.left.min(self.buffer.len());
        if n == 0 {
            return Ok(None);
        }
        self.file.read_exact(&mut self.buffer[..n]).map_err(CheckpointError::io("read", self.path))?;
        self.left -= n;
        Ok(Some(&self.buffer[..n]))
    }
}

/// Maps a file for reading.
fn map(path: &Path) -> Result<Mmap, CheckpointError> {
    let file = File::open(path).map_err(CheckpointError::io("open", path))?;
    // SAFETY: the map is only read. Cutting the file while it is mapped would raise SIGBUS, as for every program that
    // maps weights; our own files are never changed in place, only replaced.
    unsafe { Mmap::map(&file) }.map_err(CheckpointError::io("map", path))
}

/// The first bytes of a safetensors file that holds tensors (name, shape) in this order: length of the header, and the
/// header itself padded to a multiple of 8, so that the data is aligned.
pub(crate) fn header(tensors: &[(String, Vec<usize>)], dtype: Dtype) -> Vec<u8> {
    let mut end = 0;
    let tensors = tensors
        .iter()
        .map(|(name, shape)| {
            let start = end;
            end += shape.iter().product::<usize>() * dtype.n_bytes();
            let info = TensorInfo { dtype: dtype.to_file(), shape: shape.clone(), data_offsets: (start, end) };
            (name.clone(), info)
        })
        .collect();
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), tensors).expect("invariant: offsets are consecutive");
    let mut json = serde_json::to_vec(&metadata).expect("invariant: a header is JSON");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes
}
