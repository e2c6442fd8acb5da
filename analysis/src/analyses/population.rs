//! Which trials an analysis counts, and how: the rules are the same everywhere and every exception becomes a caveat.
//!
//! - Statistics of final values use trials that left a result: completed and diverged ones. A diverged trial enters with
//!   its last finite evaluation.
//! - Survival uses every trial with at least one evaluation: a diverged one is event-free up to its full budget (it will
//!   never reach the event), one that was stopped or crashed or still runs is censored at its last step.
//! - Nothing is dropped silently.

use std::collections::BTreeSet;

use plateau_common::results::{Series, TrialRecord};
use plateau_common::trial::TrialState;

use crate::cells::Dataset;
use crate::metric::listed;
use crate::statistics::bootstrap::FEWEST_RUNS;
use crate::statistics::kaplan_meier::Observation;

/// The trials that left a result.
pub fn ended<'a>(trials: &[&'a TrialRecord]) -> Vec<&'a TrialRecord> {
    trials.iter().copied().filter(|trial| trial.state.has_result()).collect()
}

/// A metric at a trial's last evaluation (for a diverged trial the last finite one); NaN where it was not measured.
pub fn final_value(trial: &TrialRecord, metric: &str) -> f64 {
    trial.series.get(metric).map_or(f64::NAN, |curve| last_value(trial, curve))
}

/// As [`final_value`], of one of the trial's curves.
pub fn last_value(trial: &TrialRecord, curve: &Series) -> f64 {
    let last = curve.last().map_or(f64::NAN, |(_, value)| value);
    if trial.state == TrialState::Diverged && !last.is_finite() {
        return curve.values.iter().rev().copied().find(|value| value.is_finite()).unwrap_or(f64::NAN);
    }
    last
}

/// `1 run`, `2 runs`.
pub fn runs(count: usize) -> String {
    format!("{count} {}", if count == 1 { "run" } else { "runs" })
}

/// The step of a trial's last evaluation, if it has one.
pub fn last_evaluation(trial: &TrialRecord) -> Option<u64> {
    trial.series.values().filter_map(|curve| curve.steps.last()).max().copied()
}

/// Completed trials whose last evaluation lies before their budget: another sweep trained them further, so their curves
/// were measured at that sweep's steps and are cut at this one's budget.
pub fn measured_short(data: &Dataset) -> Option<String> {
    let short = |trial: &TrialRecord| {
        let last = last_evaluation(trial).filter(|last| *last < trial.budget)?;
        (trial.state == TrialState::Completed).then_some((last, trial.budget))
    };
    let steps: Vec<(u64, u64)> = data.trials().filter_map(short).collect();
    let (last, budget) = steps.iter().min()?;
    let where_ = if steps.iter().all(|other| other == &(*last, *budget)) {
        format!("at step {last} of {budget}")
    } else {
        format!("before their last step, the earliest at step {last} of {budget}")
    };
    let (trials, they) =
        if steps.len() == 1 { ("trial was", "it was") } else { ("trials were", "they were") };
    Some(format!(
        "{} {trials} last evaluated {where_}, because {they} trained further by another sweep; final values are of \
         that evaluation.",
        steps.len()
    ))
}

/// The step up to which a trial is known not to have had an event: the budget of a diverged trial, else its last
/// evaluation.
/// `None` for a trial that never measured anything.
pub fn horizon(trial: &TrialRecord) -> Option<u64> {
    let last_evaluation = last_evaluation(trial)?;
    // What happened after the last evaluation was not seen.
    Some(if trial.state == TrialState::Diverged { trial.budget } else { last_evaluation })
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
    caveats.extend(measured_short(data));
    for metric in metrics {
        if !data.trials().any(|trial| trial.series.contains_key(*metric)) {
            let measured: BTreeSet<&str> =
                data.trials().flat_map(|trial| trial.series.keys()).map(String::as_str).collect();
            let list =
                if measured.is_empty() { "nothing yet".to_owned() } else { listed(measured.into_iter()) };
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

    #[test]
    fn completed_trials_whose_curve_ends_before_their_budget_are_told() {
        let measured = |seed, last| with_curve(trial(seed, &[]), "loss", &[(0, 2.0), (last, 1.5)]);
        let caveats_of = |records: &[TrialRecord]| caveats(&Dataset::new(records, &[]), &["loss"], false);
        let told = |records: &[TrialRecord]| -> Vec<String> {
            let caveats = caveats_of(records).into_iter();
            caveats.filter(|caveat| caveat.contains("last evaluated")).collect()
        };
        let mut records = vec![measured(0, 1000), measured(1, 794), measured(2, 794)];
        assert_eq!(
            told(&records),
            [
                "2 trials were last evaluated at step 794 of 1000, because they were trained further by another sweep; \
              final values are of that evaluation."
            ]
        );
        assert_eq!(horizon(&records[1]), Some(794), "what came after was not seen");
        records[2].state = TrialState::Diverged;
        records.push(measured(3, 631));
        assert!(told(&records)[0].contains(
            "2 trials were last evaluated before their last step, the earliest at step 631 of 1000"
        ));
        assert!(told(&records[..1]).is_empty());
    }
}
