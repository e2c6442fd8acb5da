//! The trainer child: reads commands from standard input, trains, and writes events to standard output.
//!
//! Dies when its standard input ends, so that no trainer outlives its agent.

use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use plateau_common::checkpoint::{MANIFEST_FILE, Manifest};
use plateau_common::limits::MAX_LOG_LINE_BYTES;
use plateau_common::metrics::{Evaluation, MetricsChunk};
use plateau_common::trace::TraceContext;
use plateau_common::trial::Ending;
use plateau_lab::{Control, Member, Observer};
use plateau_proto::convert;
use plateau_proto::v1::trainer_event::{
    Body, Checkpointed, Ended, Evaluated, Finished, Log, Progress, Ready, Started,
};
use plateau_proto::v1::{LogLine, TrainerCommand, TrainerEvent, trainer_command};

use crate::{device, pipe};

/// Exit status of a trainer whose agent is gone.
const ORPHANED: i32 = 3;

/// Runs the trainer child until its standard input ends.
///
/// # Errors
/// When standard output cannot be written, which means that the agent is gone.
pub fn trainer_main() -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, cohorts) = mpsc::channel();
    let stopping = Arc::clone(&stop);
    std::thread::Builder::new()
        .name("commands".to_owned())
        .spawn(move || read_commands(&sender, &stopping))
        .context("starting the thread that reads commands")?;
    let mut output = BufWriter::new(io::stdout());
    send(&mut output, Body::Ready(Ready {}))?;
    while let Ok(train) = cohorts.recv() {
        let error = match train_members(train, &mut output, &stop) {
            Ok(()) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        send(&mut output, Body::Finished(Finished { error }))?;
    }
    Ok(())
}

fn read_commands(cohorts: &mpsc::Sender<trainer_command::Train>, stop: &AtomicBool) {
    let mut input = io::stdin().lock();
    loop {
        match pipe::read::<TrainerCommand>(&mut input) {
            Ok(Some(TrainerCommand { body: Some(trainer_command::Body::Train(train)) })) => {
                // Here and not where training begins: a stop that follows at once must not be forgotten.
                stop.store(false, Ordering::SeqCst);
                if cohorts.send(train).is_err() {
                    return;
                }
            }
            Ok(Some(TrainerCommand { body: Some(trainer_command::Body::Stop(_)) })) => {
                stop.store(true, Ordering::SeqCst);
            }
            Ok(Some(TrainerCommand { body: None })) => tracing::warn!("an empty command; a newer agent?"),
            // The agent is gone: whatever is being trained has nowhere to go.
            Ok(None) => std::process::exit(ORPHANED),
            Err(error) => {
                tracing::error!(%error, "the agent's commands cannot be read");
                std::process::exit(ORPHANED);
            }
        }
    }
}

fn send(output: &mut BufWriter<io::Stdout>, body: Body) -> anyhow::Result<()> {
    pipe::write(output, &TrainerEvent { body: Some(body) }).context("writing to the agent")?;
    output.flush().context("writing to the agent")
}

fn train_members(
    train: trainer_command::Train,
    output: &mut BufWriter<io::Stdout>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let device = device::choice(&train.device, train.threads.max(1) as usize)?;
    let mut members = Vec::with_capacity(train.members.len());
    let mut traces = Vec::with_capacity(train.members.len());
    for member in train.members {
        let id = convert::trial_id("member.trial", &member.trial)?;
        let config = convert::trial_config("member.config_json", &member.config_json)?;
        let resume = (!member.resume_folder.is_empty()).then(|| PathBuf::from(member.resume_folder));
        traces.push(
            TraceContext::parse(&member.traceparent).map_or_else(String::new, |context| context.to_string()),
        );
        members.push(Member { id, config, resume });
    }
    let trials: Vec<String> = members.iter().map(|member| member.id.to_string()).collect();
    let span = tracing::info_span!("cohort", trials = trials.join(","), traceparents = traces.join(","));
    let _entered = span.enter();
    let mut observer = PipeObserver { output, stop, last_steps: vec![0; members.len()], broken: None };
    let result = plateau_lab::train_cohort(&members, &device, Path::new(&train.scratch), &mut observer);
    match observer.broken {
        Some(error) => Err(error),
        None => Ok(result?),
    }
}

/// Passes what happens in training on to the agent.
struct PipeObserver<'a> {
    output: &'a mut BufWriter<io::Stdout>,
    stop: &'a AtomicBool,
    last_steps: Vec<u64>,
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
        self.log(replica, level, words);
        self.send(Body::Ended(Ended {
            replica: replica as u32,
            ending: Some(convert::ending_to_wire(&ending)),
            step,
        }));
    }

    fn progress(&mut self, step: u64, replica_steps_per_second: f64) -> Control {
        self.send(Body::Progress(Progress { step, replica_steps_per_second }));
        if self.stop.load(Ordering::SeqCst) || self.broken.is_some() {
            Control::Stop
        } else {
            Control::Continue
        }
    }
}
