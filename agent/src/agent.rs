//! The agent's main loop: grants in, reports out, one cohort at a time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use plateau_common::trace::TraceContext;
use plateau_proto::convert;
use plateau_proto::v1::agent_message::{
    Body, Crashed, EndedReport, Goodbye, Heartbeat, Hello, LeaseProgress, LogReport, Released, Started,
};
use plateau_proto::v1::coordinator_message::Body as Order;
use plateau_proto::v1::{Lease, LeaseKey, TrainerEvent, trainer_command, trainer_event};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::AgentOptions;
use crate::child::TrainerChild;
use crate::link::{Link, LinkEvent};
use crate::prepare::{Prepared, Unprepared, prepare, resume_folder_of};
use crate::reporter::{self, Outcome, Report, Reports};

/// Seconds between heartbeats; far below the renewal the coordinator asks for, so that progress displays move.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long an agent that was told to leave waits for its last reports to be answered.
const LAST_REPORTS: Duration = Duration::from_secs(10);
/// How long a trainer that was told to stop may take to save its checkpoints.
const STOPPING: Duration = Duration::from_secs(60);

/// Runs an agent until `stop` resolves; then the cohort in training is checkpointed, its leases are given back, and the
/// agent leaves.
///
/// # Errors
/// When the address is not one, the work folder cannot be used, or another agent of the same name has taken over. A
/// coordinator that cannot be reached is waited for.
pub async fn run(options: AgentOptions, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let incarnation = uuid::Uuid::new_v4().to_string();
    // Of live agents only this one has the name, so what lies in its folder was left by a predecessor that was killed.
    let own = options.work_dir.join(&blake3::hash(options.name.as_bytes()).to_hex()[..16]);
    if tokio::fs::try_exists(&own).await.unwrap_or(false) {
        tokio::fs::remove_dir_all(&own)
            .await
            .with_context(|| format!("clearing what a killed agent left in {}", own.display()))?;
    }
    let scratch = own.join(&incarnation);
    tokio::fs::create_dir_all(&scratch)
        .await
        .with_context(|| format!("making the work folder {}", scratch.display()))?;
    let hello = Hello {
        protocol: plateau_proto::PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: options.name.clone(),
        incarnation,
        host: host_name(),
        device: options.device.clone(),
        device_description: options.device_description.clone(),
        max_cohort: options.max_cohort,
        held: Vec::new(),
    };
    let (link, orders) = Link::start(&options.coordinator, hello)?;
    let (reports, outcomes) = reporter::start(link.clone());
    let agent = Agent {
        options,
        scratch: scratch.clone(),
        link,
        reports,
        cohort: None,
        preparing: None,
        child: None,
        unsettled: Vec::new(),
        leaving: false,
        stop_by: None,
        steps_per_second: 0.0,
    };
    let worked = agent.work(orders, outcomes, stop).await;
    if let Err(error) = tokio::fs::remove_dir_all(&scratch).await {
        tracing::warn!(folder = %scratch.display(), %error, "the work folder could not be removed");
    }
    // Not empty where a successor of the same name works in it.
    let _ = tokio::fs::remove_dir(&own).await;
    worked
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned())
    } else {
        name.to_owned()
    }
}

/// One lease in training.
struct Held {
    key: LeaseKey,
    span: tracing::Span,
    step: u64,
    started: Option<Instant>,
    weights_hash: String,
    /// Whether its last report has been queued.
    over: bool,
}

impl Held {
    fn new(lease: &Lease) -> Self {
        let key = lease.key.clone().unwrap_or_default();
        let parent = TraceContext::parse(&lease.traceparent);
        let hex = |number: Option<String>| number.unwrap_or_default();
        let span = tracing::info_span!(
            "attempt",
            trace = hex(parent.map(|context| format!("{:032x}", context.trace))),
            span = hex(parent.map(|context| format!("{:016x}", context.span))),
            trial = key.trial,
            attempt = key.attempt,
        );
        Held { key, span, step: 0, started: None, weights_hash: String::new(), over: false }
    }
}

struct Agent {
    options: AgentOptions,
    scratch: PathBuf,
    link: Link,
    reports: Reports,
    cohort: Option<Vec<Held>>,
    /// The download of the checkpoints that the cohort continues from.
    preparing: Option<JoinHandle<Prepared>>,
    child: Option<TrainerChild>,
    /// Leases whose last report has not been answered yet.
    unsettled: Vec<LeaseKey>,
    leaving: bool,
    /// When a trainer that was told to stop is killed.
    stop_by: Option<tokio::time::Instant>,
    steps_per_second: f64,
}

