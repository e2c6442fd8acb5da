//! The one thing that is pretended: a trainer whose states, metrics and endings are functions of trial and step, and whose
//! steps take simulated time. It says what the real one says, in the same order, and refuses to continue from anything but
//! what it saved itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use plateau_agent::End;
use plateau_agent::machine::{Trainer, Trainers};
use plateau_common::checkpoint::{
    FORMAT, MANIFEST_FILE, Manifest, ManifestFile, OPTIMIZER_FILE, WEIGHTS_FILE,
};
use plateau_common::config::TrialConfig;
use plateau_common::metrics::{Evaluation, MetricsChunk};
use plateau_common::trial::Ending;
use plateau_proto::convert;
use plateau_proto::v1::trainer_command::{Body as Command, Member, Train};
use plateau_proto::v1::trainer_event::{
    Body as Event, Calibrated, Checkpointed, Dropped, Ended, Evaluated, Finished, FreePlaces, Progress,
    Ready, Started,
};
use plateau_proto::v1::{ThroughputPoint, TrainerEvent};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Steps that every member makes in a turn, and how long a turn takes.
pub const STEPS_PER_TURN: u64 = 5;
pub const TURN: Duration = Duration::from_millis(100);
const QUEUE: usize = 256;

/// The bytes of a trial's state after so many steps.
fn bytes(trial: &str, step: u64, what: &str, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{trial}/{step}/{what}").as_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// The hash of a trial's weights after so many steps.
pub fn weights_hash(trial: &str, step: u64) -> String {
    blake3::hash(&bytes(trial, step, WEIGHTS_FILE, 300)).to_hex().to_string()
}

/// What is measured of a trial after so many steps; now and then NaN, which is a measurement.
pub fn evaluation(trial: &str, step: u64) -> Evaluation {
    let value = |name: &str| {
        let [first, rest @ ..] = bytes(trial, step, name, 4).try_into().unwrap_or([0; 4]);
        let value = f64::from(u32::from_le_bytes([0, rest[0], rest[1], rest[2]])) / f64::from(u32::MAX);
        (name.to_owned(), if first == 0 { f64::NAN } else { value })
    };
    Evaluation { step, values: vec![value("test_loss"), value("train_loss")] }
}

/// Where a trial diverges, if it does.
pub fn diverges_at(trial: &str, steps: u64) -> Option<u64> {
    let drawn = bytes(trial, 0, "divergence", 2);
    let at = steps * u64::from(drawn[1]) / 256;
    (drawn[0] < 40 && at > 0).then_some(at)
}

/// Who trains what in a simulation, and whether two ever trained the same trial at once.
#[derive(Clone, Default)]
pub struct Work(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    runs: u64,
    /// The run that made the latest steps of a trial.
    latest: BTreeMap<String, u64>,
    /// Runs after which another has trained the same trial.
    over: BTreeSet<u64>,
    violations: Vec<String>,
    /// When each agent last made a step, and all the seconds in which it did.
    active: BTreeMap<String, BTreeSet<u64>>,
    last: BTreeMap<String, Duration>,
    /// Agents whose trainers make no steps, and obey no commands.
    stuck: BTreeSet<String>,
}

impl Work {
    fn with<T>(&self, act: impl FnOnce(&mut Book) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self) -> u64 {
        self.with(|book| {
            book.runs += 1;
            book.runs
        })
    }

    fn step(&self, agent: &str, trial: &str, run: u64) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        self.with(|book| {
            if book.over.contains(&run) {
                book.violations.push(format!("{at:?}: {agent} trains {trial}, which another has taken over"));
            }
            if let Some(before) = book.latest.insert(trial.to_owned(), run)
                && before != run
            {
                book.over.insert(before);
            }
            book.active.entry(agent.to_owned()).or_default().insert(at.as_secs());
            book.last.insert(agent.to_owned(), at);
        });
    }

    /// Trials that were trained by two at once.
    pub fn violations(&self) -> Vec<String> {
        self.with(|book| book.violations.clone())
    }

    /// The seconds of simulated time in which an agent's trainer made steps.
    pub fn active_seconds(&self, agent: &str) -> BTreeSet<u64> {
        self.with(|book| book.active.get(agent).cloned().unwrap_or_default())
    }

    /// Makes an agent's trainers stand still, or run again.
    pub fn set_stuck(&self, agent: &str, is_stuck: bool) {
        self.with(
            |book| if is_stuck { book.stuck.insert(agent.to_owned()) } else { book.stuck.remove(agent) },
        );
    }

    fn is_stuck(&self, agent: &str) -> bool {
        self.with(|book| book.stuck.contains(agent))
    }
}

/// Starts pretended trainers on an agent.
pub struct Pretended {
    pub agent: String,
    pub work: Work,
}

