//! How fast a device trains cohorts of one shape: a short measurement through the real training loop.
//!
//! Owns the choice of what is measured and for how long. Trains fresh replicas of the configuration under other seeds,
//! without evaluations but the first and without checkpoints, and throws them away; evaluation is timed apart.

use std::path::Path;
use std::time::{Duration, Instant};

use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_common::limits::{MAX_COHORT, MAX_STEPS};
use plateau_common::metrics::Evaluation;
use plateau_common::throughput::{Calibration, ThroughputCurve};
use plateau_common::trial::Ending;

use crate::error::LabError;
use crate::train::{self, Control, DeviceChoice, Member, Observer, train_cohort_within};

/// A larger cohort must be this much faster to be worth going on for.
const WORTHWHILE: f64 = 1.05;
/// Seconds one cohort size is measured for at least, warming up not counted.
const SHORTEST: f64 = 0.2;
/// Sizes among which the time is divided, roughly: most curves of a processor are flat by then.
const SIZES: f64 = 4.0;

/// Measures replica-steps per second of cohorts of 1, 2, 4, … replicas of `config` on `device`, until the curve is flat,
/// `memory_bytes` or the largest cohort (`most`) is reached, or about `seconds` are over (a size that has begun is
/// finished). Also the seconds that evaluating one replica takes. `scratch` must be a folder; nothing is left in it.
///
/// # Errors
/// When not even one replica can be trained.
pub fn calibrate(
    config: &TrialConfig,
    device: &DeviceChoice,
    seconds: f64,
    most: usize,
    memory_bytes: Option<u64>,
    scratch: &Path,
) -> Result<Calibration, LabError> {
    let began = Instant::now();
    let config = endless(config);
    let memory = train::memory_need(&config, device);
    let threads = match device {
        DeviceChoice::Cpu { threads } => *threads,
        DeviceChoice::Cuda(_) => 1,
    };
    let mut curve = ThroughputCurve::default();
    let (evaluation_seconds, mut setup_seconds) = (evaluation(&config, device, memory_bytes, scratch)?, 0.0);
    let mut best = 0.0_f64;
    let mut size = 1;
    while size <= most.clamp(1, MAX_COHORT) {
        let mut stopwatch = Stopwatch::new((seconds / SIZES).max(SHORTEST));
        let members: Vec<Member> = (0..size as u64)
            .map(|seed| {
                let config = TrialConfig { seed, ..config.clone() };
                Member { id: TrialId::of(&config), config, resume: None }
            })
            .collect();
        match train_cohort_within(memory_bytes, &members, device, scratch, &mut stopwatch) {
            Ok(()) => {}
            // The cohorts before it fitted.
            Err(LabError::OutOfMemory { .. }) if size > 1 => break,
            Err(error) => return Err(error),
        }
        let rate = stopwatch.rate();
        if size == 1 {
            setup_seconds = stopwatch.setup_seconds();
        }
        // A rate that could not be measured (divergence at once) leaves a curve without the point.
        if curve.record(size as u32, rate).is_err() {
            break;
        }
        let flat = rate < WORTHWHILE * best;
        best = best.max(rate);
        if (flat && size > threads) || began.elapsed().as_secs_f64() >= seconds {
            break;
        }
        size *= 2;
    }
    Ok(Calibration { curve, memory, evaluation_seconds, setup_seconds })
}

/// Seconds that evaluating one replica takes once it has been done before.
fn evaluation(
    config: &TrialConfig,
    device: &DeviceChoice,
    memory_bytes: Option<u64>,
    scratch: &Path,
) -> Result<f64, LabError> {
    let mut config = config.clone();
    config.train.steps = 2;
    config.evaluate.every = Some(1);
    let member = Member { id: TrialId::of(&config), config, resume: None };
    let mut stopwatch = Stopwatch::new(f64::from(u32::MAX));
    train_cohort_within(memory_bytes, &[member], device, scratch, &mut stopwatch)?;
    Ok(stopwatch.evaluation.as_secs_f64())
}

/// The configuration without an end, evaluations on the way and checkpoints.
fn endless(config: &TrialConfig) -> TrialConfig {
    let mut config = config.clone();
    config.train.steps = MAX_STEPS;
    config.evaluate.every = None;
    config.evaluate.per_decade = None;
    config.checkpoint.every = None;
    config.checkpoint.keep_every = None;
    config.checkpoint.seconds = 0.0;
    config
}

/// Watches a cohort for a while. The first report of each size is warming up; the time runs from it to the last.
struct Stopwatch {
    began: Instant,
    wanted: Duration,
    /// When the first member started.
    started: Option<Instant>,
    /// How long the last evaluation took.
    evaluation: Duration,
    /// When the first report came, and the last one.
    first: Option<Instant>,
    last: Instant,
    replica_steps: u64,
}

impl Stopwatch {
    fn new(seconds: f64) -> Self {
        let began = Instant::now();
        Stopwatch {
            began,
            wanted: Duration::from_secs_f64(seconds),
            started: None,
            evaluation: Duration::ZERO,
            first: None,
            last: began,
            replica_steps: 0,
        }
    }

    fn rate(&self) -> f64 {
        let seconds = self.first.map_or(0.0, |first| (self.last - first).as_secs_f64());
        if seconds > 0.0 { self.replica_steps as f64 / seconds } else { 0.0 }
    }

    fn setup_seconds(&self) -> f64 {
        self.started.map_or(0.0, |started| (started - self.began).as_secs_f64())
    }
}

impl Observer for Stopwatch {
    fn started(&mut self, _replica: usize, _from_step: u64) {
        self.started.get_or_insert_with(Instant::now);
    }

    fn evaluated(&mut self, _replica: usize, _evaluation: Evaluation) {
        // The updates before an evaluation are reported before it begins.
        self.evaluation = self.last.max(self.started.unwrap_or(self.began)).elapsed();
    }

    fn checkpointed(&mut self, _replica: usize, _step: u64, folder: &Path) {
        // Only the end of a trial is saved; nobody wants it.
        let _ = std::fs::remove_dir_all(folder);
    }

    fn ended(&mut self, _replica: usize, _ending: Ending) {}

    fn progress(&mut self, _step: u64, _replica_steps_per_second: f64) -> Control {
        Control::Continue
    }

    fn stepped(&mut self, replica_steps: u64) -> Control {
        self.last = Instant::now();
        let Some(first) = self.first else {
            self.first = Some(self.last);
            return Control::Continue;
        };
        self.replica_steps += replica_steps;
        if self.last - first >= self.wanted { Control::Abandon } else { Control::Continue }
    }
}
