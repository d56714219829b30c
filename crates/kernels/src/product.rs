//! Matrix products in f32, blocked for the caches, on all threads of the current pool.
//!
//! Chosen by measurement over libraries: docs/benchmarks.md. With AVX-512 or AVX2, where tiles are ours, every element is
//! summed in the same order however many threads there are and however the rows are shared among them; for other
//! processors a library has the product, which promises nothing of the kind.

use crate::tile::{Isa, ROWS, Tile};
use crate::vector::{sum, vectorised};
use rayon::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A matrix in a slice: element `(i, j)` at `i * row + j * column`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub column: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major, `width` columns.
    pub fn new(data: &'a [f32], width: usize) -> Self {
        Self { data, row: width, column: 1 }
    }

    /// Its transpose, in place.
    pub fn t(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    /// Columns from `j` on.
    fn columns_from(self, j: usize) -> Self {
        Self { data: &self.data[j * self.column..], ..self }
    }

    /// Rows from `i` on.
    fn rows_from(self, i: usize) -> Self {
        Self { data: &self.data[i * self.row..], ..self }
    }

    fn holds(self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
    }
}

/// What becomes of the result's former values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// Overwritten.
    Place,
    /// Added to.
    Sum,
}

/// Steps of the sum between two visits of the result: 512 x 64 columns of AVX-512 stream from the second-level cache
/// while 512 x 6 rows stay in the first. 256 and 384 were no faster.
const DEPTH: usize = 512;
/// Columns whose packed block stays in the second-level cache, with [`DEPTH`] 512 kB.
const COLUMNS: usize = 256;
/// Rows a task works on at most.
const TASK_ROWS: usize = 192;
/// The same where the left operand is packed too: then both blocks share the second-level cache, and 192 rows of
/// [`DEPTH`] steps took up to 6 % longer, though not in every run.
const TASK_ROWS_PACKED: usize = 96;
/// Elements packed at a time: 8 MB.
const PACKED: usize = 2 << 20;
/// Steps of the sum packed at a time.
const PACKED_DEPTH: usize = 8 * DEPTH;
/// Rows of the left operand up to which the right operand is read once as it lies: packing would read it twice.
const FEW: usize = 4;

/// `c = a b`, or added to `c`. Dims `[m, n, k]`: c is row-major `[m, n]`, a `[m, k]`, b `[k, n]`.
///
/// # Panics
/// When a slice is too short.
pub(crate) fn product(isa: Isa, c: &mut [f32], dims: [usize; 3], a: Matrix, b: Matrix, into: Into) {
    product_in(isa, c, Columns { width: dims[1], first: 0 }, dims, a, b, into);
}

/// Where a result lies in rows that may be longer than its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    /// Elements of a whole row.
    pub width: usize,
    /// The result's first column in it.
    pub first: usize,
}

/// As [`product()`], in some columns of `c` `[m, width]`; the others stay as they are.
///
/// # Panics
/// When a slice is too short.
pub(crate) fn product_in(
    isa: Isa,
    c: &mut [f32],
    Columns { width: c_width, first }: Columns,
    [m, n, k]: [usize; 3],
    a: Matrix,
    b: Matrix,
    into: Into,
) {
    assert!(
        c.len() == m * c_width && first + n <= c_width && a.holds(m, k) && b.holds(k, n),
        "operands of a product of [{m}, {n}, {k}]"
    );
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 && into == Into::Place {
        c.chunks_mut(c_width).for_each(|row| row[first..first + n].fill(0.0));
    }
    if m <= FEW && a.column == 1 && b.row == 1 {
        return few_rows(&mut c[first..], c_width, [m, n, k], a, b, into);
    }
    if isa == Isa::Baseline {
        return library(&mut c[first..], c_width, [m, n, k], a, b, into);
    }
    let width = isa.columns();
    let deepest = k.min(PACKED_DEPTH);
    let widest = (PACKED / deepest.max(1) / width).max(1) * width;
    let mut packed = Scratch::new(widest.min(n.next_multiple_of(width)) * deepest);
    for step in (0..k).step_by(PACKED_DEPTH) {
        let depth = PACKED_DEPTH.min(k - step);
        let add = into == Into::Sum || step > 0;
        for column in (0..n).step_by(widest) {
            let columns = widest.min(n - column);
            let packed = &mut packed[..columns.next_multiple_of(width) * depth];
            pack_right(isa, packed, b.rows_from(step).columns_from(column), depth, columns);
            let strips = Strips { isa, packed, a: a.columns_from(step), depth, columns, add };
            strips.run(c, first + column, c_width);
        }
    }
}

