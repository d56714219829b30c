//! Dot products with packed weights in AVX-512 and AVX2 (with FMA and F16C).
//!
//! Values are widened to f32 in registers. An 8-bit block takes two conversions a vector; a 4-bit one, in AVX-512, is looked
//! up: the permutation that picks from a table of 16 reads only the low 4 bits of an index. Both sum integers times inputs
//! first and multiply by the block's factor once.

/// The kernels of one instruction set. `$load_*` and `$blocks_*` are in the module that this is used in.
macro_rules! dots {
    ($feature:literal, $lanes:literal, $parts:literal, $rows:literal,
     $zero:ident, $load:ident, $mul:ident, $mul_add:ident) => {
        dots!(values $feature, $lanes, $zero, $load, $mul_add, f32_dots, f32, load_f32, |w: f32| w);
        dots!(values $feature, $lanes, $zero, $load, $mul_add, f16_dots, f16, load_f16, |w: f16| w.to_f32());
        dots!(values $feature, $lanes, $zero, $load, $mul_add, bf16_dots, bf16, load_bf16, |w: bf16| w.to_f32());
        dots!(blocks $feature, $lanes, $parts, $zero, $load, $mul, $mul_add, q8_dots, Q8Block, integers_q8);
        dots!(blocks $feature, $lanes, $parts, $zero, $load, $mul, $mul_add, q4_dots, Q4Block, integers_q4);
        dots!(table $rows, F32, f32, f32_dots);
        dots!(table $rows, F16, f16, f16_dots);
        dots!(table $rows, BF16, bf16, bf16_dots);
        dots!(table $rows, Q8, Q8Block, q8_dots);
        dots!(table $rows, Q4, Q4Block, q4_dots);
    };
    (table $rows:literal, $name:ident, $element:ty, $dots:ident) => {
        pub(crate) const $name: Table<$element> = Table {
            rows: $rows,
            group: [$dots::<$rows, 1>, $dots::<$rows, 2>, $dots::<$rows, 3>, $dots::<$rows, 4>],
            single: [$dots::<1, 1>, $dots::<1, 2>, $dots::<1, 3>, $dots::<1, 4>],
        };
    };
    (values $feature:literal, $lanes:literal, $zero:ident, $load:ident, $mul_add:ident,
     $name:ident, $element:ty, $widen:ident, $value:expr) => {
        #[target_feature(enable = $feature)]
        unsafe fn $name<const R: usize, const M: usize>(d: Dots<$element>) {
            let value = $value;
            // SAFETY: the caller vouches for the places.
            unsafe {
                let mut sums = [[$zero(); M]; R];
                let whole = d.columns / $lanes * $lanes;
                let mut s = 0;
                while s < whole {
                    let x: [_; M] = std::array::from_fn(|j| $load(d.x.add(j * d.columns + s)));
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let w = $widen(d.w.add(i * d.row + s));
                        for (sum, x) in sums.iter_mut().zip(x) {
                            *sum = $mul_add(w, x, *sum);
                        }
                    }
                    s += $lanes;
                }
                for (i, sums) in sums.into_iter().enumerate() {
                    for (j, sum) in sums.into_iter().enumerate() {
                        let mut total = add_lanes(sum);
                        for s in whole..d.columns {
                            total += value(*d.w.add(i * d.row + s)) * *d.x.add(j * d.columns + s);
                        }
                        *d.out.add(j * d.out_row + i) = total;
                    }
                }
            }
        }
    };
    (blocks $feature:literal, $lanes:literal, $parts:literal, $zero:ident, $load:ident, $mul:ident, $mul_add:ident,
     $name:ident, $block:ty, $integers:ident) => {
        #[target_feature(enable = $feature)]
        unsafe fn $name<const R: usize, const M: usize>(d: Dots<$block>) {
            // SAFETY: the caller vouches for the places.
            unsafe {
                let mut sums = [[$zero(); M]; R];
                for n in 0..d.row {
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let block = d.w.add(i * d.row + n);
                        let (scale, integers) = (widen_scale((*block).scale), $integers(block));
                        for (j, sum) in sums.iter_mut().enumerate() {
                            let x = d.x.add(j * d.columns + n * BLOCK);
                            let mut part = $mul(integers[0], $load(x));
                            for p in 1..$parts {
                                part = $mul_add(integers[p], $load(x.add(p * $lanes)), part);
                            }
                            *sum = $mul_add(scale, part, *sum);
                        }
                    }
                }
                for (i, sums) in sums.into_iter().enumerate() {
                    for (j, sum) in sums.into_iter().enumerate() {
                        *d.out.add(j * d.out_row + i) = add_lanes(sum);
                    }
                }
            }
        }
    };
}

