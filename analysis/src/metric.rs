//! Which metrics a study's trials can measure, so that a slip in a metric's name is noticed before anything runs.
//!
//! It knows names only: what they mean and how they are measured is the trainer's.

use plateau_common::config::{ModelConfig, Norm, ProbeKind, TrialConfig};

/// The metrics that every trial measures.
pub const ALWAYS: [&str; 4] = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"];

/// All metrics that a trial of this configuration can measure: those of every trial, then those of its probes.
pub fn measured(config: &TrialConfig) -> Vec<String> {
    let mut names: Vec<String> = ALWAYS.map(str::to_owned).into();
    for probe in &config.evaluate.probes {
        names.extend(of_probe(*probe, &config.model));
    }
    names
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
