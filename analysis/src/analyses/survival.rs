//! `survival`: the time until a metric reaches a level, for runs that may never reach it.

use std::fmt;

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::results::TrialRecord;
use serde::Serialize;
use serde_json::Value;

use super::population::{caveats, observation};
use super::summary::drop_empty_column;
use super::{Analysis, AnalysisResult, Common, Known};
use crate::cells::{Dataset, Group, describe, json};
use crate::number;
use crate::statistics::Estimate;
use crate::statistics::kaplan_meier::{KaplanMeier, Observation, kaplan_meier};
use crate::statistics::log_rank::{LogRank, log_rank};
use crate::table::TextTable;
use crate::transition::{first_at_least, first_at_most};

/// A metric reaching a level, and holding it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// The metric.
    pub metric: String,
    /// The level.
    pub level: f64,
    /// Consecutive evaluations for which it must hold.
    pub persistence: usize,
    /// Whether the metric must fall to the level instead of rising to it.
    pub below: bool,
}

impl Event {
    /// The step at which the event happened in a trial.
    pub fn step(&self, trial: &TrialRecord) -> Option<u64> {
        let curve = trial.series.get(&self.metric)?;
        let first = if self.below { first_at_most } else { first_at_least };
        first(curve, self.level, self.persistence)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.below { '≤' } else { '≥' };
        write!(f, "{} {sign} {}", self.metric, number::human(self.level))?;
        if self.persistence > 1 { write!(f, " for {} evaluations", self.persistence) } else { Ok(()) }
    }
}

/// Reads `metric`, `level`, `persistence`, `direction`.
pub fn read_event(fields: &mut Fields, known: Known) -> ConfigResult<Event> {
    Ok(Event {
        metric: known.metric(fields, "metric")?.unwrap_or_else(|| "test_accuracy".to_owned()),
        level: fields.number("level", f64::MIN..=f64::MAX)?.unwrap_or(0.99),
        persistence: fields.integer("persistence", 1..=1000usize)?.unwrap_or(1),
        below: fields.choice("direction", &[("above", false), ("below", true)])?.unwrap_or(false),
    })
}

struct Survival {
    name: String,
    confidence: f64,
    event: Event,
    by: Option<String>,
}

/// Options: `metric` (default `test_accuracy`), `level` (default 0.99), `persistence` (default 1), `direction`, `by` (a
/// parameter to group by instead of cells).
pub fn read(fields: &mut Fields, common: Common) -> ConfigResult<Box<dyn Analysis>> {
    let event = read_event(fields, common.known)?;
    let by = common.known.parameter(fields, "by")?;
    Ok(Box::new(Survival { name: common.name, confidence: common.confidence, event, by }))
}

/// Survival in one group of trials.
#[derive(Clone, Debug, Serialize)]
pub struct SurvivalGroup {
    /// The group's name.
    pub name: String,
    /// The parameters it shares.
    pub parameters: serde_json::Map<String, Value>,
    /// Runs observed.
    pub runs: usize,
    /// Runs with the event.
    pub events: usize,
    /// Median time.
    pub median: Estimate,
    /// Mean time up to the horizon common to all groups.
    pub restricted_mean: Estimate,
    /// The curve.
    pub curve: KaplanMeier,
}

/// The log-rank test of one group against the first.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The first group.
    pub first: String,
    /// The other.
    pub second: String,
    /// The test.
    pub test: LogRank,
}

/// Survival curves of all groups.
#[derive(Clone, Debug, Serialize)]
pub struct SurvivalCurves {
    /// What the event is, in words.
    pub event: String,
    /// The groups, ordered by their values.
    pub groups: Vec<SurvivalGroup>,
    /// Every group against the first.
    pub comparisons: Vec<Comparison>,
}

/// Groups of trials for analyses over time: by one parameter, else by cell. Also a caveat where that pools cells.
pub fn groups<'d, 'a>(
    data: &'d Dataset<'a>,
    by: Option<&'d str>,
) -> (Vec<&'d str>, Vec<Group<'d, 'a>>, Option<String>) {
    let names: Vec<&str> = match by {
        Some(by) => vec![by],
        None => data.labels.iter().map(String::as_str).collect(),
    };
    let groups = data.group_by(&names);
    let rest = by.map(|by| data.labels_without(&[by])).unwrap_or_default();
    let caveat = (!rest.is_empty()).then(|| {
        format!(
            "Grouped by `{}`: runs that differ in {} are pooled as if they were replicates.",
            names.join(", "),
            rest.join(", ")
        )
    });
    (names, groups, caveat)
}

