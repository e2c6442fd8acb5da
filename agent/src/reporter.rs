//! Reports in order: metrics, then the checkpoint that follows them, then the ending.
//!
//! A checkpoint is uploaded only once all metrics measured before it are on the coordinator's disk, and an ending is
//! reported only once the last checkpoint is. So whatever a resumed attempt starts from, no earlier metric is missing.
//! Within these limits messages go out together: evaluations that queue up while an answer is awaited become one chunk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use plateau_common::limits::MAX_CHUNK_EVALUATIONS;
use plateau_common::metrics::{Evaluation, MetricsChunk};
use plateau_proto::convert;
use plateau_proto::v1::LeaseKey;
use plateau_proto::v1::agent_message::{Body, MetricsReport, Released};
use tokio::sync::{mpsc, oneshot};

use crate::backoff::Backoff;
use crate::files::Files;
use crate::link::{Delivery, Link};
use crate::transfer;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// How long an evaluation waits for others to travel with: early in training many follow one another closely.
const LINGER: Duration = Duration::from_secs(1);

/// Something to report about one lease.
#[derive(Debug)]
pub enum Report {
    /// An evaluation.
    Evaluated(LeaseKey, Evaluation),
    /// A checkpoint to upload; the folder is deleted afterwards.
    Checkpoint(LeaseKey, u64, PathBuf),
    /// The last message about these leases: an ending, a release or a crash.
    Over(Vec<LeaseKey>, Body),
    /// Answer when everything before has been dealt with.
    Flush(oneshot::Sender<()>),
}

/// News for the agent.
#[derive(Debug)]
pub enum Outcome {
    /// The lease was refused or its checkpoint could not be stored; its training is wasted.
    Dropped(LeaseKey, String),
    /// The last message about the lease has been answered.
    Settled(LeaseKey),
}

/// Queue of reports; the reporter's task ends when it is dropped.
pub type Reports = mpsc::UnboundedSender<Report>;

type Key = (String, u64);

fn key(lease: &LeaseKey) -> Key {
    (lease.trial.clone(), lease.attempt)
}

/// Starts the reporter. The queue is unbounded so that training goes on while the coordinator is away: what waits is a few
/// numbers per evaluation in memory, and checkpoints in the work folder.
pub fn start(link: Link, files: Files) -> (Reports, mpsc::UnboundedReceiver<Outcome>) {
    let (reports, queue) = mpsc::unbounded_channel();
    let (outcomes, receiver) = mpsc::unbounded_channel();
    let reporter = Reporter {
        link,
        files,
        queue,
        outcomes,
        chunks: BTreeMap::new(),
        dropped: BTreeMap::new(),
        waiting: None,
    };
    tokio::spawn(reporter.run());
    (reports, receiver)
}

struct Reporter {
    link: Link,
    files: Files,
    queue: mpsc::UnboundedReceiver<Report>,
    outcomes: mpsc::UnboundedSender<Outcome>,
    /// Number of the next metrics chunk of each attempt.
    chunks: BTreeMap<Key, u64>,
    /// Attempts that were refused.
    dropped: BTreeMap<Key, String>,
    /// A report that was taken from the queue and must wait for those before it.
    waiting: Option<Report>,
}

impl Reporter {
    async fn run(mut self) {
        loop {
            let next = match self.waiting.take() {
                Some(report) => Some(report),
                None => self.queue.recv().await,
            };
            match next {
                None => return,
                Some(Report::Checkpoint(lease, step, folder)) => self.checkpoint(lease, step, folder).await,
                Some(Report::Flush(done)) => {
                    let _ = done.send(());
                }
                Some(report) => self.batch(report).await,
            }
        }
    }

