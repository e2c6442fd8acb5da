//! The bootstrap over seeds (Efron 1979): resample runs within each cell, redo the whole computation, take percentiles.
//!
//! Every resample draws from its own named random stream, so an interval is the same number on every machine and in
//! every order of computation. With S seeds there are only C(2S−1, S) distinct resamples (10 for S = 3, 126 for S = 5):
//! below [`FEWEST_RUNS`] runs callers give a t interval instead and print the raw values.

use plateau_common::random::StreamFamily;

use super::estimate::{Estimate, Flag, describe, finite_sorted};
use super::mean::mean;

/// Resamples of every bootstrap interval.
pub const RESAMPLES: usize = 2000;

/// Runs below which a bootstrap interval is not given.
pub const FEWEST_RUNS: usize = 5;

/// Calls `visit` once per resample with, for each stratum, the indices drawn with replacement from `0..sizes[stratum]`.
/// Streams are named by `purpose` and numbered by the resample.
pub fn resample(sizes: &[usize], resamples: usize, purpose: &str, mut visit: impl FnMut(&[Vec<usize>])) {
    let family = StreamFamily::new(0, purpose);
    let mut drawn: Vec<Vec<usize>> = sizes.iter().map(|size| vec![0; *size]).collect();
    for number in 0..resamples {
        let mut stream = family.at(number as u64);
        for stratum in &mut drawn {
            let size = stratum.len() as u32;
            for index in stratum.iter_mut() {
                *index = stream.below(size) as usize;
            }
        }
        visit(&drawn);
    }
}

/// The percentile interval of resampled statistics at `confidence`. NaN entries are failed resamples and left out;
/// infinite ones are censored and may make an end infinite. `None` if nothing is left.
pub fn percentile_interval(statistics: &[f64], confidence: f64) -> Option<(f64, f64)> {
    let mut sorted: Vec<f64> = statistics.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    Some((quantile(&sorted, tail)?, quantile(&sorted, 1.0 - tail)?))
}

/// The quantile of ascending values by linear interpolation between order statistics (Hyndman and Fan's type 7). Between
/// a finite and an infinite value it is the infinite one: the interval stays open rather than inventing a number.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get((place.ceil() as usize).min(last))?;
    let fraction = place - place.floor();
    Some(if fraction == 0.0 || below == above || below.is_infinite() {
        below
    } else if above.is_infinite() {
        above
    } else {
        below + fraction * (above - below)
    })
}

/// Puts the percentile interval of `statistics` into `estimate`, flagging open ends and failed resamples.
pub fn set_interval(estimate: &mut Estimate, statistics: &[f64]) {
    let failed = statistics.iter().filter(|value| value.is_nan()).count();
    if failed > 0 {
        estimate.failed_resamples = failed;
        estimate.flag(Flag::FailedResamples);
    }
    if let Some((low, high)) = percentile_interval(statistics, estimate.confidence) {
        (estimate.low, estimate.high) = (low, high);
        if low.is_infinite() || high.is_infinite() {
            estimate.flag(Flag::OpenInterval);
        }
    }
}

/// Means of resamples of `values`, drawn from streams numbered by `sample`.
pub fn resampled_means(values: &[f64], resamples: usize, sample: u64) -> Vec<f64> {
    let mut means = Vec::with_capacity(resamples);
    resample(&[values.len()], resamples, &format!("bootstrap/mean/{sample}"), |drawn| {
        let total: f64 = drawn.iter().flatten().filter_map(|index| values.get(*index)).sum();
        means.push(total / values.len() as f64);
    });
    means
}

/// The mean of one value per run with its percentile bootstrap interval; no interval below [`FEWEST_RUNS`] runs.
pub fn mean_interval(values: &[f64], confidence: f64) -> Estimate {
    let (sorted, dropped) = finite_sorted(values);
    let method = format!("percentile bootstrap of the mean ({RESAMPLES} resamples)");
    let mut estimate = describe(mean(&sorted), &sorted, dropped, confidence, &method);
    if sorted.len() >= FEWEST_RUNS {
        set_interval(&mut estimate, &resampled_means(&sorted, RESAMPLES, 0));
    }
    estimate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_and_stay_open_next_to_infinity() {
        let sorted = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(quantile(&sorted, 0.5), Some(3.0));
        assert_eq!(quantile(&sorted, 0.1), Some(1.4));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1.0, f64::INFINITY], 0.5), Some(f64::INFINITY));
        assert_eq!(quantile(&[f64::NEG_INFINITY, 1.0], 0.5), Some(f64::NEG_INFINITY));
    }

    #[test]
    fn strata_are_resampled_within_their_own_size_and_reproducibly() {
        let collect = || {
            let mut all = Vec::new();
            resample(&[3, 0, 7], 50, "test", |drawn| {
                assert_eq!(drawn.iter().map(Vec::len).collect::<Vec<_>>(), [3, 0, 7]);
                assert!(drawn[0].iter().all(|index| *index < 3) && drawn[2].iter().all(|index| *index < 7));
                all.push(drawn.to_vec());
            });
            all
        };
        let once = collect();
        assert_eq!(once, collect());
        assert!(once.windows(2).any(|pair| pair[0] != pair[1]), "every resample draws anew");
    }

    #[test]
    fn the_interval_of_a_large_sample_is_close_to_the_normal_one() {
        let values: Vec<f64> = (0..400).map(|index| f64::from(index % 20)).collect();
        let estimate = mean_interval(&values, 0.95);
        let half = 1.96 * (399.0f64 / 12.0 / 400.0).sqrt();
        assert!((estimate.value - 9.5).abs() < 1e-12);
        assert!((estimate.high - 9.5 - half).abs() < 0.06 && (9.5 - estimate.low - half).abs() < 0.06);
    }
}
