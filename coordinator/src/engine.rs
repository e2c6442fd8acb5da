//! The thread that owns the state and the store: inputs in, durable effects out.
//!
//! Inputs that arrive while a commit is on its way to the disk are taken together: one transaction, one
//! synchronisation, then every answer and message of the batch. A failed write is fatal: nothing of the batch is
//! answered, the thread ends and the coordinator with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plateau_common::identity::TrialId;
use plateau_common::trace::TraceContext;
use plateau_machine::{Execution, WallClock};
use plateau_proto::v1;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::checkpoints::Checkpoints;
use crate::core::{
    Answer, Checkpoint, Effect, Granted, Input, Now, Report, State, Subject, SweepNumber, ToAgent, Write,
};
use crate::failpoint;
use crate::machine::Machine;
use crate::retention::apply_with_transition;
use crate::store::{Store, StoreError};
use crate::wire;

/// Inputs taken into one transaction at most.
const MAX_BATCH: usize = 1024;
/// Inputs waiting for the engine at most; senders wait beyond.
const QUEUE: usize = 4096;
/// Changes remembered for slow watchers; they read the state itself, so a lost change costs nothing.
const CHANGES: usize = 1024;

/// A question about the state; it sees only what is durable.
type Query = Box<dyn FnOnce(&State, Now) + Send>;

enum Command {
    Apply(Box<Input>, Option<oneshot::Sender<Answer>>),
    Configurations(Vec<(TrialId, String)>),
    Query(Query),
    Stop,
}

/// The engine has stopped: the coordinator is shutting down, or its store failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator is stopping: try again when it is back")]
pub struct Stopped;

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Self {
        Status::unavailable(stopped.to_string())
    }
}

/// Messages to one agent's session.
pub type SessionSender = mpsc::Sender<Result<v1::CoordinatorMessage, Status>>;

struct Session {
    sender: SessionSender,
    /// Dropped with the session, which tells its listener to end.
    _alive: oneshot::Sender<()>,
}

/// The open sessions by number.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<BTreeMap<u64, Session>>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Session>> {
        // The map is whole between any two statements, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a session; what is returned resolves when it is closed.
    pub fn open(&self, session: u64, sender: SessionSender) -> oneshot::Receiver<()> {
        let (alive, closed) = oneshot::channel();
        self.lock().insert(session, Session { sender, _alive: alive });
        closed
    }

    /// Forgets a session; its stream ends once what was sent is read, with `last` if there is something to say.
    pub fn close(&self, session: u64, last: Option<Status>) {
        if let (Some(session), Some(status)) = (self.lock().remove(&session), last) {
            // A full queue loses the reason only; the stream ends all the same.
            let _ = session.sender.try_send(Err(status));
        }
    }

    /// Sends to a session; one whose agent does not read is closed.
    pub fn send(&self, session: u64, message: v1::coordinator_message::Body) {
        let mut sessions = self.lock();
        let Some(open) = sessions.get(&session) else { return };
        if open.sender.try_send(Ok(v1::CoordinatorMessage { body: Some(message) })).is_err() {
            tracing::warn!(session, "the agent does not read its messages: session closed");
            sessions.remove(&session);
        }
    }

    /// Sends to every session.
    pub fn send_all(&self, message: &v1::coordinator_message::Body) {
        let sessions: Vec<u64> = self.lock().keys().copied().collect();
        sessions.into_iter().for_each(|session| self.send(session, message.clone()));
    }

    /// Number of open sessions.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Forgets all sessions.
    pub fn close_all(&self) {
        self.lock().clear();
    }
}

/// How the rest of the coordinator talks to the engine; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    changes: broadcast::Sender<SweepNumber>,
    /// Open sessions.
    pub sessions: Sessions,
    /// Number of the last session.
    next_session: Arc<std::sync::atomic::AtomicU64>,
    commits: watch::Receiver<u64>,
    abandoned: Arc<std::sync::atomic::AtomicBool>,
}

impl Handle {
    /// Applies an input without waiting for it; waits only while the engine's queue is full.
    pub async fn send(&self, input: Input) -> Result<(), Stopped> {
        self.commands.send(Command::Apply(Box::new(input), None)).await.map_err(|_| Stopped)
    }

