//! `grokking`: when training saturates, when generalisation comes, and the delay between, per trial and per cell.
//!
//! A run that never saturated or never generalised is censored, never left out: medians of steps, of the delay and of the
//! ratio are Kaplan–Meier medians over all runs at risk (for the delay and the ratio, those that saturated; the others are
//! counted apart). With `linear-rule` it also says per group which rule runs followed when: `courses`.

mod courses;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::results::TrialRecord;
use serde::Serialize;
use serde_json::Value;

use super::population::{caveats, horizon, observation, runs};
use super::survival::{self, SurvivalCurves};
use super::{Analysis, AnalysisResult, Common};
use crate::cells::{Dataset, Group, describe};
use crate::number;
use crate::statistics::bootstrap::{self, FEWEST_RUNS};
use crate::statistics::estimate::finite_sorted;
use crate::statistics::kaplan_meier::{KaplanMeier, Observation, kaplan_meier};
use crate::statistics::wilson::wilson;
use crate::statistics::{Estimate, mean};
use crate::transition::{
    Curves, LINEAR_ACCURACY, LINEAR_SHARE, Levels, LinearRule, Transition, Verdict, detect,
};

/// The share of answers out of domain that follow the linear rule.
pub const LINEAR_METRIC: &str = "generalisation_linear_rule";

struct Grokking {
    name: String,
    confidence: f64,
    train_metric: String,
    test_metric: String,
    levels: Levels,
    stable: Stable,
    linear_rule: bool,
    by: Option<String>,
}

/// Which step counts as the beginning of stable generalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stable {
    /// From which generalisation lasts to the end.
    Lasting,
    /// From which it holds for `persistence` evaluations, as curves that oscillate for ever never last.
    Consecutive,
}

impl Stable {
    fn step(self, found: &Transition) -> Option<u64> {
        match self {
            Stable::Lasting => found.stable,
            Stable::Consecutive => found.sustained,
        }
    }
}

/// Options: `train-metric` (default `train_accuracy`), `test-metric` (default `test_accuracy`), `level` (generalisation,
/// default 0.99), `train-level` (saturation, default 0.99), `persistence` (default 3), `stable` (`lasting` by default, or
/// `consecutive`), `linear-rule` (default false), `chance` (default 0), `by`.
pub fn read(fields: &mut Fields, common: Common) -> ConfigResult<Box<dyn Analysis>> {
    let known = common.known;
    let defaults = Levels::default();
    let levels = Levels {
        train: fields.number("train-level", 0.0..=1.0)?.unwrap_or(defaults.train),
        test: fields.number("level", 0.0..=1.0)?.unwrap_or(defaults.test),
        persistence: fields.integer("persistence", 1..=1000usize)?.unwrap_or(defaults.persistence),
        chance: fields.number("chance", 0.0..=1.0)?.unwrap_or(defaults.chance),
    };
    Ok(Box::new(Grokking {
        name: common.name,
        confidence: common.confidence,
        train_metric: known.metric(fields, "train-metric")?.unwrap_or_else(|| "train_accuracy".to_owned()),
        test_metric: known.metric(fields, "test-metric")?.unwrap_or_else(|| "test_accuracy".to_owned()),
        levels,
        stable: fields
            .choice("stable", &[("lasting", Stable::Lasting), ("consecutive", Stable::Consecutive)])?
            .unwrap_or(Stable::Lasting),
        linear_rule: fields.boolean("linear-rule")?.unwrap_or(false),
        by: known.parameter(fields, "by")?,
    }))
}

/// One trial's transitions.
#[derive(Clone, Debug, Serialize)]
pub struct GrokkingTrial {
    /// Trial id.
    pub trial: String,
    /// The group it belongs to.
    pub group: String,
    /// Its seed.
    pub seed: u64,
    /// Where it is in its life.
    pub state: &'static str,
    /// The step up to which what has not happened is known not to have: steps that are not there lie beyond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub censored_at: Option<u64>,
    /// Its transitions.
    pub transition: Transition,
}

