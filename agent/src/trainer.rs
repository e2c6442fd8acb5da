//! The trainer child: reads commands from standard input, trains, and writes events to standard output.
//!
//! Dies when its standard input ends, so that no trainer outlives its agent.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use plateau_common::checkpoint::{MANIFEST_FILE, Manifest};
use plateau_common::limits::MAX_LOG_LINE_BYTES;
use plateau_common::metrics::{Evaluation, MetricsChunk};
use plateau_common::trace::TraceContext;
use plateau_common::trial::Ending;
use plateau_lab::{Control, LabError, Member, Observer};
use plateau_proto::convert;
use plateau_proto::v1::trainer_command::{AddMembers, Body as Command, Calibrate, DropMember, Train};
use plateau_proto::v1::trainer_event::{
    Body, Calibrated, Checkpointed, Dropped, Ended, Evaluated, Finished, FreePlaces, Log, OutOfMemory,
    Progress, Ready, Started,
};
use plateau_proto::v1::{LogLine, TrainerCommand, TrainerEvent, trainer_command};

use crate::{classify, device, pipe};

/// Exit status of a trainer whose agent is gone.
const ORPHANED: i32 = 3;

/// What the agent said about the cohort in training since it began.
#[derive(Default)]
struct Orders {
    stop: AtomicBool,
    changes: Mutex<Changes>,
}

#[derive(Default)]
struct Changes {
    joining: VecDeque<AddMembers>,
    leaving: Vec<DropMember>,
}

