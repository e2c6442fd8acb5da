//! Two samples of runs: the difference of their means with Welch's interval (1947) and a bootstrap one, in standard
//! deviations, and a permutation test that assumes nothing of their shape (Fisher 1935).

use plateau_common::random::StreamFamily;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};
use statrs::function::factorial::ln_binomial;

use super::bootstrap::{FEWEST_RUNS, RESAMPLES, resample, set_interval};
use super::estimate::{Estimate, Flag, finite_sorted};
use super::mean::{mean, standard_deviation};
use super::t_quantile;
use crate::number;

/// Up to so many relabellings (of at most [`MOST_RUNS`] runs), all are gone through; of more, [`DRAWN`] are drawn.
pub const MOST_RELABELLINGS: f64 = 20_000.0;
/// Runs of which all relabellings may be gone through.
pub const MOST_RUNS: usize = 64;
/// Relabellings drawn where there are too many.
pub const DRAWN: u32 = 10_000;

/// The second sample against the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TwoSamples {
    /// Mean of the second minus mean of the first, with Welch's t interval.
    pub difference: Estimate,
    /// The same with a percentile bootstrap interval; none below five runs in a sample.
    pub bootstrap: Estimate,
    /// The difference in pooled standard deviations; NaN without spread.
    #[serde(serialize_with = "number::serialize")]
    pub standardised: f64,
    /// Welch's two-sided p-value; NaN without spread.
    #[serde(serialize_with = "number::serialize")]
    pub welch_p_value: f64,
    /// The share of relabellings of the runs with at least this difference; NaN where a sample is empty.
    #[serde(serialize_with = "number::serialize")]
    pub permutation_p_value: f64,
}

/// Compares two samples of one value per run; values that are not finite are left out and counted.
pub fn compare(first: &[f64], second: &[f64], confidence: f64) -> TwoSamples {
    let ((first, first_dropped), (second, second_dropped)) = (finite_sorted(first), finite_sorted(second));
    let dropped = first_dropped + second_dropped;
    let describe = |method: String| {
        let mut estimate =
            Estimate::point(mean(&second) - mean(&first), confidence, method, first.len() + second.len());
        estimate.dropped = dropped;
        if dropped > 0 {
            estimate.flag(Flag::NonFiniteDropped);
        }
        match first.len().min(second.len()) {
            0 => estimate.flag(Flag::NoData),
            1 => estimate.flag(Flag::SingleRun),
            count if count < FEWEST_RUNS => estimate.flag(Flag::FewRuns),
            _ => {}
        }
        estimate
    };
    let mut difference = describe("Welch's t interval of the difference of means".to_owned());
    let mut bootstrap =
        describe(format!("percentile bootstrap of the difference of means ({RESAMPLES} resamples)"));
    let (mut standardised, mut welch_p_value) = (f64::NAN, f64::NAN);
    if first.len().min(second.len()) >= 2 {
        let share = |sample: &[f64]| standard_deviation(sample).powi(2) / sample.len() as f64;
        let (one, other) = (share(&first), share(&second));
        let error = (one + other).sqrt();
        let constant = |sample: &[f64]| sample.first() == sample.last();
        if !(constant(&first) && constant(&second)) {
            let freedom = (one + other).powi(2)
                / (one * one / (first.len() - 1) as f64 + other * other / (second.len() - 1) as f64);
            let half = t_quantile(confidence, freedom) * error;
            (difference.low, difference.high) = (difference.value - half, difference.value + half);
            welch_p_value = StudentsT::new(0.0, 1.0, freedom)
                .map_or(f64::NAN, |t| 2.0 * t.sf((difference.value / error).abs()));
            let squares = |sample: &[f64]| standard_deviation(sample).powi(2) * (sample.len() - 1) as f64;
            let pooled =
                ((squares(&first) + squares(&second)) / (first.len() + second.len() - 2) as f64).sqrt();
            standardised = difference.value / pooled;
        } else {
            difference.flag(Flag::ZeroVariance);
            (difference.low, difference.high) = (difference.value, difference.value);
        }
    }
    if first.len().min(second.len()) >= FEWEST_RUNS {
        set_interval(&mut bootstrap, &resampled_differences(&first, &second));
    }
    let permutation_p_value =
        if first.is_empty() || second.is_empty() { f64::NAN } else { permutation_p_value(&first, &second) };
    TwoSamples { difference, bootstrap, standardised, welch_p_value, permutation_p_value }
}

fn resampled_differences(first: &[f64], second: &[f64]) -> Vec<f64> {
    let mut differences = Vec::with_capacity(RESAMPLES);
    resample(&[first.len(), second.len()], RESAMPLES, "bootstrap/difference", |drawn| {
        let mean_of = |sample: &[f64], indices: Option<&Vec<usize>>| {
            let values = indices.into_iter().flatten().filter_map(|index| sample.get(*index));
            values.sum::<f64>() / sample.len() as f64
        };
        differences.push(mean_of(second, drawn.get(1)) - mean_of(first, drawn.first()));
    });
    differences
}

