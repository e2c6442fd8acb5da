//! The interquartile mean: the 25 % trimmed mean (Agarwal et al. 2021, arXiv 2108.13264).

use super::bootstrap::{FEWEST_RUNS, RESAMPLES, resample, set_interval};
use super::estimate::{Estimate, describe, finite_sorted};
use super::mean::mean;

/// Sorts, drops ⌊n/4⌋ values from each end, averages the rest; NaN of nothing. All values must be finite.
pub fn interquartile_mean(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let trim = sorted.len() / 4;
    mean(sorted.get(trim..sorted.len() - trim).unwrap_or_default())
}

/// The interquartile mean of one value per run with its bootstrap interval; no interval below five runs.
pub fn interval(values: &[f64], confidence: f64) -> Estimate {
    let (sorted, dropped) = finite_sorted(values);
    let method = format!("percentile bootstrap of the interquartile mean ({RESAMPLES} resamples)");
    let mut estimate = describe(interquartile_mean(&sorted), &sorted, dropped, confidence, &method);
    if sorted.len() >= FEWEST_RUNS {
        let mut statistics = Vec::with_capacity(RESAMPLES);
        let mut drawn_values = Vec::with_capacity(sorted.len());
        resample(&[sorted.len()], RESAMPLES, "bootstrap/interquartile-mean", |drawn| {
            drawn_values.clear();
            drawn_values.extend(drawn.iter().flatten().filter_map(|index| sorted.get(*index)));
            statistics.push(interquartile_mean(&drawn_values));
        });
        set_interval(&mut estimate, &statistics);
    }
    estimate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_values() {
        let to = |last: u32| (1..=last).map(f64::from).collect::<Vec<f64>>();
        assert_eq!(interquartile_mean(&to(10)), 5.5);
        assert_eq!(interquartile_mean(&to(12)), 6.5);
        assert_eq!(interquartile_mean(&[0.0, 7.0, 8.0, 900.0]), 7.5);
    }
}
