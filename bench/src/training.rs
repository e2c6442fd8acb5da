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

/// Counts the updates reported after the warm-up, up to the first report after the time is over.
struct Meter {
    warm_up: Duration,
    limit: Duration,
    /// The first report of updates: the end of all preparations.
    training_since: Option<Instant>,
    /// When counting began, and the processor time used until then.
    from: Option<(Instant, f64)>,
    replica_steps: f64,
    speed: Option<Speed>,
}

impl Meter {
    fn new(warm_up: Duration, limit: Duration) -> Self {
        Meter { warm_up, limit, training_since: None, from: None, replica_steps: 0.0, speed: None }
    }

    /// Takes a report of finished updates. Counting begins and ends at a report, so that only whole updates are counted,
    /// however long they take.
    fn report(&mut self, now: Instant, replica_steps: u64, processor_seconds: f64) -> Control {
        if self.speed.is_some() {
            return Control::Abandon;
        }
        let training_since = *self.training_since.get_or_insert(now);
        let Some((from, processor_seconds_before)) = self.from else {
            if now > training_since && now - training_since >= self.warm_up {
                self.from = Some((now, processor_seconds));
            }
            return Control::Continue;
        };
        self.replica_steps += replica_steps as f64;
        if now - from < self.limit {
            return Control::Continue;
        }
        self.speed = Some(Speed {
            replica_steps: self.replica_steps,
            seconds: (now - from).as_secs_f64(),
            processor_seconds: processor_seconds - processor_seconds_before,
        });
        Control::Abandon
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
    fn progress(&mut self, _step: u64, _replica_steps_per_second: f64) -> Control {
        Control::Continue
    }
    fn stepped(&mut self, replica_steps: u64) -> Control {
        self.report(Instant::now(), replica_steps, processor_seconds().unwrap_or(f64::NAN))
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
    let mut meter = Meter::new(warm_up, limit);
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

    /// Two replicas report at different moments; an update of theirs takes half a second.
    #[test]
    fn what_is_reported_between_warm_up_and_limit_is_counted() {
        let begin = Instant::now();
        let mut meter = Meter::new(Duration::from_secs(1), Duration::from_secs(2));
        let mut controls = Vec::new();
        for index in 0..12 {
            let seconds = 3.0 + 0.25 * f64::from(index);
            let now = begin + Duration::from_secs_f64(seconds);
            controls.push(meter.report(now, 1, 0.5 * seconds));
        }
        // Training is seen from 3 s, counted from 4 s (the fifth report), and over at 6 s (the thirteenth).
        assert!(meter.speed.is_none() && controls.iter().all(|control| *control == Control::Continue));
        let end = begin + Duration::from_secs(6);
        assert_eq!(meter.report(end, 1, 3.0), Control::Abandon);
        assert_eq!(meter.report(end, 1, 3.0), Control::Abandon);
        let speed = meter.speed.map(|speed| (speed.replica_steps, speed.seconds, speed.processor_seconds));
        assert_eq!(speed, Some((8.0, 2.0, 1.0)));
    }
}