/// Two-sided, by the distance of the first sample's sum from what it would be if all runs were alike.
fn permutation_p_value(first: &[f64], second: &[f64]) -> f64 {
    let pooled: Vec<f64> = first.iter().chain(second).copied().collect();
    let (chosen, all) = (first.len(), pooled.len());
    let expected = pooled.iter().sum::<f64>() * chosen as f64 / all as f64;
    let largest = pooled.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let seen = (first.iter().sum::<f64>() - expected).abs() - 1e-9 * largest;
    let (mut extreme, mut total) = (0u32, 0u32);
    let mut count = |sum: f64| {
        total += 1;
        extreme += u32::from((sum - expected).abs() >= seen);
    };
    if all <= MOST_RUNS && ln_binomial(all as u64, chosen as u64) <= MOST_RELABELLINGS.ln() {
        each_sum(&pooled, chosen, 0.0, &mut count);
    } else {
        // The labelling that was seen counts as one of them, so that the p-value is never 0.
        count(first.iter().sum());
        let family = StreamFamily::new(0, "two-samples/permutation");
        let mut order = Vec::new();
        for number in 0..DRAWN {
            family.at(u64::from(number)).permute(all as u32, &mut order);
            count(order.iter().take(chosen).filter_map(|index| pooled.get(*index as usize)).sum());
        }
    }
    f64::from(extreme) / f64::from(total)
}

/// Calls `visit` with `sum` plus the sum of every choice of `chosen` of the values.
fn each_sum(values: &[f64], chosen: usize, sum: f64, visit: &mut impl FnMut(f64)) {
    if chosen == 0 {
        return visit(sum);
    }
    let Some((first, rest)) = values.split_first() else { return };
    each_sum(rest, chosen - 1, sum + first, visit);
    if rest.len() >= chosen {
        each_sum(rest, chosen, sum, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_values() {
        // Of the 252 ways to choose five of ten, two are as extreme as complete separation.
        let found = compare(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0], 0.95);
        assert!((found.permutation_p_value - 2.0 / 252.0).abs() < 1e-12);
        // Both variances are 2.5, so the error is 1 on 8 degrees of freedom: t(8) = 2.306004; P(|t| > 5) = 0.0010528.
        assert_eq!(found.difference.value, 5.0);
        assert!((found.difference.low - (5.0 - 2.306_004)).abs() < 1e-5, "{found:?}");
        assert!((found.welch_p_value - 0.001_052_8).abs() < 1e-6, "{}", found.welch_p_value);
        assert!((found.standardised - 5.0 / 2.5f64.sqrt()).abs() < 1e-12);
        assert!(found.bootstrap.low > 2.5 && found.bootstrap.high < 7.5, "{:?}", found.bootstrap);
        assert!(found.difference.flags.is_empty());
    }

    #[test]
    fn unequal_variances_cost_degrees_of_freedom() {
        // 1/3 and 100/3: (101/3)² / ((1/3)²/2 + (100/3)²/2) = 2.0400 degrees of freedom.
        let found = compare(&[1.0, 2.0, 3.0], &[0.0, 10.0, 20.0], 0.95);
        let freedom = 101.0f64.powi(2) / (0.5 + 5000.0);
        let half = t_quantile(0.95, freedom) * (101.0f64 / 3.0).sqrt();
        assert!((found.difference.high - 8.0 - half).abs() < 1e-9);
        assert_eq!(found.difference.flags, [Flag::FewRuns]);
        assert!(!found.bootstrap.has_interval());
    }

    #[test]
    fn the_drawn_relabellings_agree_with_all_of_them() {
        // C(18, 9) = 48,620 relabellings are too many to go through; this share of them was counted once.
        let first: Vec<f64> = (0..9).map(f64::from).collect();
        let second: Vec<f64> = (0..9).map(|index| f64::from(index) + 3.5).collect();
        let (mut extreme, mut total) = (0, 0);
        let pooled: Vec<f64> = first.iter().chain(&second).copied().collect();
        let expected = pooled.iter().sum::<f64>() / 2.0;
        let seen = (first.iter().sum::<f64>() - expected).abs();
        each_sum(&pooled, 9, 0.0, &mut |sum| {
            total += 1;
            extreme += u32::from((sum - expected).abs() >= seen - 1e-9);
        });
        assert_eq!(total, 48_620);
        let exact = f64::from(extreme) / f64::from(total);
        let found = compare(&first, &second, 0.95).permutation_p_value;
        assert!((found - exact).abs() < 4.0 * (exact / 10_000.0).sqrt(), "{found} for {exact}");
    }

    #[test]
    fn degenerate_samples_are_flagged() {
        let empty = compare(&[], &[1.0], 0.95);
        assert!(empty.difference.value.is_nan() && empty.difference.flags == [Flag::NoData]);
        assert!(empty.permutation_p_value.is_nan() && empty.welch_p_value.is_nan());
        let alike = compare(&[0.5; 5], &[0.5; 5], 0.95);
        assert_eq!(alike.permutation_p_value, 1.0);
        assert_eq!(alike.difference.flags, [Flag::ZeroVariance]);
        let dropped = compare(&[0.1, f64::NAN], &[0.2, 0.3], 0.95);
        assert_eq!((dropped.difference.runs, dropped.difference.dropped), (3, 1));
        assert!(dropped.difference.flags.contains(&Flag::SingleRun));
    }
}