    /// Applies a request; its answer arrives when it is durable.
    pub async fn request(&self, input: Input) -> Result<Answer, Stopped> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(Command::Apply(Box::new(input), Some(sender))).await.map_err(|_| Stopped)?;
        receiver.await.map_err(|_| Stopped)
    }

    /// Stores configurations ahead of the submission that names them; from a blocking thread.
    pub fn put_configurations(&self, configurations: Vec<(TrialId, String)>) -> Result<(), Stopped> {
        match self.commands.try_send(Command::Configurations(configurations)) {
            Err(TrySendError::Full(command)) => self.commands.blocking_send(command).map_err(|_| Stopped),
            Err(TrySendError::Closed(_)) => Err(Stopped),
            Ok(()) => Ok(()),
        }
    }

    /// Asks about the durable state.
    pub async fn query<T: Send + 'static>(
        &self,
        question: impl FnOnce(&State, Now) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (sender, receiver) = oneshot::channel();
        let query: Query = Box::new(move |state, now| {
            // The asker may have gone away; then nobody wants the answer.
            let _ = sender.send(question(state, now));
        });
        self.commands.send(Command::Query(query)).await.map_err(|_| Stopped)?;
        receiver.await.map_err(|_| Stopped)
    }

    /// Sweeps as they change. A slow listener loses old changes, not the newest.
    pub fn changes(&self) -> broadcast::Receiver<SweepNumber> {
        self.changes.subscribe()
    }

    /// A number for a new session.
    pub fn new_session(&self) -> u64 {
        self.next_session.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1
    }

    /// Transactions committed so far.
    pub fn commits(&self) -> u64 {
        *self.commits.borrow()
    }

    /// Makes the engine end at its next batch, answering nothing more.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, std::sync::atomic::Ordering::Relaxed);
        // With a full queue the engine is at work and sees the flag; without an engine there is nothing to end.
        let _ = self.commands.try_send(Command::Stop);
    }

    /// Asks the engine to end after what is already queued.
    pub async fn stop(&self) {
        // An engine that has already ended needs no telling.
        let _ = self.commands.send(Command::Stop).await;
    }
}

/// How the engine's thread ended.
pub type EngineEnd = oneshot::Receiver<Result<(), StoreError>>;

/// Loads the state and starts the thread.
pub fn start(store: Store, checkpoints: Checkpoints) -> Result<(Handle, EngineEnd), StoreError> {
    start_on(&Machine::real(), store, checkpoints)
}

/// [`start`] on a machine that need not be this one. Where work is done on the spot, the engine is a task of the runtime that
/// starts it: what it does is then a step between those of other tasks, in an order that can be repeated.
pub fn start_on(
    machine: &Machine,
    store: Store,
    checkpoints: Checkpoints,
) -> Result<(Handle, EngineEnd), StoreError> {
    let (started, wall) = (Instant::now(), machine.wall.clone());
    let state = store.load(now(started, &wall))?;
    // No submission is on its way yet.
    store.drop_unused_configurations()?;
    let (commands, receiver) = mpsc::channel(QUEUE);
    let (changes, _) = broadcast::channel(CHANGES);
    let (commits, commit_count) = watch::channel(0);
    let sessions = Sessions::default();
    let abandoned = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let handle = Handle {
        commands,
        changes: changes.clone(),
        sessions: sessions.clone(),
        next_session: Arc::default(),
        commits: commit_count,
        abandoned: abandoned.clone(),
    };
    let (end, ended) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let open = sessions.clone();
    let engine =
        Engine { store, state, started, wall, changes, sessions, checkpoints, runtime, commits, abandoned };
    let ending = move |result: Result<(), StoreError>| {
        // After a failure too: agents whose reports nobody will answer must notice.
        open.close_all();
        if let Err(error) = &result {
            tracing::error!(%error, "the store failed: the coordinator stops");
        }
        // Nobody listening means that the process is ending anyway.
        let _ = end.send(result);
    };
    if machine.execution == Execution::OnTheSpot {
        tokio::spawn(async move { ending(engine.run_as_task(receiver).await) });
        return Ok((handle, ended));
    }
    std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || ending(engine.run(receiver)))
        .map_err(|source| StoreError::Io {
            doing: "starting the thread of",
            path: "the engine".to_owned(),
            cause: source,
        })?;
    Ok((handle, ended))
}

