//! Numbers as they are written: for machines without losing infinities, for people without noise.
//!
//! JSON has no infinity and no NaN, and `null` would say less than was measured, so non-finite numbers become the
//! strings `"inf"`, `"-inf"` and `"nan"`.

use serde::{Serialize, Serializer};
use serde_json::Value;

/// Serialises a number; non-finite ones as strings. For `#[serde(serialize_with)]`.
pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match word(*value) {
        Some(word) => serializer.serialize_str(word),
        None => serializer.serialize_f64(*value),
    }
}

/// Serialises a list of numbers as [`serialize`] does one.
pub fn serialize_list<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|value| Exact(*value)))
}

/// A number that serialises like [`serialize`].
pub struct Exact(
    /// The number.
    pub f64,
);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

/// The number as JSON.
pub fn json(value: f64) -> Value {
    match word(value) {
        Some(word) => Value::from(word),
        None => Value::from(value),
    }
}

fn word(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("nan")
    } else if value == f64::INFINITY {
        Some("inf")
    } else if value == f64::NEG_INFINITY {
        Some("-inf")
    } else {
        None
    }
}

/// The number for people: four significant digits, whole numbers in full, very large and small ones with an exponent.
/// NaN is a dash.
pub fn human(value: f64) -> String {
    significant(value, 4)
}

/// As [`human`] with another number of significant digits.
pub fn significant(value: f64, digits: usize) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "∞" } else { "−∞" }.to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs();
    if value.fract() == 0.0 && magnitude < 1e7 {
        return minus(format!("{value}"));
    }
    let exponent = magnitude.log10().floor() as i32;
    if !(-4..7).contains(&exponent) {
        let text = format!("{:.*e}", digits.saturating_sub(1), value);
        let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
        return minus(format!("{}e{power}", trim(mantissa)));
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    minus(trim(&format!("{value:.decimals$}")).to_owned())
}

/// `low … high` for people; a dash where there is no interval, or none that says anything (∞ … ∞).
pub fn human_interval(low: f64, high: f64) -> String {
    if low.is_nan() || high.is_nan() || (low == high && low.is_infinite()) {
        return "–".to_owned();
    }
    format!("{} … {}", human(low), human(high))
}

/// A tick label: 1000 as `1k`, 2500000 as `2.5M`.
pub fn compact(value: f64) -> String {
    let magnitude = value.abs();
    for (unit, letter) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if magnitude >= unit * 0.999_999 && magnitude < unit * 1e3 {
            return format!("{}{letter}", significant(value / unit, 4));
        }
    }
    significant(value, 4)
}

fn trim(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

fn minus(text: String) -> String {
    text.replace('-', "−").replace("e−", "e-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_finite_numbers_become_words_and_never_null() {
        assert_eq!(json(f64::INFINITY), Value::from("inf"));
        assert_eq!(json(f64::NEG_INFINITY), Value::from("-inf"));
        assert_eq!(json(f64::NAN), Value::from("nan"));
        assert_eq!(json(0.5), Value::from(0.5));
    }

    #[test]
    fn numbers_for_people() {
        let cases = [
            (0.0, "0"),
            (1.0, "1"),
            (0.993_612_3, "0.9936"),
            (12.5551, "12.56"),
            (100_000.0, "100000"),
            (1e-4, "0.0001"),
            (8.54e-5, "8.54e-5"),
            (-2.5, "−2.5"),
            (f64::NAN, "–"),
            (f64::INFINITY, "∞"),
        ];
        for (value, text) in cases {
            assert_eq!(human(value), text, "{value}");
        }
        let ticks = [(1000.0, "1k"), (10_000.0, "10k"), (2_500_000.0, "2.5M"), (0.1, "0.1"), (20.0, "20")];
        for (value, text) in ticks {
            assert_eq!(compact(value), text);
        }
    }
}
