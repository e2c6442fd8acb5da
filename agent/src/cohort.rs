//! What an agent holds: leases, the cohort in training, and cohorts that wait for it to end.
//!
//! Owns the book-keeping only; `agent` talks to the coordinator about it and `training` to the trainer.

use std::time::Duration;

use plateau_common::identity;
use plateau_common::trace::TraceContext;
use plateau_proto::convert;
use plateau_proto::v1::{Lease, LeaseKey, trainer_command};
use tokio::time::Instant;

/// A cohort that ends within this time is about to end: its successor should be at hand.
const ABOUT_TO_END: Duration = Duration::from_secs(2);
/// Measurements of speed that make an average worth telling.
const SAMPLES: u32 = 4;

/// One lease.
pub struct Held {
    pub key: LeaseKey,
    pub span: tracing::Span,
    pub step: u64,
    /// Step it started from here.
    pub from_step: u64,
    /// Steps to make in total.
    pub budget: u64,
    pub started: Option<Instant>,
    pub weights_hash: String,
    /// The trainer was told to save it and to let it go.
    pub leaving: bool,
    /// Whether its last report has been queued, or is not wanted.
    pub over: bool,
    /// The trainer's orders about it, kept until it starts.
    pub member: Option<trainer_command::Member>,
}

impl Held {
    /// A lease as granted.
    pub fn new(lease: &Lease) -> Self {
        let key = lease.key.clone().unwrap_or_default();
        let parent = TraceContext::parse(&lease.traceparent);
        let hex = |number: Option<String>| number.unwrap_or_default();
        let span = tracing::info_span!(
            "attempt",
            trace = hex(parent.map(|context| format!("{:032x}", context.trace))),
            span = hex(parent.map(|context| format!("{:016x}", context.span))),
            trial = key.trial,
            attempt = key.attempt,
        );
        Held {
            key,
            span,
            step: lease.resume.as_ref().map_or(0, |checkpoint| checkpoint.step),
            from_step: 0,
            budget: 0,
            started: None,
            weights_hash: String::new(),
            leaving: false,
            over: false,
            member: None,
        }
    }

    /// Seconds of training, where `share` replicas shared the device.
    pub fn seconds(&self, share: usize) -> f64 {
        self.started.map_or(0.0, |started| started.elapsed().as_secs_f64() / share.max(1) as f64)
    }
}

/// Leases that were granted together and are not in training yet.
pub struct Batch {
    /// Tells the batches of an agent apart.
    pub number: u64,
    /// The cohort's key; empty where the configuration could not be read, which preparing it will complain of.
    pub key: String,
    /// A configuration of the cohort.
    pub config_json: String,
    pub held: Vec<Held>,
    /// They may take free places of a cohort of their key.
    pub join: bool,
    /// Their speed is to be measured first.
    pub calibrate: bool,
    /// What they continue from lies on this host.
    pub ready: bool,
}

impl Batch {
    /// Leases as granted.
    pub fn new(number: u64, leases: &[Lease], join: bool, calibrate: bool) -> Self {
        let config_json = leases.first().map(|lease| lease.config_json.clone()).unwrap_or_default();
        let config = convert::trial_config("config_json", &config_json).ok();
        let key = config.as_ref().map(identity::cohort_key).unwrap_or_default();
        let budget = config.map_or(0, |config| config.train.steps);
        let held = leases.iter().map(|lease| Held { budget, ..Held::new(lease) }).collect();
        Batch { number, key, config_json, held, join, calibrate, ready: false }
    }
}

/// The cohort in training.
pub struct Cohort {
    /// The trainer knows it by this number.
    pub number: u64,
    pub key: String,
    /// A configuration of the cohort.
    pub config_json: String,
    /// By replica.
    pub members: Vec<Held>,
    /// Replicas it had when it began.
    pub size: usize,
    /// Places left and not promised to anybody.
    pub free: usize,
    began: Instant,
    /// Sum and number of the speeds measured with every place taken.
    speeds: (f64, u32),
    /// The last one, or what is known of its shape.
    speed: f64,
}

