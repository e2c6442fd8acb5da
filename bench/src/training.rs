//! Trains a cohort for a while and says how fast it went.

use std::path::Path;
use std::time::{Duration, Instant};

use plateau_common::metrics::Evaluation;
use plateau_common::trial::Ending;
use plateau_lab::{Control, DeviceChoice, LabError, Member, Observer, train_cohort};

use crate::processor_seconds;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Updates of all replicas together.
    pub replica_steps: f64,
    /// Seconds by the clock.
    pub seconds: f64,
    /// Seconds of processor time on all threads; NaN where the system does not tell.
    pub processor_seconds: f64,
}

impl Speed {
    /// Replica-steps per second by the clock.
    pub fn per_second(&self) -> f64 {
        self.replica_steps / self.seconds
    }

    /// Replica-steps per second of processor time, which other programs hardly disturb.
    pub fn per_processor_second(&self) -> f64 {
        self.replica_steps / self.processor_seconds
    }
}

/// Counts updates from the first report after the warm-up to the first after the time is over.
struct Meter {
    warm_up: Duration,
    limit: Duration,
    /// The first report of updates: the end of all preparations.
    training_since: Option<Instant>,
    from: Option<Instant>,
    processor_seconds_from: f64,
    last_report: Instant,
    replica_steps: f64,
    speed: Option<Speed>,
}

impl Meter {
    fn new(warm_up: Duration, limit: Duration, now: Instant) -> Self {
        Meter {
            warm_up,
            limit,
            training_since: None,
            from: None,
            processor_seconds_from: 0.0,
            last_report: now,
            replica_steps: 0.0,
            speed: None,
        }
    }

    /// Takes the speed since the last report. Reports come at fixed times, also while a long update is under way; counting
    /// begins and ends at reports of finished updates, so that only whole updates are counted.
    fn report(&mut self, now: Instant, replica_steps_per_second: f64, processor_seconds: f64) -> Control {
        let since = std::mem::replace(&mut self.last_report, now);
        let updated = replica_steps_per_second > 0.0;
        if self.speed.is_some() {
            return Control::Stop;
        }
        let Some(training_since) = self.training_since else {
            self.training_since = updated.then_some(now);
            return Control::Continue;
        };
        let Some(from) = self.from else {
            if updated && now - training_since >= self.warm_up {
                (self.from, self.processor_seconds_from) = (Some(now), processor_seconds);
            }
            return Control::Continue;
        };
        self.replica_steps += replica_steps_per_second * (now - since).as_secs_f64();
        if !updated || now - from < self.limit {
            return Control::Continue;
        }
        self.speed = Some(Speed {
            replica_steps: self.replica_steps,
            seconds: (now - from).as_secs_f64(),
            processor_seconds: processor_seconds - self.processor_seconds_from,
        });
        Control::Stop
    }
}

impl Observer for Meter {
    fn started(&mut self, _replica: usize, _from_step: u64) {}
    fn evaluated(&mut self, _replica: usize, _evaluation: Evaluation) {}
    fn checkpointed(&mut self, _replica: usize, _step: u64, folder: &Path) {
        // Nothing goes on from here; a folder that cannot be removed goes with the temporary folder around it.
        let _ = std::fs::remove_dir_all(folder);
    }
    fn ended(&mut self, _replica: usize, _ending: Ending) {}
    fn progress(&mut self, _step: u64, replica_steps_per_second: f64) -> Control {
        self.report(Instant::now(), replica_steps_per_second, processor_seconds().unwrap_or(f64::NAN))
    }
}

/// Trains `members` for `limit` after `warm_up` and says how fast; `None` if they ended before the time was over.
///
/// # Errors
/// Those of [`train_cohort`].
pub fn measure(
    members: &[Member],
    device: &DeviceChoice,
    scratch: &Path,
    warm_up: Duration,
    limit: Duration,
) -> Result<Option<Speed>, LabError> {
    let mut meter = Meter::new(warm_up, limit, Instant::now());
    train_cohort(members, device, scratch, &mut meter)?;
    Ok(meter.speed)
}

/// Notes when the first evaluation begins and ends, and when the last one ends.
#[derive(Default)]
struct Stopwatch {
    started: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    steps: u64,
}

impl Observer for Stopwatch {
    fn started(&mut self, _replica: usize, _from_step: u64) {
        self.started.get_or_insert_with(Instant::now);
    }
    fn evaluated(&mut self, _replica: usize, evaluation: Evaluation) {
        let place = if evaluation.step == self.steps { &mut self.last } else { &mut self.first };
        *place = Some(Instant::now());
    }
    fn checkpointed(&mut self, _replica: usize, _step: u64, folder: &Path) {
        let _ = std::fs::remove_dir_all(folder);
    }
    fn ended(&mut self, _replica: usize, _ending: Ending) {}
    fn progress(&mut self, _step: u64, _replica_steps_per_second: f64) -> Control {
        Control::Continue
    }
}

/// Time of all `steps` updates of `members`, whose budget that is, without preparations; the evaluation after the last
/// update is taken off as long as the one before the first took.
///
/// # Errors
/// Those of [`train_cohort`].
pub fn time_of_steps(
    members: &[Member],
    steps: u64,
    device: &DeviceChoice,
    scratch: &Path,
) -> Result<Duration, LabError> {
    let mut watch = Stopwatch { steps, ..Stopwatch::default() };
    train_cohort(members, device, scratch, &mut watch)?;
    let (Some(started), Some(first), Some(last)) = (watch.started, watch.first, watch.last) else {
        return Ok(Duration::ZERO);
    };
    Ok((last - first).saturating_sub(first - started))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports half a second apart: preparations, their end, warm-up, start, and then two updates a report with a long one
    /// between.
    #[test]
    fn only_whole_updates_within_the_time_are_counted() {
        let begin = Instant::now();
        let mut meter = Meter::new(Duration::from_secs(1), Duration::from_secs(2), begin);
        let updates = [0.0, 2.0, 2.0, 0.0, 2.0, 2.0, 0.0, 0.0, 2.0, 2.0, 2.0];
        let reports = updates.iter().enumerate().map(|(index, updates)| {
            let seconds = 0.5 * (index + 1) as f64;
            meter.report(begin + Duration::from_secs_f64(seconds), updates / 0.5, 0.9 * seconds)
        });
        let controls: Vec<Control> = reports.collect();
        let stopped = controls.iter().position(|control| *control == Control::Stop);
        // The second report ends the preparations, the fifth the warm-up, the ninth is two seconds later.
        assert_eq!(stopped, Some(8));
        let speed = meter.speed.map(|speed| (speed.replica_steps, speed.seconds, speed.per_second()));
        assert_eq!(speed, Some((4.0, 2.0, 2.0)));
        let processor = meter.speed.map_or(f64::NAN, |speed| speed.processor_seconds);
        assert!((processor - 1.8).abs() < 1e-9);
    }
}
