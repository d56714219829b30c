//! Number formats of weight files.

use half::{bf16, f16};
use packed::Format;
use serde_json::{Map, Value};

/// How numbers are stored in a weight file. In memory they are always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// Brain floats: the upper half of an `f32`.
    Bf16,
}

impl Dtype {
    /// Bytes per number.
    pub fn n_bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// The name in `config.json`.
    pub(crate) fn config_name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
        }
    }

    /// Names it in a `config.json`.
    pub(crate) fn write_to(self, config: &mut Map<String, Value>) {
        // The second is the field's name before transformers 4.56.
        for field in ["dtype", "torch_dtype"] {
            config.insert(field.into(), self.config_name().into());
        }
    }

    pub(crate) fn to_file(self) -> safetensors::Dtype {
        match self {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::Bf16 => safetensors::Dtype::BF16,
        }
    }

    /// `None` for what is not a float of 16 or 32 bits.
    pub(crate) fn from_file(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F32 => Some(Dtype::F32),
            safetensors::Dtype::F16 => Some(Dtype::F16),
            safetensors::Dtype::BF16 => Some(Dtype::Bf16),
            _ => None,
        }
    }

    /// Little-endian bytes; rounds to the nearest, ties to even.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(values.len() * self.n_bytes());
        match self {
            Dtype::F32 => values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes())),
            Dtype::F16 => values.iter().for_each(|&value| bytes.extend_from_slice(&f16::from_f32(value).to_le_bytes())),
            Dtype::Bf16 => {
                values.iter().for_each(|&value| bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes()));
            }
        }
        bytes
    }

    /// The exact values of little-endian bytes.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|&two| f16::from_le_bytes(two).to_f32()).collect(),
            Dtype::Bf16 => bytes.as_chunks().0.iter().map(|&two| bf16::from_le_bytes(two).to_f32()).collect(),
        }
    }
}

impl From<Dtype> for Format {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::Bf16 => Format::Bf16,
        }
    }
}
