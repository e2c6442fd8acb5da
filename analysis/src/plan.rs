//! What a study wants to know: its `[[analysis]]` and `[[figure]]` tables, read and checked before anything runs.

use plateau_common::fields::{ConfigError, ConfigResult, Fields, nearest};
use plateau_common::node::Node;
use plateau_common::results::TrialRecord;

use crate::analyses::{ANALYSES, Analysis, AnalysisResult, Common, Known};
use crate::cells::Dataset;
use crate::figures::{FIGURES, Figure, FigureContext};
use crate::filter::{Filter, FilteredAnalysis, FilteredFigure};

/// Confidence of intervals where a table says nothing else.
pub const CONFIDENCE: f64 = 0.95;

/// The analyses and figures of a study.
pub struct Plan {
    /// Analyses, in the study's order.
    pub analyses: Vec<Box<dyn Analysis>>,
    /// Figures, in the study's order.
    pub figures: Vec<Box<dyn Figure>>,
    axes: Vec<String>,
}

impl Plan {
    /// Reads the items of the study's `analysis` and `figure` arrays. `known`, as far as given, are all dotted paths
    /// that trials of the study have and all metrics that they measure: another name is an error with the nearest one.
    /// A study without any analyses gets a summary, one without any figures the curves of training and test accuracy.
    pub fn read(analyses: &[Node], figures: &[Node], known: Known) -> ConfigResult<Plan> {
        let mut plan = Plan { analyses: Vec::new(), figures: Vec::new(), axes: Vec::new() };
        let default = [table("summary")];
        for (index, node) in if analyses.is_empty() { &default } else { analyses }.iter().enumerate() {
            let analysis = plan.read_analysis(&format!("analysis[{index}]"), node, known)?;
            plan.analyses.push(analysis);
        }
        let default = [table("curves")];
        for (index, node) in if figures.is_empty() { &default } else { figures }.iter().enumerate() {
            let figure = plan.read_figure(&format!("figure[{index}]"), node, known)?;
            plan.figures.push(figure);
        }
        Ok(plan)
    }

    /// The same plan with the study's axes: among parameters that vary together, an axis names the cells.
    pub fn with_axes(mut self, axes: Vec<String>) -> Plan {
        self.axes = axes;
        self
    }

    /// The parameters by which cells are preferably labelled: axes, then whatever is mentioned.
    pub fn preferred(&self) -> Vec<String> {
        let mut names = self.axes.clone();
        names.extend(self.analyses.iter().flat_map(|analysis| analysis.mentions()).map(str::to_owned));
        names.extend(self.figures.iter().flat_map(|figure| figure.mentions()).map(str::to_owned));
        names
    }

    fn read_analysis(&self, path: &str, node: &Node, known: Known) -> ConfigResult<Box<dyn Analysis>> {
        let mut fields = Fields::new(path, node)?;
        let kinds: Vec<&str> = ANALYSES.iter().map(|kind| kind.name).collect();
        let index = read_kind(&mut fields, &kinds)?;
        let kind = ANALYSES.get(index).ok_or_else(|| fields.error("kind", "is unknown"))?;
        let name = read_name(&mut fields, kind.name, &|name| {
            self.analyses.iter().any(|other| other.name() == name)
        })?;
        let confidence = read_confidence(&mut fields)?;
        let filter = Filter::read(&mut fields, known)?;
        let analysis = (kind.read)(&mut fields, Common { name, confidence, known })?;
        fields.finish()?;
        Ok(if filter.is_empty() { analysis } else { Box::new(FilteredAnalysis { analysis, filter }) })
    }

    fn read_figure(&self, path: &str, node: &Node, known: Known) -> ConfigResult<Box<dyn Figure>> {
        let mut fields = Fields::new(path, node)?;
        let kinds: Vec<&str> = FIGURES.iter().map(|kind| kind.name).collect();
        let index = read_kind(&mut fields, &kinds)?;
        let kind = FIGURES.get(index).ok_or_else(|| fields.error("kind", "is unknown"))?;
        let name =
            read_name(&mut fields, kind.name, &|name| self.figures.iter().any(|other| other.name() == name))?;
        let title = fields.text("title")?.map(str::to_owned);
        let filter = Filter::read(&mut fields, known)?;
        let context =
            FigureContext { name, title, restriction: filter.describe(), known, analyses: &self.analyses };
        let figure = (kind.read)(&mut fields, context)?;
        fields.finish()?;
        Ok(if filter.is_empty() { figure } else { Box::new(FilteredFigure { figure, filter }) })
    }
}

/// Runs every analysis of the plan on the records, in the plan's order.
pub fn analyse(plan: &Plan, records: &[TrialRecord]) -> Vec<AnalysisResult> {
    let data = Dataset::new(records, &plan.preferred());
    plan.analyses.iter().map(|analysis| analysis.run(&data)).collect()
}

fn table(kind: &str) -> Node {
    Node::from_json(&serde_json::json!({ "kind": kind }))
}

fn read_kind(fields: &mut Fields, kinds: &[&str]) -> ConfigResult<usize> {
    let found = fields.text("kind")?;
    let found = fields.require("kind", found)?;
    kinds.iter().position(|kind| *kind == found).ok_or_else(|| {
        let error = fields.error("kind", format!("unknown kind `{found}`"));
        match nearest(found, kinds.iter().copied()) {
            Some(known) => error.suggest(format!("did you mean `{known}`?")),
            None => error.suggest(format!("one of: {}", kinds.join(", "))),
        }
    })
}

