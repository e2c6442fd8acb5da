//! Statistics of replicates: one method per file, listed in [`STATISTICS`].
//!
//! The contract every method keeps (checked for each entry by one conformance test):
//! - the seed-level run is the unit: a value stands for one run;
//! - values that are not finite are left out and counted, never averaged silently;
//! - inputs that are empty, all NaN, of a single run or without variance give an estimate whose [`Flag`]s say so; a
//!   number that does not exist is NaN *and* flagged; nothing panics;
//! - the order of runs changes nothing but rounding;
//! - an interval says its method, its confidence and how many runs it stands on.
//!
//! Not here: which trials enter (see `cells`), and what a threshold or a transition is (see `analyses`, `transition`).

pub mod bootstrap;
pub mod estimate;
pub mod fisher;
pub mod holm;
pub mod iqm;
pub mod isotonic;
pub mod kaplan_meier;
pub mod line;
pub mod log_rank;
pub mod mean;
pub mod threshold;
pub mod two_samples;
pub mod wilson;

pub use estimate::{Estimate, Flag};

/// A statistic of one sample of runs, by name.
pub struct Statistic {
    /// Name as it appears in tables and files.
    pub name: &'static str,
    /// Computes it from one value per run at the given confidence (0 to 1).
    pub compute: fn(values: &[f64], confidence: f64) -> Estimate,
}

/// All statistics of one sample. Adding one: a file here and a line in this list.
pub const STATISTICS: &[Statistic] = &[
    Statistic { name: "mean (t)", compute: mean::t_interval },
    Statistic { name: "mean (bootstrap)", compute: bootstrap::mean_interval },
    Statistic { name: "interquartile mean", compute: iqm::interval },
    Statistic { name: "share above zero (Wilson)", compute: wilson::share_above_zero },
];

/// The two-sided quantile of Student's t distribution: `t` with probability `confidence` between `-t` and `t`.
/// NaN for less than one degree of freedom.
pub fn t_quantile(confidence: f64, freedom: f64) -> f64 {
    use statrs::distribution::{ContinuousCDF, StudentsT};
    match StudentsT::new(0.0, 1.0, freedom) {
        Ok(distribution) if freedom >= 1.0 => distribution.inverse_cdf(0.5 + confidence / 2.0),
        _ => f64::NAN,
    }
}

/// The two-sided quantile of the normal distribution (1.959964 at 0.95).
pub fn z_quantile(confidence: f64) -> f64 {
    use statrs::distribution::{ContinuousCDF, Normal};
    Normal::standard().inverse_cdf(0.5 + confidence / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statistic_keeps_the_contract() {
        let nan = f64::NAN;
        for statistic in STATISTICS {
            let name = statistic.name;
            let flagged = |values: &[f64]| {
                let estimate = (statistic.compute)(values, 0.95);
                assert!(!estimate.flags.is_empty(), "{name} on {values:?}: {estimate:?}");
                if estimate.value.is_nan() {
                    assert!(estimate.flags.contains(&Flag::NoData), "{name} on {values:?}: {estimate:?}");
                }
                estimate
            };
            assert_eq!(flagged(&[]).runs, 0);
            assert_eq!(flagged(&[nan, nan]).dropped, 2);
            assert_eq!(flagged(&[0.5]).runs, 1);
            let constant = flagged(&[0.5, 0.5, 0.5]);
            assert!(constant.value.is_finite());
            let some = flagged(&[0.2, nan, 0.4, f64::INFINITY, 0.9]);
            assert_eq!((some.runs, some.dropped), (3, 2));

            let forward: Vec<f64> = (0..12).map(|index| f64::from(index) * 0.3 - 1.0).collect();
            let backward: Vec<f64> = forward.iter().rev().copied().collect();
            let (one, other) = ((statistic.compute)(&forward, 0.95), (statistic.compute)(&backward, 0.95));
            assert!((one.value - other.value).abs() < 1e-12, "{name}");
            assert!((one.low - other.low).abs() < 1e-12 && (one.high - other.high).abs() < 1e-12, "{name}");
            assert!(one.low <= one.value && one.value <= one.high, "{name}: {one:?}");
            assert!(!one.method.is_empty());
        }
    }

    #[test]
    fn quantiles() {
        assert!((z_quantile(0.95) - 1.959_964).abs() < 1e-6);
        assert!((t_quantile(0.95, 4.0) - 2.776_445).abs() < 1e-5);
        assert!(t_quantile(0.95, 0.0).is_nan());
    }
}
