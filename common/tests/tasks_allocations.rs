//! Drawing training batches allocates nothing in the steady state, checked for every entry of the task list with an
//! allocator that counts.

mod task_list;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use plateau_common::tasks::{Batch, Draw};
use task_list::{batch_sizes, for_every_task, forms};

thread_local! {
    /// Allocations of this thread; tests run side by side, each in its own thread.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

fn count() {
    // Fails only while a thread is being taken down, which no test measures.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

#[allow(unsafe_code, reason = "an allocator is an unsafe trait")]
// SAFETY: every call is passed on unchanged to the system's allocator, and counting does not allocate: the counter is
// initialised at compile time and has nothing to drop.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    let mut numbers: Vec<u64> = Vec::new();
    assert_eq!(allocations(|| numbers.reserve_exact(10)), 1);
    assert_eq!(allocations(|| numbers.extend(0..10)), 0);
    assert_eq!(allocations(|| numbers.reserve_exact(100)), 1);
    assert_eq!(allocations(|| drop(vec![0u8; 100])), 1);
}

#[test]
fn from_the_second_on_draws_allocate_nothing() {
    for_every_task(|task| {
        for form in forms(task) {
            for size in batch_sizes(task) {
                let (examples, mut batch) = (task.examples(5), Batch::empty());
                let first = allocations(|| examples.draw(Draw::of(1, size), *form, &mut batch));
                assert!(first > 0, "a first batch needs memory");
                for update in 2..=20 {
                    let further = allocations(|| examples.draw(Draw::of(update, size), *form, &mut batch));
                    assert_eq!(further, 0, "update {update}, size {size:?}, {form:?}");
                }
            }
        }
    });
}
