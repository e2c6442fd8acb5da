//! `grokking`: when training saturates, when generalisation comes, and the delay between, per trial and per cell.
//!
//! The delay of a run that never generalised is censored, so a cell's delay is a Kaplan–Meier median over all runs that
//! saturated; runs that never did are not at risk and counted apart. The mean over the runs that grokked would be biased
//! low and is not given.

use std::collections::BTreeMap;

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::results::TrialRecord;
use serde::Serialize;
use serde_json::Value;

use super::population::{caveats, horizon};
use super::summary::drop_empty_column;
use super::survival::{self, SurvivalCurves};
use super::{Analysis, AnalysisResult, Common};
use crate::cells::{Dataset, Group, describe};
use crate::number;
use crate::statistics::bootstrap::{self, FEWEST_RUNS, quantile};
use crate::statistics::estimate::finite_sorted;
use crate::statistics::kaplan_meier::{KaplanMeier, Observation, kaplan_meier};
use crate::statistics::wilson::wilson;
use crate::statistics::{Estimate, mean};
use crate::table::TextTable;
use crate::transition::{Levels, Transition, Verdict, detect};

struct Grokking {
    name: String,
    confidence: f64,
    train_metric: String,
    test_metric: String,
    levels: Levels,
    by: Option<String>,
}

/// Options: `train-metric` (default `train_accuracy`), `test-metric` (default `test_accuracy`), `level` (generalisation,
/// default 0.99), `train-level` (saturation, default 0.99), `persistence` (default 3), `chance` (default 0), `by`.
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
    /// first / saturation of every run that has both, ascending.
    #[serde(serialize_with = "number::serialize_list")]
    pub ratios: Vec<f64>,
    /// Mean of log10 of these ratios.
    pub log10_ratio: Estimate,
    /// What stopping at the first maximum of the training metric would have cost on the held-out one, on average.
    pub early_stopping_cost: Estimate,
    /// Median step of saturation, over the runs that saturated.
    #[serde(serialize_with = "number::serialize")]
    pub median_saturation: f64,
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
    /// One entry per group.
    pub groups: Vec<GrokkingGroup>,
    /// One entry per trial.
    pub trials: Vec<GrokkingTrial>,
    /// Survival of not having generalised, in steps from the start.
    pub survival: SurvivalCurves,
}

impl Grokking {
    fn transition(&self, trial: &TrialRecord) -> Transition {
        detect(trial.series.get(&self.train_metric), trial.series.get(&self.test_metric), &self.levels)
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
        let delays: Vec<Observation> = seen.iter().filter_map(|(trial, found)| delay(trial, found)).collect();
        let delay_curve = kaplan_meier(&delays, self.confidence);
        let (ratios, _) =
            finite_sorted(&seen.iter().filter_map(|(_, found)| found.delay_ratio).collect::<Vec<f64>>());
        let costs: Vec<f64> = seen.iter().filter_map(|(_, found)| found.early_stopping_cost).collect();
        let (saturations, _) = finite_sorted(
            &seen.iter().filter_map(|(_, found)| Some(found.saturation? as f64)).collect::<Vec<f64>>(),
        );
        let generalised = seen.iter().filter(|(_, found)| found.first.is_some()).count();
        let described = GrokkingGroup {
            name: name.clone(),
            parameters: survival::shared(names, group),
            runs: seen.len(),
            verdicts,
            generalised: wilson(generalised, seen.len(), self.confidence),
            at_risk: delay_curve.runs,
            censored: delay_curve.runs - delay_curve.events,
            delay: delay_curve.median(),
            delay_curve,
            log10_ratio: log10_ratio(&ratios, self.confidence),
            ratios,
            early_stopping_cost: mean::t_interval(&costs, self.confidence),
            median_saturation: quantile(&saturations, 0.5).unwrap_or(f64::NAN),
        };
        let rows = trials
            .into_iter()
            .map(|(trial, transition)| GrokkingTrial {
                trial: trial.id.clone(),
                group: name.clone(),
                seed: trial.seed,
                state: trial.state.name(),
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
                    "{}: {censored} of {} saturated runs had not generalised when last seen; the median delay counts them \
                     (Kaplan–Meier), the ratios and early-stopping costs of those that did are biased low.",
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
                caveats.push(format!("{}: {never} runs never saturated and have no delay.", group.name));
            }
        }
        caveats.push(format!(
            "Saturation: {} ≥ {} for {} evaluations. Generalisation: first {} ≥ {}. A step is the evaluation that first \
             saw it; it happened since the evaluation before.",
            self.train_metric,
            number::human(self.levels.train),
            self.levels.persistence,
            self.test_metric,
            number::human(self.levels.test),
        ));
        caveats
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
        let mut tables = vec![groups_table(&described), verdicts_table(&described)];
        tables.extend(survival.comparison_table());
        tables.push(trials_table(&trials));
        let outcome = GrokkingOutcome {
            train_metric: self.train_metric.clone(),
            test_metric: self.test_metric.clone(),
            levels: self.levels,
            groups: described,
            trials,
            survival,
        };
        AnalysisResult::new(self, "Grokking", tables, caveats, outcome)
    }
}