/// The shared values of a group as JSON.
pub fn shared(names: &[&str], group: &Group) -> serde_json::Map<String, Value> {
    names.iter().zip(&group.values).map(|(name, value)| ((*name).to_owned(), json(value.as_ref()))).collect()
}

/// Survival curves of groups of trials for the event time given by `event`.
pub fn curves(
    words: String,
    names: &[&str],
    groups: &[Group],
    confidence: f64,
    event: impl Fn(&TrialRecord) -> Option<u64>,
) -> SurvivalCurves {
    let observed: Vec<Vec<Observation>> = groups
        .iter()
        .map(|group| {
            let trials = group.cells.iter().flat_map(|cell| &cell.trials);
            trials.filter_map(|trial| observation(trial, event(trial))).collect()
        })
        .collect();
    // Restricted means compare only over a time that every group was observed for.
    let horizon = observed
        .iter()
        .filter_map(|runs| runs.iter().map(|run| run.time).max_by(f64::total_cmp))
        .min_by(f64::total_cmp)
        .unwrap_or(f64::NAN);
    let described: Vec<SurvivalGroup> = groups
        .iter()
        .zip(&observed)
        .map(|(group, runs)| {
            let curve = kaplan_meier(runs, confidence);
            SurvivalGroup {
                name: describe(names, &group.values),
                parameters: shared(names, group),
                runs: curve.runs,
                events: curve.events,
                median: curve.median(),
                restricted_mean: curve.restricted_mean(horizon),
                curve,
            }
        })
        .collect();
    let mut comparisons = Vec::new();
    if let (Some((first, others)), Some(first_runs)) = (described.split_first(), observed.first()) {
        for (other, runs) in others.iter().zip(observed.iter().skip(1)) {
            if let Some(test) = log_rank(first_runs, runs) {
                comparisons.push(Comparison { first: first.name.clone(), second: other.name.clone(), test });
            }
        }
    }
    SurvivalCurves { event: words, groups: described, comparisons }
}

impl SurvivalCurves {
    /// Events, medians and restricted means per group.
    pub fn table(&self) -> TextTable {
        let columns = [
            "group",
            "runs",
            "events",
            "censored",
            "median step",
            "median interval",
            "restricted mean",
            "mean interval",
            "remarks",
        ];
        let mut table = TextTable::new(format!("Steps until {}", self.event), columns);
        for group in &self.groups {
            table.push([
                group.name.clone(),
                group.runs.to_string(),
                group.events.to_string(),
                (group.runs - group.events).to_string(),
                if group.median.value.is_infinite() {
                    "not reached".to_owned()
                } else {
                    number::human(group.median.value)
                },
                number::human_interval(group.median.low, group.median.high),
                number::human(group.restricted_mean.value),
                number::human_interval(group.restricted_mean.low, group.restricted_mean.high),
                group.median.remarks(),
            ]);
        }
        drop_empty_column(&mut table, "remarks");
        table
    }

    /// The curve of every group, step by step.
    pub fn steps_table(&self, confidence: f64) -> TextTable {
        let interval = format!("{} limits", super::percent(confidence));
        let mut table = TextTable::new(
            "Kaplan–Meier table",
            ["group", "step", "at risk", "events", "censored", "without event", &interval],
        );
        for group in &self.groups {
            for step in &group.curve.steps {
                table.push([
                    group.name.clone(),
                    number::human(step.time),
                    step.at_risk.to_string(),
                    step.events.to_string(),
                    step.censored.to_string(),
                    number::human(step.survival),
                    number::human_interval(step.low, step.high),
                ]);
            }
        }
        table
    }

    /// The log-rank tests, if there are groups to compare.
    pub fn comparison_table(&self) -> Option<TextTable> {
        if self.comparisons.is_empty() {
            return None;
        }
        let columns = ["groups", "chi-squared", "p", "p by permutation"];
        let mut table = TextTable::new("Log-rank test against the first group", columns);
        for comparison in &self.comparisons {
            table.push([
                format!("{} against {}", comparison.second, comparison.first),
                number::human(comparison.test.chi_squared),
                number::significant(comparison.test.p_value, 2),
                comparison.test.permutation_p_value.map_or("–".to_owned(), |p| number::significant(p, 2)),
            ]);
        }
        Some(table)
    }

