//! Memory in larger pages.

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

#[cfg(target_os = "linux")]
pub(crate) fn collapse<T>(values: &[T]) {
    const PAGE: usize = 2 << 20;
    let range = values.as_ptr_range();
    let (start, end) = (range.start.addr().next_multiple_of(PAGE), range.end.addr() / PAGE * PAGE);
    if start < end {
        // SAFETY: whole pages within the slice; their contents stay, only where they lie in memory changes.
        unsafe { libc::madvise(range.start.with_addr(start).cast_mut().cast(), end - start, libc::MADV_COLLAPSE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn collapse<T>(_: &[T]) {}
