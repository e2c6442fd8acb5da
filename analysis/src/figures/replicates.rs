//! One curve of several runs: the line of their mean and their spread around it.
//!
//! Shared by all figures that draw lines with replicates; what the axes are is theirs.

use std::collections::BTreeMap;

use super::scene::{Ink, Scene};
use super::style::Frame;
use crate::statistics::mean;
use crate::statistics::t_quantile;

/// How the spread of the runs is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// A band from the smallest to the largest.
    Range,
    /// A band of the 95 % t interval of the mean.
    Interval,
    /// A thin line per run.
    Runs,
    /// The band of the range and thin lines.
    RangeAndRuns,
    /// Not at all.
    None,
}

impl Spread {
    /// What line and band show of up to `most` runs.
    pub fn phrase(self, most: usize) -> String {
        match (self, most) {
            (_, 0 | 1) => "one run per curve".to_owned(),
            (Spread::Range, _) => format!("line: mean of up to {most} runs; band: smallest to largest"),
            (Spread::Interval, _) => {
                format!("line: mean of up to {most} runs; band: 95 % t interval of the mean")
            }
            (Spread::Runs, _) => format!("thick line: mean of up to {most} runs; thin lines: each run"),
            (Spread::RangeAndRuns, _) => {
                format!(
                    "thick line: mean of up to {most} runs; thin lines: each run; band: smallest to largest"
                )
            }
            (Spread::None, _) => format!("mean of up to {most} runs"),
        }
    }
}

/// A curve of runs over whole numbers.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Its colour.
    pub ink: Ink,
    /// Its dash pattern.
    pub dash: (f64, f64),
    /// The finite values of the runs at each place.
    pub points: BTreeMap<u64, Vec<f64>>,
    /// Places and values of each run.
    pub runs: Vec<Vec<(u64, f64)>>,
    /// Whether only the line of the mean is drawn, whatever the spread.
    pub plain: bool,
}

impl Curve {
    /// The curve of these runs.
    pub fn new(runs: Vec<Vec<(u64, f64)>>, ink: Ink, dash: (f64, f64)) -> Curve {
        let mut points: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for (at, value) in runs.iter().flatten().filter(|(_, value)| value.is_finite()) {
            points.entry(*at).or_default().push(*value);
        }
        Curve { ink, dash, points, runs, plain: false }
    }

    /// Draws it.
    pub fn draw(&self, scene: &mut Scene, frame: &Frame, spread: Spread) {
        let spread = if self.plain { Spread::None } else { spread };
        let mut line = Vec::new();
        let (mut upper, mut lower) = (Vec::new(), Vec::new());
        for (step, values) in &self.points {
            let centre = mean::mean(values);
            line.extend(frame.point(*step as f64, centre));
            let (low, high) = match spread {
                Spread::Interval if values.len() > 1 => {
                    let half = t_quantile(0.95, (values.len() - 1) as f64) * mean::standard_deviation(values)
                        / (values.len() as f64).sqrt();
                    (centre - half, centre + half)
                }
                Spread::Interval => (centre, centre),
                _ => (
                    values.iter().copied().fold(f64::INFINITY, f64::min),
                    values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                ),
            };
            if let (Some(low), Some(high)) =
                (frame.point_within(*step as f64, low), frame.point_within(*step as f64, high))
            {
                lower.push(low);
                upper.push(high);
            }
        }
        if matches!(spread, Spread::Range | Spread::Interval | Spread::RangeAndRuns) && self.runs.len() > 1 {
            lower.reverse();
            upper.extend(lower);
            scene.polygon(upper, self.ink.faded(0.18));
        }
        if matches!(spread, Spread::Runs | Spread::RangeAndRuns) {
            for run in &self.runs {
                let thin = run.iter().filter_map(|(step, value)| frame.point(*step as f64, *value));
                scene.line(thin.collect(), self.ink.faded(0.35), 1.0);
            }
        }
        if let [only] = line.as_slice() {
            scene.disc(*only, 4.0, self.ink);
        }
        scene.dashed(line, self.ink, 2.4, self.dash);
    }
}
