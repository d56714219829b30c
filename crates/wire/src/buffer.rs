//! What a message carries.

/// A typed flat buffer in host memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Buffer {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit floats.
    F64(Vec<f64>),
    /// 32-bit integers.
    I32(Vec<i32>),
}

impl Buffer {
    /// Size of the elements, in bytes.
    pub fn n_bytes(&self) -> usize {
        match self {
            Buffer::F32(data) => data.len() * 4,
            Buffer::F64(data) => data.len() * 8,
            Buffer::I32(data) => data.len() * 4,
        }
    }
}
