//! Memory in larger pages.

use burn::backend::{BackendTensor, DispatchKindConversion, DispatchTensor, Flex};
use burn::tensor::{DType, Tensor};
use packed::{Matrix, Values};

/// Asks the system to hold a matrix in pages of 2 MB: a pass over it then looks up 512 times fewer addresses. On Linux from
/// 6.1 on; elsewhere, and where the system refuses, nothing changes but the speed.
pub fn hold_in_huge_pages(matrix: &Matrix) {
    match matrix.values() {
        Values::F32(values) => collapse(values),
        Values::F16(values) => collapse(values),
        Values::Bf16(values) => collapse(values),
        Values::Q8(values) => collapse(values),
        Values::Q4(values) => collapse(values),
    }
}

/// As [`hold_in_huge_pages`], for all the memory of a tensor in f32 on the CPU; others are left as they are.
pub fn hold_tensor_in_huge_pages<const D: usize>(t: &Tensor<D>) {
    let held = <DispatchTensor as DispatchKindConversion<Flex>>::try_into_backend(t.clone().into_dispatch());
    if let Ok(BackendTensor::Float(t)) = held
        && t.dtype() == DType::F32
    {
        collapse(t.storage::<f32>());
    }
}

#[cfg(target_os = "linux")]
pub(crate) fn collapse<T>(values: &[T]) {
    const PAGE: usize = 2 << 20;
    let range = values.as_ptr_range();
    // The pages at both ends too, neighbours and all: without them half of 4 MB that begin anywhere stays in small ones.
    let (start, end) = (range.start.addr() / PAGE * PAGE, range.end.addr().next_multiple_of(PAGE));
    // Of less, nearly all that would be moved is neighbours.
    if size_of_val(values) >= PAGE / 8 {
        // SAFETY: contents stay, the neighbours' too, only where they lie in memory changes; what is not mapped is left out.
        unsafe { libc::madvise(range.start.with_addr(start).cast_mut().cast(), end - start, libc::MADV_COLLAPSE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn collapse<T>(_: &[T]) {}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    /// 8 MB, so that whole pages lie within wherever it begins; a view and numbers of another type are no fault.
    #[test]
    fn values_stay() {
        let values: Vec<f32> = (0..2 << 20).map(|i| (i % 8191) as f32).collect();
        let t: Tensor<2> = Tensor::from_data(TensorData::new(values.clone(), [1 << 10, 2 << 10]), &Device::flex());
        hold_tensor_in_huge_pages(&t);
        hold_tensor_in_huge_pages(&t.clone().narrow(0, 3, 5).transpose());
        hold_tensor_in_huge_pages(&t.clone().cast(DType::BF16));
        assert_eq!(t.into_data().try_into_vec::<f32>().unwrap(), values);
    }
}
