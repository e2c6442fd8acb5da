//! Which metrics a study's trials can measure, so that a slip in a metric's name is noticed before anything runs.
//!
//! It knows names only: what they mean and how they are measured is the trainer's.

use std::collections::HashSet;

use plateau_common::config::{GridConfig, Head, ModelConfig, Norm, ProbeKind, TrialConfig};
use plateau_common::tasks::{GridAxes, ReadOut};

use crate::lengths::{AFTER, sizes_of};

/// The metrics that every trial measures.
pub const ALWAYS: [&str; 4] = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"];

/// Whether a whole answer is right, of the test set of tasks that answer with several symbols.
pub const TEST_EXACT_MATCH: &str = "test_exact_match";

/// All metrics that a trial of this configuration can measure: those of every trial, then those of its task's assessments and of its probes, then those
/// of its grid of sizes.
pub fn measured(config: &TrialConfig) -> Vec<String> {
    let mut names: Vec<String> = ALWAYS.map(str::to_owned).into();
    if config.task.shape().read_out == ReadOut::Every && config.task.mean_length().is_none() {
        names.push(TEST_EXACT_MATCH.to_owned());
    }
    for assessment in config.task.assessment_metrics() {
        names.extend(assessment.names());
    }
    for probe in &config.evaluate.probes {
        names.extend(of_probe(*probe, &config.model));
    }
    names.extend(of_grid(config.evaluate.grid.as_ref(), config.task.grid()));
    names
}

fn of_grid(grid: Option<&GridConfig>, axes: Option<GridAxes>) -> Vec<String> {
    grid.zip(axes).map_or_else(Vec::new, |(grid, axes)| grid.metrics(&axes))
}

/// Names of metrics in one line, each once. Those of the cells of a grid, of which there may be thousands, stand together.
pub fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut seen = HashSet::new();
    let list: Vec<String> = names.map(family).filter(|name| seen.insert(name.clone())).collect();
    list.join(", ")
}

/// `exact_match/<rows>x<columns>` for `exact_match/7x12`, and so on; other names as they are.
fn family(name: &str) -> String {
    let Some((start, end)) = name.rsplit_once('/') else { return name.to_owned() };
    match start.split_once(AFTER) {
        _ if sizes_of(end).is_none() => name.to_owned(),
        Some((score, _)) => format!("{score}{AFTER}<recurrences>/<size>x<size>"),
        None => format!("{start}/<size>x<size>"),
    }
}

fn of_probe(probe: ProbeKind, model: &ModelConfig) -> Vec<String> {
    let ModelConfig::Transformer(transformer) = model;
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match probe {
        ProbeKind::WeightNorm => {
            let mut names = vec!["weight_norm".to_owned(), "weight_norm/embedding".to_owned()];
            names.extend((0..transformer.layers).map(|block| format!("weight_norm/blocks.{block}")));
            if transformer.norm == Norm::Pre {
                names.push("weight_norm/final_norm".to_owned());
            }
            if transformer.head == Head::Transform {
                names.push("weight_norm/head".to_owned());
            }
            if !transformer.tied || transformer.read_out_bias {
                names.push("weight_norm/read_out".to_owned());
            }
            names
        }
        ProbeKind::GradientNorm => words(&["gradient_norm"]),
        ProbeKind::AttentionEntropy => {
            (0..transformer.layers).map(|layer| format!("attention_entropy/{layer}")).collect()
        }
        ProbeKind::LogitScale => words(&["logit_scale"]),
        ProbeKind::Fourier => {
            words(&["key_frequencies", "restricted_loss", "excluded_loss", "embedding_gini"])
        }
        ProbeKind::WeightNormPerLayer => words(&[
            "weight_norm_per_layer/reference",
            "weight_norm_per_layer/trained",
            "weight_norm_per_root_layer",
        ]),
        ProbeKind::AttentionSparsity => {
            words(&["attention_sparsity", "attention_sparsity/reference", "attention_sparsity/mean"])
        }
        ProbeKind::TreeProjection => words(&[
            "t_score",
            "t_score/sampled",
            "t_score/random_trees",
            "t_parseval",
            "parse_baseline/right_branching",
            "parse_baseline/left_branching",
        ]),
    }
}

#[cfg(test)]
mod tests {
    use plateau_common::study::{Format, Study};

    use super::*;