/// Grokking in one group of trials.
#[derive(Clone, Debug, Serialize)]
pub struct GrokkingGroup {
    /// The group's name.
    pub name: String,
    /// The parameters it shares.
    pub parameters: serde_json::Map<String, Value>,
    /// Trials with curves.
    pub runs: usize,
    /// Trials per verdict.
    pub verdicts: BTreeMap<&'static str, usize>,
    /// Share of runs that ever reached the generalisation level.
    pub generalised: Estimate,
    /// Runs at risk for a delay: those whose training saturated.
    pub at_risk: usize,
    /// Of these, runs that had not generalised when last seen.
    pub censored: usize,
    /// Median delay in steps by Kaplan–Meier.
    pub delay: Estimate,
    /// The delay's survival curve.
    pub delay_curve: KaplanMeier,
    /// Median step of saturation by Kaplan–Meier, over all runs with curves.
    pub saturation: Estimate,
    /// Median step of first generalisation, likewise.
    pub first: Estimate,
    /// Median step of stable generalisation, likewise.
    pub stable: Estimate,
    /// Median of first / saturation by Kaplan–Meier, over the runs that saturated.
    pub ratio: Estimate,
    /// first / saturation of every run that has both, ascending.
    #[serde(serialize_with = "number::serialize_list")]
    pub ratios: Vec<f64>,
    /// Mean of log10 of these ratios.
    pub log10_ratio: Estimate,
    /// Median step of the first maximum of the training metric.
    #[serde(serialize_with = "number::serialize")]
    pub early_stop: f64,
    /// Mean of the held-out metric there.
    pub early_stop_value: Estimate,
    /// Mean of the held-out metric at the end, over the same runs.
    pub final_value: Estimate,
    /// What stopping there would have cost on the held-out metric, on average.
    pub early_stopping_cost: Estimate,
    /// Which rule the runs followed and when, in a sentence; empty where it was not asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub course: String,
    /// The last step up to which any run is known.
    #[serde(skip)]
    horizon: f64,
    #[serde(skip)]
    largest_ratio: f64,
}

/// Outcome of the `grokking` analysis.
#[derive(Clone, Debug, Serialize)]
pub struct GrokkingOutcome {
    /// The metric that saturates.
    pub train_metric: String,
    /// The metric that generalises.
    pub test_metric: String,
    /// The levels.
    pub levels: Levels,
    /// Which step counts as the beginning of stable generalisation.
    pub stable: Stable,
    /// One entry per group.
    pub groups: Vec<GrokkingGroup>,
    /// One entry per trial.
    pub trials: Vec<GrokkingTrial>,
    /// Survival of not having generalised, in steps from the start.
    pub survival: SurvivalCurves,
}

impl Grokking {
    fn transition(&self, trial: &TrialRecord) -> Transition {
        let curve = |metric: &str| trial.series.get(metric);
        let linear =
            match curve(LINEAR_METRIC).filter(|share| share.values.iter().any(|value| value.is_finite())) {
                _ if !self.linear_rule => LinearRule::NotSought,
                Some(share) => LinearRule::Share(share),
                None => LinearRule::Accuracy,
            };
        let curves = Curves { train: curve(&self.train_metric), test: curve(&self.test_metric), linear };
        detect(&curves, &self.levels)
    }

