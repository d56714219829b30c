//! The linear layer with split backward: the input's gradient at once, the weight's whenever the schedule says.

use crate::product::{Into, Matrix, product, unwritten};
use crate::tile::Isa;
use crate::{Kernels, flex};
use burn::backend::{Dispatch, Flex, tensor::FloatTensor};
use burn::tensor::Tensor;
use std::sync::mpsc::Sender;

/// What a linear layer's backward leaves for the weight pass.
#[derive(Debug)]
pub struct WeightGrad {
    /// The caller's number of the weight.
    pub parameter: usize,
    /// The layer's input `[n, in]`, plain.
    pub x: Tensor<2>,
    /// The gradient of its output `[n, out]`, plain.
    pub dy: Tensor<2>,
}

/// Where backward passes send what they leave: one channel per visit, so that a queue is keyed as its visit is.
#[derive(Clone, Debug)]
pub struct WeightGrads(pub Sender<WeightGrad>);

/// `y = x w^T`, with the weight stored as files have it.
///
/// Backward gives the gradient of `x` only and sends `(parameter, x, dy)` to `grads`; the weight is never a leaf. If
/// `x` is not tracked, no backward runs and nothing is sent.
///
/// # Shapes
/// - x: `[n, in]`, w: `[out, in]`, untracked
/// - result: `[n, out]`
pub fn linear(x: Tensor<2>, w: Tensor<2>, parameter: usize, grads: WeightGrads) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::linear(x.into_dispatch(), w.into_dispatch(), parameter, grads))
}

/// `sum + dy^T x`: the weight pass, adding into an existing buffer (in place on the CPU when `sum` is not shared).
///
/// # Shapes
/// - sum and result: `[out, in]`; dy: `[n, out]`; x: `[n, in]`; all plain
pub fn weight_gradient(sum: Tensor<2>, dy: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::weight_gradient(
        sum.into_dispatch(),
        dy.into_dispatch(),
        x.into_dispatch(),
    ))
}

/// `x w^T` of plain tensors: nothing is recorded.
///
/// # Shapes
/// - x: `[n, in]`, w: `[out, in]`; result: `[n, out]`
pub fn linear_forward(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::linear_forward(x.into_dispatch(), w.into_dispatch()))
}

pub(crate) fn forward_flex(x: &FloatTensor<Flex>, w: &FloatTensor<Flex>) -> FloatTensor<Flex> {
    let ([n, n_in], [n_out, w_in]) = (flex::dims(x), flex::dims(w));
    assert_eq!(n_in, w_in, "a linear layer's input");
    let mut y = unwritten(n * n_out);
    let (x, w) = (Matrix::new(flex::slice(x), n_in), Matrix::new(flex::slice(w), n_in).t());
    product(Isa::detect(), &mut y, [n, n_out, n_in], x, w, Into::Place);
    flex::matrix(y, n, n_out)
}

pub(crate) fn input_gradient_flex(dy: &FloatTensor<Flex>, w: &FloatTensor<Flex>) -> FloatTensor<Flex> {
    let ([n, n_out], [w_out, n_in]) = (flex::dims(dy), flex::dims(w));
    assert_eq!(n_out, w_out, "a linear layer's output");
    let mut dx = unwritten(n * n_in);
    let (dy, w) = (Matrix::new(flex::slice(dy), n_out), Matrix::new(flex::slice(w), n_in));
    product(Isa::detect(), &mut dx, [n, n_in, n_out], dy, w, Into::Place);
    flex::matrix(dx, n, n_in)
}

/// No buffer per microbatch is made, and nothing is transposed.
pub(crate) fn weight_gradient_flex(
    mut sum: FloatTensor<Flex>,
    dy: FloatTensor<Flex>,
    x: FloatTensor<Flex>,
) -> FloatTensor<Flex> {
    if !flex::fused([&sum, &dy, &x]) || !sum.is_contiguous() {
        return crate::ops::plain::weight_gradient::<Flex>(sum, dy, x);
    }
    let ([n, n_out], [n_x, n_in]) = (flex::dims(&dy), flex::dims(&x));
    assert_eq!((n, [n_out, n_in]), (n_x, flex::dims(&sum)), "weight gradient shapes");
    let (dy, x) = (dy.to_contiguous(), x.to_contiguous());
    let (dy, x) = (Matrix::new(flex::slice(&dy), n_out).t(), Matrix::new(flex::slice(&x), n_in));
    product(Isa::detect(), flex::slice_mut(&mut sum), [n_out, n_in, n], dy, x, Into::Sum);
    sum
}
