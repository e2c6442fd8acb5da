//! Where a falling curve passes a level: isotonic fit, then interpolation between the two points around it.

use serde::Serialize;

use super::isotonic::non_increasing;

/// Where a non-increasing curve falls through a level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crossing {
    /// At this abscissa.
    At(f64),
    /// Before the first measured abscissa: the curve lies below the level everywhere (left-censored).
    Below(f64),
    /// After the last measured abscissa: the curve never falls below the level (right-censored).
    Above(f64),
    /// There is nothing measured.
    Undefined,
}

impl Crossing {
    /// The abscissa; −∞ or ∞ where censored, NaN where undefined.
    pub fn value(self) -> f64 {
        match self {
            Crossing::At(value) => value,
            Crossing::Below(_) => f64::NEG_INFINITY,
            Crossing::Above(_) => f64::INFINITY,
            Crossing::Undefined => f64::NAN,
        }
    }

    /// `12.6`, `< 5`, `> 150` or a dash.
    pub fn human(self) -> String {
        use crate::number::human;
        match self {
            Crossing::At(value) => human(value),
            Crossing::Below(bound) => format!("< {}", human(bound)),
            Crossing::Above(bound) => format!("> {}", human(bound)),
            Crossing::Undefined => "–".to_owned(),
        }
    }
}

/// Fits `means` (weighted by the number of runs behind each) by a non-increasing sequence and finds where it falls
/// through `level`, interpolating linearly in the abscissa or, with `logarithmic`, in its logarithm. `abscissae` ascend;
/// points whose mean is not finite are skipped.
pub fn crossing(
    abscissae: &[f64],
    means: &[f64],
    weights: &[f64],
    level: f64,
    logarithmic: bool,
) -> Crossing {
    let fit = non_increasing(means, weights);
    let points: Vec<(f64, f64)> =
        abscissae.iter().copied().zip(fit).filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Crossing::Undefined };
    if first.1 < level {
        return Crossing::Below(first.0);
    }
    let around = points.windows(2).find_map(|pair| match pair {
        [before, after] if before.1 >= level && after.1 < level => Some((*before, *after)),
        _ => None,
    });
    let Some((before, after)) = around else { return Crossing::Above(last.0) };
    let share = (before.1 - level) / (before.1 - after.1);
    Crossing::At(if logarithmic && before.0 > 0.0 {
        (before.0.ln() + share * (after.0 / before.0).ln()).exp()
    } else {
        before.0 + share * (after.0 - before.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: [f64; 6] = [5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
    const ACCURACY: [f64; 6] = [0.9981, 0.9344, 0.3913, 0.4256, 0.1856, 0.1644];

    #[test]
    fn exact_values() {
        let at = |logarithmic| crossing(&M, &ACCURACY, &[1.0; 6], 0.8, logarithmic).value();
        assert!((at(false) - 12.555).abs() < 5e-4, "{}", at(false));
        assert!((at(true) - 11.938).abs() < 5e-4, "{}", at(true));
    }

    #[test]
    fn outside_the_measured_range_the_threshold_is_censored() {
        assert_eq!(crossing(&M, &[0.5; 6], &[1.0; 6], 0.8, false), Crossing::Below(5.0));
        assert_eq!(crossing(&M, &[0.9; 6], &[1.0; 6], 0.8, false), Crossing::Above(60.0));
        assert_eq!(crossing(&M, &[f64::NAN; 6], &[1.0; 6], 0.8, false), Crossing::Undefined);
        assert_eq!(crossing(&[], &[], &[], 0.8, false), Crossing::Undefined);
        assert_eq!(crossing(&[7.0], &[0.8], &[1.0], 0.8, false), Crossing::Above(7.0));
    }

    #[test]
    fn a_missing_point_is_skipped() {
        let mut means = ACCURACY;
        means[1] = f64::NAN;
        let value = crossing(&M, &means, &[1.0; 6], 0.8, false).value();
        assert!((value - (5.0 + 15.0 * (0.9981 - 0.8) / (0.9981 - 0.40845))).abs() < 1e-9);
    }
}
