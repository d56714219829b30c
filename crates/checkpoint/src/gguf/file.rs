//! The bytes of a GGUF file: keys with values, names and places of tensors, their data.

use crate::CheckpointError;
use packed::Format;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Data begins at multiples of this, in bytes: the format's default.
const ALIGNMENT: usize = 32;

/// What stands before the data.
#[derive(Default)]
pub(super) struct Header {
    values: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

/// A value of a key.
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
}

/// A tensor in row-major order.
pub(super) struct Tensor {
    pub name: String,
    /// Rows first.
    pub dims: Vec<usize>,
    pub format: Format,
}

impl Header {
    pub fn put(&mut self, key: &str, value: Value) {
        self.values.push((key.to_owned(), value));
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            text(&mut out, key);
            value.write(&mut out);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            // The format has columns first.
            tensor.dims.iter().rev().for_each(|dim| out.extend((*dim as u64).to_le_bytes()));
            out.extend(kind(tensor.format).to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += tensor.n_bytes().next_multiple_of(ALIGNMENT);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out
    }
}

impl Tensor {
    fn n_bytes(&self) -> usize {
        self.format.n_bytes(self.dims.iter().product())
    }
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
        match self {
            Value::U32(value) => {
                kind(out, 4);
                out.extend(value.to_le_bytes());
            }
            Value::F32(value) => {
                kind(out, 6);
                out.extend(value.to_le_bytes());
            }
            Value::Bool(value) => {
                kind(out, 7);
                out.push((*value).into());
            }
            Value::Text(value) => {
                kind(out, 8);
                text(out, value);
            }
            Value::Texts(values) => {
                kind(out, 9);
                kind(out, 8);
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(out, value));
            }
            Value::I32s(values) => {
                kind(out, 9);
                kind(out, 5);
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
    }
}

/// ggml's number of a tensor type.
fn kind(format: Format) -> u32 {
    match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q4 => 2,
        Format::Q8 => 8,
        Format::Bf16 => 30,
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A file whose header is written.
pub(super) struct Writer<'a> {
    path: PathBuf,
    file: File,
    header: &'a Header,
    n_tensors: usize,
    n_bytes: u64,
}

impl<'a> Writer<'a> {
    pub fn create(path: &Path, header: &'a Header) -> Result<Self, CheckpointError> {
        let file = File::create_new(path).map_err(CheckpointError::io("create", path))?;
        let mut writer = Self { path: path.to_owned(), file, header, n_tensors: 0, n_bytes: 0 };
        writer.write(&header.to_bytes())?;
        Ok(writer)
    }

    /// The data of the next tensor.
    ///
    /// # Panics
    /// When it is not as long as the header says.
    pub fn tensor(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let tensor = &self.header.tensors[self.n_tensors];
        assert_eq!(bytes.len(), tensor.n_bytes(), "bytes of {}", tensor.name);
        self.n_tensors += 1;
        self.write(bytes)?;
        self.write(&[0; ALIGNMENT][..bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()])
    }

    /// Once it is on disk: its length in bytes.
    pub fn finish(self) -> Result<u64, CheckpointError> {
        assert_eq!(self.n_tensors, self.header.tensors.len(), "every tensor was written");
        self.file.sync_all().map_err(CheckpointError::io("write", &self.path))?;
        Ok(self.n_bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.file.write_all(bytes).map_err(CheckpointError::io("write", &self.path))?;
        self.n_bytes += bytes.len() as u64;
        Ok(())
    }
}
