//! Training a cohort: trials that differ in seed and scalars only, side by side.
//!
//! On the CPU every member is a shard of its own, and shards are dealt to threads, which train them in turns; threads left over
//! share the work of each member (`shard`, `crew`). No result depends on the number of threads. Members at different
//! steps never share a shard, so a member that joins later gets a shard of its own (`roster`).
//! Owns the traffic between threads and the caller; leaves what becomes of checkpoints to the caller.

mod assess;
mod crew;
mod grid;
mod roster;
mod shard;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use plateau_common::config::TrialConfig;
use plateau_common::cost;
use plateau_common::identity::TrialId;
use plateau_common::metrics::Evaluation;
use plateau_common::trial::Ending;

use crate::checkpoint::Checkpoint;
use crate::engine::Workbench;
use crate::error::LabError;
use crew::Crew;
use roster::Roster;

/// One trial of a cohort.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its identity.
    pub id: TrialId,
    /// Its resolved configuration.
    pub config: TrialConfig,
    /// Folder of the checkpoint to go on from; `None`: from the start.
    pub resume: Option<PathBuf>,
}

/// What a cohort is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// This machine's processor.
    Cpu {
        /// Replicas trained at the same time; at least 1.
        threads: usize,
    },
    /// The NVIDIA card of this number (needs the feature `cuda`).
    Cuda(usize),
}

impl DeviceChoice {
    /// The device as far as memory is concerned.
    pub fn hardware(&self) -> cost::Hardware {
        match self {
            DeviceChoice::Cpu { threads } => cost::Hardware::Processor { threads: *threads },
            DeviceChoice::Cuda(_) => cost::Hardware::Card,
        }
    }
}

/// Whether training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// It does.
    Continue,
    /// Save a checkpoint of every member now, then return.
    Stop,
    /// Return now; nothing is saved.
    Abandon,
}

/// Is told what happens; called on the thread that called [`train_cohort`]. `replica` is the member's index; members that
/// join later are numbered on from there.
pub trait Observer {
    /// Training of a member begins after `from_step` updates.
    fn started(&mut self, replica: usize, from_step: u64);
    /// A member was evaluated.
    fn evaluated(&mut self, replica: usize, evaluation: Evaluation);
    /// A complete checkpoint lies in `folder`, which is the observer's from now on (nothing here removes it).
    fn checkpointed(&mut self, replica: usize, step: u64, folder: &Path);
    /// A member ended, after its last checkpoint.
    fn ended(&mut self, replica: usize, ending: Ending);
    /// Called about twice a second with the updates every running member has made, and the speed of all of them
    /// together over the last half second or more (0 until then).
    fn progress(&mut self, step: u64, replica_steps_per_second: f64) -> Control;

    /// `free` places of members that have left are free: returns members of the same cohort to take them, which train from
    /// their own step on. Asked again and again while places are free, and a last time before training ends for want
    /// of members.
    fn refill(&mut self, free: usize) -> Vec<Member> {
        let _ = free;
        Vec::new()
    }

    /// Members that are to be saved and trained no further; asked between turns of training.
    fn leaving(&mut self) -> Vec<usize> {
        Vec::new()
    }

    /// A member that was leaving has left, without an ending, after its last checkpoint. (One that ends first has ended
    /// instead.)
    fn dropped(&mut self, replica: usize) {
        let _ = replica;
    }

    /// So many updates of replicas were made since the last call; called several times a second.
    fn stepped(&mut self, replica_steps: u64) -> Control {
        let _ = replica_steps;
        Control::Continue
    }
}

/// Seconds between calls of [`Observer::progress`].
const PROGRESS_SECONDS: f64 = 0.5;
/// Longest wait for news while places are free, so that new members need not wait for them.
const REFILL_SECONDS: f64 = 0.02;

/// Floating-point operations of an update below which another thread costs more in waiting than it does.
const OPERATIONS_OF_A_PART: f64 = 2e8;

