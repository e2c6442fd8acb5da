//! Threads that share the work of one replica.
//!
//! The parts of a team run the same operations in the same order and wait for each other between stages. Waiting spins
//! for a moment before it yields, since stages last microseconds.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Turns of the spin loop before a waiting thread yields its core.
const SPINS: u32 = 1 << 14;

/// Lets all parts of a team go on together.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    arrived: AtomicUsize,
    round: AtomicUsize,
}

impl Barrier {
    /// Returns when all `parts` have called it.
    pub fn wait(&self, parts: usize) {
        if parts == 1 {
            return;
        }
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == parts {
            self.arrived.store(0, Ordering::Release);
            self.round.store(round.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0u32;
        while self.round.load(Ordering::Acquire) == round {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

/// Work for all parts: a pointer to a closure that outlives it (see [`Team::run`]).
#[derive(Clone, Copy)]
struct Work(*const (dyn Fn(usize) + Sync));

#[allow(unsafe_code, reason = "the closure is shared by the team's threads")]
// SAFETY: the closure is `Sync`, and `Team::run` does not return before every thread is done with it.
unsafe impl Send for Work {}

#[derive(Default)]
struct Post {
    /// Number of the work posted last, and the work; `None`: the team is dismissed.
    work: Mutex<(usize, Option<Work>)>,
    posted: Condvar,
    number: AtomicUsize,
    running: AtomicUsize,
    panicked: AtomicBool,
}

/// A team of threads, the caller being its first part.
pub struct Team {
    post: Arc<Post>,
    helpers: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `parts` (at least the caller); as many as could be started.
    pub fn new(parts: usize) -> Self {
        let post = Arc::new(Post::default());
        let start = |part: usize| {
            let post = post.clone();
            let thread = std::thread::Builder::new().name(format!("team-{part}"));
            thread.spawn(move || help(&post, part)).ok()
        };
        let helpers: Vec<_> = (1..parts).map_while(start).collect();
        Team { post, helpers }
    }

    /// Parts, the caller included.
    pub fn parts(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `work(part)` on every part; returns when all have returned.
    #[allow(unsafe_code, reason = "threads that outlive a borrow are lent it for the time of this call")]
    pub fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        if self.helpers.is_empty() {
            work(0);
            return;
        }
        // SAFETY: only the lifetime changes; this function waits for all threads before it returns or unwinds.
        let lent: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        self.post.running.store(self.helpers.len(), Ordering::Release);
        {
            let mut posted = self.post.work.lock().unwrap_or_else(PoisonError::into_inner);
            *posted = (posted.0 + 1, Some(Work(lent)));
            self.post.number.store(posted.0, Ordering::Release);
        }
        self.post.posted.notify_all();
        let waiting = WaitForHelpers(&self.post);
        work(0);
        drop(waiting);
        assert!(!self.post.panicked.load(Ordering::Acquire), "a thread of a training team panicked");
    }
}

/// Waits for the helpers even where the caller's own part unwinds.
struct WaitForHelpers<'a>(&'a Post);

impl Drop for WaitForHelpers<'_> {
    fn drop(&mut self) {
        let mut spins = 0u32;
        while self.0.running.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        {
            let mut posted = self.post.work.lock().unwrap_or_else(PoisonError::into_inner);
            *posted = (posted.0 + 1, None);
            self.post.number.store(posted.0, Ordering::Release);
        }
        self.post.posted.notify_all();
        for helper in self.helpers.drain(..) {
            drop(helper.join());
        }
    }
}

fn help(post: &Post, part: usize) {
    let mut done = 0;
    loop {
        // The next work usually follows at once; only then is it worth while to sleep.
        let mut spins = 0u32;
        while post.number.load(Ordering::Acquire) == done && spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        }
        let work = {
            let mut posted = post.work.lock().unwrap_or_else(PoisonError::into_inner);
            while posted.0 == done {
                posted = post.posted.wait(posted).unwrap_or_else(PoisonError::into_inner);
            }
            done = posted.0;
            posted.1
        };
        let Some(work) = work else { return };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            #[allow(unsafe_code, reason = "the closure lives until `running` is counted down")]
            // SAFETY: `Team::run` keeps the closure alive until every helper has counted itself off below.
            let work = unsafe { &*work.0 };
            work(part);
        }));
        if outcome.is_err() {
            post.panicked.store(true, Ordering::Release);
        }
        post.running.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Barrier, Team};

    #[test]
    fn all_parts_run_and_wait_for_each_other() {
        let team = Team::new(4);
        let (barrier, count) = (Barrier::default(), AtomicUsize::new(0));
        for round in 1..=100 {
            team.run(&|_| {
                count.fetch_add(1, Ordering::SeqCst);
                barrier.wait(team.parts());
                assert_eq!(count.load(Ordering::SeqCst), round * team.parts());
                barrier.wait(team.parts());
            });
        }
    }
}