fn groups_table(groups: &[GrokkingGroup]) -> TextTable {
    let columns = [
        "group",
        "runs",
        "grokked",
        "generalised",
        "saturation (median step)",
        "delay (median steps)",
        "interval",
        "censored",
        "ratio min / median / max",
        "mean log10 ratio",
        "early-stopping cost",
    ];
    let mut table = TextTable::new("Delay between saturation and generalisation", columns);
    for group in groups {
        let at = |share| {
            quantile(&group.ratios, share).map_or("–".to_owned(), |ratio| number::significant(ratio, 3))
        };
        table.push([
            group.name.clone(),
            group.runs.to_string(),
            group.verdicts.get(Verdict::Grokked.phrase()).copied().unwrap_or(0).to_string(),
            group.generalised.human(),
            number::human(group.median_saturation),
            match group.delay.value {
                value if value.is_infinite() => "not reached".to_owned(),
                value => number::human(value),
            },
            number::human_interval(group.delay.low, group.delay.high),
            format!("{} of {}", group.censored, group.at_risk),
            if group.ratios.is_empty() {
                "–".to_owned()
            } else {
                format!("{} / {} / {}", at(0.0), at(0.5), at(1.0))
            },
            group.log10_ratio.human(),
            group.early_stopping_cost.human(),
        ]);
    }
    table
}

fn verdicts_table(groups: &[GrokkingGroup]) -> TextTable {
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

fn trials_table(trials: &[GrokkingTrial]) -> TextTable {
    let columns = [
        "group", "seed", "verdict", "T_sat", "T_first", "T_stable", "T_half", "T_onset", "delay", "ratio",
        "gap", "± steps", "ending",
    ];
    let mut table = TextTable::new("Each trial (steps)", columns);
    for trial in trials {
        let found = &trial.transition;
        let step = |step: Option<u64>| step.map_or("–".to_owned(), |step| step.to_string());
        let real = |value: Option<f64>, digits| {
            value.map_or("–".to_owned(), |value| number::significant(value, digits))
        };
        table.push([
            trial.group.clone(),
            trial.seed.to_string(),
            found.verdict.phrase().to_owned(),
            step(found.saturation),
            step(found.first),
            step(found.stable),
            step(found.half),
            step(found.onset),
            found.delay.map_or("–".to_owned(), |delay| delay.to_string()),
            real(found.delay_ratio, 3),
            real(found.gap, 3),
            step(found.resolution),
            if trial.state == "completed" { String::new() } else { trial.state.to_owned() },
        ]);
    }
    drop_empty_column(&mut table, "ending");
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::grokking;
    use crate::statistics::Flag;
    use plateau_common::node::Node;

    fn run(records: &[TrialRecord]) -> AnalysisResult {
        let node = Node::empty_table();
        let mut fields = Fields::new("analysis", &node).unwrap();
        let common = Common { name: "grokking".to_owned(), confidence: 0.95, known: Default::default() };
        read(&mut fields, common).unwrap().run(&Dataset::new(records, &[]))
    }

    #[test]
    fn weight_decay_one_groks_and_zero_does_not() {
        let result = run(&grokking(5));
        let outcome: &GrokkingOutcome = result.outcome().unwrap();
        let [without, with] = outcome.groups.as_slice() else { panic!("two cells") };
        assert_eq!(without.verdicts, BTreeMap::from([("memorised only", 5)]));
        assert_eq!((without.at_risk, without.censored), (5, 5));
        assert_eq!(without.delay.value, f64::INFINITY);
        assert!(without.delay.flags.contains(&Flag::RightCensored));
        assert_eq!(with.verdicts, BTreeMap::from([("grokked", 5)]));
        assert_eq!((with.at_risk, with.censored), (5, 0));
        // Seeds jump at 2000, 2300 .. 3200; 0.99 is reached 688 steps later, seen at the next evaluation.
        let firsts: Vec<u64> = outcome.trials.iter().filter_map(|trial| trial.transition.first).collect();
        assert_eq!(firsts, [3000, 3000, 3500, 4000, 4000]);
        assert_eq!(with.median_saturation, 100.0);
        assert_eq!(with.delay.value, 3400.0);
        assert_eq!((with.ratios[0], with.ratios[4]), (30.0, 40.0));
        assert!(with.log10_ratio.low >= 1.0, "at least ten times later: {:?}", with.log10_ratio);
        assert!(with.log10_ratio.method.contains("bootstrap"));
        assert!(outcome.survival.comparisons[0].test.p_value < 0.01);
    }

    #[test]
    fn runs_that_never_saturate_are_not_at_risk() {
        let mut records = grokking(4);
        for record in records.iter_mut().filter(|record| record.seed < 2) {
            record.series.get_mut("train_accuracy").unwrap().values.fill(0.3);
            record.series.get_mut("test_accuracy").unwrap().values.fill(0.1);
        }
        let result = run(&records);
        let outcome: &GrokkingOutcome = result.outcome().unwrap();
        assert_eq!((outcome.groups[1].runs, outcome.groups[1].at_risk), (4, 2));
        assert!(result.caveats.iter().any(|caveat| caveat.contains("never saturated")));
        assert!(outcome.groups[1].log10_ratio.method.starts_with("t interval"));
    }
}