pub(crate) mod avx512 {
    use crate::matrix_vector::{Dots, Table};
    use packed::{BLOCK, Q4Block, Q8Block, bf16, f16};
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add_lanes(x: __m512) -> f32 {
        _mm512_reduce_add_ps(x)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_f32(w: *const f32) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(w) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_f16(w: *const f16) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(w.cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_bf16(w: *const bf16) -> __m512 {
        // SAFETY: the caller's.
        let bits = unsafe { _mm256_loadu_si256(w.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn widen_scale(scale: f16) -> __m512 {
        _mm512_cvtph_ps(_mm256_set1_epi16(scale.to_bits().cast_signed()))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn integers_q8(block: *const Q8Block) -> [__m512; 2] {
        // SAFETY: the caller's.
        let bytes = unsafe { [0, 16].map(|at| _mm_loadu_si128((&raw const (*block).values).byte_add(at).cast())) };
        bytes.map(|bytes| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn integers_q4(block: *const Q4Block) -> [__m512; 2] {
        let table =
            _mm512_setr_ps(-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0);
        // SAFETY: the caller's.
        let pairs = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128((&raw const (*block).pairs).cast()) });
        [_mm512_permutexvar_ps(pairs, table), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(pairs), table)]
    }

    dots!("avx512f", 16, 2, 4, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_fmadd_ps);
}

pub(crate) mod avx2 {
    use crate::matrix_vector::{Dots, Table};
    use packed::{BLOCK, Q4Block, Q8Block, bf16, f16};
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn add_lanes(x: __m256) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_f32(w: *const f32) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(w) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_f16(w: *const f16) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(w.cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load_bf16(w: *const bf16) -> __m256 {
        // SAFETY: the caller's.
        let bits = unsafe { _mm_loadu_si128(w.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn widen_scale(scale: f16) -> __m256 {
        _mm256_cvtph_ps(_mm_set1_epi16(scale.to_bits().cast_signed()))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn integers_q8(block: *const Q8Block) -> [__m256; 4] {
        // SAFETY: the caller's.
        let bytes =
            unsafe { [0, 8, 16, 24].map(|at| _mm_loadl_epi64((&raw const (*block).values).byte_add(at).cast())) };
        bytes.map(|bytes| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn integers_q4(block: *const Q4Block) -> [__m256; 4] {
        // SAFETY: the caller's.
        let pairs = unsafe { [0, 8].map(|at| _mm_loadl_epi64((&raw const (*block).pairs).byte_add(at).cast())) };
        let [first, second] = pairs.map(|pairs| _mm256_cvtepu8_epi32(pairs));
        let low = |pairs| _mm256_and_si256(pairs, _mm256_set1_epi32(15));
        let high = |pairs| _mm256_srli_epi32::<4>(pairs);
        let centred = |nibbles| _mm256_cvtepi32_ps(_mm256_sub_epi32(nibbles, _mm256_set1_epi32(8)));
        [low(first), low(second), high(first), high(second)].map(|nibbles| centred(nibbles))
    }

    dots!("avx2,fma,f16c", 8, 4, 2, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_fmadd_ps);
}