    /// Sends `first` and everything queued behind it up to the next checkpoint, and waits for all the answers.
    async fn batch(&mut self, first: Report) {
        let mut evaluations: Vec<(LeaseKey, Vec<Evaluation>)> = Vec::new();
        let mut over = Vec::new();
        let linger = tokio::time::Instant::now() + LINGER;
        let mut report = Some(first);
        while let Some(current) = report.take() {
            match current {
                Report::Evaluated(lease, evaluation) => {
                    match evaluations.iter_mut().find(|(known, _)| *known == lease) {
                        Some((_, list)) if list.len() < MAX_CHUNK_EVALUATIONS => list.push(evaluation),
                        Some(_) => {
                            self.waiting = Some(Report::Evaluated(lease, evaluation));
                            break;
                        }
                        None => evaluations.push((lease, vec![evaluation])),
                    }
                }
                Report::Over(leases, body) => over.push((leases, body)),
                other => {
                    self.waiting = Some(other);
                    break;
                }
            }
            report = match self.queue.try_recv() {
                Ok(next) => Some(next),
                // Evaluations that come close together cost the coordinator one commit; everything else is urgent.
                Err(_) if over.is_empty() => {
                    tokio::time::timeout_at(linger, self.queue.recv()).await.ok().flatten()
                }
                Err(_) => None,
            };
        }
        let mut answers = Vec::new();
        for (lease, list) in evaluations {
            if self.dropped.contains_key(&key(&lease)) {
                continue;
            }
            let number = self.chunks.entry(key(&lease)).or_default();
            let metrics = convert::metrics_chunk_to_wire(&MetricsChunk::from_evaluations(&list));
            let body = Body::Metrics(MetricsReport {
                lease: Some(lease.clone()),
                chunk: *number,
                metrics: Some(metrics),
            });
            *number += 1;
            answers.push((lease, self.link.deliver(body).await));
        }
        for (lease, answer) in answers {
            if let Ok(Delivery::Refused(reason)) = answer.await {
                self.drop_lease(lease, reason);
            }
        }
        // All last words go out before the first answer is awaited: together they cost the coordinator one commit.
        let mut last_words = Vec::with_capacity(over.len());
        for (leases, body) in over {
            let live = leases.iter().find(|lease| !self.dropped.contains_key(&key(lease))).cloned();
            // What is about no lease is about the agent.
            let answer = match live.is_some() || leases.is_empty() {
                true => Some(self.link.deliver(body).await),
                false => None,
            };
            last_words.push((leases, live, answer));
        }
        for (leases, live, answer) in last_words {
            // An error means that the link is gone, and with it the agent. A refusal of the last word changes nothing.
            if let (Some(lease), Some(answer)) = (live, answer)
                && let Ok(Delivery::Refused(reason)) = answer.await
            {
                tracing::warn!(trial = lease.trial, attempt = lease.attempt, reason, "last report refused");
            }
            for lease in leases {
                self.chunks.remove(&key(&lease));
                self.dropped.remove(&key(&lease));
                let _ = self.outcomes.send(Outcome::Settled(lease));
            }
        }
    }

    fn drop_lease(&mut self, lease: LeaseKey, reason: String) {
        self.dropped.insert(key(&lease), reason.clone());
        let _ = self.outcomes.send(Outcome::Dropped(lease, reason));
    }

    async fn checkpoint(&mut self, lease: LeaseKey, step: u64, folder: PathBuf) {
        let of = format!("upload/{}/{}", lease.trial, lease.attempt);
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY, &of);
        while !self.dropped.contains_key(&key(&lease)) {
            match transfer::upload(self.link.channel(), self.files, lease.clone(), step, &folder).await {
                Ok(()) => break,
                Err(status) if transfer::may_succeed_later(status.code()) => {
                    tracing::warn!(
                        trial = lease.trial,
                        step,
                        reason = status.message(),
                        "checkpoint not stored yet"
                    );
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(status) => {
                    let reason = format!("checkpoint not stored: {}", status.message());
                    self.drop_lease(lease.clone(), reason.clone());
                    // Where the lease is still ours it is given back; where it is not, the refusal changes nothing.
                    let released = Released { lease: Some(lease.clone()), reason, train_seconds: 0.0 };
                    let _ = self.link.deliver(Body::Released(released)).await.await;
                }
            }
        }
        if let Err(error) = self.files.remove_folder(&folder).await {
            tracing::warn!(folder = %folder.display(), %error, "a sent checkpoint could not be removed from scratch");
        }
    }
}
