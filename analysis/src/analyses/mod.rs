//! Analyses a study can ask for with `[[analysis]]`: one per file, listed in [`ANALYSES`].
//!
//! The contract (checked for each entry by one conformance test): an analysis is a pure function of the data set; it
//! never panics and never answers NaN without a flag or a caveat, whatever the trials hold (nothing, only NaN, one
//! seed, nothing but censored runs); the order of trials changes nothing; a trial that is left out is counted in a
//! caveat. Its result is typed (for figures), JSON (for machines) and tables (for people).

pub mod change;
pub mod comparison;
pub mod criterion;
pub mod families;
pub mod grokking;
pub mod length_generalisation;
pub mod population;
pub mod success;
pub mod summary;
pub mod survival;
pub mod threshold;

use std::any::Any;
use std::sync::Arc;

use plateau_common::fields::{ConfigError, ConfigResult, Fields, nearest};
use plateau_common::node::{Location, Node, Value as NodeValue};
use serde::Serialize;
use serde_json::Value;

use crate::cells::Dataset;
use crate::metric::listed;
use crate::number;
use crate::table::TextTable;

/// One analysis of a plan, ready to run.
pub trait Analysis: Send + Sync {
    /// Its kind, as in the list.
    fn kind(&self) -> &'static str;
    /// Its name in the plan: given by the study, else its kind.
    fn name(&self) -> &str;
    /// The parameters it reads by name.
    fn mentions(&self) -> Vec<&str>;
    /// Runs it.
    fn run(&self, data: &Dataset) -> AnalysisResult;
}

/// A kind of analysis.
pub struct AnalysisKind {
    /// The word after `kind =`.
    pub name: &'static str,
    /// What it computes, in a line.
    pub about: &'static str,
    /// Reads its options; the caller reports unknown keys.
    pub read: fn(&mut Fields, Common) -> ConfigResult<Box<dyn Analysis>>,
}

/// All kinds of analysis. Adding one: a file here and a line in this list.
pub const ANALYSES: &[AnalysisKind] = &[
    AnalysisKind {
        name: "summary",
        about: "mean, intervals and spread of a metric per cell",
        read: summary::read,
    },
    AnalysisKind { name: "success", about: "share of seeds that reach a level", read: success::read },
    AnalysisKind {
        name: "threshold",
        about: "where a metric falls through a level along an axis",
        read: threshold::read,
    },
    AnalysisKind {
        name: "grokking",
        about: "saturation, generalisation and the delay between them",
        read: grokking::read,
    },
    AnalysisKind {
        name: "survival",
        about: "time until a metric reaches a level, with censoring",
        read: survival::read,
    },
    AnalysisKind {
        name: "comparison",
        about: "whether the ends of a metric's curves differ between cells",
        read: comparison::read,
    },
    AnalysisKind {
        name: "change",
        about: "whether a metric rises or falls over training in every cell",
        read: change::read,
    },
    AnalysisKind {
        name: "length-generalisation",
        about: "scores within and beyond the sizes trained on, and how far they reach",
        read: length_generalisation::read,
    },
];

/// What all analyses have in common.
#[derive(Clone)]
pub struct Common<'k> {
    /// Name in the plan.
    pub name: String,
    /// Confidence of intervals, 0 to 1.
    pub confidence: f64,
    /// What parameter names may be used.
    pub known: Known<'k>,
}

/// The names a plan may use; `None` accepts any.
#[derive(Clone, Copy, Default)]
pub struct Known<'k> {
    /// Dotted paths of parameters.
    pub parameters: Option<&'k [String]>,
    /// Metrics; see [`crate::metric::measured`].
    pub metrics: Option<&'k [String]>,
}

