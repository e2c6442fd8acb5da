//! Follows a sweep until it ends, across restarts of its coordinator.

use std::time::{Duration, Instant};

use plateau_proto::v1;

use crate::client::{Service, is_passing, refusal};
use crate::display::Display;
use crate::exit::Exit;
use crate::progress::{self, Snapshot};

/// Pause before the next attempt to reach a coordinator that is gone.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for a coordinator to come back.
const PATIENCE: Duration = Duration::from_secs(300);

/// Shows the progress of `sweep` until it ends; gives its last state.
pub async fn follow(service: &mut Service, sweep: &str, display: &mut Display) -> anyhow::Result<Snapshot> {
    let what = format!("watching the sweep `{sweep}`");
    let mut lost_since: Option<Instant> = None;
    loop {
        let status = match watch_once(service, sweep, display, &mut lost_since).await? {
            Ok(snapshot) => return Ok(snapshot),
            Err(status) => status,
        };
        let since = *lost_since.get_or_insert_with(|| {
            display.note(&format!(
                "the coordinator is gone ({}); waiting for it to come back",
                status.message()
            ));
            Instant::now()
        });
        if !is_passing(&status) || since.elapsed() > PATIENCE {
            return Err(refusal(&what, &status));
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Follows one stream; the inner error is what ended it before the sweep ended.
async fn watch_once(
    service: &mut Service,
    sweep: &str,
    display: &mut Display,
    lost_since: &mut Option<Instant>,
) -> anyhow::Result<Result<Snapshot, tonic::Status>> {
    let request = v1::WatchRequest { sweep: sweep.to_owned() };
    let mut stream = match service.watch(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    let mut last: Option<Snapshot> = None;
    loop {
        match stream.message().await {
            Ok(Some(event)) => {
                if lost_since.take().is_some() {
                    display.note("the coordinator is back");
                }
                if let Some(snapshot) = Snapshot::from_wire(event) {
                    display.show(&snapshot)?;
                    last = Some(snapshot);
                }
            }
            Ok(None) => {
                return Ok(match last {
                    Some(snapshot) if snapshot.has_ended() => Ok(snapshot),
                    // A coordinator that stops in order ends its streams.
                    _ => Err(tonic::Status::unavailable("it stopped")),
                });
            }
            Err(status) => return Ok(Err(status)),
        }
    }
}

/// The exit code of a sweep that has ended like this.
pub fn exit_of(snapshot: &Snapshot) -> Exit {
    match progress::failed(&snapshot.counts) + snapshot.counts.cancelled {
        0 => Exit::Done,
        _ => Exit::FailedTrials,
    }
}
