//! Products of packed weights with a few vectors: every weight is read once, unpacked in registers, and used for all of
//! them. That is what drawing tokens one by one costs, and memory sets its pace.
//!
//! Blocks are multiplied as whole numbers: the vectors' values are rounded to 16 bits with a factor for each 32, and what
//! 32 products add up to is exact. That is off by at most half a 32,767th of the largest of the 32 values, where the block's
//! own rounding is a 254th; ggml rounds the vectors to 8 bits.
//!
//! A result's element is summed in an order that depends on nothing but the number of columns and the instruction set: not
//! on the threads, and not on how many vectors there are. So a text drawn beside others is the text drawn alone.

#[cfg(target_arch = "x86_64")]
use crate::dots_x86 as x86;
use crate::product::{Shared, unwritten};
use crate::tile::Isa;
use crate::vector::{max, vectorised};
use packed::{BLOCK, Matrix, Q4Block, Q8Block, Values, bf16, f16};
use rayon::prelude::*;
use std::ops::Range;

/// Vectors that share one reading of the weights in registers; of more, each four read a task's rows again from the cache.
pub(crate) const VECTORS: usize = 4;

/// Tasks a thread, so that a thread that is held up holds up little.
const TASKS: usize = 8;
/// Fewer rows are not worth another task.
const TASK_ROWS: usize = 16;

/// Dot products of one weight row with `1..=4` vectors: `out[j * out_row] = w . x_j`.
#[derive(Clone, Copy)]
pub(crate) struct Dots<T, X> {
    pub w: *const T,
    pub x: X,
    pub columns: usize,
    pub out: *mut f32,
    pub out_row: usize,
}

/// Where vectors lie, one after the other.
type Plain = *const f32;

/// Where vectors of 16-bit numbers lie, and the factors of each 32 of them.
#[derive(Clone, Copy)]
pub(crate) struct Whole {
    pub values: *const i16,
    pub factors: *const f32,
}

/// What computes them for 1 to [`VECTORS`] vectors.
pub(crate) type Table<T, X> = [unsafe fn(Dots<T, X>); VECTORS];

/// Vectors as whole numbers with a factor for each 32.
struct Rounded {
    values: Vec<i16>,
    factors: Vec<f32>,
}

impl Rounded {
    /// The nearest; of 32 values that are not all finite every one is lost, and products with them are not a number.
    fn of(x: &[f32]) -> Self {
        let (mut values, mut factors) = (vec![0; x.len()], vec![0.0; x.len() / BLOCK]);
        round(x, &mut values, &mut factors);
        Self { values, factors }
    }
}

#[inline(always)]
fn round_all<const FMA: bool>(x: &[f32], values: &mut [i16], factors: &mut [f32]) {
    const LARGEST: f32 = i16::MAX as f32;
    // 1.5 * 2^23: adding it leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let (x, values) = (x.as_chunks::<BLOCK>().0, values.as_chunks_mut::<BLOCK>().0);
    for ((x, values), factor) in x.iter().zip(values).zip(factors) {
        let largest = max(&x.map(f32::abs));
        // Zero times a value: 0, or not a number where the value is not finite.
        let lost: f32 = x.iter().map(|x| 0.0 * x).sum();
        *factor = largest / LARGEST + lost;
        let inverse = if largest > LARGEST * f32::MIN_POSITIVE { LARGEST / largest } else { 0.0 };
        for (value, x) in values.iter_mut().zip(x) {
            *value = (x * inverse + ROUND).to_bits() as i16;
        }
    }
}
vectorised!(fn round(x: &[f32], values: &mut [i16], factors: &mut [f32]) = round_all);

