//! Which trials an analysis counts, and how: the rules are the same everywhere and every exception becomes a caveat.
//!
//! - Statistics of final values use trials that left a result: completed and diverged ones. A diverged trial enters with
//!   its last finite evaluation.
//! - Survival uses every trial with at least one evaluation: a diverged one is event-free up to its full budget (it will
//!   never reach the event), one that was stopped or crashed or still runs is censored at its last step.
//! - Nothing is dropped silently.

use std::collections::BTreeSet;

use plateau_common::results::TrialRecord;
use plateau_common::trial::TrialState;

use crate::cells::Dataset;
use crate::statistics::bootstrap::FEWEST_RUNS;
use crate::statistics::kaplan_meier::Observation;

/// The trials that left a result.
pub fn ended<'a>(trials: &[&'a TrialRecord]) -> Vec<&'a TrialRecord> {
    trials.iter().copied().filter(|trial| trial.state.has_result()).collect()
}

/// A metric at a trial's last evaluation (for a diverged trial the last finite one); NaN where it was not measured.
pub fn final_value(trial: &TrialRecord, metric: &str) -> f64 {
    let Some(curve) = trial.series.get(metric) else { return f64::NAN };
    let last = curve.last().map_or(f64::NAN, |(_, value)| value);
    if trial.state == TrialState::Diverged && !last.is_finite() {
        return curve.values.iter().rev().copied().find(|value| value.is_finite()).unwrap_or(f64::NAN);
    }
    last
}

/// The step up to which a trial is known not to have had an event: the budget of a diverged trial, else its last step.
/// `None` for a trial that never measured anything.
pub fn horizon(trial: &TrialRecord) -> Option<u64> {
    let last_evaluation = trial.series.values().filter_map(|curve| curve.steps.last()).max()?;
    Some(match trial.state {
        TrialState::Diverged => trial.budget,
        TrialState::Completed => trial.last_step.max(*last_evaluation),
        // What happened after the last evaluation was not seen.
        _ => *last_evaluation,
    })
}

/// What survival analysis sees of a trial whose event happened at `event`, if it did.
pub fn observation(trial: &TrialRecord, event: Option<u64>) -> Option<Observation> {
    match event {
        Some(step) => Some(Observation { time: step as f64, event: true }),
        None => horizon(trial).map(|step| Observation { time: step as f64, event: false }),
    }
}

/// Caveats about trials and metrics that hold for any analysis of `metrics`. With `survival`, the rules for censoring
/// are explained instead of those for final values.
pub fn caveats(data: &Dataset, metrics: &[&str], survival: bool) -> Vec<String> {
    let mut caveats = Vec::new();
    let total = data.trials().count();
    if total == 0 {
        return vec!["There are no trials yet.".to_owned()];
    }
    let count = |wanted: &dyn Fn(&TrialRecord) -> bool| data.trials().filter(|trial| wanted(trial)).count();
    let unfinished = count(&|trial| !trial.state.is_ending());
    let lost = count(&|trial| trial.state.is_ending() && !trial.state.has_result());
    let diverged = count(&|trial| trial.state == TrialState::Diverged);
    if unfinished > 0 {
        let treatment = if survival { "count up to their last evaluation" } else { "are left out" };
        caveats.push(format!("{unfinished} of {total} trials have not ended and {treatment}."));
    }
    if lost > 0 {
        let treatment = if survival { "are censored at their last evaluation" } else { "are left out" };
        caveats
            .push(format!("{lost} of {total} trials failed, were cancelled or quarantined and {treatment}."));
    }
    if diverged > 0 {
        caveats.push(if survival {
            format!(
                "{diverged} of {total} trials diverged; one that had not reached the event before counts as never \
                 reaching it, up to its full budget."
            )
        } else {
            format!("{diverged} of {total} trials diverged and enter with their last finite evaluation.")
        });
    }
    for metric in metrics {
        if !data.trials().any(|trial| trial.series.contains_key(*metric)) {
            let measured: BTreeSet<&str> =
                data.trials().flat_map(|trial| trial.series.keys()).map(String::as_str).collect();
            let list = if measured.is_empty() {
                "nothing yet".to_owned()
            } else {
                measured.into_iter().collect::<Vec<_>>().join(", ")
            };
            caveats.push(format!("No trial has measured `{metric}`; measured: {list}."));
        }
    }
    let smallest = data.cells.iter().map(|cell| ended(&cell.trials).len()).min().unwrap_or(0);
    if smallest < FEWEST_RUNS {
        caveats.push(format!(
            "The smallest cell has {smallest} finished {}; below {FEWEST_RUNS} the bootstrap is not used and intervals \
             rest on very little.",
            if smallest == 1 { "run" } else { "runs" }
        ));
    }
    caveats
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{trial, with_curve};

    #[test]
    fn diverged_trials_are_event_free_to_their_budget_and_keep_their_last_finite_value() {
        let mut record = with_curve(trial(0, &[]), "loss", &[(0, 2.0), (100, 1.5), (200, f64::NAN)]);
        (record.state, record.last_step) = (TrialState::Diverged, 200);
        assert_eq!(horizon(&record), Some(1000));
        assert_eq!(final_value(&record, "loss"), 1.5);
        record.state = TrialState::Completed;
        assert!(final_value(&record, "loss").is_nan(), "a completed trial's NaN is not hidden");
        record.state = TrialState::Failed;
        assert_eq!(observation(&record, None), Some(Observation { time: 200.0, event: false }));
        assert_eq!(observation(&trial(0, &[]), None), None);
    }
}
