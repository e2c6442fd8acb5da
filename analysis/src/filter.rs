//! `where`: restricts an analysis or a figure to the trials whose parameters have certain values.

use plateau_common::fields::{ConfigError, ConfigResult, Fields};
use plateau_common::node::{Node, Table, Value};
use plateau_common::results::{Parameter, TrialRecord};

use crate::analyses::{Analysis, AnalysisResult, Known};
use crate::cells::{Dataset, compare, human, short_name};
use crate::figures::{Drawing, Figure};

/// Parameters and the values allowed for each; empty lets every trial pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    conditions: Vec<(String, Vec<Parameter>)>,
}

impl Filter {
    /// Reads the optional table `where`: dotted paths with a value or a list of values.
    pub fn read(fields: &mut Fields, known: Known) -> ConfigResult<Filter> {
        let mut filter = Filter::default();
        let path = fields.path_of("where");
        match fields.node("where").map(|node| &node.value) {
            None => {}
            Some(Value::Table(table)) => filter.read_table(&path, "", table, known)?,
            Some(other) => {
                let problem = format!("expected a table, found {}", other.type_name());
                return Err(fields
                    .error("where", problem)
                    .suggest("write `where = { \"task.kind\" = \"…\" }`"));
            }
        }
        Ok(filter)
    }

    fn read_table(&mut self, place: &str, prefix: &str, table: &Table, known: Known) -> ConfigResult<()> {
        for entry in &table.entries {
            let name = if prefix.is_empty() { entry.key.clone() } else { format!("{prefix}.{}", entry.key) };
            let path = format!("{place}.{name}");
            match &entry.node.value {
                Value::Table(inner) => self.read_table(place, &name, inner, known)?,
                Value::Array(items) => {
                    known.check(&name, &path, entry.key_location)?;
                    let values =
                        items.iter().map(|item| parameter(&path, item)).collect::<ConfigResult<_>>()?;
                    self.conditions.push((name, values));
                }
                _ => {
                    known.check(&name, &path, entry.key_location)?;
                    self.conditions.push((name, vec![parameter(&path, &entry.node)?]));
                }
            }
        }
        Ok(())
    }

    /// Whether every trial passes.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether a trial passes.
    pub fn admits(&self, trial: &TrialRecord) -> bool {
        self.conditions.iter().all(|(name, values)| {
            let own = trial.parameters.get(name);
            own.is_some() && values.iter().any(|value| compare(own, Some(value)).is_eq())
        })
    }

    /// The conditions for people: `kind = query-count, dim = 8 or 16`.
    pub fn describe(&self) -> String {
        let names: Vec<&str> = self.conditions.iter().map(|(name, _)| name.as_str()).collect();
        let condition = |(name, values): &(String, Vec<Parameter>)| {
            let values: Vec<String> = values.iter().map(|value| human(Some(value))).collect();
            format!("{} = {}", short_name(name, &names), values.join(" or "))
        };
        self.conditions.iter().map(condition).collect::<Vec<_>>().join(", ")
    }
}

/// Reads a value that a parameter may have.
pub(crate) fn parameter(path: &str, node: &Node) -> ConfigResult<Parameter> {
    match &node.value {
        Value::Bool(value) => Ok(Parameter::Bool(*value)),
        Value::Integer(value) => Ok(Parameter::Number(*value as f64)),
        Value::Float(value) => Ok(Parameter::Number(*value)),
        Value::Text(value) => Ok(Parameter::Text(value.clone())),
        other => {
            let problem = format!("expected a value or a list of values, found {}", other.type_name());
            Err(ConfigError::new(path, node.location, problem))
        }
    }
}

/// An analysis of the trials that pass a filter.
pub struct FilteredAnalysis {
    /// The analysis.
    pub analysis: Box<dyn Analysis>,
    /// The filter.
    pub filter: Filter,
}