    fn group(&self, names: &[&str], group: &Group) -> (GrokkingGroup, Vec<GrokkingTrial>) {
        let name = describe(names, &group.values);
        let trials: Vec<(&TrialRecord, Transition)> = group
            .cells
            .iter()
            .flat_map(|cell| &cell.trials)
            .map(|trial| (*trial, self.transition(trial)))
            .collect();
        let seen: Vec<&(&TrialRecord, Transition)> =
            trials.iter().filter(|(_, transition)| transition.verdict != Verdict::NoCurve).collect();
        let mut verdicts: BTreeMap<&'static str, usize> = BTreeMap::new();
        for (_, transition) in &trials {
            *verdicts.entry(transition.verdict.phrase()).or_default() += 1;
        }
        let curve = |observed: Vec<Observation>| kaplan_meier(&observed, self.confidence);
        let until = |step: &dyn Fn(&Transition) -> Option<u64>| {
            curve(seen.iter().filter_map(|(trial, found)| observation(trial, step(found))).collect())
        };
        let delay_curve = curve(seen.iter().filter_map(|(trial, found)| delay(trial, found)).collect());
        let ratio_curve = curve(seen.iter().filter_map(|(trial, found)| ratio(trial, found)).collect());
        let numbers = |value: &dyn Fn(&Transition) -> Option<f64>| -> Vec<f64> {
            finite_sorted(&seen.iter().filter_map(|(_, found)| value(found)).collect::<Vec<f64>>()).0
        };
        let ratios = numbers(&|found| found.delay_ratio);
        // The three are of the same runs, so that the one difference is that of the other two.
        let of_both = |value: fn(&Transition) -> Option<f64>| {
            mean::t_interval(
                &numbers(&|found| found.early_stopping_cost.and_then(|_| value(found))),
                self.confidence,
            )
        };
        let generalised = seen.iter().filter(|(_, found)| found.first.is_some()).count();
        let firsts = until(&|found| found.first);
        let described = GrokkingGroup {
            name: name.clone(),
            parameters: survival::shared(names, group),
            runs: seen.len(),
            generalised: wilson(generalised, seen.len(), self.confidence),
            at_risk: delay_curve.runs,
            censored: delay_curve.runs - delay_curve.events,
            delay: delay_curve.median(),
            delay_curve,
            saturation: until(&|found| found.saturation).median(),
            first: firsts.median(),
            stable: until(&|found| self.stable.step(found)).median(),
            ratio: ratio_curve.median(),
            log10_ratio: log10_ratio(&ratios, self.confidence),
            ratios,
            early_stop: middle(&numbers(&|found| found.early_stop.map(|step| step as f64))),
            early_stop_value: of_both(|found| found.early_stop_value),
            final_value: of_both(|found| found.final_value),
            early_stopping_cost: of_both(|found| found.early_stopping_cost),
            course: if self.linear_rule { courses::sentence(&verdicts, &seen) } else { String::new() },
            horizon: firsts.horizon,
            largest_ratio: ratio_curve.horizon,
            verdicts,
        };
        let rows = trials
            .into_iter()
            .map(|(trial, transition)| GrokkingTrial {
                trial: trial.id.clone(),
                group: name.clone(),
                seed: trial.seed,
                state: trial.state.name(),
                censored_at: horizon(trial),
                transition,
            })
            .collect();
        (described, rows)
    }

    fn caveats(&self, data: &Dataset, groups: &[GrokkingGroup]) -> Vec<String> {
        let mut caveats = caveats(data, &[&self.train_metric, &self.test_metric], true);
        for group in groups {
            let censored = group.censored;
            if censored > 0 && censored < group.at_risk {
                caveats.push(format!(
                    "{}: {censored} of {} saturated runs had not generalised when last seen; the medians count them \
                     (Kaplan–Meier), the mean log10 ratio of those that did is biased low.",
                    group.name, group.at_risk
                ));
            } else if censored > 0 {
                caveats.push(format!(
                    "{}: none of {censored} saturated runs generalised in its budget.",
                    group.name
                ));
            }
            let never = group.runs - group.at_risk;
            if never > 0 {
                caveats.push(format!(
                    "{}: {} never saturated, so there is no delay.",
                    group.name,
                    runs(never)
                ));
            }
            let without = group.verdicts.get(Verdict::NoCurve.phrase()).copied().unwrap_or(0);
            if without > 0 {
                caveats.push(format!("{}: left out: {} without curves.", group.name, runs(without)));
            }
            let costless = group.runs - group.early_stopping_cost.runs;
            if costless > 0 {
                caveats.push(format!(
                    "{}: no early-stopping cost of {}: a curve has no finite value there or at the end.",
                    group.name,
                    runs(costless)
                ));
            }
        }
        let stable = match self.stable {
            Stable::Lasting => "in every later evaluation".to_owned(),
            Stable::Consecutive => format!("for {} evaluations", self.levels.persistence),
        };
        let (train, test) = (&self.train_metric, &self.test_metric);
        let level = number::human(self.levels.test);
        caveats.push(format!(
            "Saturation: {train} ≥ {} for {} evaluations. Generalisation: first {test} ≥ {level}; stable: {stable}. A step \
             is the evaluation that first saw it; it happened since the evaluation before. Early stop: first maximum of \
             {train}.",
            number::human(self.levels.train),
            self.levels.persistence,
        ));
        if self.linear_rule {
            caveats.push(self.linear_caveat(data));
        }
        caveats
    }

