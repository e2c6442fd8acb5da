//! The log-rank test of two groups of possibly censored times (Mantel 1966), with a permutation p-value for few runs.

use plateau_common::random::StreamFamily;
use serde::Serialize;
use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::kaplan_meier::Observation;
use crate::number;

/// Runs per group up to which the permutation p-value is given as well.
pub const PERMUTATION_RUNS: usize = 10;
/// Permutations drawn.
pub const PERMUTATIONS: usize = 2000;

/// Outcome of the test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LogRank {
    /// Events seen in the first group.
    pub observed: f64,
    /// Events expected there if both groups were alike.
    pub expected: f64,
    /// Variance of the difference.
    pub variance: f64,
    /// (observed − expected)² / variance, chi-squared with one degree of freedom.
    #[serde(serialize_with = "number::serialize")]
    pub chi_squared: f64,
    /// Its p-value.
    #[serde(serialize_with = "number::serialize")]
    pub p_value: f64,
    /// The share of 2000 random relabellings with at least this chi-squared; only up to 10 runs per group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permutation_p_value: Option<f64>,
}

/// Compares two groups; `None` where nothing can be compared (no events, or a group without runs).
pub fn log_rank(first: &[Observation], second: &[Observation]) -> Option<LogRank> {
    let mut runs: Vec<(Observation, bool)> = first.iter().map(|run| (*run, true)).collect();
    runs.extend(second.iter().map(|run| (*run, false)));
    runs.retain(|(run, _)| run.time.is_finite());
    runs.sort_by(|one, other| one.0.time.total_cmp(&other.0.time));
    let (observed, expected, variance) = sums(&runs);
    if variance <= 0.0 {
        return None;
    }
    let chi_squared = (observed - expected).powi(2) / variance;
    let p_value = ChiSquared::new(1.0).map_or(f64::NAN, |distribution| distribution.sf(chi_squared));
    let few = first.len().max(second.len()) <= PERMUTATION_RUNS;
    let permutation_p_value = few.then(|| permutation_p_value(&runs, chi_squared));
    Some(LogRank { observed, expected, variance, chi_squared, p_value, permutation_p_value })
}

/// Observed and expected events of the first group and their variance, from runs in ascending time.
fn sums(runs: &[(Observation, bool)]) -> (f64, f64, f64) {
    let (mut observed, mut expected, mut variance) = (0.0, 0.0, 0.0);
    let mut at_risk = runs.len() as f64;
    let mut first_at_risk = runs.iter().filter(|(_, first)| *first).count() as f64;
    for same_time in runs.chunk_by(|one, other| one.0.time == other.0.time) {
        let events = same_time.iter().filter(|(run, _)| run.event).count() as f64;
        if events > 0.0 {
            let share = first_at_risk / at_risk;
            observed += same_time.iter().filter(|(run, first)| run.event && *first).count() as f64;
            expected += events * share;
            if at_risk > 1.0 {
                variance += events * share * (1.0 - share) * (at_risk - events) / (at_risk - 1.0);
            }
        }
        at_risk -= same_time.len() as f64;
        first_at_risk -= same_time.iter().filter(|(_, first)| *first).count() as f64;
    }
    (observed, expected, variance)
}

fn permutation_p_value(runs: &[(Observation, bool)], chi_squared: f64) -> f64 {
    let family = StreamFamily::new(0, "log-rank/permutation");
    let mut labelled = runs.to_vec();
    let mut extreme = 0;
    for number in 0..PERMUTATIONS {
        let order = family.at(number as u64).permutation(runs.len() as u32);
        for (slot, source) in labelled.iter_mut().zip(order) {
            slot.1 = runs.get(source as usize).is_some_and(|(_, first)| *first);
        }
        let (observed, expected, variance) = sums(&labelled);
        if variance > 0.0 && (observed - expected).powi(2) / variance >= chi_squared - 1e-12 {
            extreme += 1;
        }
    }
    // The observed labelling counts as one of them, so that the p-value is never 0.
    f64::from(extreme + 1) / (PERMUTATIONS + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(times: &[(f64, bool)]) -> Vec<Observation> {
        times.iter().map(|(time, event)| Observation { time: *time, event: *event }).collect()
    }

    #[test]
    fn exact_values() {
        let test = log_rank(
            &group(&[(1.0, true), (3.0, true), (5.0, false)]),
            &group(&[(2.0, true), (4.0, true), (6.0, true)]),
        )
        .expect("there are events");
        assert_eq!(test.observed, 2.0);
        assert!((test.expected - 1.7333).abs() < 5e-5, "{test:?}");
        assert!((test.variance - 0.96222).abs() < 5e-6, "{test:?}");
        assert!((test.chi_squared - 0.0739).abs() < 5e-5, "{test:?}");
        assert!((test.p_value - 0.7857).abs() < 1e-3, "{test:?}");
    }

    #[test]
    fn separated_groups_are_told_apart_and_the_test_is_symmetric() {
        let early = group(&[(1.0, true), (2.0, true), (3.0, true), (4.0, true), (5.0, true)]);
        let never = group(&[(100.0, false); 5]);
        let test = log_rank(&early, &never).expect("there are events");
        let swapped = log_rank(&never, &early).expect("there are events");
        assert!((test.chi_squared - swapped.chi_squared).abs() < 1e-9);
        assert!(test.p_value < 0.01);
        // 2 of the 252 ways to split ten runs are this extreme.
        let exact = 2.0 / 252.0;
        assert!((test.permutation_p_value.expect("few runs") - exact).abs() < 0.008, "{test:?}");
    }

    #[test]
    fn nothing_to_compare() {
        let censored = group(&[(5.0, false); 3]);
        assert_eq!(log_rank(&censored, &censored), None);
        assert_eq!(log_rank(&[], &group(&[(1.0, true), (2.0, true)])), None);
        assert_eq!(log_rank(&[], &[]), None);
    }
}