/// A pointer that tasks share; each writes elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);
// SAFETY: every use writes to places no other task reads or writes.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(data: &mut [f32]) -> Self {
        Self(data.as_mut_ptr())
    }

    /// The place `offset` elements on.
    ///
    /// # Safety
    /// It lies within the slice, and what is written through it is this task's alone.
    pub unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's.
        unsafe { self.0.add(offset) }
    }
}

/// The product of all rows with one packed block.
struct Strips<'a> {
    isa: Isa,
    packed: &'a [f32],
    a: Matrix<'a>,
    depth: usize,
    columns: usize,
    add: bool,
}

impl Strips<'_> {
    fn run(&self, c: &mut [f32], column: usize, width: usize) {
        let n_rows = c.len() / width;
        // Several tasks a thread, so that a thread that is held up holds up little.
        let most = if self.a.column == 1 { TASK_ROWS } else { TASK_ROWS_PACKED };
        let rows = n_rows.div_ceil(4 * rayon::current_num_threads()).next_multiple_of(ROWS).min(most);
        c.par_chunks_mut(rows * width).enumerate().for_each(|(task, c)| {
            let n_rows = c.len() / width;
            self.strip(&mut c[column..], width, n_rows, self.a.rows_from(task * rows));
        });
    }

    /// Some rows: the block's columns in parts that stay in the second-level cache.
    fn strip(&self, c: &mut [f32], width: usize, n_rows: usize, a: Matrix) {
        let tile_columns = self.isa.columns();
        let is_packed = a.column != 1;
        let mut left = Scratch::new(if is_packed { n_rows.next_multiple_of(ROWS) * DEPTH.min(self.depth) } else { 0 });
        for step in (0..self.depth).step_by(DEPTH) {
            let depth = DEPTH.min(self.depth - step);
            let a = a.columns_from(step);
            // A row of the left operand is read as it lies when its steps lie side by side.
            let (a, a_row, a_step, a_panel) = if !is_packed {
                (a.data, a.row, 1, ROWS * a.row)
            } else {
                pack_left(&mut left, a, n_rows, depth);
                (&*left, 1, ROWS, ROWS * depth)
            };
            for part in (0..self.columns).step_by(COLUMNS) {
                for i in (0..n_rows).step_by(ROWS) {
                    for j in (part..self.columns.min(part + COLUMNS)).step_by(tile_columns) {
                        let tile = Tile {
                            depth,
                            a: a[i / ROWS * a_panel..].as_ptr(),
                            a_row,
                            a_step,
                            b: self.packed[j * self.depth + step * tile_columns..].as_ptr(),
                            b_step: tile_columns,
                            c: c[i * width + j..].as_mut_ptr(),
                            c_row: width,
                            add: self.add || step > 0,
                        };
                        // SAFETY: `product` checked the operands, the block is packed, and `c` is this task's.
                        unsafe { self.tile(tile, ROWS.min(n_rows - i), self.columns - j) };
                    }
                }
            }
        }
    }

    /// A tile, by way of a full one where columns are missing.
    unsafe fn tile(&self, tile: Tile, rows: usize, columns: usize) {
        let full = self.isa.columns();
        if columns >= full {
            // SAFETY: the caller's.
            return unsafe { self.isa.tile(rows, full)(tile) };
        }
        let mut edge = [0.0; ROWS * 64];
        // SAFETY: the caller's; the edge has room for a full tile.
        unsafe { self.isa.tile(rows, full)(Tile { c: edge.as_mut_ptr(), c_row: full, add: false, ..tile }) };
        for (i, edge) in edge.chunks(full).take(rows).enumerate() {
            for (j, sum) in edge.iter().take(columns).enumerate() {
                // SAFETY: within the result.
                let c = unsafe { &mut *tile.c.add(i * tile.c_row + j) };
                *c = if tile.add { *c + sum } else { *sum };
            }
        }
    }
}

