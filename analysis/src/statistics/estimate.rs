//! What every statistic returns: a number, its interval, how it was made and what is wrong with it.

use serde::Serialize;

use crate::number;

/// What a reader must know before believing an estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flag {
    /// No usable value: the estimate does not exist.
    NoData,
    /// One run: there is no measure of spread.
    SingleRun,
    /// Fewer than five runs: the interval rests on very little.
    FewRuns,
    /// All values are equal: the interval has no width, which is not certainty.
    ZeroVariance,
    /// Values that were not finite were left out.
    NonFiniteDropped,
    /// The true value lies below the smallest measured point.
    LeftCensored,
    /// The true value lies above the largest measured point.
    RightCensored,
    /// The interval is open on a side, because resamples were censored there.
    OpenInterval,
    /// Some resamples gave no estimate.
    FailedResamples,
}

impl Flag {
    /// The flag as a phrase for tables.
    pub fn phrase(self) -> &'static str {
        match self {
            Flag::NoData => "no data",
            Flag::SingleRun => "single run",
            Flag::FewRuns => "fewer than 5 runs",
            Flag::ZeroVariance => "no variance",
            Flag::NonFiniteDropped => "non-finite values left out",
            Flag::LeftCensored => "below the measured range",
            Flag::RightCensored => "above the measured range",
            Flag::OpenInterval => "open interval",
            Flag::FailedResamples => "some resamples failed",
        }
    }
}

/// A point estimate with its interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The estimate; NaN (with [`Flag::NoData`]) where it does not exist, infinite where it is censored.
    #[serde(serialize_with = "number::serialize")]
    pub value: f64,
    /// Lower end; NaN where there is no interval, infinite where it is open.
    #[serde(serialize_with = "number::serialize")]
    pub low: f64,
    /// Upper end, likewise.
    #[serde(serialize_with = "number::serialize")]
    pub high: f64,
    /// Confidence of the interval, 0 to 1.
    pub confidence: f64,
    /// How the interval was made.
    pub method: String,
    /// Runs used.
    pub runs: usize,
    /// Runs whose value was not finite and left out.
    pub dropped: usize,
    /// Resamples that gave no estimate and were left out of the interval.
    pub failed_resamples: usize,
    /// What to know before believing it.
    pub flags: Vec<Flag>,
}

impl Estimate {
    /// An estimate without an interval and without flags.
    pub fn point(value: f64, confidence: f64, method: impl Into<String>, runs: usize) -> Self {
        Estimate {
            value,
            low: f64::NAN,
            high: f64::NAN,
            confidence,
            method: method.into(),
            runs,
            dropped: 0,
            failed_resamples: 0,
            flags: Vec::new(),
        }
    }

    /// The estimate that does not exist.
    pub fn none(confidence: f64, method: impl Into<String>) -> Self {
        let mut estimate = Estimate::point(f64::NAN, confidence, method, 0);
        estimate.flag(Flag::NoData);
        estimate
    }

    /// Adds a flag once.
    pub fn flag(&mut self, flag: Flag) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
            self.flags.sort_unstable();
        }
    }

    /// Whether both ends of the interval exist.
    pub fn has_interval(&self) -> bool {
        !self.low.is_nan() && !self.high.is_nan()
    }

    /// `0.93 [0.91 … 0.95]` for people; without interval just the number.
    pub fn human(&self) -> String {
        if self.has_interval() {
            format!("{} [{}]", number::human(self.value), number::human_interval(self.low, self.high))
        } else {
            number::human(self.value)
        }
    }

    /// All flags as one phrase, empty when there are none.
    pub fn remarks(&self) -> String {
        self.flags.iter().map(|flag| flag.phrase()).collect::<Vec<_>>().join(", ")
    }
}

/// The finite values in ascending order (so that sums do not depend on the order of runs) and how many were left out.
pub fn finite_sorted(values: &[f64]) -> (Vec<f64>, usize) {
    let mut finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    finite.sort_by(f64::total_cmp);
    let dropped = values.len() - finite.len();
    (finite, dropped)
}

/// Starts an estimate for a sample: the flags that follow from its size, its spread and its non-finite values.
pub fn describe(value: f64, sorted: &[f64], dropped: usize, confidence: f64, method: &str) -> Estimate {
    let mut estimate = Estimate::point(value, confidence, method, sorted.len());
    estimate.dropped = dropped;
    if dropped > 0 {
        estimate.flag(Flag::NonFiniteDropped);
    }
    match sorted.len() {
        0 => estimate.flag(Flag::NoData),
        1 => estimate.flag(Flag::SingleRun),
        count => {
            if count < super::bootstrap::FEWEST_RUNS {
                estimate.flag(Flag::FewRuns);
            }
            if sorted.first() == sorted.last() {
                estimate.flag(Flag::ZeroVariance);
            }
        }
    }
    estimate
}
