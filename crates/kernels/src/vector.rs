//! Loops over rows that the compiler vectorises for the processor at hand.

/// Defines a function that runs `$rows` compiled for AVX2 and FMA where the processor has them, else for the baseline
/// (on aarch64 the baseline has NEON). `$rows` must be `#[inline(always)]` and take the const parameter `FMA`: without
/// the feature `mul_add` is a library call, 35 times slower.
macro_rules! vectorised {
    ($vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $rows:ident) => {
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn with_avx2($($arg: $ty),*) $(-> $ret)? {
                    $rows::<true>($($arg),*)
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features were detected on this processor.
                    return unsafe { with_avx2($($arg),*) };
                }
            }
            $rows::<false>($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// Independent partial sums per row: four AVX registers, enough to hide the latency of an addition.
pub(crate) const LANES: usize = 32;

/// `a b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` for x in [-87, 88], clamped outside; relative error below 2e-7. Rounds `x / ln 2` to `n`, a polynomial of
/// degree 6 for the rest in [-ln 2 / 2, ln 2 / 2], then `2^n` through the exponent bits.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN2_LOW, mul_add::<FMA>(n, -LN2_HIGH, x));
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = mul_add::<FMA>(p, r, c);
    }
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

/// Lanes combined by halves: a chain of 31 scalar operations would take as long as 500 elements.
#[inline(always)]
fn combined(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [16, 8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

/// What short rows, and the ends of long ones, are taken in steps of: one AVX register.
const SHORT: usize = 8;

/// Sum of `term(i)` for `i` in `0..n`, in [`LANES`] partial sums added in a fixed order.
#[inline(always)]
pub(crate) fn sum(n: usize, mut term: impl FnMut(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = n / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    let short = n / SHORT * SHORT;
    for start in (whole..short).step_by(SHORT) {
        for (lane, sum) in lanes.iter_mut().take(SHORT).enumerate() {
            *sum += term(start + lane);
        }
    }
    combined(lanes, |a, b| a + b) + (short..n).map(term).sum::<f32>()
}

/// Largest element; negative infinity when there is none.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (max, &x) in lanes.iter_mut().zip(chunk) {
            *max = larger(*max, x);
        }
    }
    let (chunks, rest) = rest.as_chunks::<SHORT>();
    for chunk in chunks {
        for (max, &x) in lanes.iter_mut().zip(chunk) {
            *max = larger(*max, x);
        }
    }
    rest.iter().fold(combined(lanes, larger), |max, &x| max.max(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    fn exp_rows<const FMA: bool>(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = exp::<FMA>(x);
        }
    }
    vectorised!(fn exp_all(x: &[f32], y: &mut [f32]) = exp_rows);

    /// Against f64: the polynomial's own error is 2e-9, f32 rounding of two or three operations 6e-8 each.
    #[test]
    fn exp_is_exact_to_two_units_in_the_last_place() {
        let x: Vec<f32> = (0..200_003).map(|i| -87.0 + 175.0 * i as f32 / 200_003.0).collect();
        let mut y = vec![0.0; x.len()];
        for path in [exp_all, exp_rows::<false>] {
            path(&x, &mut y);
            for (&x, &y) in x.iter().zip(&y) {
                let exact = f64::from(x).exp();
                assert!(((f64::from(y) - exact) / exact).abs() < 2.5e-7, "exp({x}) = {y}, not {exact}");
            }
        }
    }

    #[test]
    fn sums_and_maxima_take_every_element() {
        for n in [0, 1, 7, 8, 31, 32, 33, 97, 121] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 37) % 101) as f32).collect();
            assert_eq!(sum(n, |i| row[i]), row.iter().sum::<f32>());
            assert_eq!(max(&row), row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
