//! What the pretended driver remembers: counts, memory, names of kernels, graphs.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;

use crate::blas::Product;
use crate::emulation::Bound;

/// Bytes of the pretended card: 16 GiB, or as `PRETEND_MEMORY` says.
pub fn memory() -> usize {
    static MEMORY: OnceLock<usize> = OnceLock::new();
    *MEMORY.get_or_init(|| {
        let wanted = std::env::var("PRETEND_MEMORY").ok();
        wanted.and_then(|bytes| bytes.parse().ok()).unwrap_or(16 << 30)
    })
}

/// Something a stream does.
pub enum Action {
    /// A kernel, and how to run it if kernels are emulated.
    Kernel(Option<Bound>),
    /// A matrix product.
    Multiply(Product),
    /// Bytes set to a value.
    Fill { start: usize, value: u8, bytes: usize },
    /// Bytes copied.
    Copy { to: usize, from: usize, bytes: usize },
}

/// Everything that outlives a call.
#[derive(Default)]
pub struct State {
    /// How often what was asked for.
    pub counts: BTreeMap<String, u64>,
    /// Live allocations of the card: start and bytes.
    pub memory: BTreeMap<usize, usize>,
    /// Live page-locked allocations of the host.
    pub pinned: BTreeMap<usize, usize>,
    /// Names of kernels; a kernel's handle is its place here, plus one.
    pub kernels: Vec<String>,
    /// What is captured at present, by stream, with the thread that captures.
    pub captures: BTreeMap<usize, (ThreadId, Vec<Action>)>,
    /// Streams there have been.
    pub streams: usize,
    /// The stream of each cuBLAS handle; a handle is its place here, plus one.
    pub blas_streams: Vec<usize>,
    /// Captured graphs; a graph's handle is its place here, plus one.
    pub graphs: Vec<Vec<Action>>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Looks at or changes the state.
pub fn with<T>(work: impl FnOnce(&mut State) -> T) -> T {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    work(state.get_or_insert_with(State::default))
}

impl State {
    /// Counts one request.
    pub fn count(&mut self, name: &str) {
        *self.counts.entry(name.to_owned()).or_default() += 1;
    }

    /// Whether bytes lie within one live allocation of the card.
    pub fn owns(&self, start: usize, bytes: usize) -> bool {
        let before = self.memory.range(..=start).next_back();
        before.is_some_and(|(first, length)| start + bytes <= first + length)
    }

    /// Whether bytes lie within one live page-locked allocation.
    pub fn owns_pinned(&self, start: usize, bytes: usize) -> bool {
        let before = self.pinned.range(..=start).next_back();
        before.is_some_and(|(first, length)| start + bytes <= first + length)
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.memory.values().sum()
    }

    /// Whether this thread captures a graph.
    pub fn is_capturing(&self) -> bool {
        self.captures.values().any(|(thread, _)| *thread == std::thread::current().id())
    }

    /// Does something now, or later when the stream's commands are being captured.
    pub fn queue(&mut self, stream: usize, action: Action) {
        match self.captures.get_mut(&stream) {
            Some((_, captured)) => captured.push(action),
            None => action.run(),
        }
    }
}

impl Action {
    /// Does it.
    pub fn run(&self) {
        match self {
            Action::Kernel(Some(bound)) => bound.run(),
            Action::Kernel(None) => {}
            Action::Multiply(product) => product.run(),
            // SAFETY: the range was checked to lie in a live allocation when the action was queued.
            Action::Fill { start, value, bytes } => unsafe {
                (*start as *mut u8).write_bytes(*value, *bytes);
            },
            // SAFETY: the card's range was checked when the action was queued, the host's is the caller's promise.
            Action::Copy { to, from, bytes } => unsafe {
                std::ptr::copy(*from as *const u8, *to as *mut u8, *bytes);
            },
        }
    }
}