fn now(started: Instant, wall: &WallClock) -> Now {
    Now { monotonic: started.elapsed(), unix_milliseconds: wall.unix_milliseconds() }
}

/// Comes by a place where tests make commits fail.
fn fail_at(place: &'static str) -> Result<(), StoreError> {
    let doing = "committing to";
    failpoint::pass(place).map_err(|source| StoreError::Io {
        doing,
        path: "the database".to_owned(),
        cause: source,
    })
}

struct Engine {
    store: Store,
    state: State,
    started: Instant,
    wall: WallClock,
    changes: broadcast::Sender<SweepNumber>,
    sessions: Sessions,
    checkpoints: Checkpoints,
    runtime: tokio::runtime::Handle,
    commits: watch::Sender<u64>,
    abandoned: Arc<std::sync::atomic::AtomicBool>,
}

/// Something that may leave once the batch is durable.
enum Departure {
    Send(u64, v1::coordinator_message::Body),
    Close(u64, String),
    Answer(oneshot::Sender<Answer>, Answer),
    Delete(TrialId, Checkpoint),
    Changed(Vec<SweepNumber>),
    Query(Query),
}

impl Engine {
    fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), StoreError> {
        while let Some(first) = commands.blocking_recv() {
            if self.step(first, &mut commands)? {
                break;
            }
        }
        self.sessions.close_all();
        self.store.close()
    }

    /// [`Engine::run`] as a task.
    async fn run_as_task(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), StoreError> {
        while let Some(first) = commands.recv().await {
            if self.step(first, &mut commands)? {
                break;
            }
        }
        self.sessions.close_all();
        self.store.close()
    }

    /// Applies `first` and what is queued behind it as one batch; true: the engine is to end.
    fn step(&mut self, first: Command, commands: &mut mpsc::Receiver<Command>) -> Result<bool, StoreError> {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(next) = commands.try_recv()
        {
            batch.push(next);
        }
        if self.abandoned.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(true);
        }
        // Asked what is wrong while the files are as they were when the write failed.
        self.batch(batch).map_err(|error| error.at(self.store.path()))
    }

    /// Applies a batch; true: it asked the engine to stop.
    fn batch(&mut self, commands: Vec<Command>) -> Result<bool, StoreError> {
        let now = now(self.started, &self.wall);
        let mut departures = Vec::new();
        let mut stop = false;
        let mut wrote = false;
        let mut transaction = self.store.begin(now.unix_milliseconds)?;
        for command in commands {
            match command {
                Command::Stop => stop = true,
                Command::Query(query) => departures.push(Departure::Query(query)),
                Command::Configurations(configurations) => {
                    transaction.put_configurations(&configurations)?;
                    wrote = true;
                }
                Command::Apply(input, mut answer) => {
                    let mut input = *input;
                    if let Input::Said { report: Report::Metrics { lease, chunk, recorded, .. }, .. } =
                        &mut input
                    {
                        *recorded = transaction.chunk_digest(*lease, *chunk)?;
                    }
                    for effect in apply_with_transition(&mut self.state, input, now) {
                        match effect {
                            Effect::Write(write) => {
                                trace(&write, &self.state);
                                transaction.write(write, &self.state)?;
                                wrote = true;
                            }
                            Effect::Send { session, message } => {
                                let body = match message {
                                    ToAgent::Grant { leases, join, calibrate } => {
                                        let leases = self::leases(&mut transaction, leases)?;
                                        let grant =
                                            v1::coordinator_message::Grant { leases, join, calibrate };
                                        v1::coordinator_message::Body::Grant(grant)
                                    }
                                    other => wire::to_agent(other),
                                };
                                departures.push(Departure::Send(session, body));
                            }
                            Effect::Close { session, reason } => {
                                departures.push(Departure::Close(session, reason))
                            }
                            Effect::Answer(value) => {
                                if let Some(sender) = answer.take() {
                                    departures.push(Departure::Answer(sender, value));
                                }
                            }
                            Effect::Delete(trial, checkpoint) => {
                                departures.push(Departure::Delete(trial, checkpoint))
                            }
                            Effect::Changed(sweeps) => departures.push(Departure::Changed(sweeps)),
                        }
                    }
                }
            }
        }
        if wrote {
            fail_at(failpoint::COMMIT_APPLIED)?;
            fail_at(failpoint::COMMIT_SYNCHRONISE)?;
            transaction.commit()?;
            fail_at(failpoint::COMMIT_DURABLE)?;
            self.commits.send_modify(|commits| *commits += 1);
        } else {
            drop(transaction);
        }
        for departure in departures {
            self.depart(departure, now);
            if wrote {
                fail_at(failpoint::COMMIT_ANSWERED)?;
            }
        }
        Ok(stop)
    }

    fn depart(&self, departure: Departure, now: Now) {
        match departure {
            Departure::Send(session, body) => self.sessions.send(session, body),
            Departure::Close(session, reason) => self.sessions.close(session, Some(Status::aborted(reason))),
            Departure::Answer(sender, answer) => {
                // Whoever asked may have gone away; what was done stays done.
                let _ = sender.send(answer);
            }
            Departure::Delete(trial, checkpoint) => {
                let checkpoints = self.checkpoints.clone();
                self.runtime.spawn(async move {
                    if let Err(error) = checkpoints.delete(trial, checkpoint.attempt, checkpoint.step).await {
                        // It is no longer referenced; the next start sweeps it away.
                        tracing::warn!(%trial, step = checkpoint.step, %error, "an old checkpoint was not deleted");
                    }
                });
            }
            Departure::Changed(sweeps) => {
                for sweep in sweeps {
                    // No receiver: nobody watches.
                    let _ = self.changes.send(sweep);
                }
            }
            Departure::Query(query) => query(&self.state, now),
        }
    }
}