impl Orders {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        // The lists are whole between any two statements.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is done one after another.
enum Work {
    Train(Train),
    Calibrate(Calibrate),
}

/// Runs the trainer child until its standard input ends.
///
/// # Errors
/// When standard output cannot be written, which means that the agent is gone.
pub fn trainer_main() -> anyhow::Result<()> {
    let orders = Arc::new(Orders::default());
    let (sender, work) = mpsc::channel();
    let given = Arc::clone(&orders);
    std::thread::Builder::new()
        .name("commands".to_owned())
        .spawn(move || read_commands(&sender, &given))
        .context("starting the thread that reads commands")?;
    let mut output = BufWriter::new(io::stdout());
    send(&mut output, Body::Ready(Ready {}))?;
    while let Ok(work) = work.recv() {
        match work {
            Work::Train(train) => {
                let finished = match train_members(train, &mut output, &orders) {
                    Ok(()) => Finished::default(),
                    Err(error) => {
                        let mut finished = Finished { error: format!("{error:#}"), ..Finished::default() };
                        match error.downcast_ref() {
                            Some(LabError::OutOfMemory { needed, available }) => {
                                let (needed_bytes, available_bytes) = (*needed, *available);
                                finished.out_of_memory = Some(OutOfMemory { needed_bytes, available_bytes });
                            }
                            Some(LabError::Card { code, .. }) => finished.card_error = *code,
                            Some(LabError::Io { source, .. }) => {
                                finished.environment = classify::is_environment(source);
                            }
                            _ => {}
                        }
                        finished
                    }
                };
                send(&mut output, Body::Finished(finished))?;
            }
            Work::Calibrate(shape) => {
                let calibrated = calibrate(&shape).unwrap_or_else(|error| Calibrated {
                    error: format!("{error:#}"),
                    ..Calibrated::default()
                });
                send(&mut output, Body::Calibrated(calibrated))?;
            }
        }
    }
    Ok(())
}

fn read_commands(work: &mpsc::Sender<Work>, orders: &Orders) {
    let mut input = io::stdin().lock();
    loop {
        let given = match pipe::read::<TrainerCommand>(&mut input) {
            Ok(Some(TrainerCommand { body: Some(Command::Train(train)) })) => {
                // Here and not where training begins: a stop that follows at once must not be forgotten.
                orders.stop.store(false, Ordering::SeqCst);
                work.send(Work::Train(train)).is_ok()
            }
            Ok(Some(TrainerCommand { body: Some(Command::Calibrate(shape)) })) => {
                work.send(Work::Calibrate(shape)).is_ok()
            }
            Ok(Some(TrainerCommand { body: Some(Command::Stop(_)) })) => {
                orders.stop.store(true, Ordering::SeqCst);
                true
            }
            Ok(Some(TrainerCommand { body: Some(Command::AddMembers(add)) })) => {
                orders.changes().joining.push_back(add);
                true
            }
            Ok(Some(TrainerCommand { body: Some(Command::DropMember(drop)) })) => {
                orders.changes().leaving.push(drop);
                true
            }
            Ok(Some(TrainerCommand { body: None })) => {
                tracing::warn!("an empty command; a newer agent?");
                true
            }
            // The agent is gone: whatever is being trained has nowhere to go.
            Ok(None) => std::process::exit(ORPHANED),
            Err(error) => {
                tracing::error!(%error, "the agent's commands cannot be read");
                std::process::exit(ORPHANED);
            }
        };
        if !given {
            return;
        }
    }
}

fn send(output: &mut BufWriter<io::Stdout>, body: Body) -> anyhow::Result<()> {
    pipe::write(output, &TrainerEvent { body: Some(body) }).context("writing to the agent")?;
    output.flush().context("writing to the agent")
}

/// 0 says nothing.
fn limit(memory_bytes: u64) -> Option<u64> {
    (memory_bytes > 0).then_some(memory_bytes)
}

fn calibrate(shape: &Calibrate) -> anyhow::Result<Calibrated> {
    let device = device::choice(&shape.device, shape.threads.max(1) as usize)?;
    let config = convert::trial_config("config_json", &shape.config_json)?;
    let (most, memory) = (shape.max_cohort.max(1) as usize, limit(shape.memory_bytes));
    let scratch = Path::new(&shape.scratch);
    let found = plateau_lab::calibrate(&config, &device, shape.seconds, most, memory, scratch)?;
    Ok(Calibrated {
        error: String::new(),
        points: convert::throughput_to_wire(&found.curve),
        evaluation_seconds: found.evaluation_seconds,
        setup_seconds: found.setup_seconds,
    })
}

/// A member as the lab knows it, and its trace.
fn member(member: trainer_command::Member) -> anyhow::Result<(Member, String)> {
    let id = convert::trial_id("member.trial", &member.trial)?;
    let config = convert::trial_config("member.config_json", &member.config_json)?;
    let resume = (!member.resume_folder.is_empty()).then(|| PathBuf::from(member.resume_folder));
    let trace =
        TraceContext::parse(&member.traceparent).map_or_else(String::new, |context| context.to_string());
    Ok((Member { id, config, resume }, trace))
}

fn train_members(train: Train, output: &mut BufWriter<io::Stdout>, orders: &Orders) -> anyhow::Result<()> {
    let device = device::choice(&train.device, train.threads.max(1) as usize)?;
    let (members, traces): (Vec<Member>, Vec<String>) =
        train.members.into_iter().map(member).collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip();
    let trials: Vec<String> = members.iter().map(|member| member.id.to_string()).collect();
    let span = tracing::info_span!("cohort", trials = trials.join(","), traceparents = traces.join(","));
    let _entered = span.enter();
    let mut observer = PipeObserver {
        output,
        orders,
        cohort: train.cohort,
        last_steps: vec![0; members.len()],
        left: 0,
        free: 0,
        broken: None,
    };
    let (memory, scratch) = (limit(train.memory_bytes), Path::new(&train.scratch));
    let result = plateau_lab::train_cohort_within(memory, &members, &device, scratch, &mut observer);
    match observer.broken {
        Some(error) => Err(error),
        None => Ok(result?),
    }
}

/// Passes what happens in training on to the agent.
struct PipeObserver<'a> {
    output: &'a mut BufWriter<io::Stdout>,
    orders: &'a Orders,
    /// The agent's number of the cohort.
    cohort: u64,
    /// Of every replica so far.
    last_steps: Vec<u64>,
    /// Replicas that have left.
    left: usize,
    /// Free places as last told.
    free: usize,
    /// The first failure to write; training stops at the next chance.
    broken: Option<anyhow::Error>,
}

impl PipeObserver<'_> {
    fn send(&mut self, body: Body) {
        if self.broken.is_none()
            && let Err(error) = send(self.output, body)
        {
            self.broken = Some(error);
        }
    }

    #[allow(clippy::disallowed_methods, reason = "for display")]
    fn log(&mut self, replica: usize, level: &str, mut message: String) {
        if message.len() > MAX_LOG_LINE_BYTES {
            let end = (0..=MAX_LOG_LINE_BYTES).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis());
        let line = LogLine {
            unix_milliseconds: i64::try_from(now).unwrap_or(i64::MAX),
            level: level.to_owned(),
            message,
        };
        self.send(Body::Log(Log { replica: replica as u32, line: Some(line) }));
    }
}