    /// What a reader must know about these curves.
    pub fn caveats(&self) -> Vec<String> {
        let mut caveats = Vec::new();
        for group in &self.groups {
            if group.runs > 0 && group.events == 0 {
                caveats.push(format!("{}: no run reached the event; all are censored.", group.name));
            }
        }
        if self.comparisons.len() > 1 {
            caveats.push("Several groups are compared; the p-values are not corrected for that.".to_owned());
        }
        caveats.push(
            "An event lies between the evaluation before and the one named; steps are the right end of that interval."
                .to_owned(),
        );
        caveats
    }
}

/// Outcome of the `survival` analysis.
#[derive(Clone, Debug, Serialize)]
pub struct SurvivalOutcome {
    /// The event.
    pub event: Event,
    /// The curves.
    pub curves: SurvivalCurves,
}

impl Analysis for Survival {
    fn kind(&self) -> &'static str {
        "survival"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        self.by.as_deref().into_iter().collect()
    }

    fn run(&self, data: &Dataset) -> AnalysisResult {
        let (names, groups, pooled) = groups(data, self.by.as_deref());
        let curves =
            curves(self.event.to_string(), &names, &groups, self.confidence, |trial| self.event.step(trial));
        let mut caveats = caveats(data, &[&self.event.metric], true);
        caveats.extend(pooled);
        caveats.extend(curves.caveats());
        let mut tables = vec![curves.table()];
        tables.extend(curves.comparison_table());
        tables.push(curves.steps_table(self.confidence));
        let title = format!("Time until {}", self.event);
        let outcome = SurvivalOutcome { event: self.event.clone(), curves };
        AnalysisResult::new(self, title, tables, caveats, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{grokking, trial, with_curve};
    use plateau_common::node::Node;
    use plateau_common::trial::TrialState;

    fn run(records: &[TrialRecord]) -> AnalysisResult {
        let node = Node::empty_table();
        let mut fields = Fields::new("analysis", &node).unwrap();
        let common = Common { name: "survival".to_owned(), confidence: 0.95, known: Default::default() };
        read(&mut fields, common).unwrap().run(&Dataset::new(records, &[]))
    }

    /// The published example through the whole chain: seven events, three censored at 20 000.
    #[test]
    fn the_example_from_curves_to_table() {
        let mut times: Vec<Option<u64>> = [1200, 1500, 1500, 2100, 3000, 4700, 8000].map(Some).to_vec();
        times.extend([None; 3]);
        let records: Vec<TrialRecord> = times
            .iter()
            .enumerate()
            .map(|(seed, time)| {
                let mut record = trial(seed as u64, &[]);
                (record.budget, record.last_step) = (20_000, 20_000);
                let mut points = vec![(0, 0.0)];
                points.extend(time.map(|time| (time, 1.0)));
                points.push((20_000, if time.is_some() { 1.0 } else { 0.1 }));
                with_curve(record, "test_accuracy", &points)
            })
            .collect();
        let result = run(&records);
        let outcome: &SurvivalOutcome = result.outcome().unwrap();
        let group = &outcome.curves.groups[0];
        assert_eq!((group.runs, group.events), (10, 7));
        assert_eq!(group.median.value, 3000.0);
        assert!((group.restricted_mean.value - 8200.0).abs() < 1e-9);
    }

    #[test]
    fn a_diverged_run_is_censored_at_its_budget_and_said_so() {
        let mut records = grokking(5);
        for record in &mut records {
            if record.seed == 0 {
                record.state = TrialState::Diverged;
                record.last_step = 50;
                for curve in record.series.values_mut() {
                    curve.steps.truncate(4);
                    curve.values.truncate(4);
                }
            }
        }
        let result = run(&records);
        let outcome: &SurvivalOutcome = result.outcome().unwrap();
        let decayed = &outcome.curves.groups[1];
        assert_eq!((decayed.runs, decayed.events), (5, 4));
        assert_eq!(decayed.curve.horizon, 10_000.0);
        assert!(result.caveats.iter().any(|caveat| caveat.contains("diverged")));
        assert_eq!(outcome.curves.comparisons.len(), 1);
        assert!(outcome.curves.comparisons[0].test.p_value < 0.05);
    }
}