/// The wire form of what is granted: each lease with its configuration for the granted budget, and its span.
fn leases(batch: &mut crate::store::Batch<'_>, granted: Vec<Granted>) -> Result<Vec<v1::Lease>, StoreError> {
    let mut leases = Vec::with_capacity(granted.len());
    for member in granted {
        let trial = member.lease.trial;
        let stored = batch.configuration(trial)?.unwrap_or_default();
        let config_json = wire::configuration_for(&stored, member.budget).map_err(|problem| {
            StoreError::Damaged { table: "configurations", problem: format!("trial {trial}: {problem}") }
        })?;
        let root = TraceContext::of_trial(&member.sweep, &trial.to_string());
        let span = root.child(&format!("attempt/{}", member.lease.attempt));
        leases.push(v1::Lease {
            key: Some(wire::lease_key_to_wire(member.lease)),
            config_json,
            resume: member.resume.as_ref().map(|checkpoint| wire::checkpoint_to_wire(trial, checkpoint)),
            traceparent: span.to_string(),
        });
    }
    Ok(leases)
}

/// Logs what happens to trials, each event under the span of its trial's current attempt, so that the coordinator's,
/// agents' and trainers' lines join up in one tree.
fn trace(write: &Write, state: &State) {
    if !tracing::enabled!(tracing::Level::INFO) {
        return;
    }
    let span_of = |id: TrialId, attempt: u64| {
        let sweep = state.trials.get(&id).map_or("", |trial| state.first_sweep(trial));
        let trial = id.to_string();
        let span = TraceContext::of_trial(sweep, &trial).child(&format!("attempt/{attempt}"));
        (trial, format!("{:032x}", span.trace), format!("{:016x}", span.span))
    };
    match write {
        Write::History(Subject::Trial(id), event) => {
            let attempt = state.trials.get(id).map_or(0, |trial| trial.attempt);
            let (trial, trace, span) = span_of(*id, attempt);
            tracing::info!(trial, attempt, trace, span, "{event}");
        }
        Write::Metrics { lease, chunk, data, .. } if tracing::enabled!(tracing::Level::DEBUG) => {
            let (trial, trace, span) = span_of(lease.trial, lease.attempt);
            tracing::debug!(
                trial,
                attempt = lease.attempt,
                chunk,
                bytes = data.len(),
                trace,
                span,
                "chunk recorded"
            );
        }
        _ => {}
    }
}