/// Space that lives for one operation, from the start of a cache line: allocators give large blocks 16 bytes past one, and
/// then every vector of AVX-512 would lie in two.
///
/// It comes from the system and not by way of the program's allocator: a memory account is kept of tensors. This is
/// beside it: at most [`PACKED`] elements of a product, a few of a thread, and 4 MB of unpacked weights, whatever the
/// model; and in attention, for each thread, two matrices as large as a head's keys, in its backward five, which grow with
/// the row.
pub(crate) struct Scratch {
    start: NonNull<f32>,
    layout: Layout,
}

impl Scratch {
    /// Room for `n` elements, all to be written before they are read.
    pub fn new(n: usize) -> Self {
        let layout = Layout::array::<f32>(n.max(1)).and_then(|layout| layout.align_to(64));
        let layout = layout.expect("invariant: an operation's space fits into memory");
        // SAFETY: the layout's size is not 0.
        let start = NonNull::new(unsafe { System.alloc(layout) }.cast());
        Self { start: start.unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: allocated for so many elements; f32 has no invalid values.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size() / size_of::<f32>()) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size() / size_of::<f32>()) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: allocated there with this layout.
        unsafe { System.dealloc(self.start.as_ptr().cast(), self.layout) }
    }
}

/// A vector of `n` elements that are all to be written before they are read.
#[expect(clippy::uninit_vec, reason = "every caller writes all of it; clearing would cost a pass over memory")]
pub(crate) fn unwritten(n: usize) -> Vec<f32> {
    let mut vector = Vec::with_capacity(n);
    // SAFETY: f32 has no invalid values and no drop.
    unsafe { vector.set_len(n) };
    vector
}

/// `[panel][step][row in panel]`, [`ROWS`] rows a panel; the last panel's missing rows are not written and not read.
fn pack_left(left: &mut [f32], a: Matrix, n_rows: usize, depth: usize) {
    // Steps at a time, so that a cache line of the operand is read once for all panels.
    const STEPS: usize = 16;
    for first in (0..depth).step_by(STEPS) {
        for i in (0..n_rows).step_by(ROWS) {
            let to = &mut left[i * depth + first * ROWS..][..STEPS.min(depth - first) * ROWS];
            let to = to.as_chunks_mut::<ROWS>().0;
            if a.row == 1 && n_rows - i >= ROWS {
                for (step, to) in to.iter_mut().enumerate() {
                    let from = a.data[(first + step) * a.column + i..].first_chunk();
                    *to = *from.expect("invariant: the matrix holds its elements");
                }
            } else {
                for (step, to) in to.iter_mut().enumerate() {
                    for (row, to) in to.iter_mut().enumerate().take(n_rows - i) {
                        *to = a.data[(first + step) * a.column + (i + row) * a.row];
                    }
                }
            }
        }
    }
}

/// `[panel][step][column in panel]`, a tile's columns a panel, missing columns 0.
fn pack_right(isa: Isa, packed: &mut [f32], b: Matrix, depth: usize, n_columns: usize) {
    const STEPS: usize = 64;
    let width = isa.columns();
    if b.column == 1 {
        let to = Shared::new(packed);
        (0..depth.div_ceil(STEPS)).into_par_iter().for_each(|block| {
            for step in block * STEPS..depth.min((block + 1) * STEPS) {
                let from = &b.data[step * b.row..][..n_columns];
                for (panel, from) in from.chunks(width).enumerate() {
                    // SAFETY: a row of a panel, which lies in `packed` and is this block's.
                    let to = unsafe { std::slice::from_raw_parts_mut(to.at((panel * depth + step) * width), width) };
                    to[..from.len()].copy_from_slice(from);
                    to[from.len()..].fill(0.0);
                }
            }
        });
    } else {
        packed.par_chunks_mut(width * depth).enumerate().for_each(|(panel, to)| {
            let columns = width.min(n_columns - panel * width);
            pack_columns(to, width, b.columns_from(panel * width), depth, columns);
        });
    }
}

