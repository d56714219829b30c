//! The C allocator, told to keep what it has.

/// Lets glibc reuse large blocks instead of returning them to the kernel, which would clear them on every use:
/// measured, 6.0 to 6.6 s a step instead of 7.0 to 7.6, and 0.48 million page faults instead of 2.1. All threads take
/// from one heap: the further ones that glibc gives to threads consist of pieces of 64 MB, in each of which a tensor that
/// does not fit leaves its end unused: 1129 MB resident instead of 969 where 890 are live. Elsewhere this does nothing.
pub fn keep_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LARGEST_BLOCK_BYTES: i32 = 1 << 30;
        const TOP_PAD_BYTES: i32 = 256 << 20;
        // SAFETY: mallopt takes two integers by value; no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_BLOCK_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TOP_PAD, TOP_PAD_BYTES);
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}
