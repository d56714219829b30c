//! Blocks of values with a common factor, laid out and rounded as ggml's `Q8_0` and `Q4_0`.

use half::f16;

/// Values of a block.
pub const BLOCK: usize = 32;

/// 32 values of 8 bits: each is `scale * values[i]`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Q8Block {
    /// The largest magnitude over 127.
    pub scale: f16,
    /// -127 to 127.
    pub values: [i8; BLOCK],
}

/// 32 values of 4 bits: each is `scale * (nibble - 8)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Q4Block {
    /// The value of largest magnitude over -8: it is exact but for the factor's own rounding, and one of its sign as large
    /// would be 7/8 of it on the other side.
    pub scale: f16,
    /// Value `i` in the low half of byte `i`, value `16 + i` in its high half.
    pub pairs: [u8; BLOCK / 2],
}

impl Q8Block {
    /// The nearest block; integers are rounded by the factor before it became an f16, ties away from 0, as in ggml.
    pub fn pack(x: &[f32; BLOCK]) -> Self {
        let scale = x.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        Self { scale: f16::from_f32(scale), values: x.map(|x| (x * inverse).round() as i8) }
    }

    /// The values it stands for.
    pub fn unpack(&self) -> [f32; BLOCK] {
        let scale = self.scale.to_f32();
        self.values.map(|value| scale * f32::from(value))
    }
}

impl Q4Block {
    /// The block that ggml makes of these values.
    pub fn pack(x: &[f32; BLOCK]) -> Self {
        let largest = x.iter().fold(0.0f32, |max, &x| if x.abs() > max.abs() { x } else { max });
        let scale = largest / -8.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        // 8.5: the offset of the nibbles, and rounding by what `as` cuts off.
        let nibble = |x: f32| ((x * inverse + 8.5) as u8).min(15);
        let pairs = std::array::from_fn(|i| nibble(x[i]) | nibble(x[BLOCK / 2 + i]) << 4);
        Self { scale: f16::from_f32(scale), pairs }
    }

    /// The values it stands for.
    pub fn unpack(&self) -> [f32; BLOCK] {
        let scale = self.scale.to_f32();
        let value = |nibble: u8| scale * (f32::from(nibble) - 8.0);
        let half = BLOCK / 2;
        std::array::from_fn(|i| if i < half { value(self.pairs[i] & 15) } else { value(self.pairs[i - half] >> 4) })
    }
}
