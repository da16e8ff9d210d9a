//! An allocator that counts what the current thread holds, so that a test can say how much a decoder took.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes allocated by this thread and not freed, and the most there ever were.
    static ALLOCATED: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn count(bytes: isize) {
    // Not there any more while the thread ends.
    let _ = ALLOCATED.try_with(|cell| {
        let (now, most) = cell.get();
        cell.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: hands everything on to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most bytes that were allocated at once while `work` ran, beyond what was before.
pub fn peak<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATED.with(|cell| {
        let (now, _) = cell.get();
        cell.set((now, now));
        now
    });
    let done = work();
    (ALLOCATED.with(|cell| cell.get().1 - before) as usize, done)
}