impl Agent {
    async fn work(
        mut self,
        mut orders: mpsc::Receiver<LinkEvent>,
        mut outcomes: mpsc::UnboundedReceiver<Outcome>,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        tokio::pin!(stop);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !(self.leaving && self.cohort.is_none()) {
            tokio::select! {
                () = &mut stop, if !self.leaving => self.leave().await,
                event = orders.recv() => match event {
                    Some(LinkEvent::Connected) => self.heartbeat(),
                    Some(LinkEvent::Message(order)) => self.obey(order).await,
                    Some(LinkEvent::Superseded(reason)) => anyhow::bail!(
                        "another agent took over the name `{}` ({reason}); give each agent a --name of its own",
                        self.options.name
                    ),
                    None => break,
                },
                () = deadline(self.stop_by) => self.kill_trainer(),
                Some(outcome) = outcomes.recv() => self.note(outcome).await,
                prepared = prepared(&mut self.preparing) => self.train(prepared).await,
                event = next_event(&mut self.child) => match event {
                    Some(event) => self.trained(event).await,
                    None => self.mourn().await,
                },
                _ = heartbeat.tick() => self.heartbeat(),
            }
        }
        let (done, flushed) = oneshot::channel();
        let _ = self.reports.send(Report::Flush(done));
        if tokio::time::timeout(LAST_REPORTS, flushed).await.is_err() {
            tracing::warn!(
                "the coordinator did not answer the last reports; their trials continue from older checkpoints"
            );
        }
        self.link.tell(Body::Goodbye(Goodbye {}));
        // The message leaves with the session's task; give it a moment.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(())
    }

    fn leases(&self) -> Vec<LeaseKey> {
        let training = self.cohort.iter().flatten().filter(|held| !held.over).map(|held| held.key.clone());
        training.chain(self.unsettled.iter().cloned()).collect()
    }

    fn heartbeat(&mut self) {
        self.link.set_held(self.leases());
        let step_of = |key: &LeaseKey| {
            self.cohort.iter().flatten().find(|held| held.key == *key).map_or(0, |held| held.step)
        };
        let leases = self.leases().into_iter();
        let heartbeat = Heartbeat {
            leases: leases.map(|key| LeaseProgress { step: step_of(&key), lease: Some(key) }).collect(),
            replica_steps_per_second: if self.cohort.is_some() { self.steps_per_second } else { 0.0 },
            idle: self.cohort.is_none() && self.unsettled.is_empty() && !self.leaving,
        };
        self.link.tell(Body::Heartbeat(heartbeat));
    }

    async fn leave(&mut self) {
        match &self.cohort {
            Some(cohort) => {
                tracing::info!(trials = cohort.len(), "leaving: trials are checkpointed and given back")
            }
            None => tracing::info!("leaving"),
        }
        self.leaving = true;
        self.stop_cohort("the agent leaves").await;
    }

    async fn stop_cohort(&mut self, reason: &str) {
        if let Some(preparing) = self.preparing.take() {
            preparing.abort();
            self.release_rest(reason);
            return;
        }
        if self.cohort.is_none() {
            return;
        }
        self.stop_by.get_or_insert_with(|| tokio::time::Instant::now() + STOPPING);
        if let Some(child) = &mut self.child
            && let Err(error) = child.command(trainer_command::Body::Stop(trainer_command::Stop {})).await
        {
            // The child is gone; its end arrives as an event of its own.
            tracing::warn!(%error, "the trainer could not be told to stop");
        }
    }