impl Observer for PipeObserver<'_> {
    fn started(&mut self, replica: usize, from_step: u64) {
        self.last_steps[replica] = from_step;
        self.log(replica, "info", format!("training from step {from_step}"));
        self.send(Body::Started(Started { replica: replica as u32, from_step }));
    }

    fn evaluated(&mut self, replica: usize, evaluation: Evaluation) {
        self.last_steps[replica] = evaluation.step;
        let shown = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"];
        let values = evaluation.values.iter().filter(|(name, _)| shown.contains(&name.as_str()));
        let values: Vec<String> = values.map(|(name, value)| format!("{name} {value:.4}")).collect();
        self.log(replica, "info", format!("step {}: {}", evaluation.step, values.join(", ")));
        let metrics = convert::metrics_chunk_to_wire(&MetricsChunk::from_evaluations(&[evaluation]));
        self.send(Body::Evaluated(Evaluated { replica: replica as u32, metrics: Some(metrics) }));
    }

    fn checkpointed(&mut self, replica: usize, step: u64, folder: &Path) {
        self.last_steps[replica] = step;
        let manifest = std::fs::read(folder.join(MANIFEST_FILE)).map_err(|error| error.to_string());
        match manifest.and_then(|bytes| Manifest::parse(&bytes)) {
            Ok(manifest) => {
                self.log(
                    replica,
                    "info",
                    format!("checkpoint at step {step}, weights {}", manifest.weights_hash),
                );
                let folder = folder.to_string_lossy().into_owned();
                let weights_hash = manifest.weights_hash;
                self.send(Body::Checkpointed(Checkpointed {
                    replica: replica as u32,
                    step,
                    folder,
                    weights_hash,
                }));
            }
            Err(error) => {
                self.broken = Some(anyhow::anyhow!(
                    "reading the checkpoint just written to {}: {error}",
                    folder.display()
                ));
            }
        }
    }

    fn ended(&mut self, replica: usize, ending: Ending) {
        let step = match &ending {
            Ending::Diverged { step } => *step,
            Ending::Completed | Ending::Failed { .. } => self.last_steps[replica],
        };
        let (level, words) = match &ending {
            Ending::Completed => ("info", format!("completed all {step} steps")),
            Ending::Diverged { .. } => {
                ("warn", format!("diverged at step {step}: loss or gradient was not finite"))
            }
            Ending::Failed { reason } => ("warn", format!("failed at step {step}: {reason}")),
        };
        self.left += 1;
        self.log(replica, level, words);
        self.send(Body::Ended(Ended {
            replica: replica as u32,
            ending: Some(convert::ending_to_wire(&ending)),
            step,
        }));
    }

    fn progress(&mut self, step: u64, replica_steps_per_second: f64) -> Control {
        self.send(Body::Progress(Progress { step, replica_steps_per_second }));
        if self.orders.stop.load(Ordering::SeqCst) || self.broken.is_some() {
            Control::Stop
        } else {
            Control::Continue
        }
    }

    fn refill(&mut self, free: usize) -> Vec<Member> {
        let mut joining = Vec::new();
        {
            let mut changes = self.orders.changes();
            changes.joining.retain(|add| add.cohort >= self.cohort);
            // Numbered in this order by the agent too, so that one that finds no place holds up those behind it.
            while let Some(add) = changes.joining.front()
                && add.cohort == self.cohort
                && joining.len() + add.members.len() <= free
                && let Some(add) = changes.joining.pop_front()
            {
                joining.extend(add.members);
            }
        }
        let members = joining.into_iter().map(|joined| member(joined).map(|(member, _)| member));
        let members = match members.collect::<anyhow::Result<Vec<Member>>>() {
            Ok(members) => members,
            Err(error) => {
                self.broken.get_or_insert(error);
                return Vec::new();
            }
        };
        self.last_steps.resize(self.last_steps.len() + members.len(), 0);
        let free = free - members.len();
        // Where everybody has left the cohort is over, and its places with it.
        if free != self.free && self.left < self.last_steps.len() {
            self.free = free;
            self.send(Body::FreePlaces(FreePlaces { places: free as u32 }));
        }
        members
    }

    fn leaving(&mut self) -> Vec<usize> {
        let mut changes = self.orders.changes();
        let own = changes.leaving.iter().filter(|drop| drop.cohort == self.cohort);
        let own = own.map(|drop| drop.replica as usize).collect();
        changes.leaving.retain(|drop| drop.cohort > self.cohort);
        own
    }

    fn dropped(&mut self, replica: usize) {
        self.left += 1;
        let step = self.last_steps[replica];
        self.log(replica, "info", format!("left the cohort at step {step}"));
        self.send(Body::Dropped(Dropped { replica: replica as u32 }));
    }
}