/// `to[step][column] = b[step, column]` of a matrix whose steps lie side by side or anywhere; missing columns 0.
pub(crate) fn pack_columns(to: &mut [f32], width: usize, b: Matrix, depth: usize, n_columns: usize) {
    let whole = if b.row == 1 { transpose_whole(to, width, b, depth, n_columns) } else { (0, 0) };
    for (step, to) in to.chunks_exact_mut(width).enumerate().take(depth) {
        let done = if step < whole.0 { whole.1 } else { 0 };
        for (column, to) in to.iter_mut().enumerate().skip(done) {
            *to = if column < n_columns { b.data[step * b.row + column * b.column] } else { 0.0 };
        }
    }
}

/// Transposes in blocks of 8 x 8 and gives how many steps and columns these make.
fn transpose_whole(to: &mut [f32], width: usize, b: Matrix, depth: usize, n_columns: usize) -> (usize, usize) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        let (steps, columns) = (depth / 8 * 8, n_columns / 8 * 8);
        if steps > 0 && columns > 0 {
            assert!(b.holds(steps, columns) && (steps - 1) * width + columns <= to.len());
        }
        // Two blocks of steps at a time: a whole cache line of the operand.
        for first in (0..steps).step_by(16) {
            for column in (0..columns).step_by(8) {
                for step in (first..steps.min(first + 16)).step_by(8) {
                    let from = b.data[column * b.column + step..].as_ptr();
                    // SAFETY: the feature was detected, and both blocks lie in their slices.
                    unsafe { transpose_8x8(to[step * width + column..].as_mut_ptr(), width, from, b.column) };
                }
            }
        }
        return (steps, columns);
    }
    let _ = (to, width, b, depth, n_columns);
    (0, 0)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose_8x8(to: *mut f32, to_row: usize, from: *const f32, from_row: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's.
    unsafe {
        let rows: [__m256; 8] = std::array::from_fn(|i| _mm256_loadu_ps(from.add(i * from_row)));
        let pairs: [__m256; 8] = std::array::from_fn(|i| {
            let (x, y) = (rows[i / 4 * 4 + i % 2 * 2], rows[i / 4 * 4 + i % 2 * 2 + 1]);
            if i % 4 < 2 { _mm256_unpacklo_ps(x, y) } else { _mm256_unpackhi_ps(x, y) }
        });
        let fours: [__m256; 8] = std::array::from_fn(|i| {
            let (x, y) = (pairs[i / 2 * 2], pairs[i / 2 * 2 + 1]);
            if i % 2 == 0 { _mm256_shuffle_ps::<0x44>(x, y) } else { _mm256_shuffle_ps::<0xee>(x, y) }
        });
        for i in 0..4 {
            _mm256_storeu_ps(to.add(i * to_row), _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]));
            _mm256_storeu_ps(to.add((i + 4) * to_row), _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]));
        }
    }
}

