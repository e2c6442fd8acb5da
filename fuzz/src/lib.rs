//! What every decoder must hold for any bytes: no panic, no hang, bounded memory, errors that fit into an answer, and what
//! is accepted says the same when it is written and read again.
//!
//! Each module is one target with a function `run`, which panics where something does not hold. cargo-fuzz feeds them
//! (see README.md); the corpus in `corpus/` is replayed by `tests/corpus.rs`. A new target is one module, one line in
//! [`TARGETS`], one file in `fuzz_targets` and its lines in Cargo.toml.
//!
//! Deliberately absent: transport (`coordinator/tests/hostile.rs` speaks to a real port).

pub mod checkpoint;
pub mod grid;
pub mod keys;
pub mod manifest;
pub mod metrics;
pub mod names;
pub mod pipe;
pub mod requests;
pub mod session;
pub mod study;

/// A target: its name, which is also that of its corpus, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("checkpoint", checkpoint::run),
    ("grid", grid::run),
    ("keys", keys::run),
    ("manifest", manifest::run),
    ("metrics", metrics::run),
    ("names", names::run),
    ("pipe", pipe::run),
    ("requests", requests::run),
    ("session", session::run),
    ("study", study::run),
];

/// Longest text of an error that travels: an answer's status is an HTTP/2 header, of which clients take 16 KiB.
const MAX_ERROR_BYTES: usize = 8 << 10;

/// An error must say something, and must fit into an answer.
fn short(error: impl std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() <= MAX_ERROR_BYTES, "an error of {} bytes", text.len());
}
