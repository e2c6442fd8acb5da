//! The threshold analysis for people.

use super::ThresholdOutcome;
use crate::analyses::percent;
use crate::analyses::summary::drop_empty_column;
use crate::cells::short_name;
use crate::number;
use crate::statistics::bootstrap::FEWEST_RUNS;
use crate::table::TextTable;

/// One line per threshold.
pub(super) fn thresholds(outcome: &ThresholdOutcome, title: &str, confidence: f64) -> TextTable {
    let names = [outcome.along.as_str(), outcome.by.as_str()];
    let by = if outcome.by.is_empty() { "group" } else { short_name(&outcome.by, &names) };
    let interval = percent(confidence);
    let mut table = TextTable::new(
        title,
        ["cells", by, "threshold", &interval, "runs", "each seed", "method", "remarks"],
    );
    for facet in &outcome.facets {
        for point in &facet.points {
            let seeds: Vec<String> = point.each_seed.iter().map(|value| number::human(*value)).collect();
            table.push([
                facet.name.clone(),
                if outcome.by.is_empty() { "all".to_owned() } else { point.by_text.clone() },
                point.crossing.human(),
                number::human_interval(point.threshold.low, point.threshold.high),
                point.threshold.runs.to_string(),
                if seeds.len() < FEWEST_RUNS { seeds.join("  ") } else { String::new() },
                point.threshold.method.clone(),
                point.threshold.remarks(),
            ]);
        }
    }
    for heading in ["cells", "each seed", "remarks"] {
        drop_empty_column(&mut table, heading);
    }
    table
}

/// The lines and power laws through the thresholds, if there are any.
pub(super) fn lines(outcome: &ThresholdOutcome, confidence: f64) -> Option<TextTable> {
    let interval = percent(confidence);
    let columns = [
        "group",
        "form",
        "slope or exponent",
        &interval,
        "standard error",
        "intercept or factor",
        "points",
        "left out",
        "contains 1",
        "method",
    ];
    let mut table = TextTable::new(format!("Threshold against {}", outcome.by), columns);
    for facet in &outcome.facets {
        for (form, fitted) in [("a + b x", &facet.line), ("c x^γ", &facet.power_law)] {
            let Some(fitted) = fitted else { continue };
            let slope = &fitted.slope;
            let contains_one = match slope.has_interval() {
                true if slope.low <= 1.0 && 1.0 <= slope.high => "yes",
                true => "no",
                false => "–",
            };
            table.push([
                facet.name.clone(),
                form.to_owned(),
                number::human(slope.value),
                number::human_interval(slope.low, slope.high),
                number::significant(fitted.least_squares.slope_error, 2),
                number::human(fitted.intercept.value),
                fitted.least_squares.points.to_string(),
                fitted.left_out.to_string(),
                contains_one.to_owned(),
                slope.method.clone(),
            ]);
        }
    }
    drop_empty_column(&mut table, "group");
    (!table.rows.is_empty()).then_some(table)
}