impl Known<'_> {
    /// Reads an optional parameter name.
    pub fn parameter(&self, fields: &mut Fields, key: &'static str) -> ConfigResult<Option<String>> {
        let Some(found) = fields.text(key)? else { return Ok(None) };
        let path = fields.path_of(key);
        self.check(found, &path, fields.location_of(key))?;
        Ok(Some(found.to_owned()))
    }

    /// Refuses a name that is not a parameter; the error is placed at `path`.
    pub fn check(&self, found: &str, path: &str, location: Option<Location>) -> ConfigResult<()> {
        let Some(names) = self.parameters else { return Ok(()) };
        if names.iter().any(|name| name == found) {
            return Ok(());
        }
        let error = ConfigError::new(path, location, format!("`{found}` is not a parameter of this study"));
        Err(suggest_parameter(error, found, names))
    }

    /// Reads an optional metric name.
    pub fn metric(&self, fields: &mut Fields, key: &'static str) -> ConfigResult<Option<String>> {
        let Some(found) = fields.text(key)? else { return Ok(None) };
        let path = fields.path_of(key);
        self.check_metric(found, &path, fields.location_of(key))?;
        Ok(Some(found.to_owned()))
    }

    /// Reads a metric name that is an item of a list; the error is placed at `path`.
    pub fn metric_item(&self, item: &Node, path: &str) -> ConfigResult<String> {
        let NodeValue::Text(name) = &item.value else {
            let problem = format!("expected a metric name, found {}", item.value.type_name());
            return Err(ConfigError::new(path, item.location, problem));
        };
        self.check_metric(name, path, item.location)?;
        Ok(name.clone())
    }

    /// Refuses a name that no trial measures; the error is placed at `path`.
    pub fn check_metric(&self, found: &str, path: &str, location: Option<Location>) -> ConfigResult<()> {
        let Some(names) = self.metrics else { return Ok(()) };
        if names.iter().any(|name| name == found) {
            return Ok(());
        }
        let error = ConfigError::new(path, location, format!("`{found}` is not measured by this study"));
        Err(match nearest(found, names.iter().map(String::as_str)) {
            Some(known) => error.suggest(format!("did you mean `{known}`?")),
            None => error.suggest(format!(
                "measured: {}; `evaluate.probes` adds more",
                listed(names.iter().map(String::as_str))
            )),
        })
    }
}

fn suggest_parameter(error: ConfigError, found: &str, names: &[String]) -> ConfigError {
    let last = found.rsplit('.').next().unwrap_or(found);
    let same_end = names.iter().find(|name| name.rsplit('.').next() == Some(last));
    let start = names.iter().find(|name| name.starts_with(found) || found.starts_with(name.as_str()));
    let likely = same_end.or(start).map(String::as_str);
    match nearest(found, names.iter().map(String::as_str)).or(likely) {
        Some(known) => error.suggest(format!("did you mean `{known}`?")),
        None => error.suggest("write the dotted path of a configuration value, such as `model.dim`"),
    }
}

/// What an analysis found.
#[derive(Clone)]
pub struct AnalysisResult {
    /// Name in the plan.
    pub name: String,
    /// Kind of the analysis.
    pub kind: &'static str,
    /// A heading.
    pub title: String,
    /// To which trials it is restricted, for people; empty for all.
    pub restriction: String,
    /// Tables for people, the most important first.
    pub tables: Vec<TextTable>,
    /// What was found, a sentence each; empty where the tables say it all.
    pub findings: Vec<String>,
    /// What a reader must know, in plain language.
    pub caveats: Vec<String>,
    /// The whole result for machines.
    pub json: Value,
    typed: Arc<dyn Any + Send + Sync>,
}

impl AnalysisResult {
    /// A result from its typed outcome; the JSON is the outcome's.
    pub fn new<T: Serialize + Any + Send + Sync>(
        analysis: &dyn Analysis,
        title: impl Into<String>,
        tables: Vec<TextTable>,
        caveats: Vec<String>,
        outcome: T,
    ) -> Self {
        // Keys of outcomes are strings and their numbers are written by `number`, so this cannot fail; if it ever did,
        // the text of the failure stands in the summary instead of a panic.
        let json = serde_json::to_value(&outcome).unwrap_or_else(|error| Value::from(error.to_string()));
        AnalysisResult {
            name: analysis.name().to_owned(),
            kind: analysis.kind(),
            title: title.into(),
            restriction: String::new(),
            tables,
            findings: Vec::new(),
            caveats,
            json,
            typed: Arc::new(outcome),
        }
    }