/// What a shard tells the caller's thread.
enum Event {
    Started {
        replica: usize,
        from_step: u64,
    },
    Evaluated {
        replica: usize,
        evaluation: Evaluation,
    },
    Checkpointed {
        replica: usize,
        step: u64,
        folder: PathBuf,
    },
    Ended {
        replica: usize,
        ending: Ending,
    },
    /// A member left without an ending.
    Dropped {
        replica: usize,
    },
    /// Progress of a shard: updates of its members so far (`None`: all have ended), and replica-steps since its last
    /// report.
    Steps {
        shard: usize,
        step: Option<u64>,
        replica_steps: u64,
    },
}

/// A member and the state it starts from.
#[derive(Clone)]
struct Start {
    replica: usize,
    member: Member,
    resumed: Option<Checkpoint>,
}

impl Start {
    fn step(&self) -> u64 {
        self.resumed.as_ref().map_or(0, |checkpoint| checkpoint.manifest.step)
    }
}

/// [`train_cohort_within`] all the memory there is.
pub fn train_cohort(
    members: &[Member],
    device: &DeviceChoice,
    scratch: &Path,
    observer: &mut dyn Observer,
) -> Result<(), LabError> {
    train_cohort_within(None, members, device, scratch, observer)
}

/// Trains every member to its end, or until the observer says stop. Checkpoints are written below `scratch`.
///
/// # Errors
/// [`LabError::OutOfMemory`] before anything is allocated where the cohort's estimated need
/// ([`plateau_common::cost::memory_need`]) is over `memory_bytes`, and where the device has no more memory to give; else
/// whatever keeps a member from being trained. Members that had not ended by then can be resumed from their last
/// checkpoints.
pub fn train_cohort_within(
    memory_bytes: Option<u64>,
    members: &[Member],
    device: &DeviceChoice,
    scratch: &Path,
    observer: &mut dyn Observer,
) -> Result<(), LabError> {
    let Some(first) = members.first() else { return Ok(()) };
    let need = memory_need(&first.config, device).of(members.len());
    if let Some(available) = memory_bytes.filter(|available| need > *available) {
        return Err(LabError::OutOfMemory { needed: need, available });
    }
    let mut roster = Roster::new(members.len(), &first.config, device);
    let shards = roster.admit(members.to_vec())?;
    match train(&first.config, roster, shards, device, scratch, observer) {
        Err(error) if is_out_of_memory(&error) => {
            Err(LabError::OutOfMemory { needed: need, available: memory_bytes.unwrap_or(0) })
        }
        result => result,
    }
}

/// Estimated memory of cohorts of this configuration's shape.
pub(crate) fn memory_need(config: &TrialConfig, device: &DeviceChoice) -> cost::MemoryNeed {
    cost::memory_need(cost::state_bytes(config), cost::workspace_bytes(config), device.hardware())
}

/// Whether the device said that it has no memory left; CUDA says so in these words only.
fn is_out_of_memory(error: &LabError) -> bool {
    let LabError::Compute { message, .. } = error else { return false };
    message.contains("OUT_OF_MEMORY") || message.contains("out of memory")
}

/// Trains what the roster has dealt, and whoever joins.
fn train(
    config: &TrialConfig,
    roster: Roster,
    shards: Vec<(usize, crew::Order)>,
    choice: &DeviceChoice,
    scratch: &Path,
    observer: &mut dyn Observer,
) -> Result<(), LabError> {
    // Threads that are left over share the work of each replica.
    let parts = match choice {
        DeviceChoice::Cpu { threads } => {
            let worthwhile = (cost::flops_per_update(config) / OPERATIONS_OF_A_PART) as usize;
            (threads / roster.threads().max(1)).min(worthwhile).max(1)
        }
        DeviceChoice::Cuda(_) => 1,
    };
    let crew = Crew::new(roster.threads());
    shards.into_iter().for_each(|(thread, order)| crew.order(thread, order));
    let (sender, receiver) = mpsc::channel();
    let span = tracing::Span::current();
    std::thread::scope(|scope| -> Result<(), LabError> {
        for index in 0..roster.threads() {
            let (sender, span, crew) = (sender.clone(), span.clone(), &crew);
            let work = move || {
                let _entered = span.enter();
                let mut send = |event| drop(sender.send(event));
                let trained = Workbench::new(config, choice, parts)
                    .and_then(|bench| crew::train(crew, index, &bench, scratch, &mut send));
                if let Err(error) = trained {
                    crew.fail(error);
                }
            };
            let thread = std::thread::Builder::new().name(format!("train-{index}"));
            thread.spawn_scoped(scope, work).map_err(|source| {
                crew.abandon();
                LabError::Io { doing: "starting a training thread for", path: scratch.to_owned(), source }
            })?;
        }
        drop(sender);
        Relay::new(roster, &crew, observer).run(&receiver);
        Ok(())
    })?;
    crew.into_failure().map_or(Ok(()), Err)
}

