//! Where a forked trial comes from, and what may be changed on the way.

use serde::Serialize;
use serde_json::Value;

use super::{OptimizerConfig, Precision, TrialConfig};
use crate::fields::{ConfigError, ConfigResult, Fields};
use crate::identity::TrialId;
use crate::limits;

/// `fork`: the trial begins with the state of another one, its parent, after `step` updates, and has the parent's curve until
/// then. Part of the trial's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fork {
    /// The parent. Required.
    pub trial: TrialId,
    /// Updates that the parent had made. Required.
    pub step: u64,
}

impl Fork {
    /// Reads `fork` of a trial of `steps` steps.
    pub(super) fn read(mut fields: Fields<'_>, steps: u64) -> ConfigResult<Self> {
        let trial = fields.text("trial")?;
        let trial = fields.require("trial", trial)?;
        let Some(trial) = TrialId::parse(trial) else {
            return Err(fields
                .error("trial", format!("`{}` is not the id of a trial", trial.escape_debug()))
                .suggest("give all 32 hexadecimal digits; `plateau fork` takes the beginning of an id"));
        };
        let step = fields.integer("step", 1..=limits::MAX_STEPS)?;
        let step = fields.require("step", step)?;
        if step >= steps {
            return Err(fields
                .error("step", format!("nothing is left to train: training ends at step {steps}"))
                .suggest("set a larger `train.steps`, or fork from an earlier checkpoint"));
        }
        fields.finish()?;
        Ok(Fork { trial, step })
    }

    /// Refuses a fork that could not go on from its parent's state, or would go on with other data. What a trial is trained
    /// by, when it is measured and when it is saved may change; what its tensors and its data follow from may not.
    pub fn check(parent: &TrialConfig, child: &TrialConfig) -> ConfigResult<()> {
        let mut differences = Vec::new();
        collect_differences("", &parent.to_json(), &child.to_json(), &mut differences);
        for (path, of_parent) in differences {
            if let Some(why) = objection(&path, parent, child) {
                let problem = format!("{why}; the trial forked from has {of_parent}");
                let advice = "a fork may change `train`, `evaluate`, `checkpoint` and `model.dropout`";
                return Err(ConfigError::new(path, None, problem).suggest(advice));
            }
        }
        Ok(())
    }
}

/// Why the value at `path` may not change, if it may not.
fn objection(path: &str, parent: &TrialConfig, child: &TrialConfig) -> Option<&'static str> {
    let moments = |config: &TrialConfig| {
        matches!(config.train.optimizer, OptimizerConfig::Adam(_) | OptimizerConfig::AdamW(_))
    };
    let wide = |config: &TrialConfig| config.train.precision == Precision::F64;
    match path.split('.').next().unwrap_or_default() {
        "seed" => Some(
            "initialisation and data follow from the seed (`train.data-order` gives the same data another order)",
        ),
        "task" => Some("the data of a fork are those it was trained on so far"),
        "model" if path != "model.dropout" => {
            Some("the weights of a fork are those of the model it was trained as")
        }
        "train" if path.starts_with("train.optimizer") && moments(parent) != moments(child) => {
            Some("the optimiser's state is of another kind")
        }
        "train" if path == "train.precision" && wide(parent) != wide(child) => {
            Some("weights are kept in another precision")
        }
        _ => None,
    }
}

