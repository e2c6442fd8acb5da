//! Named places at which a test makes the coordinator die, or a write fail.
//!
//! In builds with debug assertions, `PLATEAU_FAILPOINT=NAME:OCCASION:ACTION` in the environment names a place of
//! [`PLACES`], which passing of it (from 1) is meant, and what happens then: `kill` ends the process at once, as `kill -9`
//! does, with nothing flushed and nobody told; `fail` makes it an input/output error. Release builds have none of this.
//!
//! Forty lines rather than the `fail` crate: that one has no action that dies without unwinding, keeps a global registry
//! behind locks, and wants a feature switched on in every crate on the way.

use std::io;

/// Every place, in the order in which a submission, a training and an upload come by.
pub const PLACES: [&str; 14] = [
    // A study is expanded; nothing of it is stored.
    SUBMIT_EXPANDED,
    // Configurations of a study are stored, its sweep is not.
    SUBMIT_CONFIGURED,
    // A file of a checkpoint lies in the place of a fork; the manifest does not.
    FORK_COPIED,
    // All forks of a study have what they begin with; the core knows of none.
    FORK_PLACED,
    // A sweep is stored; who submitted it has not heard so.
    SUBMIT_ACCEPTED,
    // The engine has applied a batch and written it into a transaction.
    COMMIT_APPLIED,
    // The transaction is about to be synchronised to the disk.
    COMMIT_SYNCHRONISE,
    // The batch is durable; nobody has heard so.
    COMMIT_DURABLE,
    // One of those who wait has heard so.
    COMMIT_ANSWERED,
    // A checkpoint has come and matches its manifest; it lies among the uploads.
    UPLOAD_RECEIVED,
    // One of its files is in its place.
    UPLOAD_MOVED,
    // Its manifest is written, perhaps not to the disk.
    UPLOAD_MANIFEST,
    // It is in its place as a whole; the core does not know of it.
    UPLOAD_PUBLISHED,
    // It is recorded; the agent has not heard so.
    UPLOAD_RECORDED,
];

pub(crate) const SUBMIT_EXPANDED: &str = "submit/expanded";
pub(crate) const SUBMIT_CONFIGURED: &str = "submit/configured";
pub(crate) const SUBMIT_ACCEPTED: &str = "submit/accepted";
pub(crate) const FORK_COPIED: &str = "fork/copied";
pub(crate) const FORK_PLACED: &str = "fork/placed";
pub(crate) const COMMIT_APPLIED: &str = "commit/applied";
pub(crate) const COMMIT_SYNCHRONISE: &str = "commit/synchronise";
pub(crate) const COMMIT_DURABLE: &str = "commit/durable";
pub(crate) const COMMIT_ANSWERED: &str = "commit/answered";
pub(crate) const UPLOAD_RECEIVED: &str = "upload/received";
pub(crate) const UPLOAD_MOVED: &str = "upload/moved";
pub(crate) const UPLOAD_MANIFEST: &str = "upload/manifest";
pub(crate) const UPLOAD_PUBLISHED: &str = "upload/published";
pub(crate) const UPLOAD_RECORDED: &str = "upload/recorded";

/// Comes by a place.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn pass(_place: &str) -> io::Result<()> {
    Ok(())
}

/// Comes by a place.
#[cfg(debug_assertions)]
pub(crate) fn pass(place: &str) -> io::Result<()> {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PLAN: OnceLock<Option<(String, u64, String)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let plan = PLAN.get_or_init(|| {
        let text = std::env::var("PLATEAU_FAILPOINT").ok()?;
        let mut parts = text.split(':').map(str::to_owned);
        Some((parts.next()?, parts.next()?.parse().ok()?, parts.next()?))
    });
    let Some((name, occasion, action)) = plan else { return Ok(()) };
    if name != place || PASSED.fetch_add(1, Ordering::Relaxed) + 1 != *occasion {
        return Ok(());
    }
    if action == "kill" {
        // Not `exit`: no destructor runs, no buffer is written.
        std::process::abort();
    }
    Err(io::Error::other(format!("the failpoint {place}, passing {occasion}")))
}