impl Cohort {
    /// A cohort that begins now; `speed` is what is known of its shape, in replica-steps per second.
    pub fn new(number: u64, batch: Batch, speed: f64) -> Self {
        let members = batch.held;
        Cohort {
            number,
            key: batch.key,
            config_json: batch.config_json,
            size: members.len(),
            free: 0,
            members,
            began: Instant::now(),
            speeds: (0.0, 0),
            speed,
        }
    }

    /// Members that are in training, or will be.
    pub fn live(&self) -> impl Iterator<Item = &Held> {
        self.members.iter().filter(|held| !held.over)
    }

    /// The trainer's figures.
    pub fn progress(&mut self, step: u64, speed: f64) {
        for held in self.members.iter_mut().filter(|held| held.started.is_some() && !held.over) {
            held.step = held.step.max(step.min(held.budget));
        }
        if speed > 0.0 && speed.is_finite() {
            self.speed = speed;
            if self.live().count() == self.size {
                self.speeds = (self.speeds.0 + speed, self.speeds.1 + 1);
            }
        }
    }

    /// Whether it will end in a moment, as far as one can tell.
    pub fn is_about_to_end(&self) -> bool {
        let left: u64 = self.live().map(|held| held.budget.saturating_sub(held.step)).sum();
        self.speed > 0.0 && left as f64 / self.speed <= ABOUT_TO_END.as_secs_f64()
    }

    /// Replica-steps per second with every place taken: the average where it was measured often enough, else what the
    /// whole cohort came to, `None` where it came to nothing.
    pub fn observed_speed(&self, finished: bool) -> Option<f64> {
        let (sum, count) = self.speeds;
        if count >= SAMPLES {
            return Some(sum / f64::from(count));
        }
        let steps: u64 = self.members.iter().map(|held| held.step.saturating_sub(held.from_step)).sum();
        let seconds = self.began.elapsed().as_secs_f64();
        let fresh = self.members.iter().all(|held| held.member.is_none());
        (finished && fresh && steps > 0 && seconds > 0.0 && self.members.len() == self.size)
            .then(|| steps as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(trial: char, steps: u64) -> Lease {
        let config = serde_json::json!({
            "task": {"kind": "modular", "modulus": 7, "train-share": 0.5},
            "model": {"kind": "transformer", "layers": 1, "heads": 1, "dim": 8},
            "train": {"steps": steps, "optimizer": {"kind": "adam", "lr": 1e-3}},
        });
        Lease {
            key: Some(LeaseKey { trial: trial.to_string().repeat(32), attempt: 1 }),
            config_json: config.to_string(),
            ..Lease::default()
        }
    }

    #[test]
    fn a_cohort_is_about_to_end_when_its_speed_is_known_and_little_is_left() {
        let batch = Batch::new(1, &[lease('a', 1000), lease('b', 1000)], false, false);
        assert_eq!(batch.key.len(), 32);
        let mut cohort = Cohort::new(1, batch, 0.0);
        cohort.members.iter_mut().for_each(|held| held.started = Some(Instant::now()));
        assert!(!cohort.is_about_to_end(), "nothing is known of its speed");
        cohort.progress(0, 100.0);
        assert!(!cohort.is_about_to_end(), "20 s are left");
        cohort.progress(950, 100.0);
        assert!(cohort.is_about_to_end(), "1 s is left");
        cohort.progress(2000, 100.0);
        assert_eq!(cohort.members[0].step, 1000, "not beyond the budget");
    }

    #[test]
    fn the_speed_counts_while_every_place_is_taken() {
        let batch = Batch::new(1, &[lease('a', 1000), lease('b', 1000)], false, false);
        let mut cohort = Cohort::new(1, batch, 0.0);
        for speed in [90.0, 110.0, 100.0, 100.0] {
            assert_eq!(cohort.observed_speed(false), None);
            cohort.progress(1, speed);
        }
        assert_eq!(cohort.observed_speed(false), Some(100.0));
        cohort.members[0].over = true;
        cohort.progress(1, 1.0);
        assert_eq!(cohort.observed_speed(true), Some(100.0));
    }
}
