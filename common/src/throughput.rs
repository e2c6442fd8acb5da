//! How fast a device trains cohorts of one shape, and how much memory they take: what cohorts are sized by.
//!
//! Owns the throughput curve and the rule that chooses a cohort's size from it. Measures nothing;
//! `plateau_lab::calibrate` does.

use std::collections::BTreeMap;

use crate::cost::MemoryNeed;
use crate::limits::MAX_COHORT;

/// Share of the best measured rate that a cohort must reach: beyond it larger cohorts only make trials wait longer for
/// their ends.
pub const ENOUGH: f64 = 0.95;

/// Seconds that the measurement of one shape should take.
pub const CALIBRATION_SECONDS: f64 = 2.0;

/// Replica-steps per second by cohort size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ThroughputCurve {
    points: BTreeMap<u32, f64>,
}

impl ThroughputCurve {
    /// The curve through `(cohort size, replica-steps per second)`.
    ///
    /// # Errors
    /// When a size is not from 1 to [`MAX_COHORT`], or a rate is not a positive number.
    pub fn new(points: impl IntoIterator<Item = (u32, f64)>) -> Result<Self, String> {
        let mut curve = ThroughputCurve::default();
        for (size, rate) in points {
            curve.record(size, rate)?;
        }
        Ok(curve)
    }

    /// Adds or replaces one point; see [`ThroughputCurve::new`] for what is refused.
    ///
    /// # Errors
    /// As for [`ThroughputCurve::new`].
    pub fn record(&mut self, size: u32, rate: f64) -> Result<(), String> {
        if size == 0 || size as usize > MAX_COHORT {
            return Err(format!("{size} is not a cohort's size (1 to {MAX_COHORT})"));
        }
        if !rate.is_finite() || rate <= 0.0 {
            return Err(format!("{rate} replica-steps per second of a cohort of {size} is not a rate"));
        }
        self.points.insert(size, rate);
        Ok(())
    }

    /// The points, smallest cohort first.
    pub fn points(&self) -> impl Iterator<Item = (u32, f64)> + '_ {
        self.points.iter().map(|(size, rate)| (*size, *rate))
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The smallest measured size of at most `limit` that reaches [`ENOUGH`] of the best rate measured up to `limit`;
    /// `None` where nothing so small was measured.
    pub fn good_size(&self, limit: u32) -> Option<u32> {
        let within = || self.points.range(..=limit);
        let best = within().map(|(_, rate)| *rate).fold(0.0, f64::max);
        within().find(|(_, rate)| **rate >= ENOUGH * best).map(|(size, _)| *size)
    }

    /// Replica-steps per second of a cohort of `size`: measured, or on the line between its neighbours; below the
    /// smallest measured cohort in proportion to the size, beyond the largest as for the largest. `None` for an empty
    /// curve.
    pub fn rate(&self, size: u32) -> Option<f64> {
        let below = self.points.range(..=size).next_back();
        let above = self.points.range(size..).next();
        match (below, above) {
            (Some((low, slow)), Some((high, fast))) if high > low => {
                let part = f64::from(size - low) / f64::from(high - low);
                Some(slow + (fast - slow) * part)
            }
            (Some((_, rate)), _) => Some(*rate),
            (None, Some((smallest, rate))) => Some(rate * f64::from(size) / f64::from(*smallest)),
            (None, None) => None,
        }
    }

    /// The same curve for a shape whose update takes `ratio` times the arithmetic.
    pub fn scaled(&self, ratio: f64) -> Self {
        ThroughputCurve { points: self.points.iter().map(|(size, rate)| (*size, rate / ratio)).collect() }
    }
}

/// Seconds that a cohort should last at least, where there are trials enough: below it, the way of grants and reports
/// between coordinator, agent and trainer would be felt.
const SHORTEST_SECONDS: f64 = 2.0;

/// What the size of a cohort depends on.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// What is known of the shape's speed; may be empty.
    pub curve: Option<&'a ThroughputCurve>,
    /// The curve comes from a measurement of several sizes, so that its best is the best.
    pub calibrated: bool,
    /// Size where nothing better is known.
    pub unmeasured: u32,
    /// Largest size that is wanted and fits.
    pub most: u32,
    /// Updates of one trial.
    pub steps: u64,
    /// Trials that wait.
    pub waiting: usize,
    /// Agents that share them.
    pub share: usize,
}

