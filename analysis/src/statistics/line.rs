//! A straight line by (weighted) least squares, with standard errors.

use serde::Serialize;

use super::t_quantile;
use crate::number;

/// The line `intercept + slope · x`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Change of y per unit of x.
    #[serde(serialize_with = "number::serialize")]
    pub slope: f64,
    /// Value at x = 0.
    #[serde(serialize_with = "number::serialize")]
    pub intercept: f64,
    /// Standard error of the slope; NaN with two points, which leave no residual.
    #[serde(serialize_with = "number::serialize")]
    pub slope_error: f64,
    /// Standard error of the intercept, likewise.
    #[serde(serialize_with = "number::serialize")]
    pub intercept_error: f64,
    /// Points used.
    pub points: usize,
}

impl Line {
    /// The t interval of the slope on n − 2 degrees of freedom; NaN ends with fewer than three points.
    pub fn slope_interval(&self, confidence: f64) -> (f64, f64) {
        let half = t_quantile(confidence, self.points as f64 - 2.0) * self.slope_error;
        (self.slope - half, self.slope + half)
    }
}

/// Least squares through the points with finite coordinates and positive weight; `None` with fewer than two distinct
/// abscissae. Equal weights give ordinary least squares.
pub fn fit(x: &[f64], y: &[f64], weights: &[f64]) -> Option<Line> {
    let points: Vec<(f64, f64, f64)> = x
        .iter()
        .zip(y)
        .zip(weights)
        .map(|((x, y), weight)| (*x, *y, *weight))
        .filter(|(x, y, weight)| x.is_finite() && y.is_finite() && weight.is_finite() && *weight > 0.0)
        .collect();
    let total: f64 = points.iter().map(|(_, _, weight)| weight).sum();
    let centre_x = points.iter().map(|(x, _, weight)| weight * x).sum::<f64>() / total;
    let centre_y = points.iter().map(|(_, y, weight)| weight * y).sum::<f64>() / total;
    let spread: f64 = points.iter().map(|(x, _, weight)| weight * (x - centre_x).powi(2)).sum();
    if points.len() < 2 || spread.is_nan() || spread <= 0.0 {
        return None;
    }
    let slope =
        points.iter().map(|(x, y, weight)| weight * (x - centre_x) * (y - centre_y)).sum::<f64>() / spread;
    let intercept = centre_y - slope * centre_x;
    let (slope_error, intercept_error) = if points.len() > 2 {
        let residual: f64 =
            points.iter().map(|(x, y, weight)| weight * (y - intercept - slope * x).powi(2)).sum();
        let variance = residual / (points.len() - 2) as f64;
        ((variance / spread).sqrt(), (variance * (1.0 / total + centre_x * centre_x / spread)).sqrt())
    } else {
        (f64::NAN, f64::NAN)
    };
    Some(Line { slope, intercept, slope_error, intercept_error, points: points.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: [f64; 4] = [4.0, 8.0, 16.0, 32.0];
    const THRESHOLD: [f64; 4] = [6.1, 11.6, 23.0, 44.4];

    #[test]
    fn exact_values() {
        let line = fit(&WIDTH, &THRESHOLD, &[1.0; 4]).expect("four points");
        assert!((line.slope - 1.3685).abs() < 5e-5, "{line:?}");
        assert!((line.intercept - 0.748).abs() < 5e-4, "{line:?}");
        assert!((line.slope_error - 0.0136).abs() < 5e-5, "{line:?}");

        let logarithm = |values: &[f64]| values.iter().map(|value| value.ln()).collect::<Vec<f64>>();
        let power = fit(&logarithm(&WIDTH), &logarithm(&THRESHOLD), &[1.0; 4]).expect("four points");
        assert!((power.slope - 0.958).abs() < 5e-4, "{power:?}");
        assert!((power.slope_error - 0.008).abs() < 5e-4, "{power:?}");
        assert!((power.intercept.exp() - 1.605).abs() < 5e-4, "{power:?}");
    }

    #[test]
    fn weights_count_as_repeated_points_for_the_line_itself() {
        let weighted = fit(&[0.0, 1.0, 2.0], &[0.0, 1.0, 5.0], &[1.0, 2.0, 1.0]).expect("three points");
        let repeated = fit(&[0.0, 1.0, 1.0, 2.0], &[0.0, 1.0, 1.0, 5.0], &[1.0; 4]).expect("four points");
        assert!((weighted.slope - repeated.slope).abs() < 1e-12);
        assert!((weighted.intercept - repeated.intercept).abs() < 1e-12);
    }

    #[test]
    fn degenerate_inputs_give_no_line_and_two_points_no_error() {
        assert_eq!(fit(&[], &[], &[]), None);
        assert_eq!(fit(&[1.0, 1.0], &[1.0, 2.0], &[1.0; 2]), None);
        assert_eq!(fit(&[1.0, 2.0], &[f64::INFINITY, 2.0], &[1.0; 2]), None);
        let line = fit(&[1.0, 2.0], &[1.0, 3.0], &[1.0; 2]).expect("two points");
        assert_eq!((line.slope, line.intercept), (2.0, -1.0));
        assert!(line.slope_error.is_nan() && line.slope_interval(0.95).0.is_nan());
    }
}
