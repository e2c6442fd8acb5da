//! Training: budget, batch, optimiser, schedule, clipping, precision.

use serde::Serialize;

use super::{OptimizerConfig, Schedule};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::node::Value;
use crate::tasks::TaskConfig;

/// Examples per update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Batch {
    /// The whole training set (finite tasks only); written `"full"`.
    Full,
    /// This many examples.
    #[serde(untagged)]
    Size(usize),
}

/// Arithmetic of parameters and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32-bit floats; the loss is computed in 64 bits all the same, since a 32-bit log-softmax makes loss spikes near zero
    /// (Nanda et al. 2023; Prieto et al. 2025).
    F32,
    /// As `F32`, but on cards the factors of matrix products are rounded to 11 significant bits (relative error up to 2⁻¹¹);
    /// sums are in 32 bits. On processors the same as `F32`.
    Tf32,
    /// As `Tf32`, but rounded to the 8 significant bits of bfloat16 (relative error up to 2⁻⁸).
    Bf16,
    /// 64-bit floats throughout; for checks, on processors.
    F64,
}

/// `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainConfig {
    /// Number of updates; the budget. Required.
    pub steps: u64,
    /// Examples per update. Required for tasks with endless data; default `"full"` for finite ones.
    pub batch: Batch,
    /// The rule. Required.
    pub optimizer: OptimizerConfig,
    /// Learning rate over time. Default constant.
    pub schedule: Schedule,
    /// Clip the gradient of each replica to this global norm. Default: no clipping.
    pub clip: Option<f64>,
    /// Arithmetic. Default `"f32"`.
    pub precision: Precision,
}

impl TrainConfig {
    /// Reads `[train]` for a task.
    pub fn read(mut fields: Fields<'_>, task: &TaskConfig) -> ConfigResult<Self> {
        let steps = fields.integer("steps", 1..=limits::MAX_STEPS)?;
        let steps = fields.require("steps", steps)?;
        let batch = read_batch(&mut fields, task)?;
        let optimizer = fields.table("optimizer")?;
        let optimizer = OptimizerConfig::read(fields.require("optimizer", optimizer)?)?;
        let schedule = Schedule::read(fields.table("schedule")?, steps)?;
        let clip = fields.number("clip", f64::MIN_POSITIVE..=1e12)?;
        let precisions = [
            ("f32", Precision::F32),
            ("tf32", Precision::Tf32),
            ("bf16", Precision::Bf16),
            ("f64", Precision::F64),
        ];
        let precision = fields.choice("precision", &precisions)?.unwrap_or(Precision::F32);
        fields.finish()?;
        Ok(TrainConfig { steps, batch, optimizer, schedule, clip, precision })
    }
}

fn read_batch(fields: &mut Fields<'_>, task: &TaskConfig) -> ConfigResult<Batch> {
    let size = task.training_set_size();
    let Some(node) = fields.node("batch") else {
        return match size {
            Some(_) => Ok(Batch::Full),
            None => fields.require("batch", None),
        };
    };
    match &node.value {
        Value::Text(word) if word == "full" => match size {
            Some(_) => Ok(Batch::Full),
            None => Err(fields
                .error(
                    "batch",
                    format!(
                        "task `{}` draws fresh examples without end: there is no full batch",
                        task.kind()
                    ),
                )
                .suggest("give a number, e.g. `batch = 64`")),
        },
        Value::Integer(_) => {
            let batch = fields.integer("batch", 1..=limits::MAX_BATCH)?;
            let batch = fields.require("batch", batch)?;
            let length = task.shape().length;
            match size {
                _ if batch.saturating_mul(length) > limits::MAX_TOKENS_AT_ONCE => Err(fields
                    .error(
                        "batch",
                        format!("{batch} sequences of {length} tokens are too much for one update"),
                    )
                    .suggest(format!("at most {} tokens", limits::MAX_TOKENS_AT_ONCE))),
                Some(size) if batch > size => Err(fields
                    .error("batch", format!("{batch} is more than the {size} examples of the training set"))
                    .suggest("use `batch = \"full\"`")),
                _ => Ok(Batch::Size(batch)),
            }
        }
        other => Err(fields.error(
            "batch",
            format!("expected an integer or \"full\", found {} `{other}`", other.type_name()),
        )),
    }
}
