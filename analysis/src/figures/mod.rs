//! Figures a study can ask for with `[[figure]]`: one per file, listed in [`FIGURES`].
//!
//! The contract (checked for each entry by one conformance test): a figure is a pure function of the data set and the
//! plan's results; it never panics; where there is nothing to draw it draws a sentence that says why; censored values are
//! shown as such; the legend does not cover data. It becomes SVG and PNG from the same scene.
//!
//! A figure is done when somebody has looked at it: `PLATEAU_FIGURES=folder cargo test -p plateau-analysis figures` leaves
//! what the tests draw in a folder.

pub mod curves;
pub mod early_stopping;
pub mod estimate;
pub mod heatmap;
pub mod map;
pub mod panels;
pub mod recurrence_curves;
pub mod replicates;
pub mod scale;
pub mod scene;
pub mod size_bars;
pub mod size_curves;
pub mod size_heatmap;
pub mod small_multiples;
pub mod style;
pub mod success;
pub mod survival;

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::node::Value;

use crate::analyses::{Analysis, AnalysisResult, Known};
use crate::cells::Dataset;
use scene::Scene;

/// One figure of a plan, ready to draw.
pub trait Figure: Send + Sync {
    /// Its name in the plan, fit for a file name.
    fn name(&self) -> &str;
    /// The parameters it reads by name.
    fn mentions(&self) -> Vec<&str>;
    /// Draws it from the trials and from the results of all analyses of the plan.
    fn draw(&self, data: &Dataset, results: &[AnalysisResult]) -> Drawing;
}

/// A drawn figure.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// The picture.
    pub scene: Scene,
    /// What it shows, as a sentence or two.
    pub caption: String,
}

impl Drawing {
    /// The picture that says why there is nothing to draw.
    pub fn message(title: &str, words: impl Into<String>) -> Self {
        let caption = words.into();
        Drawing { scene: style::message(title, &caption), caption }
    }
}

/// A kind of figure.
pub struct FigureKind {
    /// The word after `kind =`.
    pub name: &'static str,
    /// What it shows, in a line.
    pub about: &'static str,
    /// Reads its options; the caller reports unknown keys.
    pub read: fn(&mut Fields, FigureContext) -> ConfigResult<Box<dyn Figure>>,
}

/// All kinds of figure. Adding one: a file here and a line in this list.
pub const FIGURES: &[FigureKind] = &[
    FigureKind {
        name: "curves",
        about: "metrics over training with the spread of replicates",
        read: curves::read,
    },
    FigureKind {
        name: "small-multiples",
        about: "metrics over training, a small panel for every seed",
        read: small_multiples::read,
    },
    FigureKind {
        name: "early-stopping",
        about: "the held-out metric at the early stop and at the end, every run",
        read: early_stopping::read,
    },
    FigureKind { name: "heatmap", about: "a metric over two parameters", read: heatmap::read },
    FigureKind {
        name: "estimate",
        about: "thresholds with intervals and the line through them",
        read: estimate::read,
    },
    FigureKind {
        name: "success",
        about: "share of successful seeds with Wilson intervals",
        read: success::read,
    },
    FigureKind {
        name: "survival",
        about: "share of runs still without the event over steps",
        read: survival::read,
    },
    FigureKind {
        name: "size-heatmap",
        about: "scores over the two sizes of problems, trained square and ceiling outlined",
        read: size_heatmap::read,
    },
    FigureKind {
        name: "size-bars",
        about: "scores in distribution, out of distribution and beyond, as bars with intervals",
        read: size_bars::read,
    },
    FigureKind {
        name: "size-curves",
        about: "scores over equal sizes with the spread of replicates",
        read: size_curves::read,
    },
    FigureKind {
        name: "recurrence-curves",
        about: "exact match over the number of recurrences at test",
        read: recurrence_curves::read,
    },
];

/// What a figure may refer to while it is read.
pub struct FigureContext<'k> {
    /// Name in the plan.
    pub name: String,
    /// Title, if the study gives one.
    pub title: Option<String>,
    /// To which trials the figure is restricted, for people; empty for all.
    pub restriction: String,
    /// What parameter names may be used.
    pub known: Known<'k>,
    /// The plan's analyses.
    pub analyses: &'k [Box<dyn Analysis>],
}

