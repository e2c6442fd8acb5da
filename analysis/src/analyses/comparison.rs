//! `comparison`: whether the ends of a metric's curves differ between cells that differ in one parameter.
//!
//! Two cells are compared by a permutation test of the difference of their means, corrected by Holm for all comparisons of
//! one metric among one set of cells; beside it stand Welch's and the bootstrap interval of the difference and its size in
//! standard deviations over runs. A difference that is not significant is not shown to be absent: the interval says how
//! large it may be.

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::results::{Parameter, TrialRecord};
use serde::Serialize;

use super::criterion::Criterion;
use super::families::{Families, Family};
use super::population::{caveats, ended, runs};
use super::summary::drop_empty_column;
use super::{Analysis, AnalysisResult, Common, percent, read_metrics};
use crate::cells::{Cell, Dataset, compare as compare_parameters, human};
use crate::filter::parameter;
use crate::number;
use crate::statistics::two_samples::{TwoSamples, compare};
use crate::statistics::{holm, mean};
use crate::table::TextTable;

/// Cells up to which every two are compared.
const MOST_CELLS: usize = 12;
/// The level at which a corrected p-value is called significant in a sentence.
const SIGNIFICANT: f64 = 0.05;

struct Comparison {
    name: String,
    confidence: f64,
    metrics: Vec<String>,
    criterion: Criterion,
    along: Option<String>,
    against: Option<Parameter>,
}

/// Options: `metrics` or `metric` (default `test_accuracy`), `along` (a parameter; by default the only one that varies),
/// `against` (one of its values, which all others are compared with; by default every two are compared), `criterion`
/// (`final` by default, or `mean-of-last`), `last` (10).
pub fn read(fields: &mut Fields, common: Common) -> ConfigResult<Box<dyn Analysis>> {
    let path = fields.path_of("against");
    Ok(Box::new(Comparison {
        metrics: read_metrics(fields, common.known, &["test_accuracy"])?,
        criterion: Criterion::read(fields)?,
        along: common.known.parameter(fields, "along")?,
        against: fields.node("against").map(|node| parameter(&path, node)).transpose()?,
        name: common.name,
        confidence: common.confidence,
    }))
}

/// One pair of cells.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// The metric.
    pub metric: String,
    /// What the two cells share of the parameters that vary.
    pub family: String,
    /// The first cell's value.
    pub first: String,
    /// The second's.
    pub second: String,
    /// Mean over the first cell's runs.
    #[serde(serialize_with = "number::serialize")]
    pub first_mean: f64,
    /// Mean over the second's.
    #[serde(serialize_with = "number::serialize")]
    pub second_mean: f64,
    /// The second against the first.
    pub test: TwoSamples,
    /// The permutation test's p-value, corrected by Holm for the pairs of this metric and family.
    #[serde(serialize_with = "number::serialize")]
    pub corrected_p_value: f64,
}

/// Outcome of the `comparison` analysis.
#[derive(Clone, Debug, Serialize)]
pub struct ComparisonOutcome {
    /// The parameter in which compared cells differ; empty where nothing is compared.
    pub along: String,
    /// The pairs, metric by metric.
    pub pairs: Vec<Pair>,
}

/// A cell as it is compared: its value and its runs' ends.
struct Sample {
    value: String,
    ends: Vec<f64>,
    reference: bool,
}

impl Sample {
    fn mean(&self) -> f64 {
        mean::t_interval(&self.ends, 0.95).value
    }
}

impl Comparison {
    fn sample(&self, families: &Families, cell: &Cell, metric: &str) -> Sample {
        let ends = |trial: &&TrialRecord| self.criterion.value(trial, metric);
        let own = cell.parameter(families.along);
        Sample {
            value: families.value_of(cell),
            ends: ended(&cell.trials).iter().map(ends).collect(),
            reference: self.against.is_some() && compare_parameters(own, self.against.as_ref()).is_eq(),
        }
    }

    /// The pairs of cells of a family that are compared.
    fn pairs(&self, family: &Family, samples: &[Sample], metric: &str) -> Vec<Pair> {
        let numbered = || samples.iter().enumerate();
        let chosen = numbered().flat_map(|(index, first)| {
            numbered()
                .filter(move |(other, second)| match self.against {
                    Some(_) => first.reference && !second.reference,
                    None => *other > index,
                })
                .map(move |(_, second)| (first, second))
        });
        let mut pairs: Vec<Pair> = chosen
            .map(|(first, second)| Pair {
                metric: metric.to_owned(),
                family: family.name.clone(),
                first: first.value.clone(),
                second: second.value.clone(),
                first_mean: first.mean(),
                second_mean: second.mean(),
                test: compare(&first.ends, &second.ends, self.confidence),
                corrected_p_value: f64::NAN,
            })
            .collect();
        let p_values: Vec<f64> = pairs.iter().map(|pair| pair.test.permutation_p_value).collect();
        for (pair, corrected) in pairs.iter_mut().zip(holm::adjusted(&p_values)) {
            pair.corrected_p_value = corrected;
        }
        pairs
    }