impl Trainers for Pretended {
    fn start(&self, _: &Path) -> anyhow::Result<Box<dyn Trainer>> {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (sender, events) = mpsc::channel(QUEUE);
        let process = Process {
            agent: self.agent.clone(),
            work: self.work.clone(),
            commands: receiver,
            events: sender,
        };
        let task = tokio::spawn(process.run()).abort_handle();
        Ok(Box::new(Handle { commands, events, task }))
    }
}

struct Handle {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<TrainerEvent>,
    task: AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tonic::async_trait]
impl Trainer for Handle {
    async fn command(&mut self, body: Command) -> anyhow::Result<()> {
        self.commands.send(body).await.context("the pretended trainer is gone")
    }

    async fn event(&mut self) -> Option<TrainerEvent> {
        self.events.recv().await
    }

    async fn kill(self: Box<Self>) -> bool {
        true
    }

    async fn obituary(self: Box<Self>) -> (String, End) {
        ("the pretended trainer ended".to_owned(), End::default())
    }
}

struct Process {
    agent: String,
    work: Work,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<TrainerEvent>,
}

/// A member in training.
struct Replica {
    trial: String,
    config: TrialConfig,
    config_json: serde_json::Value,
    step: u64,
    saved: Option<u64>,
    over: bool,
    run: u64,
}

