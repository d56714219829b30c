//! The number formats of weights on the command line.

use packed::Format;

/// How weights are held and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WeightsArg {
    /// As trained.
    F32,
    /// Half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Blocks of 32 values of 8 bits with a common factor (GGUF's `Q8_0`).
    Q8,
    /// Blocks of 32 values of 4 bits with a common factor (GGUF's `Q4_0`).
    Q4,
}

impl From<WeightsArg> for Format {
    fn from(arg: WeightsArg) -> Format {
        match arg {
            WeightsArg::F32 => Format::F32,
            WeightsArg::F16 => Format::F16,
            WeightsArg::Bf16 => Format::Bf16,
            WeightsArg::Q8 => Format::Q8,
            WeightsArg::Q4 => Format::Q4,
        }
    }
}