impl Choice<'_> {
    /// How many trials should be trained together: the smallest measured cohort that reaches [`ENOUGH`] of the best rate,
    /// enough trials to last two seconds, all within `most` and an even share of what waits; at least 1.
    pub fn size(&self) -> usize {
        let good = self.curve.filter(|_| self.calibrated).and_then(|curve| curve.good_size(self.most));
        let good = good.unwrap_or(self.unmeasured);
        let rate = self.curve.and_then(|curve| curve.rate(good)).unwrap_or(0.0);
        let lasting = (SHORTEST_SECONDS * rate / self.steps.max(1) as f64).min(f64::from(self.most)) as u32;
        let share = self.waiting.div_ceil(self.share.max(1));
        (good.max(lasting).min(self.most) as usize).min(share).max(1)
    }
}

/// What a short measurement of one shape on one device found.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Speed by cohort size, without evaluations and checkpoints.
    pub curve: ThroughputCurve,
    /// Estimated memory.
    pub memory: MemoryNeed,
    /// Seconds that the evaluation of one replica takes.
    pub evaluation_seconds: f64,
    /// Seconds from the command to the first update of a cohort of one.
    pub setup_seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(u32, f64)]) -> ThroughputCurve {
        ThroughputCurve::new(points.iter().copied()).unwrap()
    }

    #[test]
    fn the_smallest_cohort_that_is_fast_enough_is_chosen() {
        let card = curve(&[(1, 100.0), (2, 195.0), (4, 380.0), (8, 700.0), (16, 960.0), (32, 1000.0)]);
        assert_eq!(card.good_size(1024), Some(16), "960 is 96 % of 1000");
        assert_eq!(card.good_size(8), Some(8));
        assert_eq!(card.good_size(5), Some(4));
        // One thread of a processor trains replicas one after another.
        assert_eq!(curve(&[(1, 50.0), (2, 51.0), (4, 52.0)]).good_size(8), Some(1));
        // Too many replicas may also be slower.
        assert_eq!(curve(&[(1, 50.0), (2, 90.0), (4, 70.0)]).good_size(8), Some(2));
        assert_eq!(curve(&[(8, 50.0)]).good_size(4), None);
    }

    #[test]
    fn rates_between_and_beyond_the_points() {
        let curve = curve(&[(2, 100.0), (4, 200.0)]);
        assert_eq!(curve.rate(2), Some(100.0));
        assert_eq!(curve.rate(3), Some(150.0));
        assert_eq!(curve.rate(4), Some(200.0));
        assert_eq!(curve.rate(64), Some(200.0));
        assert_eq!(curve.rate(1), Some(50.0));
        assert_eq!(ThroughputCurve::default().rate(1), None);
        assert_eq!(curve.scaled(2.0).rate(3), Some(75.0));
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for (size, rate) in [(0, 1.0), (MAX_COHORT as u32 + 1, 1.0), (1, 0.0), (1, f64::NAN), (1, -1.0)] {
            assert!(ThroughputCurve::new([(size, rate)]).is_err(), "{size}: {rate}");
        }
    }

    #[test]
    fn a_size_follows_from_speed_length_limit_and_share() {
        let curve = curve(&[(1, 100.0), (4, 390.0), (16, 400.0)]);
        let choice = Choice {
            curve: Some(&curve),
            calibrated: true,
            unmeasured: 8,
            most: 64,
            steps: 100_000,
            waiting: 50,
            share: 2,
        };
        assert_eq!(choice.size(), 4);
        assert_eq!(Choice { calibrated: false, ..choice }.size(), 8);
        assert_eq!(Choice { curve: None, waiting: 5, ..choice }.size(), 3);
        // 390 a second make 2 s of 7 trials of 100 steps.
        assert_eq!(Choice { steps: 100, ..choice }.size(), 7);
        assert_eq!(Choice { steps: 1, ..choice }.size(), 25);
        assert_eq!(Choice { steps: 1, waiting: 5000, ..choice }.size(), 64);
        assert_eq!(
            Choice { most: 2, ..choice }.size(),
            1,
            "the best of 1 and 2 is 1, which alone was measured"
        );
        assert_eq!(Choice { waiting: 0, share: 0, ..choice }.size(), 1);
    }
}
