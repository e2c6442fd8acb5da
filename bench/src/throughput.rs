//! Training speed of a study's trials, without coordinator and agents: replica-steps per second.
//!
//! `cargo run --release -p plateau-bench --bin throughput -- studies/grokking/quick.toml --replicas 5 --seconds 10`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use plateau_common::identity::{TrialId, cohort_key};
use plateau_common::metrics::Evaluation;
use plateau_common::study::{Format, Study};
use plateau_common::trial::Ending;
use plateau_lab::{Control, DeviceChoice, Member, Observer, train_cohort};

#[derive(Parser)]
struct Arguments {
    /// Study whose trials are measured
    study: PathBuf,
    /// Replicas trained together
    #[arg(long, default_value_t = 1)]
    replicas: usize,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seconds per cohort
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Print evaluations as they come (step, train and test accuracy) and do not stop by time
    #[arg(long)]
    curves: bool,
    /// Train the replicas of a cohort only up to this many cohorts
    #[arg(long, default_value_t = usize::MAX)]
    cohorts: usize,
    /// Change of the study
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
}

struct Watcher {
    started: Instant,
    limit: Option<Duration>,
    first: Option<(u64, Instant)>,
    last: (u64, Instant),
    curves: bool,
}

impl Observer for Watcher {
    fn started(&mut self, _replica: usize, _from_step: u64) {}
    fn evaluated(&mut self, replica: usize, evaluation: Evaluation) {
        if self.curves {
            let value = |name: &str| {
                evaluation
                    .values
                    .iter()
                    .find(|(known, _)| known == name)
                    .map_or(f64::NAN, |(_, value)| *value)
            };
            println!(
                "{:>7.1}s replica {replica} step {:>7} train {:.4} test {:.4} test_loss {:.4} norm {:.2}",
                self.started.elapsed().as_secs_f64(),
                evaluation.step,
                value("train_accuracy"),
                value("test_accuracy"),
                value("test_loss"),
                value("weight_norm")
            );
        }
    }
    fn checkpointed(&mut self, _replica: usize, _step: u64, folder: &Path) {
        let _ = std::fs::remove_dir_all(folder);
    }
    fn ended(&mut self, _replica: usize, _ending: Ending) {}
    fn progress(&mut self, step: u64, _speed: f64) -> Control {
        let now = Instant::now();
        self.first.get_or_insert((step, now));
        self.last = (step, now);
        if self.limit.is_some_and(|limit| self.started.elapsed() > limit) {
            Control::Stop
        } else {
            Control::Continue
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let name = arguments.study.display().to_string();
    let text = std::fs::read_to_string(&arguments.study).with_context(|| format!("reading {name}"))?;
    let overrides: Vec<(String, String)> = arguments
        .set
        .iter()
        .map(|word| word.split_once('=').map(|(path, value)| (path.to_owned(), value.to_owned())))
        .collect::<Option<_>>()
        .context("--set takes path=value")?;
    let format = Format::from_file_name(&name).context("a study ends in .toml, .yaml or .json")?;
    let study = Study::parse(&text, &name, format, &overrides)?;
    let mut cohorts: Vec<(String, Vec<Member>)> = Vec::new();
    for config in study.trials() {
        let config = config?;
        let key = cohort_key(&config);
        let member = Member { id: TrialId::of(&config), config, resume: None };
        match cohorts.iter_mut().find(|(known, _)| *known == key) {
            Some((_, members)) if members.len() < arguments.replicas => members.push(member),
            Some(_) => {}
            None => cohorts.push((key, vec![member])),
        }
    }
    for (_, members) in cohorts.iter().take(arguments.cohorts) {
        let scratch = tempfile::tempdir()?;
        let now = Instant::now();
        let limit = (!arguments.curves).then(|| Duration::from_secs_f64(arguments.seconds));
        let mut watcher =
            Watcher { started: now, limit, first: None, last: (0, now), curves: arguments.curves };
        let device = DeviceChoice::Cpu { threads: arguments.threads };
        train_cohort(members, &device, scratch.path(), &mut watcher)?;
        let (from, since) = watcher.first.unwrap_or((0, now));
        let steps = watcher.last.0.saturating_sub(from) as f64;
        let seconds = watcher.last.1.duration_since(since).as_secs_f64();
        println!(
            "{} replicas={} threads={} dim={} vocab={}: {:.1} replica-steps/s",
            study.name,
            members.len(),
            arguments.threads,
            members[0].config.to_json()["model"]["dim"],
            members[0].config.task.shape().vocabulary,
            steps * members.len() as f64 / seconds
        );
    }
    Ok(())
}