    /// Compares all families in all metrics; also what that says, and what could not be compared.
    fn compare(&self, families: &Families) -> (Vec<Pair>, Vec<String>, Vec<String>) {
        let (mut pairs, mut findings, mut caveats) = (Vec::new(), Vec::new(), Vec::new());
        for family in &families.families {
            let place = if family.name.is_empty() { String::new() } else { format!("{}: ", family.name) };
            if self.against.is_none() && family.cells.len() > MOST_CELLS {
                caveats.push(format!(
                    "{place}{} cells are too many to compare every two of them; name one value of {} with `against`.",
                    family.cells.len(),
                    families.along
                ));
                continue;
            }
            for metric in &self.metrics {
                let samples: Vec<Sample> =
                    family.cells.iter().map(|cell| self.sample(families, cell, metric)).collect();
                if let Some(against) =
                    self.against.as_ref().filter(|_| !samples.iter().any(|own| own.reference))
                {
                    let value = human(Some(against));
                    caveats.push(format!(
                        "{place}no cell has {} = {value}; nothing is compared.",
                        families.along
                    ));
                    break;
                }
                let lost: usize =
                    samples.iter().flat_map(|own| &own.ends).filter(|end| !end.is_finite()).count();
                if lost > 0 {
                    caveats.push(format!("{place}Left out: {} without a finite {metric}.", runs(lost)));
                }
                let own = self.pairs(family, &samples, metric);
                findings.extend(finding(&place, metric, &samples, &own));
                pairs.extend(own);
            }
        }
        (pairs, findings, caveats)
    }

    fn table(&self, metric: &str, pairs: &[Pair]) -> TextTable {
        let interval = percent(self.confidence);
        let columns = [
            "among",
            "first",
            "second",
            "runs",
            "mean of the first",
            "mean of the second",
            "difference",
            &format!("Welch {interval}"),
            &format!("bootstrap {interval}"),
            "in sd",
            "Welch's p",
            "permutation p",
            "p, corrected (Holm)",
            "remarks",
        ];
        let mut table = TextTable::new(format!("{metric} {}", self.criterion.phrase()), columns);
        for pair in pairs.iter().filter(|pair| pair.metric == metric) {
            let TwoSamples { difference, bootstrap, .. } = &pair.test;
            table.push([
                pair.family.clone(),
                pair.first.clone(),
                pair.second.clone(),
                difference.runs.to_string(),
                number::human(pair.first_mean),
                number::human(pair.second_mean),
                number::significant(difference.value, 3),
                number::human_interval(difference.low, difference.high),
                number::human_interval(bootstrap.low, bootstrap.high),
                number::significant(pair.test.standardised, 2),
                number::significant(pair.test.welch_p_value, 2),
                number::significant(pair.test.permutation_p_value, 2),
                number::significant(pair.corrected_p_value, 2),
                difference.remarks(),
            ]);
        }
        drop_empty_column(&mut table, "among");
        drop_empty_column(&mut table, "remarks");
        table
    }
}

/// Where the metric is highest, and which of the pairs differ.
fn finding(place: &str, metric: &str, samples: &[Sample], pairs: &[Pair]) -> Option<String> {
    let measured = samples.iter().filter(|sample| sample.mean().is_finite());
    let highest = measured.max_by(|one, other| one.mean().total_cmp(&other.mean()))?;
    let differ: Vec<&Pair> = pairs.iter().filter(|pair| pair.corrected_p_value < SIGNIFICANT).collect();
    let listed: Vec<String> = differ
        .iter()
        .map(|pair| {
            let p = number::significant(pair.corrected_p_value, 2);
            let change = number::significant(pair.test.difference.value, 2);
            format!("{} against {} ({change}, p = {p})", pair.second, pair.first)
        })
        .collect();
    let verdict = if pairs.is_empty() {
        return None;
    } else if listed.is_empty() {
        match pairs.len() {
            1 => "the two do not differ significantly".to_owned(),
            pairs => format!("none of {pairs} pairs differs significantly"),
        }
    } else {
        format!("{} of {} compared differ: {}", listed.len(), pairs.len(), listed.join(", "))
    };
    let mean = number::significant(highest.mean(), 3);
    Some(format!("{place}{metric} is highest at {} ({mean}); {verdict}.", highest.value))
}