/// The given name, which must be unique and fit for a file; else the kind, numbered where it is taken.
fn read_name(fields: &mut Fields, kind: &str, taken: &dyn Fn(&str) -> bool) -> ConfigResult<String> {
    let Some(name) = fields.text("name")? else {
        let numbered = (2..).map(|number| format!("{kind}-{number}"));
        return Ok(std::iter::once(kind.to_owned())
            .chain(numbered)
            .find(|name| !taken(name))
            .unwrap_or_default());
    };
    if !is_file_name(name) {
        let error: ConfigError = fields.error("name", format!("`{name}` cannot be a file name"));
        return Err(error.suggest("use up to 64 letters, digits, `-` and `_`"));
    }
    if taken(name) {
        return Err(fields
            .error("name", format!("`{name}` is used twice"))
            .suggest("give each its own name"));
    }
    Ok(name.to_owned())
}

/// Whether a name is fit for a file: letters, digits, `-` and `_`, at most 64.
pub(crate) fn is_file_name(name: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

fn read_confidence(fields: &mut Fields) -> ConfigResult<f64> {
    Ok(fields.number("confidence", 0.5..=0.999)?.unwrap_or(CONFIDENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(json: serde_json::Value) -> Vec<Node> {
        json.as_array().unwrap().iter().map(Node::from_json).collect()
    }

    fn error(analyses: serde_json::Value, figures: serde_json::Value) -> String {
        let known = ["model.dim", "task.vocab", "train.optimizer.weight-decay"].map(str::to_owned);
        let metrics = ["train_accuracy", "test_accuracy", "weight_norm"].map(str::to_owned);
        let known = Known { parameters: Some(&known), metrics: Some(&metrics) };
        match Plan::read(&nodes(analyses), &nodes(figures), known) {
            Ok(_) => panic!("the plan was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_study_without_tables_gets_a_summary_and_curves() {
        let plan = Plan::read(&[], &[], Known::default()).unwrap();
        assert_eq!(plan.analyses.iter().map(|analysis| analysis.kind()).collect::<Vec<_>>(), ["summary"]);
        assert_eq!(plan.figures.iter().map(|figure| figure.name()).collect::<Vec<_>>(), ["curves"]);
    }

    #[test]
    fn names_are_numbered_where_a_kind_repeats() {
        let plan = Plan::read(
            &nodes(serde_json::json!([{"kind": "success"}, {"kind": "success", "level": 0.5}])),
            &[],
            Known::default(),
        )
        .unwrap();
        assert_eq!(
            plan.analyses.iter().map(|analysis| analysis.name()).collect::<Vec<_>>(),
            ["success", "success-2"]
        );
    }

    #[test]
    fn mistakes_are_named_with_their_place_and_a_suggestion() {
        let none = || serde_json::json!([]);
        let cases = [
            (
                error(serde_json::json!([{"kind": "treshold"}]), none()),
                "`analysis[0].kind`: unknown kind `treshold` (did you mean `threshold`?)",
            ),
            (
                error(serde_json::json!([{"level": 0.8}]), none()),
                "`analysis[0].kind`: is required but missing (add `kind = …`)",
            ),
            (
                error(serde_json::json!([{"kind": "threshold", "along": "task.vocabulary"}]), none()),
                "`analysis[0].along`: `task.vocabulary` is not a parameter of this study (did you mean `task.vocab`?)",
            ),
            (
                error(serde_json::json!([{"kind": "threshold"}]), none()),
                "`analysis[0].along`: is required but missing (add `along = …`)",
            ),
            (
                error(serde_json::json!([{"kind": "success", "lvel": 0.8}]), none()),
                "`analysis[0].lvel`: unknown key (did you mean `level`?)",
            ),
            (
                error(serde_json::json!([{"kind": "success", "confidence": 95}]), none()),
                "`analysis[0].confidence`: 95 is out of range (allowed: 0.5 to 0.999)",
            ),
            (
                error(serde_json::json!([{"kind": "success", "metric": "test_acuracy"}]), none()),
                "`analysis[0].metric`: `test_acuracy` is not measured by this study (did you mean `test_accuracy`?)",
            ),
            (
                error(serde_json::json!([{"kind": "grokking", "test-metric": "margin"}]), none()),
                "`analysis[0].test-metric`: `margin` is not measured by this study (measured: train_accuracy, \
                 test_accuracy, weight_norm; `evaluate.probes` adds more)",
            ),
            (
                error(
                    none(),
                    serde_json::json!([{"kind": "curves", "metrics": ["weight_norm", "weigth_norm"]}]),
                ),
                "`figure[0].metrics[1]`: `weigth_norm` is not measured by this study (did you mean `weight_norm`?)",
            ),
            (
                error(serde_json::json!([{"kind": "success", "name": "../x"}]), none()),
                "`analysis[0].name`: `../x` cannot be a file name (use up to 64 letters, digits, `-` and `_`)",
            ),
            (
                error(none(), serde_json::json!([{"kind": "estimate"}])),
                "`figure[0].analysis`: there is no analysis of kind threshold (add `[[analysis]]` with `kind = \"threshold\"`)",
            ),
            (
                error(none(), serde_json::json!([{"kind": "heatmap", "x": "task.vocab"}])),
                "`figure[0].y`: is required but missing (add `y = …`)",
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }
}