    /// The same result with what was found in sentences.
    pub fn with_findings(self, findings: Vec<String>) -> Self {
        AnalysisResult { findings, ..self }
    }

    /// The outcome, if it is of type `T`.
    pub fn outcome<T: Any>(&self) -> Option<&T> {
        self.typed.downcast_ref()
    }

    /// Everything but the tables, as JSON.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "name": self.name,
            "kind": self.kind,
            "title": self.title,
            "restriction": self.restriction,
            "findings": self.findings,
            "caveats": self.caveats,
            "result": self.json,
        })
    }
}

/// Reads `metrics = [..]` or `metric = ".."`, else `default`.
pub fn read_metrics(fields: &mut Fields, known: Known, default: &[&str]) -> ConfigResult<Vec<String>> {
    let single = known.metric(fields, "metric")?;
    let Some(metrics) = read_metric_list(fields, known, "metrics")? else {
        return Ok(
            single.map_or_else(|| default.iter().map(|name| (*name).to_owned()).collect(), |name| vec![name])
        );
    };
    if single.is_some() {
        return Err(fields
            .error("metric", "`metric` and `metrics` are both given")
            .suggest("keep one of them"));
    }
    Ok(metrics)
}

/// Reads an optional list of metrics, which must not be empty.
pub fn read_metric_list(
    fields: &mut Fields,
    known: Known,
    key: &'static str,
) -> ConfigResult<Option<Vec<String>>> {
    let Some(items) = fields.array(key)? else { return Ok(None) };
    let mut metrics = Vec::new();
    for (index, item) in items.iter().enumerate() {
        metrics.push(known.metric_item(item, &format!("{}[{index}]", fields.path_of(key)))?);
    }
    if metrics.is_empty() {
        return Err(fields.error(key, "is empty").suggest("name a metric such as `test_accuracy`"));
    }
    Ok(Some(metrics))
}

/// `95 %`.
pub(crate) fn percent(confidence: f64) -> String {
    format!("{} %", number::human(confidence * 100.0))
}

#[cfg(test)]
mod tests {
    use plateau_common::results::TrialRecord;
    use plateau_common::trial::TrialState;

    use super::*;
    use crate::fixture::{counting, digits, grokking, lengths, structural, trial, with_curve};