impl Analysis for Comparison {
    fn kind(&self) -> &'static str {
        "comparison"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        self.along.as_deref().into_iter().collect()
    }

    fn run(&self, data: &Dataset) -> AnalysisResult {
        let metrics: Vec<&str> = self.metrics.iter().map(String::as_str).collect();
        let mut notes = caveats(data, &metrics, false);
        let (mut pairs, mut findings) = (Vec::new(), Vec::new());
        let mut along = String::new();
        match Families::of(data, self.along.as_deref()) {
            Err(problem) => notes.push(problem),
            Ok(families) => {
                let (compared, found, problems) = self.compare(&families);
                (pairs, findings, along) = (compared, found, families.along.to_owned());
                notes.extend(problems);
            }
        }
        if !pairs.is_empty() {
            notes.push(format!(
                "Permutation test of the difference of means, all relabellings of the runs or 10,000 drawn; p-values corrected \
                 (Holm) for the pairs of one metric, not for the number of metrics. Significant in sentences: below {} % after \
                 correction. A difference that is not significant may be as large as the ends of its interval.",
                number::human(100.0 * SIGNIFICANT)
            ));
        }
        let tables = self
            .metrics
            .iter()
            .filter(|metric| pairs.iter().any(|pair| pair.metric == **metric))
            .map(|metric| self.table(metric, &pairs))
            .collect();
        let title = format!("Differences in {}", metrics.join(", "));
        AnalysisResult::new(self, title, tables, notes, ComparisonOutcome { along, pairs })
            .with_findings(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{structural, trial, with_curve};
    use plateau_common::node::Node;

    fn run(records: &[TrialRecord], options: serde_json::Value) -> AnalysisResult {
        let node = Node::from_json(&options);
        let mut fields = Fields::new("analysis", &node).unwrap();
        let common = Common { name: "comparison".to_owned(), confidence: 0.95, known: Default::default() };
        read(&mut fields, common).unwrap().run(&Dataset::new(records, &[]))
    }

    /// The tree scores of Murty et al.'s released models: six layers are highest, by about half a standard deviation over
    /// seeds, which ten seeds each do not show; the norms per layer differ beyond doubt.
    #[test]
    fn half_a_standard_deviation_is_not_significant_with_ten_seeds() {
        let metrics = ["t_score", "weight_norm_per_layer/reference"];
        let result = run(&structural(10), serde_json::json!({ "metrics": metrics }));
        let outcome: &ComparisonOutcome = result.outcome().unwrap();
        assert_eq!((outcome.along.as_str(), outcome.pairs.len()), ("model.layers", 6));
        let pair = &outcome.pairs[0];
        assert_eq!((pair.first.as_str(), pair.second.as_str()), ("layers = 2", "layers = 6"));
        assert!((pair.test.difference.value - 0.047).abs() < 1e-9, "{pair:?}");
        // sd .07 and .08: the error is sqrt((.0049 + .0064) / 10) = .0336, so t = 1.398 on 17.7 degrees of freedom.
        assert!((pair.test.welch_p_value - 0.1793).abs() < 5e-4, "{}", pair.test.welch_p_value);
        assert!((pair.test.standardised - 0.047 / 0.005_65f64.sqrt()).abs() < 1e-9);
        assert!(outcome.pairs[..3].iter().all(|pair| pair.corrected_p_value > 0.3));
        assert!(outcome.pairs[3..].iter().all(|pair| pair.corrected_p_value < 0.001));
        assert_eq!(
            result.findings[0],
            "t_score is highest at layers = 6 (0.885); none of 3 pairs differs significantly."
        );
        assert!(
            result.findings[1].contains("is highest at layers = 2 (128); 3 of 3 compared differ"),
            "{:?}",
            result.findings
        );
    }

    #[test]
    fn one_value_against_the_others() {
        let result = run(&structural(10), serde_json::json!({"metric": "t_score", "against": 6}));
        let outcome: &ComparisonOutcome = result.outcome().unwrap();
        let pairs: Vec<(&str, &str)> =
            outcome.pairs.iter().map(|pair| (pair.first.as_str(), pair.second.as_str())).collect();
        assert_eq!(pairs, [("layers = 6", "layers = 2"), ("layers = 6", "layers = 10")]);
        let none = run(&structural(2), serde_json::json!({"metric": "t_score", "against": 7}));
        assert!(none.tables.is_empty() && none.caveats.iter().any(|caveat| caveat.contains("layers = 7")));
    }

    #[test]
    fn runs_without_the_metric_are_counted() {
        let mut records = structural(5);
        records[0].series.remove("t_score");
        let result = run(&records, serde_json::json!({"metric": "t_score"}));
        let outcome: &ComparisonOutcome = result.outcome().unwrap();
        assert_eq!((outcome.pairs[0].test.difference.runs, outcome.pairs[0].test.difference.dropped), (9, 1));
        assert!(
            result.caveats.iter().any(|caveat| caveat.contains("Left out: 1 run without a finite t_score"))
        );
    }

    #[test]
    fn too_many_cells_are_not_all_compared() {
        let records: Vec<TrialRecord> = (0..13)
            .map(|dim| with_curve(trial(0, &[("model.dim", f64::from(dim))]), "test_accuracy", &[(1, 0.5)]))
            .collect();
        let result = run(&records, serde_json::json!({}));
        assert!(result.tables.is_empty());
        assert!(result.caveats.iter().any(|caveat| caveat.contains("13 cells are too many")));
    }
}
