//! Axes: from data values to places along an axis, and the ticks on it.

use crate::number::compact;

/// The share of a logarithmic axis that separates 0 from the first positive value.
const ZERO_SHARE: f64 = 0.07;

/// Maps values to 0 (start of the axis) … 1 (its end).
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// Equal distances for equal differences.
    Linear {
        /// Value at the start.
        low: f64,
        /// Value at the end.
        high: f64,
    },
    /// Equal distances for equal differences of whole numbers, which alone get ticks.
    Whole {
        /// Value at the start.
        low: f64,
        /// Value at the end.
        high: f64,
    },
    /// Equal distances for equal ratios. With `zero`, the value 0 has a place of its own at the start, before a break.
    Logarithmic {
        /// Smallest positive value shown.
        low: f64,
        /// Value at the end.
        high: f64,
        /// Whether 0 is shown.
        zero: bool,
    },
    /// Named places, evenly spaced; those without a name have no tick.
    Categories(
        /// The names.
        Vec<String>,
    ),
}

/// A tick: its place from 0 to 1 and its label; minor ticks have an empty label.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Place along the axis.
    pub place: f64,
    /// Label, empty for minor ticks.
    pub label: String,
}

impl Scale {
    /// A linear axis that holds all finite `values` with some room, and begins at 0 if they nearly do.
    pub fn linear(values: impl IntoIterator<Item = f64>) -> Scale {
        let (low, high) = range(values.into_iter().filter(|value| value.is_finite())).unwrap_or((0.0, 1.0));
        let room = if high > low { 0.06 * (high - low) } else { 0.5 * high.abs().max(1.0) };
        let near_zero = low >= 0.0 && low < 0.35 * high;
        Scale::Linear { low: if near_zero { 0.0 } else { low - room }, high: high + room }
    }

    /// A logarithmic axis that holds all positive `values`; with `zero` where one of them is 0 and `show_zero`.
    pub fn logarithmic(values: impl IntoIterator<Item = f64>, show_zero: bool) -> Scale {
        let values: Vec<f64> =
            values.into_iter().filter(|value| value.is_finite() && *value >= 0.0).collect();
        let zero = show_zero && values.contains(&0.0);
        let (low, high) = range(values.into_iter().filter(|value| *value > 0.0)).unwrap_or((1.0, 10.0));
        if low == high {
            return Scale::Logarithmic { low: low / 2.0, high: high * 2.0, zero };
        }
        Scale::Logarithmic { low, high, zero }
    }

    /// A logarithmic axis with some room at both ends.
    pub fn logarithmic_with_room(values: impl IntoIterator<Item = f64>) -> Scale {
        match Scale::logarithmic(values, false) {
            Scale::Logarithmic { low, high, zero } => {
                let room = (high / low).powf(0.08).max(1.05);
                Scale::Logarithmic { low: low / room, high: high * room, zero }
            }
            other => other,
        }
    }

    /// The place of a value, `None` where the axis does not show it. For categories the value is the index.
    pub fn place(&self, value: f64) -> Option<f64> {
        let place = match self {
            Scale::Linear { low, high } | Scale::Whole { low, high } => (value - low) / (high - low),
            Scale::Logarithmic { zero: true, .. } if value == 0.0 => 0.0,
            Scale::Logarithmic { low, high, zero } => {
                let share = (value / low).ln() / (high / low).ln();
                if *zero { ZERO_SHARE + (1.0 - ZERO_SHARE) * share } else { share }
            }
            Scale::Categories(names) => (value + 0.5) / names.len().max(1) as f64,
        };
        (place.is_finite() && (-1e-9..=1.0 + 1e-9).contains(&place)).then_some(place)
    }

    /// The place of a value, held inside the axis; infinite values at its ends, NaN nowhere.
    pub fn place_within(&self, value: f64) -> Option<f64> {
        if value.is_nan() {
            return None;
        }
        let (low, high) = match self {
            Scale::Linear { low, high } | Scale::Whole { low, high } => (*low, *high),
            Scale::Logarithmic { low, high, zero } => (if *zero { 0.0 } else { *low }, *high),
            Scale::Categories(names) => (0.0, names.len() as f64 - 1.0),
        };
        self.place(value.clamp(low.min(high), high.max(low)))
    }

    /// Where the break between 0 and the first positive value lies, if there is one.
    pub fn break_at(&self) -> Option<f64> {
        matches!(self, Scale::Logarithmic { zero: true, .. }).then_some(ZERO_SHARE / 2.0)
    }

