//! How long a sweep will take on given agents: the scheduler's rules played through with measured speeds.
//!
//! Owns the playing through and the carrying over of measurements between shapes; measures nothing.

use crate::config::TrialConfig;
use crate::throughput::{Choice, ThroughputCurve};

/// The speed of one shape on the agents' kind of device.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    /// Floating-point operations of one update ([`crate::cost::flops_per_update`]); positive.
    pub flops_per_update: f64,
    /// Replica-steps per second by cohort size; not empty.
    pub curve: ThroughputCurve,
    /// Seconds that evaluating one replica takes.
    pub evaluation_seconds: f64,
}

impl Speed {
    /// The speed of a shape whose update takes `flops`, carried over from measured shapes: on the line between the nearest
    /// ones, in the logarithms of operations and seconds; beyond them in proportion to the operations. `None` where
    /// nothing was measured.
    pub fn carried_over(measured: &[Speed], flops: f64) -> Option<Speed> {
        let below = measured.iter().filter(|speed| speed.flops_per_update <= flops);
        let below = below.max_by(|a, b| a.flops_per_update.total_cmp(&b.flops_per_update));
        let above = measured.iter().filter(|speed| speed.flops_per_update >= flops);
        let above = above.min_by(|a, b| a.flops_per_update.total_cmp(&b.flops_per_update));
        match (below, above) {
            (Some(low), Some(high)) if high.flops_per_update > low.flops_per_update => {
                let part =
                    (flops / low.flops_per_update).ln() / (high.flops_per_update / low.flops_per_update).ln();
                let between = |a: f64, b: f64| if a > 0.0 && b > 0.0 { a * (b / a).powf(part) } else { a };
                let points = low
                    .curve
                    .points()
                    .filter_map(|(size, rate)| Some((size, between(rate, high.curve.rate(size)?))));
                Some(Speed {
                    flops_per_update: flops,
                    curve: ThroughputCurve::new(points).ok()?,
                    evaluation_seconds: between(low.evaluation_seconds, high.evaluation_seconds),
                })
            }
            (Some(only), _) | (None, Some(only)) => {
                let ratio = flops / only.flops_per_update;
                Some(Speed {
                    flops_per_update: flops,
                    curve: only.curve.scaled(ratio),
                    evaluation_seconds: only.evaluation_seconds * ratio,
                })
            }
            (None, None) => None,
        }
    }
}

/// Trials of one cohort key.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// How many.
    pub trials: u64,
    /// Updates of each.
    pub steps: u64,
    /// Evaluations of each.
    pub evaluations: f64,
    /// Their speed.
    pub speed: Speed,
    /// The largest cohort that fits into an agent's memory.
    pub most: u32,
}

/// The agents, all alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agents {
    /// How many.
    pub count: usize,
    /// Replicas that each evaluates at the same time.
    pub threads: usize,
    /// Seconds from one cohort's end to the next one's first update.
    pub setup_seconds: f64,
}

/// Seconds until the last trial has ended, from when the agents are ready. The costliest shape goes first, each cohort to
/// the agent that is free first, as large as the coordinator would make it.
pub fn seconds(jobs: &[Job], agents: Agents) -> f64 {
    let mut jobs: Vec<Job> = jobs.to_vec();
    let cost = |job: &Job| job.speed.flops_per_update * job.steps as f64;
    jobs.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
    let mut free = vec![0.0_f64; agents.count.max(1)];
    for job in jobs {
        let mut waiting = job.trials;
        while waiting > 0 {
            let choice = Choice {
                curve: Some(&job.speed.curve),
                calibrated: true,
                unmeasured: 1,
                most: job.most.max(1),
                steps: job.steps,
                waiting: usize::try_from(waiting).unwrap_or(usize::MAX),
                share: free.len(),
            };
            let size = choice.size();
            let replicas = size as f64;
            let rate = job.speed.curve.rate(u32::try_from(size).unwrap_or(u32::MAX)).unwrap_or(f64::INFINITY);
            let together = size.min(agents.threads.max(1)) as f64;
            let duration = agents.setup_seconds
                + replicas * job.steps as f64 / rate
                + replicas * job.evaluations * job.speed.evaluation_seconds / together;
            if let Some(first) = free.iter_mut().min_by(|a, b| a.total_cmp(b)) {
                *first += duration;
            }
            waiting -= size as u64;
        }
    }
    free.into_iter().fold(0.0, f64::max)
}

