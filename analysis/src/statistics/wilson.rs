//! The Wilson score interval of a share (Wilson 1927).

use super::estimate::{Estimate, Flag, finite_sorted};
use super::z_quantile;

/// The share of `successes` among `runs` with its Wilson interval, which stays inside 0 to 1 and has width even at the
/// ends. No runs: flagged, no number. `successes` above `runs` count as `runs`.
pub fn wilson(successes: usize, runs: usize, confidence: f64) -> Estimate {
    if runs == 0 {
        return Estimate::none(confidence, "Wilson score interval");
    }
    let n = runs as f64;
    let share = successes.min(runs) as f64 / n;
    let z = z_quantile(confidence);
    let scale = 1.0 + z * z / n;
    let centre = (share + z * z / (2.0 * n)) / scale;
    let half = z / scale * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    let mut estimate = Estimate::point(share, confidence, "Wilson score interval", runs);
    // The exact ends at 0 and 1 would otherwise be off by a rounding error.
    estimate.low = if successes == 0 { 0.0 } else { centre - half };
    estimate.high = if successes >= runs { 1.0 } else { centre + half };
    if runs == 1 {
        estimate.flag(Flag::SingleRun);
    } else if runs < super::bootstrap::FEWEST_RUNS {
        estimate.flag(Flag::FewRuns);
    }
    estimate
}

/// The share of runs with a positive value, with its Wilson interval.
pub fn share_above_zero(values: &[f64], confidence: f64) -> Estimate {
    let (sorted, dropped) = finite_sorted(values);
    let mut estimate = wilson(sorted.iter().filter(|value| **value > 0.0).count(), sorted.len(), confidence);
    estimate.dropped = dropped;
    if dropped > 0 {
        estimate.flag(Flag::NonFiniteDropped);
    }
    estimate
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table for n = 10 at 95 %.
    #[test]
    fn ten_runs() {
        let low = [0.0, 0.0179, 0.0567, 0.1078, 0.1682, 0.2366, 0.3127, 0.3968, 0.4902, 0.5958, 0.7225];
        let high = [0.2775, 0.4042, 0.5098, 0.6032, 0.6873, 0.7634, 0.8318, 0.8922, 0.9433, 0.9821, 1.0];
        for (successes, (low, high)) in low.into_iter().zip(high).enumerate() {
            let estimate = wilson(successes, 10, 0.95);
            assert!((estimate.low - low).abs() < 5e-5, "{successes}: {}", estimate.low);
            assert!((estimate.high - high).abs() < 5e-5, "{successes}: {}", estimate.high);
        }
    }

    /// All successes prove a share of at least 90 % only from 35 runs on.
    #[test]
    fn thirty_five_successes_are_needed_for_ninety_percent() {
        assert!(wilson(34, 34, 0.95).low < 0.9);
        assert!(wilson(35, 35, 0.95).low >= 0.9);
    }
}
