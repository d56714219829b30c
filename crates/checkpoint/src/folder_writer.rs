//! Writes the files of a folder, hashing them on the way.

use crate::manifest::Entry;
use crate::tensor_file::header;
use crate::{CheckpointError, Dtype};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Numbers converted and written at once.
const CHUNK: usize = 1 << 16;

/// Takes the next bytes of a file.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), CheckpointError>;

/// A folder being filled. Every file is on disk, not merely in the system's cache, when its call returns. Hashes are
/// of what was meant to be written, so that a disk that stores something else is found out.
pub(crate) struct FolderWriter {
    folder: PathBuf,
    pub(crate) files: BTreeMap<String, Entry>,
}

impl FolderWriter {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), files: BTreeMap::new() }
    }

    pub(crate) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let mut file = HashedFile::create(self.folder.join(name))?;
        file.write(bytes)?;
        self.files.insert(name.to_owned(), file.finish()?);
        Ok(())
    }

    /// A safetensors file of tensors (name, shape) in this order; `read` yields the values of the n-th, and only one
    /// is held at a time.
    pub(crate) fn write_tensors(
        &mut self,
        name: &str,
        tensors: &[(String, Vec<usize>)],
        dtype: Dtype,
        mut read: impl FnMut(usize) -> Result<Vec<f32>, CheckpointError>,
    ) -> Result<(), CheckpointError> {
        self.stream_tensors(name, tensors, dtype, |n, write| {
            let values = read(n)?;
            let (tensor, shape) = &tensors[n];
            assert_eq!(values.len(), shape.iter().product::<usize>(), "number of values of `{tensor}`");
            values.chunks(CHUNK).try_for_each(|chunk| write(&dtype.encode(chunk)))
        })
    }

    /// As [`FolderWriter::write_tensors`], of tensors too large to be held: `fill` hands the bytes of the n-th on, piece
    /// by piece.
    pub(crate) fn stream_tensors(
        &mut self,
        name: &str,
        tensors: &[(String, Vec<usize>)],
        dtype: Dtype,
        mut fill: impl FnMut(usize, Sink) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        let mut file = HashedFile::create(self.folder.join(name))?;
        file.write(&header(tensors, dtype))?;
        for (n, (tensor, shape)) in tensors.iter().enumerate() {
            let end = file.size + (shape.iter().product::<usize>() * dtype.n_bytes()) as u64;
            fill(n, &mut |bytes| file.write(bytes))?;
            assert_eq!(file.size, end, "end of `{tensor}` in `{name}`");
        }
        self.files.insert(name.to_owned(), file.finish()?);
        Ok(())
    }
}

struct HashedFile {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    size: u64,
}

impl HashedFile {
    fn create(path: PathBuf) -> Result<Self, CheckpointError> {
        let file = File::create_new(&path).map_err(CheckpointError::io("create", &path))?;
        Ok(Self { path, file, hasher: blake3::Hasher::new(), size: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.file.write_all(bytes).map_err(CheckpointError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn finish(self) -> Result<Entry, CheckpointError> {
        self.file.sync_all().map_err(CheckpointError::io("write", &self.path))?;
        Ok(Entry { size: self.size, blake3: self.hasher.finalize().to_hex().to_string() })
    }
}

/// Makes the entries of a folder durable: without it a rename may be lost when the power fails.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), CheckpointError> {
    // Only Unix can open folders as files; elsewhere renames are durable as far as the system makes them so.
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(CheckpointError::io("write", folder))?;
    }
    Ok(())
}