/// The paths at which two configurations differ, with the first one's value; `fork` itself aside.
fn collect_differences(path: &str, one: &Value, other: &Value, differences: &mut Vec<(String, String)>) {
    let (Some(first), Some(second)) = (one.as_object(), other.as_object()) else {
        if one != other {
            let of_parent = if one.is_null() { "none".to_owned() } else { one.to_string() };
            differences.push((path.to_owned(), of_parent));
        }
        return;
    };
    let keys: std::collections::BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    for key in keys.into_iter().filter(|key| !(path.is_empty() && *key == "fork")) {
        let within = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
        collect_differences(&within, &value(first), &value(second), differences);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(changes: &[(&str, Value)]) -> ConfigResult<TrialConfig> {
        let mut json = json!({
            "seed": 3,
            "task": {"kind": "modular", "modulus": 7, "train-share": 0.5},
            "model": {"kind": "transformer", "layers": 1, "heads": 2, "dim": 8},
            "train": {"steps": 100, "batch": 4, "optimizer": {"kind": "adamw", "lr": 1e-3}},
        });
        for (pointer, value) in changes {
            let (table, key) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(table).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value.clone());
        }
        TrialConfig::from_json(&json)
    }

    fn refusal(changes: &[(&str, Value)]) -> String {
        let parent = config(&[]).unwrap();
        Fork::check(&parent, &config(changes).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn how_a_trial_is_trained_and_watched_may_change() {
        let parent = config(&[]).unwrap();
        for change in [
            ("/fork", json!({"trial": "0".repeat(32), "step": 5})),
            ("/train/steps", json!(500)),
            ("/train/batch", json!(8)),
            ("/train/clip", json!(1.0)),
            ("/train/data-order", json!(2)),
            ("/train/optimizer", json!({"kind": "adam", "lr": 1.0, "weight-decay": 2.0})),
            ("/train/precision", json!("tf32")),
            ("/train/schedule", json!({"kind": "cosine", "warmup": 5})),
            ("/model/dropout", json!(0.1)),
            ("/evaluate", json!({"every": 1})),
            ("/checkpoint", json!({"every": 1})),
        ] {
            let child = config(std::slice::from_ref(&change)).unwrap();
            assert_ne!(child, parent, "{change:?}");
            assert_eq!(Fork::check(&parent, &child), Ok(()), "{change:?}");
        }
    }

    #[test]
    fn what_tensors_and_data_follow_from_may_not() {
        assert_eq!(
            refusal(&[("/seed", json!(4))]),
            "`seed`: initialisation and data follow from the seed (`train.data-order` gives the same data another order); \
             the trial forked from has 3 (a fork may change `train`, `evaluate`, `checkpoint` and `model.dropout`)"
        );
        for (pointer, value, path) in [
            ("/task/modulus", json!(11), "`task.modulus`"),
            ("/task/train-share", json!(0.4), "`task.train-share`"),
            ("/model/dim", json!(16), "`model.dim`"),
            ("/model/activation", json!("gelu"), "`model.activation`"),
            ("/train/optimizer", json!({"kind": "sgd", "lr": 1.0}), "`train.optimizer."),
            ("/train/precision", json!("f64"), "`train.precision`"),
        ] {
            let found = refusal(&[(pointer, value)]);
            assert!(found.starts_with(path), "{found}");
        }
    }

    #[test]
    fn an_order_of_the_data_is_a_seed_of_its_own_and_needs_batches() {
        let own = config(&[]).unwrap().seeds();
        let other = config(&[("/train/data-order", json!(1))]).unwrap().seeds();
        assert_eq!((own.data, own.order, other.data), (3, 3, 3));
        assert_ne!(other.order, 3);
        let error = config(&[("/train/data-order", json!(1)), ("/train/batch", json!("full"))]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`train.data-order`: a full batch is the same in any order (give `train.batch` a number)"
        );
    }

    #[test]
    fn a_fork_names_a_whole_id_and_a_step_before_the_end() {
        let error = |fork: Value| config(&[("/fork", fork)]).unwrap_err().to_string();
        assert!(error(json!({"trial": "3f2a", "step": 5})).contains("all 32 hexadecimal digits"));
        assert!(error(json!({"step": 5})).contains("`fork.trial`: is required"));
        assert!(error(json!({"trial": "0".repeat(32), "step": 0})).contains("out of range"));
        assert!(error(json!({"trial": "0".repeat(32), "step": 100})).contains("training ends at step 100"),);
        let read = config(&[("/fork", json!({"trial": "a".repeat(32), "step": 99}))]).unwrap();
        assert_eq!(read.fork.map(|fork| (fork.trial.to_string(), fork.step)), Some(("a".repeat(32), 99)));
        assert_eq!(TrialConfig::from_json(&read.to_json()).unwrap(), read);
    }
}
