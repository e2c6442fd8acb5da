//! Survival with censoring: the Kaplan–Meier estimate (1958), log(−log) limits from Greenwood's variance, median and
//! restricted mean.

use serde::Serialize;

use super::estimate::{Estimate, Flag};
use super::z_quantile;
use crate::number;

/// One run: when its event happened, or until when it had not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// Time of the event or of censoring; not negative.
    pub time: f64,
    /// Whether the event happened.
    pub event: bool,
}

/// The curve just after one time at which something happened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Step {
    /// The time.
    pub time: f64,
    /// Runs at risk just before.
    pub at_risk: usize,
    /// Events at this time.
    pub events: usize,
    /// Runs censored at this time (they count as at risk for events at the same time).
    pub censored: usize,
    /// Share still without the event after it.
    pub survival: f64,
    /// Lower limit of the share.
    pub low: f64,
    /// Upper limit of the share.
    pub high: f64,
}

/// A survival curve: steps in ascending time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KaplanMeier {
    /// Runs observed.
    pub runs: usize,
    /// Runs with an event.
    pub events: usize,
    /// Confidence of the limits.
    pub confidence: f64,
    /// Every time at which an event or a censoring happened.
    pub steps: Vec<Step>,
    /// Last time observed; 0 of nothing.
    pub horizon: f64,
}

/// The product-limit estimate. Observations whose time is not finite and not negative are left out. Before the first
/// event survival is 1 with limits 1; once it reaches 0 the log(−log) limits do not exist, so the lower limit is 0 and
/// the upper one stays what it was before.
pub fn kaplan_meier(observations: &[Observation], confidence: f64) -> KaplanMeier {
    let mut sorted: Vec<Observation> =
        observations.iter().copied().filter(|run| run.time.is_finite() && run.time >= 0.0).collect();
    sorted.sort_by(|one, other| one.time.total_cmp(&other.time));
    let z = z_quantile(confidence);
    let (mut survival, mut greenwood, mut high) = (1.0, 0.0, 1.0);
    let mut low = 1.0;
    let mut at_risk = sorted.len();
    let mut steps = Vec::new();
    for same_time in sorted.chunk_by(|one, other| one.time == other.time) {
        let events = same_time.iter().filter(|run| run.event).count();
        if events > 0 {
            let (d, n) = (events as f64, at_risk as f64);
            survival *= 1.0 - d / n;
            if events == at_risk {
                (survival, low) = (0.0, 0.0);
            } else {
                greenwood += d / (n * (n - d));
                let theta = (-f64::ln(survival)).ln();
                let width = z * f64::sqrt(greenwood) / f64::ln(survival).abs();
                low = (-(theta + width).exp()).exp();
                high = (-(theta - width).exp()).exp();
            }
        }
        let time = same_time.first().map_or(0.0, |run| run.time);
        steps.push(Step { time, at_risk, events, censored: same_time.len() - events, survival, low, high });
        at_risk -= same_time.len();
    }
    KaplanMeier {
        runs: sorted.len(),
        events: sorted.iter().filter(|run| run.event).count(),
        confidence,
        horizon: sorted.last().map_or(0.0, |run| run.time),
        steps,
    }
}

impl KaplanMeier {
    /// The smallest time at which at most half survive, ∞ (flagged) where that is not reached. The interval holds all
    /// times whose limits contain one half (Brookmeyer and Crowley 1982); its end is ∞ where the upper limit stays above.
    pub fn median(&self) -> Estimate {
        let method = "Kaplan–Meier median, log(−log) limits";
        if self.runs == 0 {
            return Estimate::none(self.confidence, method);
        }
        let first = |below_half: fn(&Step) -> f64, inclusive: bool| {
            self.steps
                .iter()
                .find(|step| {
                    step.events > 0
                        && (below_half(step) < 0.5 || (inclusive && below_half(step) <= 0.5 + 1e-12))
                })
                .map_or(f64::INFINITY, |step| step.time)
        };
        let mut estimate =
            Estimate::point(first(|step| step.survival, true), self.confidence, method, self.runs);
        estimate.low = first(|step| step.low, true);
        estimate.high = first(|step| step.high, false);
        if estimate.value.is_infinite() {
            estimate.flag(Flag::RightCensored);
        }
        if estimate.low.is_infinite() || estimate.high.is_infinite() {
            estimate.flag(Flag::OpenInterval);
        }
        self.flag_size(&mut estimate);
        estimate
    }

