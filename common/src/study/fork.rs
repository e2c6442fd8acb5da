//! The study of a fork: a trial's own settings, the place where its forks leave it, and what is changed.
//!
//! Owns the composition only. That the parent has a checkpoint there, and that the changes leave its state usable, is looked at where
//! the study is submitted.

use serde_json::{Value, json};

use super::{Format, Study, StudySource};
use crate::config::{Fork, TrialConfig};
use crate::limits;

/// The key that replicates of a fork differ in.
const DATA_ORDER: &str = "train.data-order";

/// What is forked, and how.
#[derive(Clone, Debug)]
pub struct ForkPlan<'a> {
    /// The trial and the step.
    pub fork: Fork,
    /// The trial's configuration.
    pub parent: &'a TrialConfig,
    /// A study that the trial belongs to: the fork's is named after it and asks the same of the results.
    pub study: Option<&'a Study>,
    /// Name of the fork's study. Default: that of `study`, the trial and the step.
    pub name: Option<&'a str>,
    /// Forks that differ in the order of their data; 0: one, with the trial's order or the one that is set.
    pub replicates: u64,
    /// What is changed, as `--set` has it.
    pub overrides: &'a [(String, String)],
}

impl ForkPlan<'_> {
    /// The study, to be read like any other.
    ///
    /// # Errors
    /// When replicates are asked for and the order of the data is set besides.
    pub fn source(&self) -> Result<StudySource, String> {
        let is_order = |path: &str| path.strip_prefix("axes.").unwrap_or(path) == DATA_ORDER;
        if self.replicates > 0 && self.overrides.iter().any(|(path, _)| is_order(path)) {
            return Err(format!(
                "replicates differ in `{DATA_ORDER}`, which is set besides: drop one of the two, or set `axes.{DATA_ORDER}` alone"
            ));
        }
        let Fork { trial, step } = self.fork;
        let mut document = self.parent.to_json();
        let parts = [
            ("fork", json!({ "trial": trial, "step": step })),
            ("name", json!(self.name())),
            ("description", json!(format!("Forks of trial {trial} after {step} updates."))),
            ("analysis", tables(self.study.map_or(&[], |study| &study.analysis))),
            ("figure", tables(self.study.map_or(&[], |study| &study.figures))),
        ];
        if let Some(document) = document.as_object_mut() {
            document.extend(parts.map(|(key, value)| (key.to_owned(), value)));
            if self.replicates > 0 {
                let axis = json!({ DATA_ORDER: { "range": [1, self.replicates.saturating_add(1)] } });
                document.insert("axes".to_owned(), axis);
            }
        }
        Ok(StudySource {
            text: format!("{document:#}\n"),
            file_name: format!("fork of trial {} at step {step}", trial.short()),
            format: Format::Json,
            overrides: self.overrides.to_vec(),
        })
    }

    fn name(&self) -> String {
        if let Some(name) = self.name {
            return name.to_owned();
        }
        let end = format!("fork-{}-{}", self.fork.trial.short(), self.fork.step);
        let Some(study) = self.study else { return end };
        // Names of studies are ASCII, so that any cut is between characters.
        let room = limits::MAX_NAME_BYTES.saturating_sub(end.len() + 1);
        format!("{}-{end}", study.name.get(..room).unwrap_or(&study.name))
    }
}

fn tables(nodes: &[crate::node::Node]) -> Value {
    nodes.iter().map(crate::node::Node::to_json).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::TrialId;

    const STUDY: &str = r#"
name = "tiny"
seeds = 2
task = { kind = "modular", modulus = 7, train-share = 0.5 }
model = { kind = "transformer", layers = 1, heads = 2, dim = 8 }
train = { steps = 40, batch = 4, optimizer = { kind = "adamw", lr = 1e-3 } }

[[analysis]]
kind = "grokking"
"#;

    fn fork(replicates: u64, overrides: &[(&str, &str)]) -> Result<Study, String> {
        let study = Study::parse(STUDY, "tiny.toml", Format::Toml, &[]).map_err(|error| error.to_string())?;
        let parent = study.trials().nth(1).unwrap().map_err(|error| error.to_string())?;
        let overrides: Vec<(String, String)> =
            overrides.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect();
        let plan = ForkPlan {
            fork: Fork { trial: TrialId::of(&parent), step: 10 },
            parent: &parent,
            study: Some(&study),
            name: None,
            replicates,
            overrides: &overrides,
        };
        Study::from_source(&plan.source()?).map_err(|error| error.to_string())
    }

    fn trials(study: &Study) -> Vec<TrialConfig> {
        study.trials().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn one_fork_is_the_parent_but_for_where_it_comes_from() {
        let study = fork(0, &[]).unwrap();
        let [only] = &trials(&study)[..] else { panic!("one trial") };
        let origin = only.fork.unwrap();
        let parent = TrialConfig { fork: None, ..only.clone() };
        assert_eq!((origin.trial, origin.step), (TrialId::of(&parent), 10));
        assert_ne!(TrialId::of(only), origin.trial);
        assert_eq!(study.name, format!("tiny-fork-{}-10", origin.trial.short()));
        assert_eq!(study.analysis.len(), 1);
        assert_eq!(study.digest(), fork(0, &[]).unwrap().digest());
    }

    #[test]
    fn replicates_differ_in_the_order_of_their_data_and_share_every_change() {
        let study = fork(3, &[("train.optimizer.weight-decay", "0.5")]).unwrap();
        let trials = trials(&study);
        assert_eq!(
            trials.iter().map(|trial| trial.train.data_order).collect::<Vec<_>>(),
            [1, 2, 3].map(Some)
        );
        let cells: std::collections::BTreeSet<String> =
            trials.iter().map(crate::identity::cell_key).collect();
        let cohorts: std::collections::BTreeSet<String> =
            trials.iter().map(crate::identity::cohort_key).collect();
        let ids: std::collections::BTreeSet<TrialId> = trials.iter().map(TrialId::of).collect();
        assert_eq!((cells.len(), cohorts.len(), ids.len()), (1, 1, 3));
    }

    #[test]
    fn changes_are_those_of_any_study_and_two_orders_are_refused() {
        let study = fork(0, &[("axes.train.optimizer.lr", "[0.1, 0.2]"), ("train.steps", "500")]).unwrap();
        assert_eq!(trials(&study).iter().map(|trial| trial.train.steps).collect::<Vec<_>>(), [500, 500]);
        assert!(fork(0, &[("train.optimizer.rate", "1")]).unwrap_err().contains("unknown key"));
        assert!(fork(0, &[("train.steps", "10")]).unwrap_err().contains("training ends at step 10"));
        for path in ["train.data-order", "axes.train.data-order"] {
            assert!(fork(2, &[(path, "[1]")]).unwrap_err().contains("drop one of the two"));
        }
    }

    #[test]
    fn a_long_name_is_cut() {
        let mut study = Study::parse(STUDY, "tiny.toml", Format::Toml, &[]).unwrap();
        study.name = "x".repeat(limits::MAX_NAME_BYTES);
        let parent = study.trials().next().unwrap().unwrap();
        let fork = Fork { trial: TrialId::of(&parent), step: 10 };
        let plan = ForkPlan {
            fork,
            parent: &parent,
            study: Some(&study),
            name: None,
            replicates: 0,
            overrides: &[],
        };
        let named = Study::from_source(&plan.source().unwrap()).unwrap().name;
        assert!(named.len() == limits::MAX_NAME_BYTES && named.ends_with("-10"), "{named}");
    }
}
