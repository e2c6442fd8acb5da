//! The agent's main loop: grants in, reports out, one cohort in training and the next one at hand.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use plateau_common::failure::FailureClass;
use plateau_common::limits;
use plateau_proto::v1::agent_message::{
    Body, FreePlaces, Goodbye, Heartbeat, Hello, LeaseProgress, LogReport, Released,
};
use plateau_proto::v1::coordinator_message::{Body as Order, Grant};
use plateau_proto::v1::{LeaseKey, LogLine, TrainerEvent, trainer_command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::AgentOptions;
use crate::classify;
use crate::cohort::{Batch, Cohort, Held};
use crate::driver_log::{self, DriverEvent};
use crate::files::Files;
use crate::link::{Link, LinkEvent};
use crate::machine::{Machine, Trainer};
use crate::prepare::{Prepared, Unprepared, prepare, resume_folder_of};
use crate::reporter::{self, Outcome, Report, Reports};

/// Seconds between heartbeats; far below the renewal the coordinator asks for, so that progress displays move.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long an agent that was told to leave waits for its last reports to be answered.
const LAST_REPORTS: Duration = Duration::from_secs(10);
/// How long a trainer that was told to stop may take to save its checkpoints.
pub(crate) const STOPPING: Duration = Duration::from_secs(60);
/// How long after the last sign that nobody else can have its leases an agent stops training them, and kills a trainer that
/// has not stopped.
const ALONE: Duration = Duration::from_secs(limits::LEASE_SECONDS - limits::LEASE_STOP_SECONDS);
const ALONE_AT_MOST: Duration = Duration::from_secs(limits::LEASE_SECONDS - limits::LEASE_KILL_SECONDS);

/// Runs an agent until `stop` resolves; then the cohort in training is checkpointed, its leases are given back, and the
/// agent leaves.
///
/// # Errors
/// When the address is not one, the work folder cannot be used, or another agent of the same name has taken over. A
/// coordinator that cannot be reached is waited for.
pub async fn run(options: AgentOptions, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let machine = Machine::real(&options);
    run_on(machine, options, stop).await
}

/// [`run`] on a machine that need not be this one.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    machine: Machine,
    options: AgentOptions,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let incarnation = machine.names.draw();
    let files = Files(machine.execution);
    // Of live agents only this one has the name, so what lies in its folder was left by a predecessor that was killed.
    let work_dir = std::path::absolute(&options.work_dir)
        .with_context(|| format!("finding out where {} is", options.work_dir.display()))?;
    let own = work_dir.join(&blake3::hash(options.name.as_bytes()).to_hex()[..16]);
    if files.exists(&own).await {
        files
            .remove_folder(&own)
            .await
            .with_context(|| format!("clearing what a killed agent left in {}", own.display()))?;
    }
    let scratch = own.join(&incarnation);
    files
        .create_folder(&scratch)
        .await
        .with_context(|| format!("making the work folder {}", scratch.display()))?;
    let hello = Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: options.name.clone(),
        incarnation,
        host: host_name(),
        device: options.device.clone(),
        device_description: options.device_description.clone(),
        max_cohort: options.max_cohort,
        threads: u32::try_from(options.threads).unwrap_or(u32::MAX),
        memory_bytes: options.memory_bytes.unwrap_or(0),
        // Versions and leases held are filled in at each connection.
        ..Hello::default()
    };
    let driver_events = options.driver_log.as_ref().and_then(|log| {
        let events = driver_log::follow(&log.file, &log.card).map_err(|error| {
            let error = format!("{error:#}");
            tracing::warn!(
                error,
                "errors of the card's driver go unnoticed (--kernel-log names another file)"
            );
        });
        events.ok()
    });
    let (link, orders) =
        Link::start(&options.coordinator, &options.credentials, machine.network.as_ref(), hello)?;
    let (reports, outcomes) = reporter::start(link.clone(), files);
    let agent = Agent {
        options,
        machine,
        scratch: scratch.clone(),
        link,
        reports,
        cohort: None,
        waiting: VecDeque::new(),
        preparing: JoinSet::new(),
        calibrating: None,
        child: None,
        unsettled: Vec::new(),
        grants: 0,
        numbered: 0,
        asked: Wish::default(),
        speeds: BTreeMap::new(),
        lines: Vec::new(),
        leaving: false,
        stop_by: None,
        alone_since: Instant::now(),
        cut_off: false,
        steps_per_second: 0.0,
        driver_events,
        driver_said: None,
        unhealthy: None,
    };
    let worked = agent.work(orders, outcomes, stop).await;
    if let Err(error) = files.remove_folder(&scratch).await {
        tracing::warn!(folder = %scratch.display(), %error, "the work folder could not be removed");
    }
    // Not empty where a successor of the same name works in it.
    let _ = files.remove_empty_folder(&own).await;
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