impl FigureContext<'_> {
    /// Reads `analysis` (a name or an index from 0), which must be of one of `kinds`; without it, the first such
    /// analysis of the plan.
    pub fn analysis(&self, fields: &mut Fields, kinds: &[&str]) -> ConfigResult<String> {
        let fits = |kind: &str| kinds.contains(&kind);
        let wanted = kinds.join(" or ");
        let Some(node) = fields.node("analysis") else {
            return self
                .analyses
                .iter()
                .find(|analysis| fits(analysis.kind()))
                .map(|analysis| analysis.name().to_owned())
                .ok_or_else(|| {
                    let first = kinds.first().copied().unwrap_or_default();
                    fields
                        .error("analysis", format!("there is no analysis of kind {wanted}"))
                        .suggest(format!("add `[[analysis]]` with `kind = \"{first}\"`"))
                });
        };
        let found = match &node.value {
            Value::Text(name) => self.analyses.iter().find(|analysis| analysis.name() == name),
            Value::Integer(index) => usize::try_from(*index).ok().and_then(|index| self.analyses.get(index)),
            other => {
                let problem =
                    format!("expected the name or the index of an analysis, found {}", other.type_name());
                return Err(fields.error("analysis", problem));
            }
        };
        match found {
            Some(analysis) if fits(analysis.kind()) => Ok(analysis.name().to_owned()),
            Some(analysis) => Err(fields.error(
                "analysis",
                format!("`{}` is of kind {}, not {wanted}", analysis.name(), analysis.kind()),
            )),
            None => {
                let names: Vec<&str> = self.analyses.iter().map(|analysis| analysis.name()).collect();
                Err(fields
                    .error("analysis", format!("there is no analysis {}", node.value))
                    .suggest(format!("analyses here: {}", names.join(", "))))
            }
        }
    }
}

/// A default title with the restriction it holds under.
pub(crate) fn restricted(title: String, restriction: &str) -> String {
    if restriction.is_empty() { title } else { format!("{title} ({restriction})") }
}

/// The result of the analysis of this name.
pub(crate) fn result<'r>(results: &'r [AnalysisResult], name: &str) -> Option<&'r AnalysisResult> {
    results.iter().find(|result| result.name == name)
}

#[cfg(test)]
mod tests {
    use plateau_common::node::Node;
    use plateau_common::results::{Parameter, TrialRecord};

    use crate::analyses::Known;
    use crate::fixture::{counting, digits, grokking, lengths, structural, trial};
    use crate::plan::{Plan, analyse};

    fn plan() -> Plan {
        let nodes = |json: serde_json::Value| -> Vec<Node> {
            json.as_array().unwrap().iter().map(Node::from_json).collect()
        };
        let analyses = serde_json::json!([
            {"kind": "threshold", "along": "task.vocab", "by": "model.dim"},
            {"kind": "success", "level": 0.8},
            {"kind": "survival", "level": 0.9},
            {"kind": "grokking"},
        ]);
        let figures: Vec<serde_json::Value> = super::FIGURES
            .iter()
            .map(|kind| match kind.name {
                "heatmap" => serde_json::json!({"kind": "heatmap", "x": "task.vocab", "y": "model.dim"}),
                name => serde_json::json!({ "kind": name }),
            })
            .collect();
        Plan::read(&nodes(analyses), &nodes(serde_json::Value::from(figures)), Known::default()).unwrap()
    }

    fn draw(records: &[TrialRecord]) {
        draw_all(&plan(), records, false);
    }

    /// Where there is little to draw, the picture in one format is enough: both are painted from the same shapes.
    fn draw_quickly(records: &[TrialRecord]) {
        draw_all(&plan(), records, true);
    }

    /// Draws all figures of a plan. With `PLATEAU_FIGURES` they are left in that folder, to be looked at.
    fn draw_all(plan: &Plan, records: &[TrialRecord], svg_only: bool) {
        let results = analyse(plan, records);
        let data = crate::cells::Dataset::new(records, &plan.preferred()).with_axes_of(digits);
        for figure in &plan.figures {
            let drawing = figure.draw(&data, &results);
            let name = figure.name();
            assert!(!drawing.caption.is_empty(), "{name}");
            let svg = drawing.scene.to_svg().unwrap();
            assert!(svg.starts_with("<svg") && svg.contains("<text"), "{name} says nothing");
            assert!(!svg.contains("NaN"), "{name}");
            if svg_only {
                continue;
            }
            let png = drawing.scene.to_png().unwrap();
            assert!(png.starts_with(b"\x89PNG"), "{name}");
            if let Some(folder) = std::env::var_os("PLATEAU_FIGURES") {
                let file = format!("{}-{name}.png", records.first().map_or("nothing", |record| &record.id));
                std::fs::write(std::path::Path::new(&folder).join(file), png).unwrap();
            }
        }
    }

    #[test]
    fn the_loss_of_a_model_that_answers_with_a_number_is_not_in_nats() {
        let curves = [Node::from_json(&serde_json::json!({"kind": "curves", "metric": "test_loss"}))];
        let plan = Plan::read(&[], &curves, Known::default()).unwrap();
        let svg = |records: &[TrialRecord]| {
            let data = crate::cells::Dataset::new(records, &[]);
            plan.figures.first().unwrap().draw(&data, &[]).scene.to_svg().unwrap()
        };
        let mut records = grokking(2);
        assert!(svg(&records).contains("Loss (nats)"));
        let head = |word: &str| Parameter::Text(word.to_owned());
        records.iter_mut().for_each(|record| {
            record.parameters.insert("task.head".to_owned(), head("classify"));
        });
        assert!(svg(&records).contains("Loss (nats)"));
        records[0].parameters.insert("task.head".to_owned(), head("regress"));
        assert!(svg(&records).contains(">\nLoss\n") && !svg(&records).contains("nats"));
        assert_eq!(super::style::quantity("test_exact_match"), super::style::quantity("test_accuracy"));
    }

