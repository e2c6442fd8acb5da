//! Watching a sweep: its state, then its changes, at most a few a second, until it ends.

use std::time::Duration;

use plateau_common::limits;
use plateau_proto::v1;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Context, select};
use crate::core::{Now, State, SweepNumber};

/// Shortest time between two messages.
const PACE: Duration = Duration::from_millis(250);
/// Longest time without a message: rates and silences change even when no trial does.
const QUIET: Duration = Duration::from_secs(2);
/// How long a watcher may leave its messages unread before it is cut off.
const UNREAD: Duration = Duration::from_secs(30);
/// Agents that spoke within this time count for the rate.
const RATE_WINDOW: Duration = Duration::from_secs(2 * limits::RENEWAL_SECONDS);

fn picture(state: &State, now: Now, number: SweepNumber) -> Option<v1::WatchResponse> {
    let sweep = state.sweeps.get(&number)?;
    let recent = state.agents.values().filter(|agent| {
        agent.session.is_some() && now.monotonic.saturating_sub(agent.last_heard) <= RATE_WINDOW
    });
    let mut agents = select::agents(state, now);
    agents.retain(|agent| agent.connected || agent.running_trials > 0);
    Some(v1::WatchResponse {
        summary: Some(select::summary(sweep)),
        last_failure: select::failure(sweep),
        agents,
        steps_per_second: recent.filter(|agent| !agent.leases.is_empty()).map(|agent| agent.speed).sum(),
    })
}

/// Sends pictures of a sweep until it has ended, the coordinator stops, or nobody reads them.
pub async fn follow(
    context: Context,
    number: SweepNumber,
    sender: mpsc::Sender<Result<v1::WatchResponse, Status>>,
) {
    if let Err(status) = pictures(&context, number, &sender).await {
        // A watcher that does not read will not read this either.
        let _ = sender.try_send(Err(status));
    }
}

async fn pictures(
    context: &Context,
    number: SweepNumber,
    sender: &mpsc::Sender<Result<v1::WatchResponse, Status>>,
) -> Result<(), Status> {
    let mut changes = context.engine.changes();
    let mut stopping = context.stopping.clone();
    loop {
        let current = context.engine.query(move |state, now| picture(state, now, number)).await?;
        let Some(current) = current else { return Err(Status::not_found("the sweep does not exist")) };
        let state = current.summary.as_ref().map(v1::SweepSummary::state);
        let ended = matches!(state, Some(v1::SweepState::Finished | v1::SweepState::Cancelled));
        match sender.send_timeout(Ok(current), UNREAD).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                let seconds = UNREAD.as_secs();
                return Err(Status::resource_exhausted(format!(
                    "nothing was read for {seconds} s: watching ends"
                )));
            }
        }
        if ended {
            return Ok(());
        }
        tokio::time::sleep(PACE).await;
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => {
                return Err(Status::unavailable("the coordinator is stopping"));
            }
            () = sender.closed() => return Ok(()),
            () = tokio::time::sleep(QUIET) => {}
            () = changed(&mut changes, number) => {}
        }
    }
}

/// Waits for a change of this sweep. Lost changes count as one: the state is read anew anyway.
async fn changed(changes: &mut tokio::sync::broadcast::Receiver<SweepNumber>, number: SweepNumber) {
    loop {
        match changes.recv().await {
            Ok(sweep) if sweep != number => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
