//! What of a run's curve counts as its result: the last evaluation, the mean of the last few, or whether a level was ever
//! reached.
//!
//! Curves that oscillate between evaluations make the three differ, so every analysis that reads ends of curves says which
//! it took.

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::results::TrialRecord;
use plateau_common::trial::TrialState;
use serde::Serialize;

use super::population::final_value;

/// Evaluations that `mean-of-last` averages where the study does not say.
const LAST: usize = 10;

/// What counts of a run's curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// The last evaluation.
    Final,
    /// The mean of so many last evaluations.
    MeanOfLast(usize),
}

impl Criterion {
    /// Reads `criterion` (`final` by default, or `mean-of-last`) and `last` (10).
    pub fn read(fields: &mut Fields) -> ConfigResult<Criterion> {
        let words = [("final", false), ("mean-of-last", true)];
        let mean = fields.choice("criterion", &words)?.unwrap_or(false);
        Ok(if mean { Criterion::mean_of_last(fields)? } else { Criterion::Final })
    }

    /// Reads `last` (10) for the mean of so many evaluations.
    pub fn mean_of_last(fields: &mut Fields) -> ConfigResult<Criterion> {
        Ok(Criterion::MeanOfLast(fields.integer("last", 1..=10_000usize)?.unwrap_or(LAST)))
    }

    /// What a trial's curve of `metric` ends with. Of a diverged trial, evaluations that are not finite at the end do not
    /// count; NaN where the metric was not measured, or was NaN in one of the evaluations that count.
    pub fn value(self, trial: &TrialRecord, metric: &str) -> f64 {
        let Criterion::MeanOfLast(count) = self else { return final_value(trial, metric) };
        let Some(curve) = trial.series.get(metric) else { return f64::NAN };
        let broken = trial.state == TrialState::Diverged;
        let values = curve.values.iter().rev().skip_while(|value| broken && !value.is_finite()).take(count);
        let (sum, taken) = values.fold((0.0, 0.0), |(sum, taken), value| (sum + value, taken + 1.0));
        sum / taken
    }

    /// Whether a trial's curve has fewer evaluations than count.
    pub fn is_short(self, trial: &TrialRecord, metric: &str) -> bool {
        match self {
            Criterion::Final => false,
            Criterion::MeanOfLast(count) => {
                trial.series.get(metric).is_some_and(|curve| curve.values.len() < count)
            }
        }
    }

    /// The criterion in words, to follow a metric's name.
    pub fn phrase(self) -> String {
        match self {
            Criterion::Final => "at the last evaluation".to_owned(),
            Criterion::MeanOfLast(count) => format!("in the mean of the last {count} evaluations"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{trial, with_curve};

    #[test]
    fn ends_of_curves() {
        let curve = [(0, 0.0), (10, 0.9), (20, 0.6), (30, f64::NAN)];
        let mut record = with_curve(trial(0, &[]), "accuracy", &curve);
        let three = Criterion::MeanOfLast(3);
        assert!(three.value(&record, "accuracy").is_nan(), "a completed trial's NaN is not hidden");
        assert!(Criterion::Final.value(&record, "accuracy").is_nan());
        record.state = TrialState::Diverged;
        assert!((three.value(&record, "accuracy") - 0.5).abs() < 1e-12);
        assert_eq!(Criterion::Final.value(&record, "accuracy"), 0.6);
        assert!(three.value(&record, "loss").is_nan());
        let whole = with_curve(trial(0, &[]), "accuracy", &[(0, 0.25), (10, 0.75)]);
        assert_eq!(Criterion::MeanOfLast(10).value(&whole, "accuracy"), 0.5);
        assert!(Criterion::MeanOfLast(10).is_short(&whole, "accuracy"));
        assert!(!Criterion::MeanOfLast(2).is_short(&whole, "accuracy"));
    }
}