/// Where we have no tiles of our own: the library that burn's CPU backend uses, which has some for NEON.
fn library(c: &mut [f32], c_width: usize, [m, n, k]: [usize; 3], a: Matrix, b: Matrix, into: Into) {
    let stride = |stride: usize| isize::try_from(stride).expect("invariant: a slice is shorter than that");
    // SAFETY: `product` checked that the slices hold the operands and the result.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            stride(c_width),
            into == Into::Sum,
            a.data.as_ptr(),
            stride(a.column),
            stride(a.row),
            b.data.as_ptr(),
            stride(b.column),
            stride(b.row),
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

#[inline(always)]
fn dot_row<const FMA: bool>(x: &[f32], y: &[f32]) -> f32 {
    let y = &y[..x.len()];
    sum(x.len(), |i| x[i] * y[i])
}
vectorised!(pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 = dot_row);

/// For a weight stored `[n, k]` and a few rows: every row of the weight is read once, at the speed of memory.
fn few_rows(c: &mut [f32], c_width: usize, [m, n, k]: [usize; 3], a: Matrix, b: Matrix, into: Into) {
    const TASK: usize = 64;
    let to = Shared::new(c);
    (0..n.div_ceil(TASK)).into_par_iter().for_each(|task| {
        for j in task * TASK..n.min((task + 1) * TASK) {
            let column = &b.data[j * b.column..][..k];
            for i in 0..m {
                // SAFETY: an element of the result, this task's.
                let c = unsafe { &mut *to.at(i * c_width + j) };
                let sum = dot(&a.data[i * a.row..][..k], column);
                *c = if into == Into::Sum { *c + sum } else { sum };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, so that sums are exact in any order: every stride, every edge of tiles and blocks, more steps and
    /// columns than are packed at a time, with every instruction set of this processor and on several threads.
    #[test]
    fn products_are_exact() {
        let sizes = [
            [1, 1, 1],
            [2, 3, 0],
            [1, 67, 33],
            [5, 1, 7],
            [6, 64, 16],
            [7, 65, 17],
            [13, 127, 9],
            [4, 131, 513],
            [67, 31, 513],
            [193, 257, 21],
            [11, 130, 1031],
            [7, 521, 4099],
            [3, 2053, 1030],
        ];
        for size @ [m, n, k] in sizes {
            let values = |n: usize, step: usize| -> Vec<f32> { (0..n).map(|i| (i * step % 7) as f32 - 3.0).collect() };
            let (a, b) = (values(m * k, 5), values(k * n, 3));
            // The same matrices stored both ways.
            let turned = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
            };
            let (a_t, b_t) = (turned(&a, m, k), turned(&b, k, n));
            let mut wanted = vec![0.0f32; m * n];
            for i in 0..m {
                for s in 0..k {
                    for j in 0..n {
                        wanted[i * n + j] += a[i * k + s] * b[s * n + j];
                    }
                }
            }
            let a = [Matrix::new(&a, k), Matrix::new(&a_t, m).t()];
            let b = [Matrix::new(&b, n), Matrix::new(&b_t, k).t()];
            for isa in Isa::available() {
                for (a, b) in a.into_iter().flat_map(|a| b.map(|b| (a, b))) {
                    for threads in [1, 3] {
                        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                        let mut c = vec![f32::NAN; m * n];
                        pool.install(|| product(isa, &mut c, size, a, b, Into::Place));
                        assert_eq!(c, wanted, "{size:?} {isa:?} strides {} {}", a.row, b.row);
                        pool.install(|| product(isa, &mut c, size, a, b, Into::Sum));
                        assert!(c.iter().zip(&wanted).all(|(c, w)| *c == 2.0 * w), "sum {size:?} {isa:?}");
                        let mut wide = vec![1.0; m * (n + 5)];
                        let columns = Columns { width: n + 5, first: 3 };
                        pool.install(|| product_in(isa, &mut wide, columns, size, a, b, Into::Sum));
                        for (row, wanted) in wide.chunks(n + 5).zip(wanted.chunks(n)) {
                            assert!(
                                row[3..n + 3].iter().zip(wanted).all(|(c, w)| *c == 1.0 + w),
                                "in {size:?} {isa:?}"
                            );
                            assert_eq!([&row[..3], &row[n + 3..]].concat(), [1.0; 5], "beside {size:?} {isa:?}");
                        }
                    }
                }
            }
        }
    }

    /// The same bits whatever the number of threads, where sums are inexact.
    #[test]
    fn threads_change_no_bit() {
        let [m, n, k] = [203, 131, 1100];
        let noise = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * i) as f32 * 0.618).sin()).collect() };
        let (a, b) = (noise(m * k), noise(k * n));
        for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Baseline) {
            let of = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut c = vec![0.0; m * n];
                let (a, b) = (Matrix::new(&a, k), Matrix::new(&b, n));
                pool.install(|| product(isa, &mut c, [m, n, k], a, b, Into::Place));
                c
            };
            assert_eq!(of(1), of(4), "{isa:?}");
        }
    }

    #[test]
    #[should_panic(expected = "operands of a product of [2, 2, 2]")]
    fn short_operands_are_refused() {
        let mut c = [0.0; 4];
        product(Isa::detect(), &mut c, [2, 2, 2], Matrix::new(&[1.0; 3], 2), Matrix::new(&[1.0; 4], 2), Into::Place);
    }
}