/// What an agent that trains asks for besides; see `Heartbeat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wish {
    next: bool,
    places: usize,
}

pub(crate) struct Agent {
    pub options: AgentOptions,
    pub machine: Machine,
    pub scratch: PathBuf,
    pub link: Link,
    pub reports: Reports,
    /// In training.
    pub cohort: Option<Cohort>,
    /// Granted, and to be trained next or to join the cohort in training, in order.
    pub waiting: VecDeque<Batch>,
    /// Downloads of what the waiting leases continue from, by the batch's number.
    preparing: JoinSet<(u64, Prepared)>,
    /// The batch whose speed is being measured.
    pub calibrating: Option<u64>,
    pub child: Option<Box<dyn Trainer>>,
    /// Leases whose last report has not been answered yet.
    unsettled: Vec<LeaseKey>,
    /// Grants received in this session.
    grants: u64,
    /// Numbers given to batches and cohorts.
    pub numbered: u64,
    /// What was asked for last.
    asked: Wish,
    /// Replica-steps per second of the cohorts trained so far, by cohort key.
    pub speeds: BTreeMap<String, f64>,
    /// Lines of logs that wait for the next heartbeat.
    pub lines: Vec<(LeaseKey, LogLine)>,
    pub leaving: bool,
    /// When a trainer that was told to stop is killed.
    pub stop_by: Option<Instant>,
    /// The last moment of which it is known that nobody else could be given our leases for a whole term after it: a
    /// heartbeat was sent that the coordinator heard, or no coordinator was running.
    alone_since: Instant,
    /// The cohort in training was told to stop because that moment is too long ago.
    pub cut_off: bool,
    pub steps_per_second: f64,
    /// Events of the card's driver, where they can be read.
    pub driver_events: Option<mpsc::Receiver<DriverEvent>>,
    /// What the driver said of the card since the cohort in training began.
    pub driver_said: Option<(FailureClass, String)>,
    /// Why the device must not be used any more, if it must not.
    pub unhealthy: Option<FailureClass>,
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
                // What is rare and urgent first, so that a trainer with much to tell holds nothing up.
                biased;
                () = &mut stop, if !self.leaving => self.leave().await,
                () = deadline(self.stop_by) => self.kill_trainer().await,
                () = deadline(self.end_of_leases()) => self.lose_touch().await,
                _ = heartbeat.tick() => self.heartbeat(),
                event = orders.recv() => match event {
                    Some(LinkEvent::Connected) => {
                        self.grants = 0;
                        self.heartbeat();
                    }
                    // One that was sent before the newest grant came does not list its leases.
                    Some(LinkEvent::Heard(sent, grants)) if grants == self.grants => self.is_alone_since(sent),
                    Some(LinkEvent::Heard(..)) => {}
                    // When one runs again, every lease gets a fresh term.
                    Some(LinkEvent::NobodyThere(at)) => self.is_alone_since(at),
                    Some(LinkEvent::Message(order)) => self.obey(order).await,
                    Some(LinkEvent::Superseded(reason)) => anyhow::bail!(
                        "another agent took over the name `{}` ({reason}); give each agent a --name of its own",
                        self.options.name
                    ),
                    None => break,
                },
                Some(event) = next_driver_event(&mut self.driver_events) => self.driver_spoke(event),
                Some(outcome) = outcomes.recv() => self.note(outcome).await,
                Some(prepared) = self.preparing.join_next() => self.prepared(prepared),
                event = next_event(&mut self.child) => match event {
                    Some(event) => self.trained(event).await,
                    None => self.mourn().await,
                },
            }
            self.advance().await;
            if self.wish() != self.asked {
                self.heartbeat();
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

    /// Leases in training, then those that wait, then those whose last words are on their way.
    fn leases(&self) -> impl Iterator<Item = LeaseProgress> {
        let told =
            |held: &Held, waiting| LeaseProgress { lease: Some(held.key.clone()), step: held.step, waiting };
        let training = self.cohort.iter().flat_map(Cohort::live).map(move |held| told(held, false));
        let waiting = self.waiting.iter().flat_map(|batch| &batch.held).filter(|held| !held.over);
        let unsettled = self.unsettled.iter();
        training.chain(waiting.map(move |held| told(held, true))).chain(
            unsettled.map(|key| LeaseProgress { lease: Some(key.clone()), ..LeaseProgress::default() }),
        )
    }

    /// Whether there is nothing to train.
    fn is_idle(&self) -> bool {
        self.cohort.is_none() && self.waiting.is_empty() && !self.leaving && self.unhealthy.is_none()
    }

    /// What should be asked for now.
    fn wish(&self) -> Wish {
        let refuses = self.leaving || self.stop_by.is_some() || self.unhealthy.is_some();
        if refuses || !self.waiting.is_empty() {
            return Wish::default();
        }
        match &self.cohort {
            // Its last reports are on their way, which is no reason to stand still.
            None => Wish { next: !self.unsettled.is_empty(), places: 0 },
            Some(cohort) => {
                // Members that join are trained in turns with the others. A processor trains one after another anyway; on
                // a card it pays only where they are the larger batch.
                let worthwhile = self.options.device == "cpu" || cohort.free > cohort.live().count();
                let places = if worthwhile { cohort.free } else { 0 };
                Wish { next: cohort.is_about_to_end(), places }
            }
        }
    }

    fn heartbeat(&mut self) {
        let leases: Vec<LeaseProgress> = self.leases().collect();
        self.link.set_held(leases.iter().filter_map(|progress| progress.lease.clone()).collect());
        self.asked = self.wish();
        let places = self.cohort.as_ref().filter(|_| self.asked.places > 0).map(|cohort| FreePlaces {
            cohort: cohort.key.clone(),
            places: u32::try_from(self.asked.places).unwrap_or(u32::MAX),
        });
        let heartbeat = Heartbeat {
            leases,
            replica_steps_per_second: if self.cohort.is_some() { self.steps_per_second } else { 0.0 },
            idle: self.is_idle() && self.unsettled.is_empty(),
            grants: self.grants,
            wants_next: self.asked.next,
            free_places: places,
        };
        self.link.tell(Body::Heartbeat(heartbeat));
        self.send_lines();
    }

    async fn leave(&mut self) {
        match &self.cohort {
            Some(cohort) => {
                let trials = cohort.live().count();
                tracing::info!(trials, "leaving: trials are checkpointed and given back");
            }
            None => tracing::info!("leaving"),
        }
        self.leaving = true;
        self.stop("the agent leaves").await;
    }

    /// Gives everything back: what waits at once, what trains once it is saved.
    async fn stop(&mut self, reason: &str) {
        self.release_waiting(reason, |_| true);
        if self.cohort.is_none() {
            return;
        }
        self.stop_by.get_or_insert_with(|| Instant::now() + STOPPING);
        self.command(trainer_command::Body::Stop(trainer_command::Stop {})).await;
    }

    /// Tells the trainer something.
    pub async fn command(&mut self, body: trainer_command::Body) {
        if let Some(child) = &mut self.child
            && let Err(error) = child.command(body).await
        {
            // The child is gone; its end arrives as an event of its own.
            tracing::warn!(%error, "the trainer did not take a command");
        }
    }

    fn is_alone_since(&mut self, moment: Instant) {
        self.alone_since = self.alone_since.max(moment);
    }

    /// When training must stop, unless a sign comes that nobody else can have the leases.
    fn end_of_leases(&self) -> Option<Instant> {
        let trains = self.cohort.is_some() || !self.waiting.is_empty();
        (trains && !self.cut_off && !self.leaving).then(|| self.alone_since + ALONE)
    }

    /// The coordinator is silent, and may be about to give our trials to others. They are saved and given back: where it
    /// was silent for everybody, they continue here from what was saved.
    async fn lose_touch(&mut self) {
        let seconds = ALONE.as_secs();
        tracing::warn!("nothing was heard of the coordinator for {seconds} s: training stops and is saved");
        self.stop("the coordinator was not heard of").await;
        if self.cohort.is_some() {
            self.cut_off = true;
            let latest = self.alone_since + ALONE_AT_MOST;
            self.stop_by = Some(self.stop_by.map_or(latest, |by| by.min(latest)));
        }
    }

    /// A trainer that does not stop is not waited for any longer. One that cannot be killed hangs in the driver, which needs a
    /// person's attention.
    async fn kill_trainer(&mut self) {
        let gone = match self.child.take() {
            Some(child) => child.kill().await,
            None => true,
        };
        if self.cut_off && gone {
            // No fault of the trials.
            self.stop_by = None;
            let cohort = self.cohort.take();
            let (size, members) = cohort.map_or((1, Vec::new()), |cohort| (cohort.size, cohort.members));
            for held in members.iter().filter(|held| !held.over) {
                self.release(held, size, "the coordinator was not heard of, and the trainer did not stop");
            }
            return;
        }
        let asked = format!("the trainer did not stop within {} s", STOPPING.as_secs());
        match gone {
            true => self.crash(FailureClass::Unresponsive, format!("{asked} and was killed")),
            false => {
                self.crash(FailureClass::Unkillable, format!("{asked} and lives on although it was killed"))
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Grant(grant) => self.accept(grant),
            Order::Revoke(revoke) => {
                tracing::info!(reason = revoke.reason, leases = revoke.leases.len(), "leases revoked");
                self.release_waiting(&revoke.reason, |held| revoke.leases.contains(&held.key));
                self.let_go(|held| revoke.leases.contains(&held.key)).await;
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

    fn accept(&mut self, grant: Grant) {
        self.grants += 1;
        self.numbered += 1;
        let number = self.numbered;
        let batch = Batch::new(number, &grant.leases, grant.join, grant.calibrate);
        let refusal = match self.unhealthy {
            Some(class) => Some(class.words()),
            None => self.leaving.then_some("the agent leaves"),
        };
        if let Some(reason) = refusal {
            for held in &batch.held {
                self.release(held, 1, reason);
            }
            return;
        }
        for held in &batch.held {
            held.span.in_scope(|| tracing::info!(agent = self.options.name, "lease received"));
        }
        let spans = batch.held.iter().map(|held| held.span.clone()).collect();
        let files = Files(self.machine.execution);
        let preparation = prepare(grant.leases, spans, self.link.clone(), files, self.scratch.clone());
        self.preparing.spawn(async move { (number, preparation.await) });
        self.waiting.push_back(batch);
        self.heartbeat();
    }

    /// What a batch continues from is here, or is not to be had.
    fn prepared(&mut self, prepared: Result<(u64, Prepared), tokio::task::JoinError>) {
        let (number, orders) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                tracing::error!(%error, "preparing a cohort failed");
                // Whose it was is not known, so everything that is not prepared is given back.
                self.release_unprepared("preparing the cohort failed");
                return;
            }
        };
        let Some(place) = self.waiting.iter().position(|batch| batch.number == number) else {
            // It was given back in the meantime.
            for member in orders.unwrap_or_default().iter().filter(|member| !member.resume_folder.is_empty())
            {
                let _ = std::fs::remove_dir_all(&member.resume_folder);
            }
            return;
        };
        match orders {
            Ok(members) => {
                let batch = &mut self.waiting[place];
                for (held, member) in batch.held.iter_mut().zip(members) {
                    held.member = Some(member);
                }
                batch.held.retain(|held| !held.over);
                batch.ready = true;
            }
            Err(Unprepared::Passing(reason)) => {
                tracing::warn!(reason, "the cohort is given back");
                let batch = self.waiting.remove(place);
                for held in batch.iter().flat_map(|batch| &batch.held).filter(|held| !held.over) {
                    self.release(held, 1, &reason);
                }
            }
            Err(Unprepared::Lasting(error)) => {
                let batch = self.waiting.remove(place);
                let held = batch.map(|batch| batch.held).unwrap_or_default();
                self.report_crash(held, classify::failed(&error), format!("{error:#}"));
            }
        }
    }

    fn release_unprepared(&mut self, reason: &str) {
        let (ready, unready): (VecDeque<Batch>, VecDeque<Batch>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|batch| batch.ready);
        self.waiting = ready;
        for held in unready.iter().flat_map(|batch| &batch.held).filter(|held| !held.over) {
            self.release(held, 1, reason);
        }
    }

    /// Gives back leases that wait.
    pub fn release_waiting(&mut self, reason: &str, which: impl Fn(&Held) -> bool) {
        let mut released = Vec::new();
        for batch in &mut self.waiting {
            for held in batch.held.iter_mut().filter(|held| !held.over && which(held)) {
                // It stays in its place until the preparation, which goes by places, is done.
                held.over = true;
                released.push(held.key.clone());
            }
            if batch.ready {
                batch.held.retain(|held| !held.over);
            }
        }
        self.waiting.retain(|batch| batch.held.iter().any(|held| !held.over));
        for key in released {
            // Where it was to start afresh there is none.
            let _ = std::fs::remove_dir_all(resume_folder_of(&self.scratch, &key));
            let body = Released { lease: Some(key.clone()), reason: reason.to_owned(), train_seconds: 0.0 };
            self.over(vec![key], Body::Released(body));
        }
    }

    /// Sends the lines of logs that have gathered, those of a lease together.
    fn send_lines(&mut self) {
        let mut lines = std::mem::take(&mut self.lines);
        // Stable, so the lines of a lease stay in their order.
        lines.sort_by(|(a, _), (b, _)| (&a.trial, a.attempt).cmp(&(&b.trial, b.attempt)));
        for together in lines.chunk_by(|(a, _), (b, _)| a == b) {
            let lease = together.first().map(|(lease, _)| lease.clone());
            let lines = together.iter().map(|(_, line)| line.clone()).collect();
            self.link.tell(Body::Log(LogReport { lease, lines }));
        }
    }

    /// Queues the last report of some leases.
    pub fn over(&mut self, leases: Vec<LeaseKey>, body: Body) {
        self.send_lines();
        self.unsettled.extend(leases.iter().cloned());
        let _ = self.reports.send(Report::Over(leases, body));
    }

    /// Gives a lease back; `share` replicas shared the device.
    pub fn release(&mut self, held: &Held, share: usize, reason: &str) {
        let body = Released {
            lease: Some(held.key.clone()),
            reason: reason.to_owned(),
            train_seconds: held.seconds(share),
        };
        self.over(vec![held.key.clone()], Body::Released(body));
    }

    async fn note(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Settled(lease) => {
                self.unsettled.retain(|known| *known != lease);
                if self.is_idle() && self.unsettled.is_empty() {
                    // Work is granted to idle agents that hold nothing: say so at once.
                    self.heartbeat();
                }
            }
            Outcome::Dropped(lease, reason) => {
                tracing::warn!(trial = lease.trial, attempt = lease.attempt, reason, "lease lost");
                for batch in &mut self.waiting {
                    batch.held.iter_mut().filter(|held| held.key == lease).for_each(|held| held.over = true);
                }
                self.waiting.retain(|batch| batch.held.iter().any(|held| !held.over));
                // Nobody wants its training any more.
                self.let_go(|held| held.key == lease).await;
                for held in self.cohort.iter_mut().flat_map(|cohort| &mut cohort.members) {
                    held.over |= held.key == lease;
                }
            }
        }
    }
}

/// Resolves at the deadline; never, where there is none.
async fn deadline(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The driver's next event; never, where it is not heard. Where the log ends nothing is heard any more.
async fn next_driver_event(events: &mut Option<mpsc::Receiver<DriverEvent>>) -> Option<DriverEvent> {
    let Some(receiver) = events else { return std::future::pending().await };
    let event = receiver.recv().await;
    if event.is_none() {
        *events = None;
    }
    event
}

/// The child's next event, or `None` for its death; never, where there is no child.
async fn next_event(child: &mut Option<Box<dyn Trainer>>) -> Option<TrainerEvent> {
    match child {
        Some(child) => child.event().await,
        None => std::future::pending().await,
    }
}