    fn linear_caveat(&self, data: &Dataset) -> String {
        let by_share = |trial: &TrialRecord| trial.series.contains_key(LINEAR_METRIC);
        let without = data.trials().filter(|trial| !by_share(trial)).count();
        let mut caveat = format!(
            "Linear rule: {LINEAR_METRIC} ≥ {LINEAR_SHARE} at an evaluation with {} ≥ {}. In sentences, steps are medians over \
             seeds; in brackets the first and the last.",
            self.train_metric,
            number::human(self.levels.train)
        );
        if without > 0 {
            caveat.push_str(&format!(
                " {without} of {} trials have not measured that share; for them {} < {LINEAR_ACCURACY} counts.",
                data.trials().count(),
                self.test_metric
            ));
        }
        caveat
    }
}

/// The delay as survival analysis sees it: from saturation to generalisation, else to when the run was last seen.
fn delay(trial: &TrialRecord, found: &Transition) -> Option<Observation> {
    let saturation = found.saturation?;
    Some(match found.delay {
        Some(delay) => Observation { time: delay.max(0) as f64, event: true },
        None => Observation { time: horizon(trial)?.saturating_sub(saturation) as f64, event: false },
    })
}

/// The ratio of the two steps, likewise.
fn ratio(trial: &TrialRecord, found: &Transition) -> Option<Observation> {
    let saturation = found.saturation?;
    Some(match found.delay_ratio {
        Some(ratio) => Observation { time: ratio, event: true },
        None => Observation { time: horizon(trial)? as f64 / saturation.max(1) as f64, event: false },
    })
}

/// The median of ascending values; NaN of nothing.
fn middle(sorted: &[f64]) -> f64 {
    bootstrap::quantile(sorted, 0.5).unwrap_or(f64::NAN)
}

/// Mean of log10 of the ratios: bootstrap from five runs on, else t.
fn log10_ratio(ratios: &[f64], confidence: f64) -> Estimate {
    let logarithms: Vec<f64> = ratios.iter().map(|ratio| ratio.log10()).collect();
    if logarithms.len() >= FEWEST_RUNS {
        bootstrap::mean_interval(&logarithms, confidence)
    } else {
        mean::t_interval(&logarithms, confidence)
    }
}

impl Analysis for Grokking {
    fn kind(&self) -> &'static str {
        "grokking"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        self.by.as_deref().into_iter().collect()
    }

    fn run(&self, data: &Dataset) -> AnalysisResult {
        let (names, groups, pooled) = survival::groups(data, self.by.as_deref());
        let (described, trials): (Vec<GrokkingGroup>, Vec<Vec<GrokkingTrial>>) =
            groups.iter().map(|group| self.group(&names, group)).unzip();
        let trials: Vec<GrokkingTrial> = trials.into_iter().flatten().collect();
        let words = format!("{} ≥ {}", self.test_metric, number::human(self.levels.test));
        let survival =
            survival::curves(words, &names, &groups, self.confidence, |trial| self.transition(trial).first);
        let mut caveats = self.caveats(data, &described);
        caveats.extend(pooled);
        let mut tables = vec![
            tables::groups(&described),
            tables::verdicts(&described),
            tables::early_stopping(&described, &self.train_metric, &self.test_metric),
        ];
        tables.extend(survival.comparison_table());
        tables.push(tables::trials(&trials, self.stable, self.linear_rule));
        let findings = described.iter().filter(|group| !group.course.is_empty());
        let findings = findings.map(|group| format!("{}: {}", group.name, group.course)).collect();
        let outcome = GrokkingOutcome {
            train_metric: self.train_metric.clone(),
            test_metric: self.test_metric.clone(),
            levels: self.levels,
            stable: self.stable,
            groups: described,
            trials,
            survival,
        };
        let title = if self.linear_rule { "Structural grokking" } else { "Grokking" };
        AnalysisResult::new(self, title, tables, caveats, outcome).with_findings(findings)
    }
}
