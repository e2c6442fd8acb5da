//! Which metrics a study's trials can measure, so that a slip in a metric's name is noticed before anything runs.
//!
//! It knows names only: what they mean and how they are measured is the trainer's.

use std::collections::HashSet;

use plateau_common::config::{GridConfig, ModelConfig, Norm, ProbeKind, TrialConfig};
use plateau_common::tasks::{GridAxes, ReadOut};

use crate::lengths::{AFTER, sizes_of};

/// The metrics that every trial measures.
pub const ALWAYS: [&str; 4] = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"];

/// Whether a whole answer is right, of the test set of tasks that answer with several symbols.
pub const TEST_EXACT_MATCH: &str = "test_exact_match";

/// All metrics that a trial of this configuration can measure: those of every trial, then those of its probes, then those
/// of its grid of sizes.
pub fn measured(config: &TrialConfig) -> Vec<String> {
    let mut names: Vec<String> = ALWAYS.map(str::to_owned).into();
    if config.task.shape().read_out == ReadOut::Every {
        names.push(TEST_EXACT_MATCH.to_owned());
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
    if sizes_of(end).is_none() {
        return name.to_owned();
    }
    match start.split_once(AFTER) {
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