    #[test]
    fn every_figure_draws_real_studies() {
        draw(&counting(5));
        draw(&grokking(5));
        draw(&lengths(3));
        draw(&structural(3));
    }

    /// The report of a study of structural grokking, as docs/science.md describes it.
    #[test]
    fn the_figures_of_structural_grokking() {
        let accuracies = ["in_domain_accuracy", "generalisation_accuracy", "generalisation_linear_rule"];
        let inside = ["t_score", "t_parseval", "weight_norm_per_layer/reference", "attention_sparsity"];
        let nodes = |items: &[serde_json::Value]| items.iter().map(Node::from_json).collect::<Vec<_>>();
        let plan = Plan::read(
            &nodes(&[
                serde_json::json!({
                    "kind": "grokking", "train-metric": accuracies[0], "test-metric": accuracies[1], "level": 0.8,
                    "stable": "consecutive", "linear-rule": true,
                }),
                serde_json::json!({"kind": "success", "metric": accuracies[1], "level": 0.8}),
            ]),
            &nodes(&[
                serde_json::json!({
                    "kind": "curves", "metrics": accuracies, "dotted": [accuracies[2]], "level": 0.8,
                }),
                serde_json::json!({
                    "kind": "small-multiples", "metrics": accuracies, "dotted": [accuracies[2]], "level": 0.8,
                }),
                serde_json::json!({"kind": "success", "x": "model.layers"}),
                serde_json::json!({"kind": "early-stopping"}),
                serde_json::json!({"kind": "survival"}),
                serde_json::json!({
                    "kind": "curves", "name": "inside", "metrics": inside, "by": "model.layers", "panels": "metric",
                    "band": "t", "baselines": {
                        "t_parseval": ["parse_baseline/right_branching", "parse_baseline/left_branching"],
                    },
                }),
            ]),
            Known::default(),
        )
        .unwrap();
        let records = structural(10);
        draw_all(&plan, &records, false);
        let data = crate::cells::Dataset::new(&records, &plan.preferred());
        let inside = plan.figures.last().unwrap().draw(&data, &[]);
        let svg = inside.scene.to_svg().unwrap();
        for words in
            ["parse baseline/right branching", "t parseval", "Norm / layers", "Bracketing F1", "layers = 10"]
        {
            assert!(svg.contains(words), "{words}");
        }
        assert!(!inside.caption.contains("Not measured"));
        let stopped = plan.figures.iter().find(|figure| figure.name() == "early-stopping").unwrap();
        let svg = stopped.draw(&data, &analyse(&plan, &records)).scene.to_svg().unwrap();
        assert!(
            svg.contains("mean +0.89") && svg.contains("layers = 6") && svg.contains("at the early stop")
        );
        // Two dots a run, two for each of both means, and the two of the legend.
        assert_eq!(svg.matches("<circle").count(), 3 * (2 * 10 + 2 * 2) + 2);
    }

    #[test]
    fn every_figure_says_in_words_that_there_is_nothing() {
        draw_quickly(&[]);
        draw_quickly(&[trial(0, &[("model.dim", 8.0)])]);
        draw_quickly(&grokking(1));
        let mut nan = counting(1);
        nan.iter_mut()
            .flat_map(|record| record.series.values_mut())
            .for_each(|curve| curve.values.fill(f64::NAN));
        draw_quickly(&nan);
        let mut censored = counting(2);
        censored
            .iter_mut()
            .flat_map(|record| record.series.values_mut())
            .for_each(|curve| curve.values.fill(0.95));
        draw_quickly(&censored);
        draw_quickly(&lengths(1));
        // Some sizes missing, one run without finite scores, and the sizes of one scheme's problems not known.
        let mut partial = lengths(2);
        for (index, record) in partial.iter_mut().enumerate() {
            record.series.retain(|name, _| !name.ends_with("3x3") && !name.ends_with("/id"));
            record.series.values_mut().filter(|_| index == 0).for_each(|curve| curve.values.fill(f64::NAN));
            if index < 2 {
                record.parameters.remove("task.size");
            }
        }
        draw_quickly(&partial);
    }

    #[test]
    fn figures_of_sizes_say_what_is_missing() {
        let kinds = ["size-heatmap", "size-bars", "size-curves", "recurrence-curves"];
        let figures: Vec<Node> =
            kinds.iter().map(|kind| Node::from_json(&serde_json::json!({ "kind": kind }))).collect();
        let plan = Plan::read(&[], &figures, Known::default()).unwrap();
        let records = grokking(2);
        let data = crate::cells::Dataset::new(&records, &[]);
        for figure in &plan.figures {
            let caption = figure.draw(&data, &[]).caption;
            assert!(caption.starts_with("No finished trial has measured scores"), "{caption}");
            assert!(caption.contains("evaluate.grid"), "{caption}");
        }
    }
}