impl Analysis for FilteredAnalysis {
    fn kind(&self) -> &'static str {
        self.analysis.kind()
    }

    fn name(&self) -> &str {
        self.analysis.name()
    }

    fn mentions(&self) -> Vec<&str> {
        self.analysis.mentions()
    }

    fn run(&self, data: &Dataset) -> AnalysisResult {
        let mut result = self.analysis.run(&data.only(&self.filter));
        result.restriction = self.filter.describe();
        result.title = format!("{} ({})", result.title, result.restriction);
        result.caveats.insert(0, format!("Only trials with {}.", result.restriction));
        result
    }
}

/// A figure of the trials that pass a filter. Its results are the plan's, filtered or not by their own conditions.
pub struct FilteredFigure {
    /// The figure.
    pub figure: Box<dyn Figure>,
    /// The filter.
    pub filter: Filter,
}

impl Figure for FilteredFigure {
    fn name(&self) -> &str {
        self.figure.name()
    }

    fn mentions(&self) -> Vec<&str> {
        self.figure.mentions()
    }

    fn draw(&self, data: &Dataset, results: &[AnalysisResult]) -> Drawing {
        let mut drawing = self.figure.draw(&data.only(&self.filter), results);
        drawing.caption.push_str(&format!(" Only trials with {}.", self.filter.describe()));
        drawing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyses::threshold::ThresholdOutcome;
    use crate::fixture::counting;
    use crate::plan::{Plan, analyse};

    fn nodes(json: serde_json::Value) -> Vec<Node> {
        json.as_array().unwrap().iter().map(Node::from_json).collect()
    }

    #[test]
    fn only_trials_that_pass_are_analysed_and_the_report_says_so() {
        let records = counting(3);
        let analyses = serde_json::json!([
            {"kind": "threshold", "along": "task.vocab", "by": "model.dim", "where": {"model.dim": [8, 32]}},
            {"kind": "threshold", "along": "task.vocab", "where": {"model": {"dim": 16}}},
            {"kind": "threshold", "along": "task.vocab", "where": {"model.dim": 7}},
        ]);
        let figures = serde_json::json!([
            {"kind": "heatmap", "x": "task.vocab", "y": "model.dim", "where": {"model.dim": 8}},
            {"kind": "estimate", "analysis": 1},
        ]);
        let plan = Plan::read(&nodes(analyses), &nodes(figures), Known::default()).unwrap();
        let results = analyse(&plan, &records);
        let points = |index: usize| {
            let outcome: &ThresholdOutcome = results[index].outcome().unwrap();
            outcome
                .facets
                .iter()
                .flat_map(|facet| &facet.points)
                .map(|point| point.crossing)
                .collect::<Vec<_>>()
        };
        assert_eq!((points(0).len(), points(1).len(), points(2).len()), (2, 1, 0));
        assert!(results[0].title.ends_with("(dim = 8 or 32)"), "{}", results[0].title);
        assert_eq!(results[1].caveats[0], "Only trials with dim = 16.");
        let data = Dataset::new(&records, &plan.preferred());
        let captions: Vec<String> =
            plan.figures.iter().map(|figure| figure.draw(&data, &results).caption).collect();
        assert!(captions[0].ends_with("Only trials with dim = 8."));
        assert!(captions[1].contains("dim = 16"), "{}", captions[1]);
    }

    #[test]
    fn mistakes_are_named() {
        let known = ["model.dim".to_owned()];
        let known = Known { parameters: Some(&known), metrics: None };
        let error = |json| match Plan::read(&nodes(json), &[], known) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        };
        assert_eq!(
            error(serde_json::json!([{"kind": "summary", "where": {"model.dmi": 8}}])),
            "`analysis[0].where.model.dmi`: `model.dmi` is not a parameter of this study (did you mean `model.dim`?)"
        );
        assert_eq!(
            error(serde_json::json!([{"kind": "summary", "where": "x"}])),
            "`analysis[0].where`: expected a table, found a string (write `where = { \"task.kind\" = \"…\" }`)"
        );
    }
}
