//! Integers as Parquet packs them, decoded one at a time: a run of a billion equal numbers takes no memory.

use crate::varint::varint;

/// The run-length and bit-packing hybrid, of a fixed bit width; ends where the bytes do.
#[derive(Clone, Debug)]
pub(super) struct Hybrid {
    at: usize,
    end: usize,
    bit_width: u32,
    run: Run,
}

#[derive(Clone, Copy, Debug)]
enum Run {
    Same { left: u64, value: u32 },
    Packed { left: u64, bit: usize },
}

impl Hybrid {
    /// Of the bytes `at..end`. `None` for a width that no index has.
    pub fn new(at: usize, end: usize, bit_width: u32) -> Option<Hybrid> {
        (bit_width <= 32).then_some(Hybrid { at, end, bit_width, run: Run::Same { left: 0, value: 0 } })
    }

    /// The next number; `page` is what `at` and `end` count in.
    pub fn next(&mut self, page: &[u8]) -> Option<u32> {
        loop {
            match &mut self.run {
                Run::Same { left: 0, .. } | Run::Packed { left: 0, .. } => self.start_run(page)?,
                Run::Same { left, value } => {
                    *left -= 1;
                    return Some(*value);
                }
                Run::Packed { left, bit } => {
                    let value = bits(page.get(..self.end)?, *bit, self.bit_width)? as u32;
                    *left -= 1;
                    *bit += self.bit_width as usize;
                    return Some(value);
                }
            }
        }
    }

    fn start_run(&mut self, page: &[u8]) -> Option<()> {
        let bytes = page.get(..self.end)?;
        let head = varint(bytes, &mut self.at)?;
        let count = head >> 1;
        if head & 1 == 1 {
            let left = count.checked_mul(8)?;
            let n_bytes = usize::try_from(count).ok()?.checked_mul(self.bit_width as usize)?;
            self.run = Run::Packed { left, bit: self.at.checked_mul(8)? };
            // The last run may be cut short: its numbers then end early, which `bits` notices.
            self.at = self.at.checked_add(n_bytes)?.min(self.end);
        } else {
            let n_bytes = self.bit_width.div_ceil(8) as usize;
            let value = bytes.get(self.at..self.at.checked_add(n_bytes)?)?;
            let value = value.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            self.at += n_bytes;
            self.run = Run::Same { left: count, value };
        }
        Some(())
    }
}

/// `DELTA_BINARY_PACKED` numbers.
#[derive(Clone, Debug)]
pub(super) struct Deltas {
    /// Where the next block starts.
    at: usize,
    left: u64,
    value: i64,
    is_first: bool,
    n_miniblocks: usize,
    per_miniblock: usize,
    min_delta: i64,
    /// Of the miniblocks of the block under way, those done taken out.
    widths: std::collections::VecDeque<u8>,
    /// Of the miniblock under way.
    bit: usize,
    width: u32,
    left_in_miniblock: usize,
}

impl Deltas {
    /// Reads the head at `at` of `page`; `None` when it is none.
    pub fn new(page: &[u8], at: usize) -> Option<Deltas> {
        let mut at = at;
        let block = usize::try_from(varint(page, &mut at)?).ok()?;
        let n_miniblocks = usize::try_from(varint(page, &mut at)?).ok()?;
        let left = varint(page, &mut at)?;
        let value = zigzag(varint(page, &mut at)?);
        let sound = n_miniblocks > 0 && n_miniblocks <= 1 << 16 && block.is_multiple_of(n_miniblocks) && block > 0;
        sound.then(|| Deltas {
            at,
            left,
            value,
            is_first: true,
            n_miniblocks,
            per_miniblock: block / n_miniblocks,
            min_delta: 0,
            widths: std::collections::VecDeque::new(),
            bit: 0,
            width: 0,
            left_in_miniblock: 0,
        })
    }

    /// How many numbers are left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next number.
    pub fn next(&mut self, page: &[u8]) -> Option<i64> {
        self.left = self.left.checked_sub(1)?;
        if std::mem::take(&mut self.is_first) {
            return Some(self.value);
        }
        if self.left_in_miniblock == 0 {
            self.start_miniblock(page)?;
        }
        let delta = bits(page, self.bit, self.width)? as i64;
        self.bit += self.width as usize;
        self.left_in_miniblock -= 1;
        self.value = self.value.wrapping_add(self.min_delta).wrapping_add(delta);
        Some(self.value)
    }

    /// Where the bytes after these numbers start, once all were read.
    pub fn end(&self) -> usize {
        self.at
    }

    fn start_miniblock(&mut self, page: &[u8]) -> Option<()> {
        if self.widths.is_empty() {
            self.min_delta = zigzag(varint(page, &mut self.at)?);
            let widths = page.get(self.at..self.at.checked_add(self.n_miniblocks)?)?;
            self.widths = widths.iter().copied().collect();
            self.at += self.n_miniblocks;
        }
        let width = u32::from(self.widths.pop_front()?);
        self.width = (width <= 64).then_some(width)?;
        self.left_in_miniblock = self.per_miniblock;
        self.bit = self.at.checked_mul(8)?;
        // A writer leaves out miniblocks without a number, and pads the last that has one.
        let n_bytes = self.per_miniblock.checked_mul(width as usize)?.div_ceil(8);
        self.at = self.at.checked_add(n_bytes)?;
        Some(())
    }
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The `width` bits from bit `from` on, least significant first.
fn bits(bytes: &[u8], from: usize, width: u32) -> Option<u64> {
    let (first, shift) = (from / 8, (from % 8) as u32);
    let n_bytes = (shift + width).div_ceil(8) as usize;
    let bytes = bytes.get(first..first.checked_add(n_bytes)?)?;
    let value = bytes.iter().rev().fold(0u128, |value, &byte| value << 8 | u128::from(byte));
    Some(((value >> shift) & ((1u128 << width) - 1)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_runs() {
        // The format's own example: 0 to 7 in 3 bits, then a run of 5 sevens.
        let bytes = [0b11, 0b1000_1000, 0b1100_0110, 0b1111_1010, 10, 7];
        let mut hybrid = Hybrid::new(0, bytes.len(), 3).unwrap();
        let found: Vec<u32> = std::iter::from_fn(|| hybrid.next(&bytes)).collect();
        assert_eq!(found, [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn deltas_of_the_format_description() {
        // Parquet's Encodings.md: 7, 5, 3, 1, 2, 3, 4, 5 in a block of 128 with 4 miniblocks.
        let bytes = [128, 1, 4, 8, 14, 3, 2, 0, 0, 0, 0b1100_0000, 0b0011_1111, 0, 0, 0, 0, 0, 0];
        let mut deltas = Deltas::new(&bytes, 0).unwrap();
        let found: Vec<i64> = std::iter::from_fn(|| deltas.next(&bytes)).collect();
        assert_eq!(found, [7, 5, 3, 1, 2, 3, 4, 5]);
        assert_eq!(deltas.end(), bytes.len());
    }
}