impl Process {
    async fn run(mut self) {
        self.tell(Event::Ready(Ready {})).await;
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Train(train) => {
                    let error = self.train(train).await.err().map(|error| format!("{error:#}"));
                    let finished = Finished { error: error.unwrap_or_default(), ..Finished::default() };
                    self.tell(Event::Finished(finished)).await;
                }
                Command::Calibrate(shape) => {
                    tokio::time::sleep(Duration::from_secs_f64(shape.seconds)).await;
                    let rate = |size: u32| f64::from(size) * STEPS_PER_TURN as f64 / TURN.as_secs_f64();
                    let points = [1, 2, 4].map(|size| ThroughputPoint {
                        cohort_size: size,
                        replica_steps_per_second: rate(size),
                    });
                    let found = Calibrated {
                        points: points.into(),
                        evaluation_seconds: 0.001,
                        ..Calibrated::default()
                    };
                    self.tell(Event::Calibrated(found)).await;
                }
                // What is meant for a cohort that is over.
                Command::Stop(_) | Command::AddMembers(_) | Command::DropMember(_) => {}
            }
        }
    }

    /// A trainer whose agent is gone is aborted with it.
    async fn tell(&self, body: Event) {
        let _ = self.events.send(TrainerEvent { body: Some(body) }).await;
    }

    async fn train(&mut self, train: Train) -> anyhow::Result<()> {
        let scratch = PathBuf::from(&train.scratch);
        let mut replicas = Vec::new();
        for member in train.members {
            self.admit(&mut replicas, member).await?;
        }
        let mut free = 0;
        while replicas.iter().any(|replica| !replica.over) {
            tokio::time::sleep(TURN).await;
            while self.work.is_stuck(&self.agent) {
                tokio::time::sleep(TURN).await;
            }
            while let Ok(command) = self.commands.try_recv() {
                match command {
                    Command::Stop(_) => {
                        for place in 0..replicas.len() {
                            self.save(&mut replicas, place, &scratch).await?;
                        }
                        return Ok(());
                    }
                    Command::AddMembers(add) if add.cohort == train.cohort => {
                        free -= add.members.len().min(free);
                        for member in add.members {
                            self.admit(&mut replicas, member).await?;
                        }
                    }
                    Command::DropMember(drop) if drop.cohort == train.cohort => {
                        let place = drop.replica as usize;
                        self.save(&mut replicas, place, &scratch).await?;
                        if let Some(replica) = replicas.get_mut(place).filter(|replica| !replica.over) {
                            replica.over = true;
                            self.tell(Event::Dropped(Dropped { replica: drop.replica })).await;
                            free += 1;
                        }
                    }
                    _ => {}
                }
            }
            let running = replicas.iter().filter(|replica| !replica.over).count();
            for place in 0..replicas.len() {
                for _ in 0..STEPS_PER_TURN {
                    self.advance(&mut replicas, place, &scratch).await?;
                }
            }
            let left = running - replicas.iter().filter(|replica| !replica.over).count();
            if left > 0 {
                free += left;
                self.tell(Event::FreePlaces(FreePlaces { places: free as u32 })).await;
            }
            let step = replicas.iter().filter(|replica| !replica.over).map(|replica| replica.step).min();
            let speed = running as f64 * STEPS_PER_TURN as f64 / TURN.as_secs_f64();
            let progress = Progress { step: step.unwrap_or(0), replica_steps_per_second: speed };
            self.tell(Event::Progress(progress)).await;
        }
        Ok(())
    }

    async fn admit(&self, replicas: &mut Vec<Replica>, member: Member) -> anyhow::Result<()> {
        let config = convert::trial_config("config_json", &member.config_json)?;
        let config_json = serde_json::from_str(&member.config_json)?;
        let mut step = 0;
        if !member.resume_folder.is_empty() {
            step = continue_from(Path::new(&member.resume_folder), &member.trial)?;
        }
        let replica = replicas.len() as u32;
        let (trial, run) = (member.trial, self.work.begin());
        self.tell(Event::Started(Started { replica, from_step: step })).await;
        let fresh = Replica { trial, config, config_json, step, saved: None, over: false, run };
        if step == 0 {
            self.evaluate(&fresh, replica).await;
        }
        replicas.push(fresh);
        Ok(())
    }

    async fn evaluate(&self, replica: &Replica, place: u32) {
        let chunk = MetricsChunk::from_evaluations(&[evaluation(&replica.trial, replica.step)]);
        let metrics = Some(convert::metrics_chunk_to_wire(&chunk));
        self.tell(Event::Evaluated(Evaluated { replica: place, metrics })).await;
    }

    /// One step of a member, with what follows from it.
    async fn advance(&self, replicas: &mut [Replica], place: usize, scratch: &Path) -> anyhow::Result<()> {
        let Some(replica) = replicas.get_mut(place).filter(|replica| !replica.over) else { return Ok(()) };
        let steps = replica.config.train.steps;
        replica.step += u64::from(replica.step < steps);
        self.work.step(&self.agent, &replica.trial, replica.run);
        let step = replica.step;
        let diverged = diverges_at(&replica.trial, steps) == Some(step);
        if !diverged && replica.config.evaluate.is_due(step, steps) {
            self.evaluate(replica, place as u32).await;
        }
        let over = diverged || step == steps;
        if over || replica.config.checkpoint.is_due(step) {
            self.save(replicas, place, scratch).await?;
        }
        if over {
            let ending = if diverged { Ending::Diverged { step } } else { Ending::Completed };
            let ending = Some(convert::ending_to_wire(&ending));
            self.tell(Event::Ended(Ended { replica: place as u32, ending, step })).await;
            replicas[place].over = true;
        }
        Ok(())
    }

    /// Saves the state of a member, where that has not been done.
    async fn save(&self, replicas: &mut [Replica], place: usize, scratch: &Path) -> anyhow::Result<()> {
        let Some(replica) = replicas.get_mut(place).filter(|replica| !replica.over) else { return Ok(()) };
        if replica.saved.replace(replica.step) == Some(replica.step) {
            return Ok(());
        }
        let folder = scratch.join(format!("saved-{}-{}", replica.run, replica.step));
        std::fs::create_dir_all(&folder)?;
        let mut files = Vec::new();
        for (name, count) in [(WEIGHTS_FILE, 300), (OPTIMIZER_FILE, 100)] {
            let content = bytes(&replica.trial, replica.step, name, count);
            std::fs::write(folder.join(name), &content)?;
            let blake3 = blake3::hash(&content).to_hex().to_string();
            files.push(ManifestFile { name: name.to_owned(), bytes: count as u64, blake3 });
        }
        let weights_hash = weights_hash(&replica.trial, replica.step);
        let manifest = Manifest {
            format: FORMAT,
            trial: replica.trial.clone(),
            step: replica.step,
            config: replica.config_json.clone(),
            files,
            weights_hash: weights_hash.clone(),
            plateau: env!("CARGO_PKG_VERSION").to_owned(),
            device: "pretended".to_owned(),
        };
        std::fs::write(folder.join(MANIFEST_FILE), serde_json::to_vec(&manifest)?)?;
        self.tell(Event::Checkpointed(Checkpointed {
            replica: place as u32,
            step: replica.step,
            folder: folder.to_string_lossy().into_owned(),
            weights_hash,
        }))
        .await;
        Ok(())
    }
}

/// The step of the saved state in a folder, which must be what this trial's state is after it.
fn continue_from(folder: &Path, trial: &str) -> anyhow::Result<u64> {
    let manifest =
        Manifest::parse(&std::fs::read(folder.join(MANIFEST_FILE))?).map_err(anyhow::Error::msg)?;
    ensure!(manifest.trial == trial, "the state of {} for trial {trial}", manifest.trial);
    for (name, count) in [(WEIGHTS_FILE, 300), (OPTIMIZER_FILE, 100)] {
        let content = std::fs::read(folder.join(name))?;
        ensure!(content == bytes(trial, manifest.step, name, count), "{name} is not that of {trial}");
    }
    Ok(manifest.step)
}