    /// A trainer that does not stop is not waited for any longer.
    fn kill_trainer(&mut self) {
        self.child = None;
        self.crash(format!("the trainer did not stop within {} s and was killed", STOPPING.as_secs()));
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Grant(grant) => self.accept(grant.leases).await,
            Order::Revoke(revoke) => {
                // The whole cohort stops; the leases that were not revoked are given back and come again.
                let mut live = self.cohort.iter().flatten().filter(|held| !held.over);
                if live.any(|held| revoke.leases.contains(&held.key)) {
                    tracing::info!(reason = revoke.reason, "leases revoked");
                    self.stop_cohort(&revoke.reason).await;
                }
            }
            Order::Shutdown(shutdown) => {
                tracing::info!(
                    reason = shutdown.reason,
                    "the coordinator stops; training goes on until it is back"
                );
            }
            // A lease named in a heartbeat that is no longer ours.
            Order::Refused(refused) => {
                if let Some(lease) = refused.lease {
                    self.note(Outcome::Dropped(lease, refused.reason)).await;
                }
            }
            Order::Welcome(_) | Order::Acknowledged(_) => {}
        }
    }

    async fn accept(&mut self, leases: Vec<Lease>) {
        let held: Vec<Held> = leases.iter().map(Held::new).collect();
        if self.leaving || self.cohort.is_some() {
            let reason = if self.leaving { "the agent leaves" } else { "the agent already has a cohort" };
            for held in held {
                self.release(&held, reason);
            }
            return;
        }
        for held in &held {
            held.span.in_scope(|| tracing::info!(agent = self.options.name, "lease received"));
        }
        let spans = held.iter().map(|held| held.span.clone()).collect();
        self.cohort = Some(held);
        self.preparing = Some(tokio::spawn(prepare(
            leases,
            spans,
            self.link.clone(),
            self.scratch.clone(),
            self.options.device.clone(),
            self.options.threads,
        )));
        self.heartbeat();
    }

    async fn train(&mut self, prepared: Prepared) {
        let train = match prepared {
            Ok(train) => train,
            Err(Unprepared::Passing(reason)) => {
                tracing::warn!(reason, "the cohort is given back");
                self.release_rest(&reason);
                return;
            }
            Err(Unprepared::Lasting(error)) => {
                self.crash(format!("{error:#}"));
                return;
            }
        };
        let started = async {
            if self.child.is_none() {
                self.child = Some(TrainerChild::start(
                    &self.options.trainer_program,
                    self.options.log_file.as_deref(),
                )?);
            }
            let child = self.child.as_mut().context("no trainer")?;
            child.command(trainer_command::Body::Train(train)).await
        };
        if let Err(error) = started.await {
            self.child = None;
            self.crash(format!("{error:#}"));
        }
    }

    async fn trained(&mut self, event: TrainerEvent) {
        use trainer_event::Body as Event;
        match event.body {
            Some(Event::Ready(_)) => tracing::debug!("trainer ready"),
            Some(Event::Started(started)) => {
                let Some(held) = self.member(started.replica) else { return };
                held.step = started.from_step;
                held.started = Some(Instant::now());
                held.span.in_scope(|| tracing::info!(from_step = started.from_step, "training"));
                let key = held.key.clone();
                // It has been read; a lease that starts afresh has none.
                let _ = std::fs::remove_dir_all(resume_folder_of(&self.scratch, &key));
                let body = Body::Started(Started { lease: Some(key), from_step: started.from_step });
                self.link.tell(body);
            }
            Some(Event::Evaluated(evaluated)) => self.evaluated(evaluated),
            Some(Event::Checkpointed(checkpoint)) => {
                let Some(held) = self.member(checkpoint.replica) else { return };
                held.weights_hash = checkpoint.weights_hash;
                held.step = checkpoint.step;
                held.span.in_scope(|| tracing::info!(step = checkpoint.step, "checkpoint"));
                let key = held.key.clone();
                let _ = self.reports.send(Report::Checkpoint(
                    key,
                    checkpoint.step,
                    PathBuf::from(checkpoint.folder),
                ));
            }
            Some(Event::Ended(ended)) => self.ended(ended),
            Some(Event::Progress(progress)) => {
                self.steps_per_second = progress.replica_steps_per_second;
                for held in self.cohort.iter_mut().flatten().filter(|held| held.started.is_some()) {
                    held.step = held.step.max(progress.step);
                }
            }
            Some(Event::Log(log)) => {
                let Some(held) = self.member(log.replica) else { return };
                let report =
                    LogReport { lease: Some(held.key.clone()), lines: log.line.into_iter().collect() };
                self.link.tell(Body::Log(report));
            }
            Some(Event::Finished(finished)) if finished.error.is_empty() => {
                self.release_rest("training was stopped");
                self.heartbeat();
            }
            Some(Event::Finished(finished)) => {
                // Whatever state the child is in, a fresh one is in a better one.
                self.child = None;
                self.crash(finished.error);
            }
            None => tracing::warn!("the trainer sent an empty message"),
        }
    }

    fn member(&mut self, replica: u32) -> Option<&mut Held> {
        let member = self.cohort.as_mut().and_then(|cohort| cohort.get_mut(replica as usize));
        if member.is_none() {
            tracing::warn!(replica, "the trainer reports on a replica it was not given");
        }
        member
    }

    fn evaluated(&mut self, evaluated: trainer_event::Evaluated) {
        let Some(held) = self.member(evaluated.replica) else { return };
        let key = held.key.clone();
        let chunk = match convert::metrics_chunk("metrics", evaluated.metrics.unwrap_or_default()) {
            Ok(chunk) => chunk,
            Err(error) => {
                tracing::warn!(%error, "the trainer sent metrics that cannot be read");
                return;
            }
        };
        held.step = chunk.steps.last().copied().unwrap_or(held.step);
        for evaluation in chunk.into_evaluations() {
            let _ = self.reports.send(Report::Evaluated(key.clone(), evaluation));
        }
    }

    fn ended(&mut self, ended: trainer_event::Ended) {
        let share = self.cohort.as_ref().map_or(1, Vec::len).max(1) as f64;
        let Some(held) = self.member(ended.replica) else { return };
        held.span.in_scope(|| tracing::info!(step = ended.step, "ended"));
        held.over = true;
        held.step = ended.step;
        let report = EndedReport {
            lease: Some(held.key.clone()),
            ending: ended.ending,
            step: ended.step,
            train_seconds: seconds(held, share),
            weights_hash: held.weights_hash.clone(),
        };
        let key = held.key.clone();
        self.over(vec![key], Body::Ended(report));
    }

    /// Queues the last report of some leases.
    fn over(&mut self, leases: Vec<LeaseKey>, body: Body) {
        self.unsettled.extend(leases.iter().cloned());
        let _ = self.reports.send(Report::Over(leases, body));
    }

    fn release(&mut self, held: &Held, reason: &str) {
        let share = self.cohort.as_ref().map_or(1, Vec::len).max(1) as f64;
        let body = Released {
            lease: Some(held.key.clone()),
            reason: reason.to_owned(),
            train_seconds: seconds(held, share),
        };
        self.over(vec![held.key.clone()], Body::Released(body));
    }

    /// Ends the cohort; members without an ending go back to the coordinator.
    fn release_rest(&mut self, reason: &str) {
        self.stop_by = None;
        for held in self.cohort.take().unwrap_or_default().iter().filter(|held| !held.over) {
            self.release(held, reason);
        }
    }

    /// Ends the cohort after an accident.
    fn crash(&mut self, reason: String) {
        self.stop_by = None;
        let leases: Vec<LeaseKey> = self
            .cohort
            .take()
            .unwrap_or_default()
            .into_iter()
            .filter(|held| !held.over)
            .map(|held| held.key)
            .collect();
        tracing::error!(reason, leases = leases.len(), "the trainer failed");
        if !leases.is_empty() {
            let body = Body::Crashed(Crashed { leases: leases.clone(), reason });
            self.over(leases, body);
        }
    }

    /// The child closed its output: it died.
    async fn mourn(&mut self) {
        if let Some(child) = self.child.take() {
            let reason = child.obituary().await;
            if self.cohort.is_some() && self.preparing.is_none() {
                self.crash(reason);
            } else {
                tracing::warn!(reason, "an idle trainer ended");
            }
        }
    }

    async fn note(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Settled(lease) => {
                self.unsettled.retain(|known| *known != lease);
                if self.cohort.is_none() && self.unsettled.is_empty() {
                    // Work is granted to idle agents that hold nothing: say so at once.
                    self.heartbeat();
                }
            }
            Outcome::Dropped(lease, reason) => {
                tracing::warn!(trial = lease.trial, attempt = lease.attempt, reason, "lease lost");
                let mut training = self.cohort.iter_mut().flatten();
                if let Some(held) = training.find(|held| held.key == lease) {
                    held.over = true;
                }
                // A cohort in which no lease is left trains for nobody.
                if self.cohort.as_ref().is_some_and(|cohort| cohort.iter().all(|held| held.over)) {
                    self.stop_cohort("all its leases are lost").await;
                }
            }
        }
    }
}

fn seconds(held: &Held, share: f64) -> f64 {
    held.started.map_or(0.0, |started| started.elapsed().as_secs_f64() / share)
}

/// Resolves when the preparation is done; never, where there is none.
async fn prepared(preparing: &mut Option<JoinHandle<Prepared>>) -> Prepared {
    let Some(task) = preparing else { return std::future::pending().await };
    let result = match task.await {
        Ok(result) => result,
        Err(error) => Err(Unprepared::Lasting(anyhow::anyhow!("preparing the cohort failed: {error}"))),
    };
    *preparing = None;
    result
}

/// Resolves at the deadline; never, where there is none.
async fn deadline(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The child's next event, or `None` for its death; never, where there is no child.
async fn next_event(child: &mut Option<TrainerChild>) -> Option<TrainerEvent> {
    match child {
        Some(child) => child.event().await,
        None => std::future::pending().await,
    }
}
