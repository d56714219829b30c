//! Counts live and peak bytes by rank and category, exactly, at the allocator.
//!
//! A program that wants the count makes [`Ledger`] its global allocator; without, everything reads 0. A block is
//! booked to the rank and category that the allocating thread is in, whoever frees it. Blocks under 4 kB are not
//! counted: tensors are larger, and everything else is smaller.
//!
//! Does not know about tensors, stages or time.

use simulate::Category;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

/// The counting allocator: the system's, with 16 bytes before every counted block.
pub struct Ledger;

/// Highest number of ranks in one process that are told apart; blocks of higher ranks are booked to none.
pub const RANKS_MAX: usize = 64;

/// Smallest block that is counted, in bytes.
pub const COUNTED_BYTES_MIN: usize = 4096;

const CATEGORIES: usize = Category::ALL.len();
/// Holds the account in front of a block and keeps the 16-byte alignment that tensors rely on. A larger one would
/// send every block through aligned allocation, which has no lazy zeroing (2.5 GB resident instead of 1.85).
const HEADER: usize = 16;
const NOBODY: usize = RANKS_MAX * CATEGORIES;

thread_local! {
    // Const and without drop, so that an allocator may read it at any time.
    static ACCOUNT: Cell<usize> = const { Cell::new(NOBODY) };
}

static LIVE: [AtomicI64; NOBODY + 1] = [const { AtomicI64::new(0) }; NOBODY + 1];
static TOTAL: [AtomicI64; RANKS_MAX + 1] = [const { AtomicI64::new(0) }; RANKS_MAX + 1];
static PEAK_TOTAL: [AtomicI64; RANKS_MAX + 1] = [const { AtomicI64::new(0) }; RANKS_MAX + 1];
static INSTALLED: AtomicBool = AtomicBool::new(false);
static PEAK: [AtomicU64; NOBODY + 1] = [const { AtomicU64::new(0) }; NOBODY + 1];

/// Restores the thread's former account when dropped.
#[must_use = "the account holds while this lives"]
pub struct Scope(usize);

impl Drop for Scope {
    fn drop(&mut self) {
        ACCOUNT.set(self.0);
    }
}

/// Books this thread's allocations to a rank and category until the result is dropped.
pub fn scope(rank: usize, category: Category) -> Scope {
    Scope(ACCOUNT.replace(if rank < RANKS_MAX { rank * CATEGORIES + category as usize } else { NOBODY }))
}

/// Books this thread's allocations to another category of its present rank until the result is dropped.
pub fn category(category: Category) -> Scope {
    let account = ACCOUNT.get();
    Scope(ACCOUNT.replace(if account == NOBODY {
        NOBODY
    } else {
        account / CATEGORIES * CATEGORIES + category as usize
    }))
}

/// Live bytes of a rank, indexed as [`Category::ALL`]; zeros from [`RANKS_MAX`] on.
pub fn live(rank: usize) -> [u64; CATEGORIES] {
    if rank >= RANKS_MAX {
        return [0; CATEGORIES];
    }
    std::array::from_fn(|category| LIVE[rank * CATEGORIES + category].load(Relaxed).max(0) as u64)
}

/// Live bytes of a rank by category at the moment since the last call when their sum was highest; starts anew.
/// Exact while one thread allocates for the rank, which is how stages work.
pub fn take_peak(rank: usize) -> [u64; CATEGORIES] {
    if rank >= RANKS_MAX {
        return [0; CATEGORIES];
    }
    let peak = std::array::from_fn(|category| PEAK[rank * CATEGORIES + category].load(Relaxed));
    PEAK_TOTAL[rank].store(TOTAL[rank].load(Relaxed), Relaxed);
    for (category, bytes) in live(rank).into_iter().enumerate() {
        PEAK[rank * CATEGORIES + category].store(bytes, Relaxed);
    }
    peak
}

fn book(account: usize, bytes: i64) {
    LIVE[account].fetch_add(bytes, Relaxed);
    if account == NOBODY {
        return;
    }
    let rank = account / CATEGORIES;
    let total = TOTAL[rank].fetch_add(bytes, Relaxed) + bytes;
    if total > PEAK_TOTAL[rank].load(Relaxed) {
        PEAK_TOTAL[rank].store(total, Relaxed);
        for (category, bytes) in live(rank).into_iter().enumerate() {
            PEAK[rank * CATEGORIES + category].store(bytes, Relaxed);
        }
    }
}

fn with_header(layout: Layout) -> Option<Layout> {
    let counted = layout.size() >= COUNTED_BYTES_MIN && layout.align() <= HEADER;
    counted.then(|| Layout::from_size_align(layout.size() + HEADER, HEADER).ok()).flatten()
}

/// Writes the header and steps over it.
///
/// # Safety
/// `block` is null or points to at least `HEADER` + `size` bytes aligned to `HEADER`.
unsafe fn open(block: *mut u8, size: usize) -> *mut u8 {
    if block.is_null() {
        return block;
    }
    let account = ACCOUNT.get();
    INSTALLED.store(true, Relaxed);
    book(account, size as i64);
    // SAFETY: the header lies inside the block and is aligned.
    unsafe {
        block.cast::<usize>().write(account);
        block.add(HEADER)
    }
}

// SAFETY: every block comes from and returns to the system allocator with the same layout; `with_header` decides by
// size and alignment alone, so allocation and release of a block agree.
unsafe impl GlobalAlloc for Ledger {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match with_header(layout) {
            Some(larger) => unsafe { open(System.alloc(larger), layout.size()) },
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match with_header(layout) {
            Some(larger) => unsafe { open(System.alloc_zeroed(larger), layout.size()) },
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match with_header(layout) {
            Some(larger) => unsafe {
                let block = pointer.sub(HEADER);
                book(block.cast::<usize>().read(), -(layout.size() as i64));
                System.dealloc(block, larger);
            },
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }
}

/// Moves a buffer that arrived from another thread to this thread's account. Nothing happens when [`Ledger`] is not
/// the program's allocator.
pub fn adopt<T>(buffer: &Vec<T>) {
    let Ok(layout) = Layout::array::<T>(buffer.capacity()) else { return };
    if !INSTALLED.load(Relaxed) || with_header(layout).is_none() {
        return;
    }
    // SAFETY: a Vec's allocation was made by the global allocator, which is ours, with the layout of its capacity, so
    // a header lies in front of it; nobody else reads or writes the header while we hold the Vec.
    unsafe {
        let account = buffer.as_ptr().cast::<u8>().sub(HEADER).cast::<usize>().cast_mut();
        book(account.read(), -(layout.size() as i64));
        account.write(ACCOUNT.get());
        book(ACCOUNT.get(), layout.size() as i64);
    }
}
