//! The innermost block of a matrix product: a few rows by a few vectors of columns, summed in registers.

/// Instructions that products are computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// 512-bit vectors, of f32 and of integers of 16 bits (which all but the Xeon Phi with the former have).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256-bit vectors with a fused multiply-add, and conversions of f16.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor of the architecture has.
    Baseline,
}

/// Rows of a full tile. With 4 vectors of AVX-512 24 of its 32 registers are sums, with 2 of AVX2 12 of 16; the rest
/// hold a row of the right operand and one element of the left.
pub(crate) const ROWS: usize = 6;

/// One tile's operands, strides in elements: `c[i, j] = (c[i, j] if add) + sum over s of a[i, s] b[s, j]`, with `a[i, s]`
/// at `i * a_row + s * a_step`, `b[s, j]` at `s * b_step + j` and `c[i, j]` at `i * c_row + j`.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub depth: usize,
    pub a: *const f32,
    pub a_row: usize,
    pub a_step: usize,
    pub b: *const f32,
    pub b_step: usize,
    pub c: *mut f32,
    pub c_row: usize,
    pub add: bool,
}

/// Computes a tile of a fixed size.
pub(crate) type Compute = unsafe fn(Tile);
/// Of 1 to [`ROWS`] rows and 1 to 4 vectors.
type Table = [[Compute; 4]; ROWS];

impl Isa {
    /// The best that this processor has.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All that this processor has, best first.
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("f16c") {
                all.push(Isa::Avx512);
            }
            // Conversions of f16 came before FMA on every processor; packed weights want them.
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                all.push(Isa::Avx2);
            }
        }
        all.push(Isa::Baseline);
        all
    }

    /// Elements of a vector.
    pub fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => 8,
            Isa::Baseline => 4,
        }
    }

    /// Columns of a full tile.
    pub fn columns(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 64,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => 16,
            Isa::Baseline => 8,
        }
    }

    /// What computes tiles of `rows` by `columns`.
    ///
    /// Calling it is sound when this processor has the instructions, and the operands and the result lie where the tile
    /// says.
    pub fn tile(self, rows: usize, columns: usize) -> Compute {
        let vectors = columns / self.lanes();
        debug_assert!((1..=ROWS).contains(&rows) && columns.is_multiple_of(self.lanes()) && vectors > 0);
        let table = match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &AVX2,
            Isa::Baseline => &BASELINE,
        };
        table[rows - 1][vectors - 1]
    }
}

macro_rules! table {
    ($compute:ident) => {
        [
            table!($compute, 1),
            table!($compute, 2),
            table!($compute, 3),
            table!($compute, 4),
            table!($compute, 5),
            table!($compute, 6),
        ]
    };
    ($compute:ident, $rows:literal) => {
        [$compute::<$rows, 1>, $compute::<$rows, 2>, $compute::<$rows, 3>, $compute::<$rows, 4>]
    };
}

macro_rules! x86_tile {
    ($compute:ident, $table:ident, $feature:literal, $lanes:literal,
     $zero:ident, $load:ident, $broadcast:ident, $mul_add:ident, $add:ident, $store:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $feature)]
        unsafe fn $compute<const M: usize, const N: usize>(t: Tile) {
            use std::arch::x86_64::*;
            // SAFETY: the caller vouches for the places.
            unsafe {
                let mut sums = [[$zero(); N]; M];
                let (mut a, mut b) = (t.a, t.b);
                // The result is wanted in cache when the sums are done.
                for i in 0..M {
                    for j in 0..N {
                        _mm_prefetch::<_MM_HINT_T0>(t.c.add(i * t.c_row + $lanes * j).cast());
                    }
                }
                for _ in 0..t.depth {
                    let row: [_; N] = std::array::from_fn(|j| $load(b.add($lanes * j)));
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let x = $broadcast(*a.add(i * t.a_row));
                        for (sum, y) in sums.iter_mut().zip(row) {
                            *sum = $mul_add(x, y, *sum);
                        }
                    }
                    a = a.add(t.a_step);
                    b = b.add(t.b_step);
                }
                for (i, sums) in sums.into_iter().enumerate() {
                    for (j, sum) in sums.into_iter().enumerate() {
                        let c = t.c.add(i * t.c_row + $lanes * j);
                        $store(c, if t.add { $add($load(c), sum) } else { sum });
                    }
                }
            }
        }

        #[cfg(target_arch = "x86_64")]
        const $table: Table = table!($compute);
    };
}

x86_tile!(
    avx512,
    AVX512,
    "avx512f",
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_storeu_ps
);
x86_tile!(
    avx2,
    AVX2,
    "avx2,fma",
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_storeu_ps
);

const BASELINE: Table = table!(baseline);

/// Left to the compiler: SSE2 or NEON.
unsafe fn baseline<const M: usize, const N: usize>(t: Tile) {
    const LANES: usize = 4;
    let mut sums = [[[0.0f32; LANES]; N]; M];
    // SAFETY: the caller vouches for the places.
    unsafe {
        for s in 0..t.depth {
            let b = t.b.add(s * t.b_step).cast::<[[f32; LANES]; N]>().read_unaligned();
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = *t.a.add(i * t.a_row + s * t.a_step);
                for (sums, b) in sums.iter_mut().zip(b) {
                    for (sum, y) in sums.iter_mut().zip(b) {
                        *sum += x * y;
                    }
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            let c = t.c.add(i * t.c_row).cast::<[[f32; LANES]; N]>();
            let mut result = sums;
            if t.add {
                let before = c.read_unaligned();
                for (sums, before) in result.iter_mut().zip(before) {
                    sums.iter_mut().zip(before).for_each(|(sum, before)| *sum += before);
                }
            }
            c.write_unaligned(result);
        }
    }
}

/// Tiles that cover a product of `rows` by `columns`, a multiple of [`Isa::lanes`], from the operands of its first tile.
///
/// # Safety
/// As for the tile that [`Isa::tile`] gives, for all rows, columns and steps.
pub(crate) unsafe fn cover(isa: Isa, rows: usize, columns: usize, first: Tile) {
    let width = isa.columns();
    for j in (0..columns).step_by(width) {
        for i in (0..rows).step_by(ROWS) {
            // SAFETY: within the product.
            unsafe {
                isa.tile(ROWS.min(rows - i), width.min(columns - j))(Tile {
                    a: first.a.add(i * first.a_row),
                    b: first.b.add(j),
                    c: first.c.add(i * first.c_row + j),
                    ..first
                });
            }
        }
    }
}