    /// Every analysis with the options it needs, and some with others.
    fn all() -> Vec<Box<dyn Analysis>> {
        let needed = |name: &'static str| match name {
            "threshold" => (name, serde_json::json!({ "along": "task.vocab", "by": "model.dim" })),
            name => (name, serde_json::json!({})),
        };
        let others = [
            ("grokking", serde_json::json!({ "linear-rule": true, "stable": "consecutive" })),
            (
                "success",
                serde_json::json!({ "criterion": "mean-of-last", "along": "model.dim", "level": 0.5 }),
            ),
            ("success", serde_json::json!({ "criterion": "ever", "persistence": 2 })),
            ("comparison", serde_json::json!({ "along": "task.vocab" })),
            ("comparison", serde_json::json!({ "metric": "t_score", "along": "model.layers", "against": 6 })),
            (
                "change",
                serde_json::json!({ "metric": "t_parseval", "from": 5000, "criterion": "mean-of-last" }),
            ),
        ];
        let wanted = ANALYSES.iter().map(|kind| needed(kind.name)).chain(others);
        wanted
            .map(|(name, options)| {
                let kind = ANALYSES.iter().find(|kind| kind.name == name).unwrap();
                let node = Node::from_json(&options);
                let mut fields = Fields::new("analysis", &node).unwrap();
                let common = Common { name: name.to_owned(), confidence: 0.95, known: Known::default() };
                let analysis =
                    (kind.read)(&mut fields, common).unwrap_or_else(|error| panic!("{name}: {error}"));
                fields.finish().unwrap_or_else(|error| panic!("{name}: {error}"));
                analysis
            })
            .collect()
    }

    fn no_null(value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::Array(items) => items.iter().all(no_null),
            Value::Object(map) => map.values().all(no_null),
            _ => true,
        }
    }

    fn degenerate() -> Vec<(&'static str, Vec<TrialRecord>)> {
        let nan: Vec<TrialRecord> = grokking(3)
            .into_iter()
            .map(|mut record| {
                record.series.values_mut().for_each(|curve| curve.values.fill(f64::NAN));
                record.state = TrialState::Diverged;
                record.diverged_at = Some(10);
                record
            })
            .collect();
        let without = |dropped: &dyn Fn(&TrialRecord, &str) -> bool| {
            let mut records = lengths(2);
            for record in &mut records {
                let mut series = std::mem::take(&mut record.series);
                let gone = series.iter_mut().filter(|(name, _)| dropped(record, name));
                gone.for_each(|(_, curve)| curve.values.fill(f64::NAN));
                record.series = series;
            }
            records
        };
        let flat = |mut record: TrialRecord| {
            record.series.values_mut().for_each(|curve| curve.values.fill(0.1));
            record
        };
        let mut pending = trial(0, &[("model.dim", 8.0)]);
        (pending.state, pending.last_step) = (TrialState::Pending, 0);
        vec![
            ("empty", Vec::new()),
            ("no curves", vec![trial(0, &[("model.dim", 8.0)]), trial(1, &[("model.dim", 8.0)])]),
            ("pending", vec![pending]),
            ("all NaN", nan),
            ("lengths, all NaN", without(&|_, _| true)),
            ("lengths, one run all NaN", without(&|record, _| record.id == "abacus-0")),
            ("lengths, single seed", lengths(1)),
            (
                "lengths, nothing but categories",
                without(&|_, name| !name.ends_with("/id") && !name.ends_with("/ood")),
            ),
            ("lengths, no size equal to the other", without(&|_, name| name.ends_with("3x3"))),
            ("structural, one seed", structural(1)),
            ("structural, all NaN", {
                let mut records = structural(2);
                let curves = records.iter_mut().flat_map(|record| record.series.values_mut());
                curves.for_each(|curve| curve.values.fill(f64::NAN));
                records
            }),
            ("single seed", grokking(1)),
            ("single seed, counting", counting(1)),
            ("all censored", grokking(4).into_iter().map(flat).collect()),
            ("all censored, counting", counting(5).into_iter().map(flat).collect()),
            (
                "zero variance",
                (0..5).map(|seed| with_curve(trial(seed, &[]), "test_accuracy", &[(0, 0.5)])).collect(),
            ),
        ]
    }

    #[test]
    fn degenerate_data_give_caveats_or_flags_and_never_a_panic_or_null() {
        for (what, records) in degenerate() {
            let data = Dataset::new(&records, &[]).with_axes_of(digits);
            for analysis in all() {
                let result = analysis.run(&data);
                let kind = result.kind;
                assert!(no_null(&result.json), "{kind} on {what}: {}", result.json);
                let flagged = result.json.to_string().contains("\"flags\":[\"");
                assert!(!result.caveats.is_empty() || flagged, "{kind} on {what} says nothing is wrong");
                assert!(!result.title.is_empty());
                let sentences = result.findings.iter().chain(&result.caveats);
                assert!(sentences.clone().all(|text| !text.contains("NaN")), "{kind} on {what}");
                for table in &result.tables {
                    assert!(table.rows.iter().all(|row| row.len() == table.columns.len()));
                    assert!(
                        table.rows.iter().flatten().all(|text| !text.contains("NaN")),
                        "{kind} on {what}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_order_of_trials_changes_nothing() {
        for records in [grokking(6), counting(5), lengths(6), structural(4)] {
            let mut shuffled = records.clone();
            shuffled.reverse();
            shuffled.rotate_left(7);
            for analysis in all() {
                let one = analysis.run(&Dataset::new(&records, &[]).with_axes_of(digits));
                let other = analysis.run(&Dataset::new(&shuffled, &[]).with_axes_of(digits));
                assert_eq!(one.json, other.json, "{}", one.kind);
                assert_eq!(one.tables, other.tables, "{}", one.kind);
                assert_eq!((one.findings, one.caveats), (other.findings, other.caveats), "{}", one.kind);
            }
        }
    }
}