/// `x w^T` for each matrix: each of `n` vectors with each of its rows, `[n, rows]`. One call for several that read the same
/// vectors costs one gathering of the threads.
///
/// # Panics
/// When `x` is not `n` vectors of the matrices' width.
pub(crate) fn vectors_times_rows<const N: usize>(
    isa: Isa,
    x: &[f32],
    n: usize,
    matrices: [&Matrix; N],
) -> [Vec<f32>; N] {
    let mut results = matrices.map(|w| {
        let [rows, columns] = w.dims();
        assert_eq!(x.len(), n * columns, "vectors of the matrix's width");
        unwritten(n * rows)
    });
    if x.is_empty() {
        results.iter_mut().for_each(|y| y.fill(0.0));
        return results;
    }
    let all_rows: usize = matrices.iter().map(|w| w.dims()[0]).sum();
    let task_rows = all_rows.div_ceil(TASKS * rayon::current_num_threads()).max(TASK_ROWS);
    let is_of_blocks = |w: &Matrix| matches!(w.values(), Values::Q8(_) | Values::Q4(_));
    let rounded = matrices.into_iter().any(is_of_blocks).then(|| Rounded::of(x));
    let rounded = rounded.as_ref();
    let runs: Vec<Run> = matrices
        .into_iter()
        .zip(&mut results)
        .flat_map(|(w, y)| {
            let ([n_rows, _], y) = (w.dims(), Shared::new(y));
            (0..n_rows).step_by(task_rows).map(move |first| Run {
                x,
                rounded,
                w,
                y,
                rows: first..n_rows.min(first + task_rows),
            })
        })
        .collect();
    // One by one: left to rayon, a thread takes runs by halves, and the others wait for its last ones.
    runs.into_par_iter().with_max_len(1).for_each(|run| run.multiply(isa));
    results
}

/// Rows of a matrix that one task multiplies, so that a thread reads memory in one direction.
struct Run<'a> {
    x: &'a [f32],
    /// For matrices of blocks.
    rounded: Option<&'a Rounded>,
    w: &'a Matrix,
    /// `[vectors, rows of w]`
    y: Shared,
    rows: Range<usize>,
}

impl Run<'_> {
    fn multiply(&self, isa: Isa) {
        match self.w.values() {
            Values::F32(w) => self.products(f32_table(isa), w, |at| self.plain(at)),
            Values::F16(w) => self.products(f16_table(isa), w, |at| self.plain(at)),
            Values::Bf16(w) => self.products(bf16_table(isa), w, |at| self.plain(at)),
            Values::Q8(w) => self.products(q8_table(isa), w, |at| self.whole(at)),
            Values::Q4(w) => self.products(q4_table(isa), w, |at| self.whole(at)),
        }
    }

    fn plain(&self, at: usize) -> Plain {
        self.x[at..].as_ptr()
    }

    fn whole(&self, at: usize) -> Whole {
        let Rounded { values, factors } = self.rounded.expect("invariant: made for matrices of blocks");
        Whole { values: values[at..].as_ptr(), factors: factors[at / BLOCK..].as_ptr() }
    }

    /// `w`: the matrix's values; `x`: the vectors from an element on.
    fn products<T, X>(&self, table: Table<T, X>, w: &[T], x: impl Fn(usize) -> X) {
        let [n_rows, columns] = self.w.dims();
        let (n, row) = (self.x.len() / columns, w.len() / n_rows);
        for i in self.rows.clone() {
            for first in (0..n).step_by(VECTORS) {
                let vectors = VECTORS.min(n - first);
                // SAFETY: a row of the weights, `vectors` vectors of the input and their places in the result, this
                // run's alone; the table is of instructions that this processor has.
                unsafe {
                    table[vectors - 1](Dots {
                        w: w.as_ptr().add(i * row),
                        x: x(first * columns),
                        columns,
                        out: self.y.at(first * n_rows + i),
                        out_row: n_rows,
                    });
                }
            }
        }
    }
}

macro_rules! table_of {
    ($name:ident, $element:ty, $x:ty, $portable:ident, $x86:ident) => {
        pub(crate) fn $name(isa: Isa) -> Table<$element, $x> {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => x86::avx512::$x86,
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => x86::avx2::$x86,
                Isa::Baseline => [$portable::<1>, $portable::<2>, $portable::<3>, $portable::<4>],
            }
        }
    };
}
table_of!(f32_table, f32, Plain, f32_dots, F32);
table_of!(f16_table, f16, Plain, f16_dots, F16);
table_of!(bf16_table, bf16, Plain, bf16_dots, BF16);
table_of!(q8_table, Q8Block, Whole, q8_dots, Q8);
table_of!(q4_table, Q4Block, Whole, q4_dots, Q4);

