//! The tables of the `grokking` analysis. What had not happened when a run was last seen is written `> step`.

use super::{GrokkingGroup, GrokkingTrial, Stable};
use crate::analyses::summary::drop_empty_column;
use crate::number;
use crate::statistics::Estimate;
use crate::table::TextTable;
use crate::transition::{Transition, Verdict};

/// A Kaplan–Meier median: `> horizon` where fewer than half of the runs had the event by then.
fn median(estimate: &Estimate, horizon: f64) -> String {
    match estimate.value {
        value if value.is_infinite() => format!("> {}", number::significant(horizon, 4)),
        value => number::human(value),
    }
}

/// Delays per group, with censoring.
pub fn groups(groups: &[GrokkingGroup]) -> TextTable {
    let columns = [
        "group",
        "runs",
        "grokked",
        "generalised",
        "saturation",
        "first",
        "stable",
        "delay",
        "interval of the delay",
        "censored",
        "ratio",
        "mean log10 ratio",
    ];
    let title = "Delay between saturation and generalisation (median steps by Kaplan–Meier)";
    let mut table = TextTable::new(title, columns);
    for group in groups {
        table.push([
            group.name.clone(),
            group.runs.to_string(),
            group.verdicts.get(Verdict::Grokked.phrase()).copied().unwrap_or(0).to_string(),
            group.generalised.human(),
            median(&group.saturation, group.horizon),
            median(&group.first, group.horizon),
            median(&group.stable, group.horizon),
            median(&group.delay, group.delay_curve.horizon),
            number::human_interval(group.delay.low, group.delay.high),
            format!("{} of {}", group.censored, group.at_risk),
            median(&group.ratio, group.largest_ratio),
            group.log10_ratio.human(),
        ]);
    }
    table
}

/// How many runs got which verdict.
pub fn verdicts(groups: &[GrokkingGroup]) -> TextTable {
    let occurring: Vec<&str> = Verdict::ALL
        .into_iter()
        .map(Verdict::phrase)
        .filter(|phrase| groups.iter().any(|group| group.verdicts.contains_key(phrase)))
        .collect();
    let mut table = TextTable::new("Verdicts", std::iter::once("group").chain(occurring.iter().copied()));
    for group in groups {
        let counts =
            occurring.iter().map(|phrase| group.verdicts.get(phrase).copied().unwrap_or(0).to_string());
        table.push(std::iter::once(group.name.clone()).chain(counts));
    }
    table
}

/// What stopping at the first maximum of A_in would have cost.
pub fn early_stopping(groups: &[GrokkingGroup], train: &str, test: &str) -> TextTable {
    let columns = [
        "group",
        "runs",
        "early stop (median step)",
        "at the early stop",
        "at the end",
        "cost: end − early stop",
    ];
    let title = format!("{test} where {train} is first at its maximum, and at the end (means over runs)");
    let mut table = TextTable::new(title, columns);
    for group in groups {
        table.push([
            group.name.clone(),
            group.early_stopping_cost.runs.to_string(),
            number::human(group.early_stop),
            group.early_stop_value.human(),
            group.final_value.human(),
            group.early_stopping_cost.human(),
        ]);
    }
    table
}

/// Every trial's transitions.
pub fn trials(trials: &[GrokkingTrial], stable: Stable, linear_rule: bool) -> TextTable {
    let columns = [
        "group",
        "seed",
        "verdict",
        "linear rule",
        "T_sat",
        "T_first",
        "T_stable",
        "T_half",
        "T_onset",
        "delay",
        "ratio",
        "gap",
        "± steps",
        "early stop",
        "cost",
        "ending",
    ];
    let mut table = TextTable::new("Each trial (steps)", columns);
    for trial in trials {
        let found = &trial.transition;
        let beyond = |step: Option<u64>| match (step, trial.censored_at) {
            (Some(step), _) => step.to_string(),
            (None, Some(horizon)) => format!("> {horizon}"),
            (None, None) => "–".to_owned(),
        };
        let plain = |step: Option<u64>| step.map_or("–".to_owned(), |step| step.to_string());
        let real = |value: Option<f64>| value.map_or("–".to_owned(), |value| number::significant(value, 3));
        let (delay, ratio) = delays(found, trial.censored_at);
        let linear = |phase: crate::transition::Phase| format!("{} … {}", phase.from, phase.to);
        table.push([
            trial.group.clone(),
            trial.seed.to_string(),
            found.verdict.phrase().to_owned(),
            if linear_rule { found.linear.map_or("–".to_owned(), linear) } else { String::new() },
            beyond(found.saturation),
            beyond(found.first),
            beyond(stable.step(found)),
            beyond(found.half),
            beyond(found.onset),
            delay,
            ratio,
            real(found.gap),
            plain(found.resolution),
            plain(found.early_stop),
            real(found.early_stopping_cost),
            if trial.state == "completed" { String::new() } else { trial.state.to_owned() },
        ]);
    }
    drop_empty_column(&mut table, "linear rule");
    drop_empty_column(&mut table, "ending");
    table
}

/// Delay and ratio of a trial; what is known of them where it had not generalised when last seen.
fn delays(found: &Transition, censored_at: Option<u64>) -> (String, String) {
    match (found.saturation, found.delay, found.delay_ratio, censored_at) {
        (_, Some(delay), Some(ratio), _) => (delay.to_string(), number::significant(ratio, 3)),
        (Some(saturation), _, _, Some(horizon)) => (
            format!("> {}", horizon.saturating_sub(saturation)),
            format!("> {}", number::significant(horizon as f64 / saturation.max(1) as f64, 3)),
        ),
        _ => ("–".to_owned(), "–".to_owned()),
    }
}
