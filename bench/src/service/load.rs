//! Load: many agents whose trials take no time, so that all that is left is the coordinator's own work.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::agent::Session;
use super::coordinator::{Coordinator, Usage};
use super::curves::{Curves, SERIES};

/// Time between two readings of the coordinator's usage.
const SAMPLE: Duration = Duration::from_millis(5);
/// Updates of a trial; each has an evaluation before the first and after the last.
const STEPS: u64 = 1;

/// A measurement of completions per second.
#[derive(Clone, Debug)]
pub struct Load {
    /// The program, with words in front of it if a tracer is to start it.
    pub program: Vec<String>,
    /// Fresh data directory.
    pub data: PathBuf,
    /// Simulated agents.
    pub agents: u32,
    /// Trials of the sweep.
    pub trials: u64,
    /// Completions after which the coordinator is killed; none: it is stopped when all are done.
    pub kill_after: Option<u64>,
    /// Largest cohort an agent takes.
    pub max_cohort: u32,
    /// Completions in each of the two windows that growth is read from.
    pub window: u64,
}

/// A reading.
#[derive(Clone, Copy)]
struct Sample {
    completions: u64,
    seconds: f64,
    usage: Usage,
}

impl Load {
    /// Runs the sweep to its end and says what it took.
    pub async fn measure(&self) -> anyhow::Result<Value> {
        let coordinator = Coordinator::start(&self.program, &self.data)?;
        let before_submission = coordinator.usage();
        let begun = Instant::now();
        let sweep = super::submit(&coordinator.url, "load", self.trials, STEPS).await?;
        let submission_seconds = begun.elapsed().as_secs_f64();
        let submission = coordinator.usage().processor_seconds - before_submission.processor_seconds;

        let mut sessions = Vec::new();
        for number in 0..self.agents {
            sessions
                .push(Session::open(&coordinator.url, &format!("agent-{number}"), self.max_cohort).await?);
        }
        let own = crate::processor_seconds().unwrap_or(f64::NAN);
        let (completions, curves) = (Arc::new(AtomicU64::new(0)), Arc::new(Curves::new(1, 4096)));
        let begun = Instant::now();
        let mut samples = vec![Sample { completions: 0, seconds: 0.0, usage: coordinator.usage() }];
        let mut agents = tokio::task::JoinSet::new();
        for session in sessions {
            agents.spawn(train(session, Arc::clone(&completions), Arc::clone(&curves)));
        }
        let goal = self.kill_after.unwrap_or(self.trials).min(self.trials);
        loop {
            tokio::time::sleep(SAMPLE).await;
            let completions = completions.load(Ordering::Relaxed);
            samples.push(Sample {
                completions,
                seconds: begun.elapsed().as_secs_f64(),
                usage: coordinator.usage(),
            });
            if completions >= goal {
                break;
            }
            // Agents wait for more until they are told to stop; one that ends has failed.
            if let Some(ended) = agents.try_join_next() {
                ended.context("an agent broke")?.context("an agent failed")?;
            }
        }
        let own = crate::processor_seconds().unwrap_or(f64::NAN) - own;
        let peak_memory = coordinator.peak_memory_bytes();
        if self.kill_after.is_some() {
            coordinator.kill()?;
            agents.shutdown().await;
        } else {
            let counts = super::counts(&coordinator.url, &sweep).await?;
            anyhow::ensure!(counts.completed == self.trials, "the coordinator counts {counts:?}");
            agents.shutdown().await;
            coordinator.stop()?;
        }
        let mut line = self.summary(&samples)?;
        line["submission_seconds"] = json!(submission_seconds);
        line["submission_processor_us_per_trial"] = json!(1e6 * submission / self.trials as f64);
        line["generator_processor_us_per_trial"] = json!(1e6 * own / goal as f64);
        line["peak_memory_bytes"] = json!(peak_memory);
        line["database_bytes"] = json!(database_bytes(&self.data));
        Ok(line)
    }

    fn summary(&self, samples: &[Sample]) -> anyhow::Result<Value> {
        let (first, last) = samples.first().zip(samples.last()).context("nothing was sampled")?;
        let (early, late) = (per_trial(samples, 0, self.window), {
            // The last trials of a sweep leave agents idle, so the second window ends a little before them.
            let end = last.completions.saturating_sub(self.window / 5);
            per_trial(samples, end.saturating_sub(self.window), end)
        });
        let processor = last.usage.processor_seconds - first.usage.processor_seconds;
        let completions = last.completions as f64;
        Ok(json!({
            "what": "load",
            "agents": self.agents,
            "max_cohort": self.max_cohort,
            "trials": self.trials,
            "points_per_trial": (STEPS + 1) * SERIES as u64,
            "completions": last.completions,
            "seconds": last.seconds,
            "completions_per_s": completions / last.seconds,
            "processor_us_per_trial": 1e6 * processor / completions,
            "written_bytes_per_trial": (last.usage.written_bytes - first.usage.written_bytes) as f64 / completions,
            "window": self.window,
            "early_processor_us_per_trial": early,
            "late_processor_us_per_trial": late,
            "growth": early.zip(late).map(|(early, late)| late / early),
        }))
    }
}

/// Processor time per trial, in microseconds, between two numbers of completions.
fn per_trial(samples: &[Sample], from: u64, to: u64) -> Option<f64> {
    let at = |completions| samples.iter().find(|sample| sample.completions >= completions);
    let (begin, end) = (at(from)?, at(to)?);
    let trials = end.completions.checked_sub(begin.completions).filter(|trials| *trials > 0)?;
    Some(1e6 * (end.usage.processor_seconds - begin.usage.processor_seconds) / trials as f64)
}

/// One agent: every trial it is granted begins, is measured and ends at once, as the reports of a real agent whose
/// trainer is that fast would travel: all of a cohort together, answered before the next is asked for.
async fn train(mut session: Session, completions: Arc<AtomicU64>, curves: Arc<Curves>) -> anyhow::Result<()> {
    loop {
        let cohort = session.ask().await?;
        for lease in &cohort {
            session.started(lease).await?;
        }
        for lease in &cohort {
            // Different trials measure different numbers.
            let place = lease
                .key
                .as_ref()
                .map_or(0, |key| u64::from_str_radix(key.trial.get(..3).unwrap_or("0"), 16).unwrap_or(0));
            let mut chunk = curves.chunk(place, STEPS + 1);
            chunk.steps = (0..=STEPS).collect();
            session.measured(lease, 0, chunk).await?;
            session.completed(lease, STEPS).await?;
        }
        session.settle(0).await?;
        completions.fetch_add(cohort.len() as u64, Ordering::Relaxed);
    }
}

/// Bytes of the database of a data directory; 0 where there is none.
pub(super) fn database_bytes(data: &std::path::Path) -> u64 {
    std::fs::metadata(data.join("coordinator.sqlite")).map_or(0, |file| file.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_read_from_the_samples_that_enclose_it() {
        let sample = |completions, processor_seconds| Sample {
            completions,
            seconds: 0.0,
            usage: Usage { processor_seconds, written_bytes: 0 },
        };
        let samples = [sample(0, 1.0), sample(60, 2.0), sample(110, 4.0), sample(200, 4.5)];
        assert_eq!(per_trial(&samples, 0, 100), Some(3e6 / 110.0));
        assert_eq!(per_trial(&samples, 100, 200), Some(0.5e6 / 90.0));
        assert_eq!(per_trial(&samples, 0, 300), None);
    }
}