    /// The ticks of an axis with room for about `count` labels.
    pub fn ticks(&self, count: usize) -> Vec<Tick> {
        let mut ticks = Vec::new();
        let mut add = |value: f64, label: String| {
            if let Some(place) = self.place(value) {
                ticks.push(Tick { place, label });
            }
        };
        match self {
            Scale::Linear { low, high } => {
                for value in nice(*low, *high, count) {
                    add(value, compact(value));
                }
            }
            Scale::Whole { low, high } => {
                for value in nice(*low, *high, count.min((high - low) as usize)) {
                    if value.fract() == 0.0 {
                        add(value, compact(value));
                    }
                }
            }
            Scale::Logarithmic { low, high, zero } => {
                if *zero {
                    add(0.0, "0".to_owned());
                }
                for (value, labelled) in decades(*low, *high, count) {
                    add(value, if labelled { compact(value) } else { String::new() });
                }
            }
            Scale::Categories(names) => {
                for (index, name) in names.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                    add(index as f64, name.clone());
                }
            }
        }
        ticks
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range: Option<(f64, f64)>, value| {
        Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
    })
}

/// Multiples of 1, 2 or 5 times a power of ten between `low` and `high`, about `count` of them.
fn nice(low: f64, high: f64, count: usize) -> Vec<f64> {
    let raw = (high - low) / count.max(2) as f64;
    if raw.is_nan() || raw <= 0.0 {
        return Vec::new();
    }
    let power = 10f64.powf(raw.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= raw * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    // Division by the inverse keeps 0.3 from becoming 0.30000000000000004.
    let inverse = (1.0 / step).round();
    (first..=last)
        .map(|multiple| if step < 1.0 { multiple as f64 / inverse } else { multiple as f64 * step })
        .collect()
}

/// Ticks of a logarithmic axis and whether they are labelled.
fn decades(low: f64, high: f64, count: usize) -> Vec<(f64, bool)> {
    let span = (high / low).log10();
    if span < 0.7 {
        return nice(low, high, count)
            .into_iter()
            .filter(|value| *value > 0.0)
            .map(|value| (value, true))
            .collect();
    }
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let every = ((f64::from(last - first)) / count.max(1) as f64).ceil().max(1.0) as i32;
    let labelled: &[u32] = if span < 1.4 {
        &[1, 2, 5]
    } else if span < 2.6 && count > 5 {
        &[1, 3]
    } else {
        &[1]
    };
    (first..=last)
        .flat_map(|exponent| {
            (1..10u32).map(move |digit| {
                let value = f64::from(digit) * 10f64.powi(exponent);
                (value, labelled.contains(&digit) && (digit > 1 || exponent.rem_euclid(every) == 0))
            })
        })
        .filter(|(value, labelled)| {
            *value >= low * 0.999 && *value <= high * 1.001 && (*labelled || every == 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale, count: usize) -> Vec<String> {
        scale.ticks(count).into_iter().map(|tick| tick.label).filter(|label| !label.is_empty()).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(&Scale::Linear { low: 0.0, high: 1.0 }, 5), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        let steps = Scale::logarithmic([0.0, 10.0, 100_000.0], true);
        assert_eq!(labels(&steps, 6), ["0", "10", "100", "1k", "10k", "100k"]);
        assert_eq!(labels(&Scale::logarithmic([8.0, 64.0], false), 6), ["10", "20", "50"]);
        assert_eq!(labels(&Scale::Linear { low: -1e4, high: 1e4 }, 4), ["−10k", "−5k", "0", "5k", "10k"]);
    }

    #[test]
    fn whole_numbers_have_no_ticks_between_them() {
        assert_eq!(labels(&Scale::Whole { low: 1.0, high: 4.0 }, 12), ["1", "2", "3", "4"]);
        assert_eq!(labels(&Scale::Whole { low: 1.0, high: 2.0 }, 12), ["1", "2"]);
        assert_eq!(labels(&Scale::Whole { low: 0.0, high: 100.0 }, 5), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(Scale::Whole { low: 0.0, high: 10.0 }.place(5.0), Some(0.5));
    }

    #[test]
    fn zero_has_a_place_before_the_first_positive_value() {
        let scale = Scale::logarithmic([0.0, 10.0, 1000.0], true);
        assert_eq!(scale.place(0.0), Some(0.0));
        assert_eq!(scale.place(10.0), Some(ZERO_SHARE));
        assert!((scale.place(1000.0).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(scale.place(-1.0), None);
        assert_eq!(Scale::logarithmic([10.0, 1000.0], false).place(0.0), None);
    }

    #[test]
    fn degenerate_values_still_give_an_axis() {
        for scale in
            [Scale::linear([]), Scale::linear([f64::NAN]), Scale::linear([3.0]), Scale::linear([0.0])]
        {
            assert!(!labels(&scale, 5).is_empty(), "{scale:?}");
        }
        for scale in
            [Scale::logarithmic([], true), Scale::logarithmic([7.0], true), Scale::logarithmic([0.0], true)]
        {
            assert!(!labels(&scale, 5).is_empty(), "{scale:?}");
        }
        assert_eq!(
            Scale::linear([0.0, 1.0]).place_within(f64::INFINITY).map(|place| place > 0.99),
            Some(true)
        );
        assert_eq!(Scale::linear([0.0, 1.0]).place_within(f64::NAN), None);
    }
}