/// Lanes of the portable sums: two NEON or SSE registers.
const LANES: usize = 8;

fn combined(mut lanes: [f32; LANES]) -> f32 {
    for width in [4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

macro_rules! portable_values {
    ($name:ident, $element:ty, $value:expr) => {
        /// Left to the compiler.
        unsafe fn $name<const M: usize>(d: Dots<$element, Plain>) {
            let value = $value;
            // SAFETY: the caller vouches for the places.
            let w = unsafe { std::slice::from_raw_parts(d.w, d.columns) };
            for j in 0..M {
                // SAFETY: as above.
                let x = unsafe { std::slice::from_raw_parts(d.x.add(j * d.columns), d.columns) };
                let mut lanes = [0.0f32; LANES];
                let ((w_whole, w_rest), (x_whole, x_rest)) = (w.as_chunks::<LANES>(), x.as_chunks::<LANES>());
                for (w, x) in w_whole.iter().zip(x_whole) {
                    for lane in 0..LANES {
                        lanes[lane] += value(w[lane]) * x[lane];
                    }
                }
                let rest: f32 = w_rest.iter().zip(x_rest).map(|(w, x)| value(*w) * x).sum();
                // SAFETY: as above.
                unsafe { *d.out.add(j * d.out_row) = combined(lanes) + rest };
            }
        }
    };
}
portable_values!(f32_dots, f32, |w: f32| w);
portable_values!(f16_dots, f16, |w: f16| w.to_f32());
portable_values!(bf16_dots, bf16, |w: bf16| f32::from_bits(u32::from(w.to_bits()) << 16));

macro_rules! portable_blocks {
    ($name:ident, $block:ty, $integers:expr) => {
        /// Left to the compiler.
        unsafe fn $name<const M: usize>(d: Dots<$block, Whole>) {
            let integers = $integers;
            let blocks = d.columns / BLOCK;
            // SAFETY: the caller vouches for the places.
            let w = unsafe { std::slice::from_raw_parts(d.w, blocks) };
            let mut lanes = [[0.0f32; LANES]; M];
            for (n, block) in w.iter().enumerate() {
                let (scale, values): (f32, [i16; BLOCK]) = (block.scale.to_f32(), integers(block));
                for (j, lanes) in lanes.iter_mut().enumerate() {
                    // SAFETY: as above.
                    let (x, factor) = unsafe {
                        let at = j * blocks + n;
                        (&*d.x.values.add(at * BLOCK).cast::<[i16; BLOCK]>(), *d.x.factors.add(at))
                    };
                    let mut sums = [0i32; LANES];
                    for part in 0..BLOCK / LANES {
                        for lane in 0..LANES {
                            sums[lane] += i32::from(values[part * LANES + lane]) * i32::from(x[part * LANES + lane]);
                        }
                    }
                    lanes.iter_mut().zip(sums).for_each(|(lane, sum)| *lane += scale * factor * sum as f32);
                }
            }
            for (j, lanes) in lanes.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { *d.out.add(j * d.out_row) = combined(lanes) };
            }
        }
    };
}
portable_blocks!(q8_dots, Q8Block, |block: &Q8Block| block.values.map(i16::from));
portable_blocks!(q4_dots, Q4Block, |block: &Q4Block| {
    let half = BLOCK / 2;
    let nibble = |i: usize| if i < half { block.pairs[i] & 15 } else { block.pairs[i - half] >> 4 };
    std::array::from_fn(|i| i16::from(nibble(i)) - 8)
});

#[cfg(test)]
mod tests {
    use super::*;
    use packed::Format;

    fn noise(n: usize, step: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * i * step) as f32 * 0.618).sin()).collect()
    }

    fn unpacked(w: &Matrix) -> Vec<f32> {
        let [rows, columns] = w.dims();
        let mut values = vec![0.0; rows * columns];
        values.chunks_mut(columns.max(1)).enumerate().for_each(|(i, row)| w.unpack_row(i, row));
        values
    }

    /// The most that rounding the vector to 16 bits can do to the product.
    fn rounding(w: &[f32], x: &[f32]) -> f64 {
        let of_block = |(w, x): (&[f32], &[f32])| {
            let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let size: f64 = w.iter().map(|w| f64::from(w.abs())).sum();
            0.5 * f64::from(largest) / f64::from(i16::MAX) * size
        };
        w.chunks(BLOCK).zip(x.chunks(BLOCK)).map(of_block).sum()
    }

    /// Against the sum in f64 of what the packed values stand for. A sum of products in f32 is off by at most
    /// `columns * 2^-24` of the sum of magnitudes; with blocks, inputs are rounded by half a 32,767th of the largest of 32,
    /// and factors twice more.
    #[test]
    fn products_are_those_of_the_unpacked_weights() {
        for isa in Isa::available() {
            for format in Format::ALL {
                for [n, rows, columns] in
                    [[1, 1, 32], [1, 67, 96], [2, 5, 1056], [3, 131, 64], [4, 19, 320], [7, 37, 2080]]
                {
                    // Formats without blocks have rows of any length.
                    let columns = if format.values_per_unit() == 1 { columns - 1 } else { columns };
                    let w = Matrix::pack(format, "w", [rows, columns], noise(rows * columns, 3)).unwrap();
                    let x = noise(n * columns, 1);
                    let [found] = vectors_times_rows(isa, &x, n, [&w]);
                    for (at, row) in unpacked(&w).chunks(columns).enumerate() {
                        for (j, x) in x.chunks(columns).enumerate() {
                            let terms = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                            let (sum, size) =
                                terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                            let error = (f64::from(found[j * rows + at]) - sum).abs();
                            let rounded = if format.values_per_unit() == 1 { 0.0 } else { rounding(row, x) };
                            let most = (columns + 3) as f64 * size * 2f64.powi(-24) + rounded;
                            assert!(error <= most, "{isa:?} {format} [{n}, {rows}, {columns}]: {error} > {most}");
                        }
                    }
                }
            }
        }
    }

    /// Vectors together, and matrices together, give the bits that each gives alone, on any number of threads.
    #[test]
    fn company_changes_no_bit() {
        let [n, columns] = [11, 544];
        let x = noise(n * columns, 1);
        for isa in Isa::available() {
            for format in Format::ALL {
                let of = |rows: usize| Matrix::pack(format, "w", [rows, columns], noise(rows * columns, 3)).unwrap();
                let matrices = [131, 0, 47].map(of);
                let matrices = matrices.each_ref();
                let of_one = |x, w| {
                    let [y] = vectors_times_rows(isa, x, 1, [w]);
                    y
                };
                let alone = matrices.map(|w| x.chunks(columns).flat_map(|x| of_one(x, w)).collect::<Vec<f32>>());
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let found = pool.install(|| vectors_times_rows(isa, &x, n, matrices));
                    assert_eq!(found, alone, "{isa:?} {format} on {threads} threads");
                }
            }
        }
    }

    /// Zeros, values too small to have a factor, and the largest ones are no fault; what is not finite stays so.
    #[test]
    fn extreme_vectors_are_rounded_or_lost() {
        let of = |value: f32| -> Vec<f32> { (0..BLOCK).map(|i| if i == 3 { value } else { 0.0 }).collect() };
        for (value, wanted) in [(0.0, 0.0), (1e-44, 0.0), (1e-30, 1e-30), (-3e38, -3e38)] {
            let Rounded { values, factors } = Rounded::of(&of(value));
            let found = f32::from(values[3]) * factors[0];
            assert!((found - wanted).abs() <= 2.0 * f32::EPSILON * wanted.abs(), "{value}: {found}");
            assert!(values.iter().enumerate().all(|(i, value)| i == 3 || *value == 0));
        }
        let rows = vec![1.0; 3 * BLOCK];
        for isa in Isa::available() {
            for format in [Format::Q8, Format::Q4] {
                let w = Matrix::pack(format, "w", [3, BLOCK], rows.clone()).unwrap();
                for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let [found] = vectors_times_rows(isa, &of(value), 1, [&w]);
                    assert!(found.iter().all(|y| y.is_nan()), "{isa:?} {format} {value}: {found:?}");
                }
            }
        }
    }
}
