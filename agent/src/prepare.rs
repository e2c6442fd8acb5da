//! What happens between a grant and its training: checkpoints are fetched, and the trainer's orders are worded.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plateau_proto::convert::{self, WireError};
use plateau_proto::v1::{CheckpointReference, Lease, LeaseKey, trainer_command};
use tracing::Instrument as _;

use crate::backoff::Backoff;
use crate::files::Files;
use crate::link::Link;
use crate::transfer::{self, Failed};

/// How often, and how far apart, the checkpoint to continue from is asked for while the coordinator is away.
const DOWNLOAD_TRIES: u32 = 15;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// The trainer's orders about each lease, or why there are none.
pub type Prepared = Result<Vec<trainer_command::Member>, Unprepared>;

/// Why a cohort could not be prepared.
pub enum Unprepared {
    /// The coordinator, the way to it or the stored checkpoint; no fault of the trials.
    Passing(String),
    /// Trying again would not help.
    Lasting(anyhow::Error),
}

impl From<WireError> for Unprepared {
    fn from(error: WireError) -> Self {
        Unprepared::Lasting(error.into())
    }
}

/// Downloads what the leases continue from and words the orders for the trainer.
pub async fn prepare(
    leases: Vec<Lease>,
    spans: Vec<tracing::Span>,
    link: Link,
    files: Files,
    scratch: PathBuf,
) -> Prepared {
    let mut members = Vec::with_capacity(leases.len());
    for (lease, attempt) in leases.into_iter().zip(spans) {
        let key = lease.key.unwrap_or_default();
        // Paths are built from validated ids, never from text that came over the wire.
        convert::trial_id("lease.key.trial", &key.trial)?;
        let mut resume_folder = String::new();
        if let Some(checkpoint) = lease.resume {
            let folder = resume_folder_of(&scratch, &key);
            let span =
                tracing::info_span!(parent: &attempt, "load", trial = key.trial, step = checkpoint.step);
            fetch(&link, files, &key, &checkpoint, &folder).instrument(span).await?;
            resume_folder = folder.to_string_lossy().into_owned();
        }
        members.push(trainer_command::Member {
            trial: key.trial,
            config_json: lease.config_json,
            resume_folder,
            traceparent: lease.traceparent,
        });
    }
    Ok(members)
}

/// Where the checkpoint that a lease continues from is put.
pub fn resume_folder_of(scratch: &Path, key: &LeaseKey) -> PathBuf {
    scratch.join(format!("resume-{}-{}", key.trial, key.attempt))
}

/// Downloads a checkpoint; tries again for a while where that may help.
async fn fetch(
    link: &Link,
    files: Files,
    key: &LeaseKey,
    checkpoint: &CheckpointReference,
    folder: &Path,
) -> Result<(), Unprepared> {
    let mut tries = 0;
    let mut backoff =
        Backoff::new(FIRST_RETRY, LAST_RETRY, &format!("download/{}/{}", key.trial, key.attempt));
    loop {
        let fetched = transfer::download(link.channel(), files, key.clone(), checkpoint.clone(), folder);
        let Err(error) = fetched.await else { return Ok(()) };
        let error = error.context(format!("fetching the checkpoint that trial {} continues from", key.trial));
        match transfer::classify(&error) {
            Failed::ForNow => {}
            Failed::WithoutFault => return Err(Unprepared::Passing(format!("{error:#}"))),
            Failed::Here => return Err(Unprepared::Lasting(error)),
        }
        tries += 1;
        if tries == DOWNLOAD_TRIES {
            return Err(Unprepared::Passing(format!("{error:#}")));
        }
        tracing::warn!(error = format!("{error:#}"), "no checkpoint yet");
        tokio::time::sleep(backoff.pause()).await;
    }
}
