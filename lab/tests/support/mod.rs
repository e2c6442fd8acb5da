//! What several test files need: configurations, a recording observer, training to the end.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_common::metrics::Evaluation;
use plateau_common::trial::Ending;
use plateau_lab::{Control, DeviceChoice, Member, Observer, checkpoint, train_cohort};
use serde_json::Value;

pub fn config(json: Value) -> TrialConfig {
    TrialConfig::from_json(&json).unwrap_or_else(|error| panic!("{error} in {json}"))
}

pub fn member(json: Value) -> Member {
    let config = config(json);
    Member { id: TrialId::of(&config), config, resume: None }
}

/// Whether a task has a grid of sizes.
pub fn has_grid(task: &serde_json::Value) -> bool {
    let node = plateau_common::node::Node::from_json(task);
    let fields = plateau_common::fields::Fields::new("task", &node).expect("a table");
    plateau_common::tasks::TaskConfig::read(fields).expect("a task").grid().is_some()
}

/// Remembers everything it is told; asks to stop once a member has passed `stop_after` updates.
#[derive(Default)]
pub struct Recorder {
    pub started: Vec<(usize, u64)>,
    pub evaluations: BTreeMap<usize, Vec<Evaluation>>,
    pub checkpoints: BTreeMap<usize, Vec<(u64, PathBuf)>>,
    pub endings: BTreeMap<usize, Ending>,
    pub stop_after: Option<u64>,
}

impl Observer for Recorder {
    fn started(&mut self, replica: usize, from_step: u64) {
        self.started.push((replica, from_step));
    }
    fn evaluated(&mut self, replica: usize, evaluation: Evaluation) {
        self.evaluations.entry(replica).or_default().push(evaluation);
    }
    fn checkpointed(&mut self, replica: usize, step: u64, folder: &Path) {
        self.checkpoints.entry(replica).or_default().push((step, folder.to_owned()));
    }
    fn ended(&mut self, replica: usize, ending: Ending) {
        self.endings.insert(replica, ending);
    }
    fn progress(&mut self, _: u64, _: f64) -> Control {
        let seen = self.evaluations.values().flatten().map(|evaluation| evaluation.step).max().unwrap_or(0);
        if self.stop_after.is_some_and(|stop| seen >= stop) { Control::Stop } else { Control::Continue }
    }
}

impl Recorder {
    /// Hash of the weights in a member's last checkpoint.
    pub fn final_hash(&self, replica: usize) -> String {
        let (_, folder) = self.checkpoints[&replica].last().expect("a checkpoint");
        checkpoint::load(folder).unwrap().manifest.weights_hash
    }

    /// One metric's values over the evaluations of a member.
    pub fn curve(&self, replica: usize, name: &str) -> Vec<f64> {
        let value = |evaluation: &Evaluation| {
            evaluation.values.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
        };
        self.evaluations[&replica].iter().filter_map(value).collect()
    }
}

/// Trains members to the end.
pub fn train(members: &[Member], threads: usize, scratch: &Path) -> Recorder {
    let mut recorder = Recorder::default();
    train_cohort(members, &DeviceChoice::Cpu { threads }, scratch, &mut recorder).unwrap();
    recorder
}