/// About how often a trial is evaluated, first and last step included.
pub fn evaluations(config: &TrialConfig) -> f64 {
    let steps = config.train.steps as f64;
    let by_steps =
        config.evaluate.every.map_or(0.0, |every| (steps / every.max(1) as f64 - 1.0).max(0.0).floor());
    let by_decades =
        config.evaluate.per_decade.map_or(0.0, |count| f64::from(count) * steps.max(1.0).log10());
    2.0 + by_steps + by_decades
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(flops: f64, points: &[(u32, f64)], evaluation_seconds: f64) -> Speed {
        let curve = ThroughputCurve::new(points.iter().copied()).unwrap();
        Speed { flops_per_update: flops, curve, evaluation_seconds }
    }

    fn job(trials: u64, steps: u64, speed: Speed) -> Job {
        Job { trials, steps, evaluations: 0.0, speed, most: 64 }
    }

    const TWO: Agents = Agents { count: 2, threads: 1, setup_seconds: 0.0 };

    #[test]
    fn work_is_shared_by_the_agents() {
        let processor = speed(1e6, &[(1, 100.0)], 0.5);
        // Ten trials of ten seconds.
        assert_eq!(seconds(&[job(10, 1000, processor.clone())], TWO), 50.0);
        assert_eq!(seconds(&[job(9, 1000, processor.clone())], TWO), 50.0);
        assert_eq!(seconds(&[job(1, 1000, processor.clone())], TWO), 10.0);
        assert_eq!(seconds(&[], TWO), 0.0);
        let evaluated = Job { evaluations: 4.0, ..job(2, 1000, processor.clone()) };
        assert_eq!(seconds(&[evaluated], TWO), 12.0);
        // The long one first, whatever the order.
        let (long, short) = (job(1, 4000, processor.clone()), job(4, 1000, processor));
        assert_eq!(seconds(&[short, long], TWO), 40.0);
    }

    #[test]
    fn a_card_trains_many_at_once() {
        let card = speed(1e6, &[(1, 100.0), (8, 800.0), (16, 810.0)], 0.0);
        let agents = Agents { count: 1, setup_seconds: 1.0, ..TWO };
        // Two cohorts of eight, each of ten seconds and one to set up.
        assert_eq!(seconds(&[job(16, 1000, card.clone())], agents), 22.0);
        let tight = Job { most: 1, ..job(2, 1000, card) };
        assert_eq!(seconds(&[tight], agents), 22.0);
    }

    #[test]
    fn speeds_are_carried_over_between_and_beyond_shapes() {
        let measured = [speed(1e6, &[(1, 400.0)], 0.1), speed(1e8, &[(1, 4.0)], 10.0)];
        let close = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-9;
        let middle = Speed::carried_over(&measured, 1e7).unwrap();
        assert!(close(middle.curve.rate(1).unwrap(), 40.0) && close(middle.evaluation_seconds, 1.0));
        let beyond = Speed::carried_over(&measured, 2e8).unwrap();
        assert!(close(beyond.curve.rate(1).unwrap(), 2.0) && close(beyond.evaluation_seconds, 20.0));
        let below = Speed::carried_over(&measured[1..], 1e6).unwrap();
        assert!(close(below.curve.rate(1).unwrap(), 400.0));
        assert_eq!(Speed::carried_over(&measured, 1e8).unwrap(), measured[1]);
        assert_eq!(Speed::carried_over(&[], 1.0), None);
    }
}