/// Passes events on to the observer, and new members on to the crew, until every thread has hung up.
struct Relay<'a> {
    roster: Roster,
    crew: &'a Crew,
    observer: &'a mut dyn Observer,
    meter: Meter,
}

impl<'a> Relay<'a> {
    fn new(roster: Roster, crew: &'a Crew, observer: &'a mut dyn Observer) -> Self {
        let meter = Meter { since: Instant::now(), replica_steps: 0, speed: 0.0 };
        Relay { roster, crew, observer, meter }
    }

    fn run(&mut self, receiver: &mpsc::Receiver<Event>) {
        let mut last = Instant::now();
        loop {
            let wait = if self.roster.free() > 0 { REFILL_SECONDS } else { PROGRESS_SECONDS / 2.0 };
            let event = match receiver.recv_timeout(Duration::from_secs_f64(wait)) {
                Ok(event) => Some(event),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            let evaluated = matches!(event, Some(Event::Evaluated { .. }));
            if let Some(event) = event {
                self.pass_on(event);
            }
            if evaluated || last.elapsed().as_secs_f64() >= PROGRESS_SECONDS {
                let control = self.observer.progress(self.roster.slowest(), self.meter.read());
                self.obey(control);
                last = Instant::now();
            }
            if !self.crew.is_ending() {
                self.exchange();
            }
        }
    }

    fn pass_on(&mut self, event: Event) {
        match event {
            Event::Started { replica, from_step } => self.observer.started(replica, from_step),
            Event::Evaluated { replica, evaluation } => self.observer.evaluated(replica, evaluation),
            Event::Checkpointed { replica, step, folder } => {
                self.observer.checkpointed(replica, step, &folder)
            }
            Event::Ended { replica, ending } => {
                self.roster.left(replica);
                self.observer.ended(replica, ending);
            }
            Event::Dropped { replica } => {
                self.roster.left(replica);
                self.observer.dropped(replica);
            }
            Event::Steps { shard, step, replica_steps } => {
                self.roster.reached(shard, step);
                self.meter.replica_steps += replica_steps;
                let control = self.observer.stepped(replica_steps);
                self.obey(control);
            }
        }
    }

    fn obey(&self, control: Control) {
        match control {
            Control::Continue => {}
            Control::Stop => self.crew.stop(),
            Control::Abandon => self.crew.abandon(),
        }
    }

    /// Members that are to go, and others for their places; ends the training where none are left.
    fn exchange(&mut self) {
        for replica in self.observer.leaving() {
            self.crew.order_all(|| crew::Order::Drop(replica));
        }
        let free = self.roster.free();
        if free == 0 {
            return;
        }
        let joining = self.observer.refill(free);
        if joining.is_empty() {
            if self.roster.is_empty() {
                self.crew.close();
            }
            return;
        }
        match self.roster.admit(joining) {
            Ok(shards) => shards.into_iter().for_each(|(thread, order)| self.crew.order(thread, order)),
            Err(error) => self.crew.fail(error),
        }
    }
}

/// Measures speed over at least half a second, however often it is read.
struct Meter {
    since: Instant,
    replica_steps: u64,
    speed: f64,
}

impl Meter {
    fn read(&mut self) -> f64 {
        let seconds = self.since.elapsed().as_secs_f64();
        if seconds >= PROGRESS_SECONDS {
            self.speed = self.replica_steps as f64 / seconds;
            (self.since, self.replica_steps) = (Instant::now(), 0);
        }
        self.speed
    }
}
