//! Resolved configurations: typed, complete, validated. A [`TrialConfig`] says everything a trial's result depends on.
//!
//! Owns the structs, their defaults and their validation from a table ([`TrialConfig::read`]). The keys are kebab-case
//! in study files and in the canonical JSON alike, so what is hashed is what a person would write.

mod batch;
mod checkpoint;
mod evaluate;
mod fork;
mod grid;
mod keep_around;
mod model;
mod optimizer;
mod schedule;
mod train;

pub use batch::{BatchRamp, Unit};
pub use checkpoint::CheckpointConfig;
pub use evaluate::{EvaluateConfig, ProbeKind};
pub use fork::Fork;
pub use grid::{Category, GridConfig};
pub use keep_around::{KeepAround, TransitionMetric, Window};
pub use model::{
    Activation, Head, Initialisation, Injection, ModelConfig, Norm, OMITTED_DEFAULTS, OmittedDefault,
    TransformerConfig,
};
pub use optimizer::{AdamConfig, OptimizerConfig, SgdConfig};
pub use schedule::{Schedule, ScheduleKind};
pub use train::{Batch, GradientDepth, Pass, Precision, ProgressiveLoss, TrainConfig};

use serde::Serialize;

use crate::cost;
use crate::fields::{ConfigError, ConfigResult, Fields};
use crate::node::Node;
use crate::tasks::{Examples, Input, Seeds, TaskConfig};

/// Everything one trial's result depends on, and the budget and bookkeeping that it does not.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrialConfig {
    /// Seed of all the trial's random streams.
    pub seed: u64,
    /// What is learnt.
    pub task: TaskConfig,
    /// By what.
    pub model: ModelConfig,
    /// By what rule, for how long.
    pub train: TrainConfig,
    /// When and what is measured.
    pub evaluate: EvaluateConfig,
    /// When the state is saved; no part of the trial's identity.
    pub checkpoint: CheckpointConfig,
    /// Whose state it begins with. Default: its own initialisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fork: Option<Fork>,
}

impl TrialConfig {
    /// Reads and validates a whole configuration. `root` is a table with `task`, `model`, `train` and optionally
    /// `evaluate`, `checkpoint`, `fork` and `seed` (default 0).
    pub fn read(root: &Node) -> ConfigResult<Self> {
        let mut fields = Fields::new("", root)?;
        let seed = fields.integer("seed", 0..=i64::MAX as u64)?.unwrap_or(0);
        let task = fields.table("task")?;
        let task = TaskConfig::read(fields.require("task", task)?)?;
        let model = fields.table("model")?;
        let model = ModelConfig::read(fields.require("model", model)?, &task)?;
        let train = fields.table("train")?;
        let flops = cost::flops_per_example(&model, &task);
        let train = TrainConfig::read(fields.require("train", train)?, &task, flops)?;
        let evaluate = EvaluateConfig::read(fields.table("evaluate")?, &task)?;
        let checkpoint = CheckpointConfig::read(fields.table("checkpoint")?, train.steps)?;
        let fork = fields.table("fork")?.map(|fork| Fork::read(fork, train.steps)).transpose()?;
        fields.finish()?;
        let config = TrialConfig { seed, task, model, train, evaluate, checkpoint, fork };
        config.check_grid(root)?;
        config.check_sentences(root)?;
        Ok(config)
    }

    /// Refuses what cannot read sentences, or spans of them at their places.
    fn check_sentences(&self, root: &Node) -> ConfigResult<()> {
        let ModelConfig::Transformer(model) = &self.model;
        let refuse = |path: &str, problem: &str, suggestion: &str| {
            let location = root.at_path(path).and_then(|node| node.location);
            Err(ConfigError::new(path, location, problem.to_owned()).suggest(suggestion.to_owned()))
        };
        if self.task.mean_length().is_some() && !model.causal {
            let problem = "the task's sequences have lengths of their own, which needs causal attention";
            return refuse("model.causal", problem, "set causal = true");
        }
        let looks = self.evaluate.probes.iter().any(|probe| probe.reads_sentences());
        if looks && !self.model.can_be_ragged() {
            let problem = "probes of sentences need positions that enter by a table";
            return refuse("model.positions", problem, "use sinusoidal or learned positions, or none");
        }
        Ok(())
    }

    /// Refuses a grid whose longest problems are longer than the tables of the model's position schemes.
    fn check_grid(&self, root: &Node) -> ConfigResult<()> {
        let (Some(grid), Some(axes)) = (&self.evaluate.grid, self.task.grid()) else { return Ok(()) };
        let ModelConfig::Transformer(model) = &self.model;
        if !model.positions.has_tables() {
            return Ok(());
        }
        let Some(largest) = grid.largest(&axes) else { return Ok(()) };
        let batch = self.task.examples(0).cell(largest, 1);
        let Input::Tokens { tokens, length } = &batch.input else { return Ok(()) };
        match model.positions.misfit(tokens, *length, self.task.shape().length) {
            None => Ok(()),
            Some(problem) => Err(ConfigError::new(
                "evaluate.grid",
                root.at_path("evaluate.grid").and_then(|node| node.location),
                format!("problems of {largest} do not fit the model: {problem}"),
            )
            .suggest("give the scheme's table more rows, or make the grid smaller")),
        }
    }

    /// What the trial's examples are drawn from.
    pub fn seeds(&self) -> Seeds {
        Seeds::of(self.seed, self.train.data_order)
    }

    /// The trial's examples.
    pub fn examples(&self) -> Box<dyn Examples> {
        self.task.examples(self.seeds())
    }

    /// The passes of update number `update` (from 1) through the model.
    pub fn passes(&self, update: u64) -> impl Iterator<Item = Pass> + use<> {
        let ModelConfig::Transformer(model) = &self.model;
        self.train.passes(update, model.recurrences)
    }

    /// Reads the canonical JSON form (from the wire or from a manifest).
    pub fn from_json(json: &serde_json::Value) -> ConfigResult<Self> {
        Self::read(&Node::from_json(json))
    }

    /// The canonical JSON form: sorted keys, defaults written out. `from_json` is its inverse.
    pub fn to_json(&self) -> serde_json::Value {
        // Every field is a plain number, word, switch or nested struct: serialisation cannot fail.
        serde_json::to_value(self).unwrap_or(serde_json::Value::Null)
    }
}