    fn names(probes: &str, model: &str) -> Vec<String> {
        let text = format!(
            "name = \"s\"\n[task]\nkind = \"modular\"\nmodulus = 7\ntrain-share = 0.5\n[model]\nlayers = 2\nheads = 1\n\
             dim = 8\n{model}\n[train]\nsteps = 10\noptimizer = {{ kind = \"adam\", lr = 1e-3 }}\n[evaluate]\n\
             probes = {probes}\n"
        );
        let study =
            Study::parse(&text, "s.toml", Format::Toml, &[]).unwrap_or_else(|error| panic!("{error}"));
        measured(&study.trials().next().unwrap().unwrap())
    }

    #[test]
    fn grids_add_their_cells_and_answers_of_several_symbols_their_whole() {
        let axes = crate::fixture::digits(&crate::fixture::lengths(1)[0]);
        let grid =
            GridConfig { longest: 4, step: 2, diagonal: 5, problems: 1, every: None, recurrences: vec![2] };
        let names = of_grid(Some(&grid), axes);
        assert_eq!(names[..3], ["exact_match/id", "exact_match/ood", "exact_match/2x2"]);
        assert!(names.contains(&"exact_match/after_2/4x4".to_owned()));
        assert!(of_grid(None, axes).is_empty() && of_grid(Some(&grid), None).is_empty());
        let noise = |read_out: &str| {
            let json = serde_json::json!({
                "task": {"kind": "noise", "vocab": 5, "length": 4, "read-out": read_out},
                "model": {"layers": 1, "heads": 1, "dim": 8},
                "train": {"steps": 1, "batch": 4, "optimizer": {"kind": "adam", "lr": 0.1}},
            });
            measured(&TrialConfig::from_json(&json).unwrap_or_else(|error| panic!("{error}")))
        };
        assert!(noise("every").iter().any(|name| name == TEST_EXACT_MATCH));
        assert!(!noise("last").iter().any(|name| name == TEST_EXACT_MATCH));
    }

    #[test]
    fn lists_of_metrics_stay_short() {
        let axes = crate::fixture::digits(&crate::fixture::lengths(1)[0]);
        let grid = GridConfig {
            longest: 30,
            step: 1,
            diagonal: 40,
            problems: 1,
            every: None,
            recurrences: vec![2, 4],
        };
        let mut names = vec!["test_loss".to_owned()];
        names.extend(of_grid(Some(&grid), axes));
        names.extend(names.clone());
        assert!(names.len() > 1800);
        assert_eq!(
            listed(names.iter().map(String::as_str)),
            "test_loss, exact_match/id, exact_match/ood, exact_match/beyond, exact_match/<size>x<size>, \
             exact_match/after_<recurrences>/<size>x<size>"
        );
        let known = crate::analyses::Known { parameters: None, metrics: Some(&names) };
        let error = known.check_metric("margin", "figure[0].metric", None).unwrap_err().to_string();
        assert!(error.len() < 300 && error.contains("exact_match/<size>x<size>"), "{error}");
        let near = known.check_metric("exact_match/31x12", "figure[0].metric", None).unwrap_err().to_string();
        assert!(near.contains("did you mean `exact_match/"), "{near}");
    }

    #[test]
    fn probes_add_their_metrics_for_the_parts_that_the_model_has() {
        assert_eq!(names("[]", ""), ALWAYS);
        assert_eq!(
            names("[\"weight-norm\"]", "")[4..],
            [
                "weight_norm",
                "weight_norm/embedding",
                "weight_norm/blocks.0",
                "weight_norm/blocks.1",
                "weight_norm/final_norm",
                "weight_norm/read_out"
            ]
        );
        assert_eq!(names("[\"weight-norm\"]", "norm = \"none\"\ntied = true").len(), 8);
        let transformed = names("[\"weight-norm\"]", "read-out = \"transform\"");
        assert!(transformed.contains(&"weight_norm/head".to_owned()), "{transformed:?}");
        assert_eq!(
            names("[\"fourier\", \"logit-scale\", \"gradient-norm\", \"attention-entropy\"]", "")[4..],
            [
                "gradient_norm",
                "attention_entropy/0",
                "attention_entropy/1",
                "logit_scale",
                "key_frequencies",
                "restricted_loss",
                "excluded_loss",
                "embedding_gini"
            ]
        );
    }
}
