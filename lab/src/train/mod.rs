//! Training a cohort: trials that differ in seed and scalars only, side by side.
//!
//! On the CPU the members are dealt to shards small enough for the cache, and the shards to threads; each shard is trained
//! as one batch by one thread (`shard`), so no result depends on the number of threads. Members that resume
//! from different steps never share a shard.
//! Owns the traffic between threads and the caller; leaves what becomes of checkpoints to the caller.

mod shard;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use candle_core::Device;
use plateau_common::config::TrialConfig;
use plateau_common::identity::{TrialId, cohort_key};
use plateau_common::metrics::Evaluation;
use plateau_common::trial::Ending;

use crate::checkpoint::{self, Checkpoint};
use crate::error::{Doing, LabError};

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

/// Whether training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// It does.
    Continue,
    /// Save a checkpoint of every member now, then return.
    Stop,
}

/// Is told what happens; called on the thread that called [`train_cohort`]. `replica` is the member's index.
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
}

/// Seconds between calls of [`Observer::progress`].
const PROGRESS_SECONDS: f64 = 0.5;
/// Stack of a training thread: candle walks its graph recursively.
const STACK_BYTES: usize = 256 << 20;

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
    /// Progress of a shard: updates of its members so far (`None`: all have ended), and replica-steps since its last
    /// report.
    Steps {
        shard: usize,
        step: Option<u64>,
        replica_steps: u64,
    },
}

/// Trains every member to its end, or until the observer says stop. Checkpoints are written below `scratch`.
pub fn train_cohort(
    members: &[Member],
    device: &DeviceChoice,
    scratch: &Path,
    observer: &mut dyn Observer,
) -> Result<(), LabError> {
    let Some(first) = members.first() else { return Ok(()) };
    let key = cohort_key(&first.config);
    if let Some(other) = members.iter().find(|member| cohort_key(&member.config) != key) {
        return Err(LabError::MixedCohort { first: first.id.to_string(), other: other.id.to_string() });
    }
    let mut starts = Vec::new();
    for (replica, member) in members.iter().enumerate() {
        let resumed = match &member.resume {
            Some(folder) => Some(load_for(member, folder)?),
            None => None,
        };
        starts.push(Start { replica, member: member.clone(), resumed });
    }
    starts.sort_by_key(|start| (start.step(), start.replica));
    train(&starts, device, scratch, observer)
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

fn load_for(member: &Member, folder: &Path) -> Result<Checkpoint, LabError> {
    let checkpoint = checkpoint::load(folder)?;
    checkpoint::check_configuration(&checkpoint, &member.config, folder)?;
    Ok(checkpoint)
}

/// Trains members, which are sorted by the step they start from.
fn train(
    starts: &[Start],
    choice: &DeviceChoice,
    scratch: &Path,
    observer: &mut dyn Observer,
) -> Result<(), LabError> {
    let (device, threads) = match choice {
        DeviceChoice::Cpu { threads } => (Device::Cpu, (*threads).max(1)),
        DeviceChoice::Cuda(ordinal) => (Device::new_cuda(*ordinal).doing("opening the CUDA device")?, 1),
    };
    // Small shards on the CPU, for its cache; one on a card, which wants large batches.
    let largest = match (choice, starts.first()) {
        (DeviceChoice::Cpu { .. }, Some(first)) => shard::replicas_per_shard(&first.member.config),
        _ => starts.len(),
    };
    // Replicas of one shard make the same update, so only those that start together share one.
    let shards: Vec<&[Start]> = starts
        .chunk_by(|a, b| a.step() == b.step())
        .flat_map(|group| deal(group, threads.max(group.len().div_ceil(largest.max(1)))))
        .collect();
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<LabError>> = Mutex::new(None);
    let (sender, receiver) = mpsc::channel();
    let span = tracing::Span::current();
    std::thread::scope(|scope| -> Result<(), LabError> {
        for index in 0..threads.min(shards.len()) {
            let sender = sender.clone();
            let own: Vec<(usize, &[Start])> =
                shards.iter().copied().enumerate().skip(index).step_by(threads).collect();
            let (stop, failure, device) = (&stop, &failure, device.clone());
            let span = span.clone();
            let work = move || {
                let _entered = span.enter();
                let outcome =
                    train_shards(&own, &device, scratch, stop, &mut |event| drop(sender.send(event)));
                if let Err(error) = outcome {
                    stop.store(true, Ordering::Relaxed);
                    let mut failure = failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    failure.get_or_insert(error);
                }
            };
            let thread = std::thread::Builder::new().name(format!("train-{index}")).stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, work).map_err(|source| LabError::Io {
                doing: "starting a training thread for",
                path: scratch.to_owned(),
                source,
            })?;
        }
        drop(sender);
        relay(&receiver, shards.iter().map(|shard| shard[0].step()).collect(), &stop, observer);
        Ok(())
    })?;
    match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Trains the shards of one thread in turns.
fn train_shards(
    own: &[(usize, &[Start])],
    device: &Device,
    scratch: &Path,
    stop: &AtomicBool,
    send: &mut dyn FnMut(Event),
) -> Result<(), LabError> {
    let mut shards = Vec::new();
    for (index, starts) in own {
        let mut shard = shard::Shard::new(starts, *index, device.clone(), scratch)?;
        shard.begin(send)?;
        shards.push(shard);
    }
    while !shards.is_empty() {
        let mut unfinished = Vec::new();
        for mut shard in shards {
            if shard.advance(send, stop)? {
                unfinished.push(shard);
            }
        }
        shards = unfinished;
    }
    Ok(())
}

/// Deals members to at most `most` shards of nearly equal size.
fn deal(group: &[Start], most: usize) -> Vec<&[Start]> {
    let shards = most.min(group.len());
    (0..shards)
        .map(|shard| &group[shard * group.len() / shards..(shard + 1) * group.len() / shards])
        .collect()
}

/// Passes events on to the observer until every shard has hung up.
fn relay(
    receiver: &mpsc::Receiver<Event>,
    from_steps: Vec<u64>,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) {
    let mut slowest = from_steps.iter().copied().min().unwrap_or(0);
    let mut steps: Vec<Option<u64>> = from_steps.into_iter().map(Some).collect();
    let mut meter = Meter { since: Instant::now(), replica_steps: 0, speed: 0.0 };
    let mut last = Instant::now();
    loop {
        let event = receiver.recv_timeout(Duration::from_secs_f64(PROGRESS_SECONDS / 2.0));
        let mut due = last.elapsed().as_secs_f64() >= PROGRESS_SECONDS;
        match event {
            Ok(Event::Started { replica, from_step }) => observer.started(replica, from_step),
            Ok(Event::Evaluated { replica, evaluation }) => {
                observer.evaluated(replica, evaluation);
                due = true;
            }
            Ok(Event::Checkpointed { replica, step, folder }) => {
                observer.checkpointed(replica, step, &folder)
            }
            Ok(Event::Ended { replica, ending }) => observer.ended(replica, ending),
            Ok(Event::Steps { shard, step, replica_steps }) => {
                steps[shard] = step;
                slowest = steps.iter().flatten().copied().min().unwrap_or(slowest);
                meter.replica_steps += replica_steps;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        if due {
            if observer.progress(slowest, meter.read()) == Control::Stop {
                stop.store(true, Ordering::Relaxed);
            }
            last = Instant::now();
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