    /// The mean time without the event up to `horizon`: the area under the curve, with its normal interval.
    pub fn restricted_mean(&self, horizon: f64) -> Estimate {
        let method = format!("restricted mean to {}", number::human(horizon));
        if self.runs == 0 || horizon.is_nan() || horizon <= 0.0 {
            return Estimate::none(self.confidence, method);
        }
        let area_from = |start: f64| {
            let mut area = 0.0;
            let (mut time, mut survival) = (start, self.survival_at(start));
            for step in self.steps.iter().filter(|step| step.time > start && step.time < horizon) {
                area += (step.time - time) * survival;
                (time, survival) = (step.time, step.survival);
            }
            area + (horizon - time).max(0.0) * survival
        };
        let variance: f64 = self
            .steps
            .iter()
            .filter(|step| step.events > 0 && step.time < horizon && step.events < step.at_risk)
            .map(|step| {
                let (d, n) = (step.events as f64, step.at_risk as f64);
                area_from(step.time).powi(2) * d / (n * (n - d))
            })
            .sum();
        let mut estimate = Estimate::point(area_from(0.0), self.confidence, method, self.runs);
        let half = z_quantile(self.confidence) * variance.sqrt();
        estimate.low = (estimate.value - half).max(0.0);
        estimate.high = (estimate.value + half).min(horizon);
        if self.events == 0 {
            estimate.flag(Flag::RightCensored);
        }
        self.flag_size(&mut estimate);
        estimate
    }

    /// Share without the event just after `time`.
    pub fn survival_at(&self, time: f64) -> f64 {
        self.steps.iter().take_while(|step| step.time <= time).last().map_or(1.0, |step| step.survival)
    }

    fn flag_size(&self, estimate: &mut Estimate) {
        if self.runs == 1 {
            estimate.flag(Flag::SingleRun);
        } else if self.runs < super::bootstrap::FEWEST_RUNS {
            estimate.flag(Flag::FewRuns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> KaplanMeier {
        let events = [1200.0, 1500.0, 1500.0, 2100.0, 3000.0, 4700.0, 8000.0];
        let mut runs: Vec<Observation> =
            events.iter().map(|time| Observation { time: *time, event: true }).collect();
        runs.extend([Observation { time: 20_000.0, event: false }; 3]);
        kaplan_meier(&runs, 0.95)
    }

    #[test]
    fn exact_values() {
        let curve = example();
        let expected = [
            (1200.0, 0.9, 0.4730, 0.9853),
            (1500.0, 0.7, 0.3287, 0.8919),
            (2100.0, 0.6, 0.2527, 0.8272),
            (3000.0, 0.5, 0.1836, 0.7532),
            (4700.0, 0.4, 0.1227, 0.6702),
            (8000.0, 0.3, 0.0711, 0.5779),
        ];
        assert_eq!(curve.steps.len(), 7, "six event times and the censoring time");
        for (step, (time, survival, low, high)) in curve.steps.iter().zip(expected) {
            assert_eq!(step.time, time);
            assert!((step.survival - survival).abs() < 1e-12, "{step:?}");
            assert!((step.low - low).abs() < 5e-5 && (step.high - high).abs() < 5e-5, "{step:?}");
        }
        let median = curve.median();
        assert_eq!((median.value, median.low, median.high), (3000.0, 1200.0, f64::INFINITY));
        assert!(median.flags.contains(&Flag::OpenInterval));
        assert!((curve.restricted_mean(20_000.0).value - 8200.0).abs() < 1e-9);
    }

    /// Without censoring the restricted mean is the plain mean and its variance the plain one (divisor n).
    #[test]
    fn without_censoring_it_is_the_empirical_distribution() {
        let times = [3.0, 5.0, 5.0, 9.0];
        let runs: Vec<Observation> =
            times.iter().map(|time| Observation { time: *time, event: true }).collect();
        let curve = kaplan_meier(&runs, 0.95);
        let mean = curve.restricted_mean(100.0);
        assert!((mean.value - 5.5).abs() < 1e-12);
        let error = (times.iter().map(|time| (time - 5.5f64).powi(2)).sum::<f64>() / 4.0 / 4.0).sqrt();
        assert!((mean.high - 5.5 - 1.959_964 * error).abs() < 1e-5, "{mean:?}");
        assert_eq!(curve.survival_at(5.0), 0.25);
        assert_eq!(curve.survival_at(9.0), 0.0);
        assert_eq!(curve.median().value, 5.0);
    }

    #[test]
    fn degenerate_inputs_are_flagged() {
        let none = kaplan_meier(&[], 0.95);
        assert!(none.median().flags.contains(&Flag::NoData));
        assert!(none.restricted_mean(10.0).flags.contains(&Flag::NoData));
        let censored = kaplan_meier(&[Observation { time: 100.0, event: false }; 5], 0.95);
        let median = censored.median();
        assert_eq!((median.value, median.low), (f64::INFINITY, f64::INFINITY));
        assert!(median.flags.contains(&Flag::RightCensored));
        let mean = censored.restricted_mean(100.0);
        assert_eq!((mean.value, mean.low, mean.high), (100.0, 100.0, 100.0));
        assert!(mean.flags.contains(&Flag::RightCensored));
        let single = kaplan_meier(&[Observation { time: 7.0, event: true }], 0.95);
        assert_eq!(single.median().value, 7.0);
        assert!(single.median().flags.contains(&Flag::SingleRun));
        assert!(single.steps.iter().all(|step| step.low.is_finite() && step.high.is_finite()));
        assert_eq!(kaplan_meier(&[Observation { time: f64::NAN, event: true }], 0.95).runs, 0);
    }
}
