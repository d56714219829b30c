//! Rotary position embedding (Su et al., 2021) in the half-split form of the ecosystem's weights.

use crate::product::unwritten;
use crate::{Kernels, flex};
use burn::backend::{Dispatch, Flex, tensor::FloatTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

/// Rotates the pairs `(x[i], x[i + half])` of every head by its token's angles.
///
/// # Shapes
/// - x and result: `[n, heads * 2 half]`; cos, sin: `[n, half]`, untracked
pub fn rope(x: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::rope(x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch()))
}

/// Tokens one task works on at least.
const MIN_TOKENS: usize = 64;

/// `sign` 1 rotates forward, -1 back: the gradient of a rotation is the rotation back.
pub(crate) fn rotate_flex(
    x: &FloatTensor<Flex>,
    cos: &FloatTensor<Flex>,
    sin: &FloatTensor<Flex>,
    sign: f32,
) -> FloatTensor<Flex> {
    let ([n, width], [_, half]) = (flex::dims(x), flex::dims(cos));
    let (x, cos, sin) = (flex::slice(x), flex::slice(cos), flex::slice(sin));
    let mut y = unwritten(n * width);
    let tokens = x.par_chunks(width).zip(y.par_chunks_mut(width)).zip(cos.par_chunks(half).zip(sin.par_chunks(half)));
    tokens.with_min_len(MIN_TOKENS).for_each(|((x, y), (cos, sin))| {
        for (x, y) in x.chunks(2 * half).zip(y.chunks_mut(2 * half)) {
            let (x0, x1) = x.split_at(half);
            let (y0, y1) = y.split_at_mut(half);
            for i in 0..half {
                let s = sin[i] * sign;
                y0[i] = x0[i] * cos[i] - x1[i] * s;
                y1[i] = x1[i] * cos[i] + x0[i] * s;
            }
        }
    });
    flex::matrix(y, n, width)
}
