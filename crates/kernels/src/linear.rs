//! The linear layer with split backward: the input's gradient at once, the weight's whenever the schedule says.

use crate::product::{Columns, Into, Matrix, product, product_in, unwritten};
use crate::tile::Isa;
use crate::{Kernels, flex};
use burn::backend::{Dispatch, Flex, tensor::FloatTensor};
use burn::tensor::Tensor;
use std::sync::mpsc::Sender;

/// What a linear layer's backward leaves for the weight pass.
#[derive(Debug)]
pub struct WeightGrad {
    /// The weight, or the part of it that the layer has.
    pub place: WeightPlace,
    /// The layer's input `[n, in]`, plain.
    pub x: Tensor<2>,
    /// The gradient of its output `[n, out]`, plain.
    pub dy: Tensor<2>,
}

/// A weight, or consecutive outputs of it: files put projections of one input into one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightPlace {
    /// The caller's number of the weight.
    pub parameter: usize,
    /// Which of the weight's outputs is the layer's first.
    pub first: usize,
}

/// Where backward passes send what they leave: one channel per visit, so that a queue is keyed as its visit is.
#[derive(Clone, Debug)]
pub struct WeightGrads(pub Sender<WeightGrad>);

/// `y = x w^T`, with the weight stored as files have it.
///
/// Backward gives the gradient of `x` only and sends `(place, x, dy)` to `grads`; the weight is never a leaf. If
/// `x` is not tracked, no backward runs and nothing is sent. On the CPU the weight is read as it lies: rows of a larger
/// matrix, or its transpose, are not copied.
///
/// # Shapes
/// - x: `[n, in]`, w: `[out, in]`, untracked
/// - result: `[n, out]`
pub fn linear(x: Tensor<2>, w: Tensor<2>, place: WeightPlace, grads: WeightGrads) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::linear(x.into_dispatch(), w.into_dispatch(), place, grads))
}

/// Adds `dy^T x` to the block of `sum` that begins at row and column `at`: the weight pass, into an existing buffer (in
/// place on the CPU when `sum` is not shared).
///
/// # Shapes
/// - sum and result: `[out, in]`; dy: `[n, rows]`; x: `[n, columns]`; all plain, the block within `sum`
pub fn weight_gradient(sum: Tensor<2>, at: [usize; 2], dy: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::weight_gradient(
        sum.into_dispatch(),
        at,
        dy.into_dispatch(),
        x.into_dispatch(),
    ))
}

/// `dy w` of plain tensors: the gradient of a linear layer's input, and any product of two matrices.
///
/// # Shapes
/// - dy: `[n, out]`, w: `[out, in]`; result: `[n, in]`
pub fn linear_input_gradient(dy: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::linear_input_gradient(dy.into_dispatch(), w.into_dispatch()))
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
    product(Isa::detect(), &mut y, [n, n_out, n_in], flex::view(x), flex::view(w).t(), Into::Place);
    flex::matrix(y, n, n_out)
}

pub(crate) fn input_gradient_flex(dy: &FloatTensor<Flex>, w: &FloatTensor<Flex>) -> FloatTensor<Flex> {
    let ([n, n_out], [w_out, n_in]) = (flex::dims(dy), flex::dims(w));
    assert_eq!(n_out, w_out, "a linear layer's output");
    let mut dx = unwritten(n * n_in);
    product(Isa::detect(), &mut dx, [n, n_in, n_out], flex::view(dy), flex::view(w), Into::Place);
    flex::matrix(dx, n, n_in)
}

/// No buffer per microbatch is made, and nothing is transposed.
pub(crate) fn weight_gradient_flex(
    mut sum: FloatTensor<Flex>,
    at: [usize; 2],
    dy: FloatTensor<Flex>,
    x: FloatTensor<Flex>,
) -> FloatTensor<Flex> {
    if !flex::fused([&sum, &dy, &x]) || !sum.is_contiguous() {
        return crate::ops::plain::weight_gradient::<Flex>(sum, at, dy, x);
    }
    let ([n, rows], [n_x, columns], [all_rows, width]) = (flex::dims(&dy), flex::dims(&x), flex::dims(&sum));
    let [row, first] = at;
    let fits = n == n_x && row + rows <= all_rows && first + columns <= width;
    assert!(fits, "a gradient of [{rows}, {columns}] at {at:?} of [{all_rows}, {width}], {n} and {n_x} tokens");
    let (dy, x) = (dy.to_contiguous(), x.to_contiguous());
    let (dy, x) = (Matrix::new(flex::slice(&dy), rows).t(), Matrix::new(flex::slice(&x), columns));
    let block = &mut flex::slice_mut(&mut sum)[row * width..(row + rows) * width];
    product_in(Isa::detect(), block, Columns { width, first }, [rows, columns, n], dy, x, Into::Sum);
    sum
}
