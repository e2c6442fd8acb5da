//! Training: budget, batch, optimiser, schedule, clipping, precision.

use serde::Serialize;

use super::batch::Budget;
use super::{BatchRamp, OptimizerConfig, Schedule, Unit};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::node::Value;
use crate::random::Stream;
use crate::tasks::{Draw, TaskConfig};

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
    /// Number of updates; the budget. Required, or in its place `samples` (examples), or `device-hours` with `device-speed`
    /// (floating-point operations per second that a device is taken to sustain): both are turned into updates when read.
    pub steps: u64,
    /// Examples per update. Required for tasks with endless data; default `"full"` for finite ones.
    pub batch: Batch,
    /// Number of the order in which training meets the data. Default: the seed's own order. The data themselves (splits, test sets)
    /// are the seed's in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_order: Option<u64>,
    /// Smaller batches at first. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_ramp: Option<BatchRamp>,
    /// The rule. Required.
    pub optimizer: OptimizerConfig,
    /// Learning rate over time. Default constant.
    pub schedule: Schedule,
    /// Clip the gradient of each replica to this global norm. Default: no clipping.
    pub clip: Option<f64>,
    /// Arithmetic. Default `"f32"`.
    pub precision: Precision,
    /// How a looped model learns at several depths. Default: always all recurrences, and gradients through all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progressive_loss: Option<ProgressiveLoss>,
}

/// Through how many recurrences gradients go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GradientDepth {
    /// At most half of them, the last ones (the released code of McLeish et al. 2024).
    Half,
    /// All.
    Full,
}

/// `train.progressive-loss`: `(1 - weight) L(all recurrences) + weight L(a random number of them)` (Bansal et al. 2022; McLeish
/// et al. 2024, section 3.2). The random number is drawn anew for every update, from a stream of the update's number alone: replicas and
/// models with equally many recurrences are trained at the same depths.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProgressiveLoss {
    /// Share of the loss at a random depth, 0 to 1. Default 1, as in the released code.
    pub weight: f64,
    /// Default `"half"`.
    pub gradient: GradientDepth,
}

/// One pass of an update through a looped model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pass {
    /// Recurrences before those that gradients go through.
    pub free: usize,
    /// Recurrences that they go through, the last ones; at least 1.
    pub graded: usize,
    /// Weight of its loss.
    pub weight: f64,
}

impl ProgressiveLoss {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let gradients = [("half", GradientDepth::Half), ("full", GradientDepth::Full)];
        let loss = ProgressiveLoss {
            weight: fields.number("weight", 0.0..=1.0)?.unwrap_or(1.0),
            gradient: fields.choice("gradient", &gradients)?.unwrap_or(GradientDepth::Half),
        };
        fields.finish()?;
        Ok(loss)
    }
}

impl TrainConfig {
    /// Reads `[train]` for a task.
    pub fn read(mut fields: Fields<'_>, task: &TaskConfig, flops_per_example: f64) -> ConfigResult<Self> {
        let budget = read_budget(&mut fields, flops_per_example)?;
        let batch = read_batch(&mut fields, task)?;
        let size = match batch {
            Batch::Size(size) => size,
            Batch::Full => task.training_set_size().unwrap_or(1),
        };
        let data_order = fields.integer("data-order", 0..=i64::MAX as u64)?;
        if data_order.is_some() && batch == Batch::Full {
            return Err(fields
                .error("data-order", "a full batch is the same in any order")
                .suggest("give `train.batch` a number"));
        }
        let (batch_ramp, steps) = match fields.table("batch-ramp")? {
            Some(_) if batch == Batch::Full => {
                return Err(fields
                    .error("batch-ramp", "a full batch does not grow")
                    .suggest("give `train.batch` a number"));
            }
            Some(ramp) => {
                let (ramp, over) = BatchRamp::read(ramp, size)?;
                let (ramp, steps) = ramp.resolve(over, size, budget);
                (Some(ramp), steps)
            }
            None => match budget {
                Budget::Steps(steps) => (None, steps),
                Budget::Samples(samples) => (None, samples.div_ceil(size as u64).clamp(1, limits::MAX_STEPS)),
            },
        };
        let optimizer = fields.table("optimizer")?;
        let optimizer = OptimizerConfig::read(fields.require("optimizer", optimizer)?)?;
        let samples = match &batch_ramp {
            Some(ramp) => ramp.at(steps + 1, size).1,
            None => steps.saturating_mul(size as u64),
        };
        let schedule = Schedule::read(fields.table("schedule")?, steps, samples)?;
        let clip = fields.number("clip", f64::MIN_POSITIVE..=1e12)?;
        let precisions = [
            ("f32", Precision::F32),
            ("tf32", Precision::Tf32),
            ("bf16", Precision::Bf16),
            ("f64", Precision::F64),
        ];
        let precision = fields.choice("precision", &precisions)?.unwrap_or(Precision::F32);
        let progressive_loss = match fields.table("progressive-loss")? {
            Some(loss) => Some(ProgressiveLoss::read(loss)?),
            None => None,
        };
        fields.finish()?;
        Ok(TrainConfig {
            steps,
            batch,
            data_order,
            batch_ramp,
            optimizer,
            schedule,
            clip,
            precision,
            progressive_loss,
        })
    }

    /// Which examples update number `update` (from 1) is given.
    pub fn draw(&self, update: u64) -> Draw {
        match (&self.batch_ramp, self.batch) {
            (Some(ramp), Batch::Size(size)) => {
                let (size, first) = ramp.at(update, size);
                Draw { update, first, size: Some(size) }
            }
            (_, Batch::Size(size)) => Draw::of(update, Some(size)),
            (_, Batch::Full) => Draw::of(update, None),
        }
    }

    /// The multiplier of the peak learning rate for update number `update` (from 1).
    pub fn multiplier(&self, update: u64) -> f64 {
        match self.schedule.unit {
            Unit::Updates => self.schedule.multiplier(update, self.steps),
            Unit::Samples => {
                let samples = |updates: u64| match self.draw(updates + 1) {
                    Draw { size: Some(_), first, .. } => first,
                    // Every update sees the whole set: examples and updates are in proportion.
                    Draw { size: None, .. } => updates,
                };
                self.schedule.multiplier(samples(update), samples(self.steps))
            }
        }
    }

    /// The passes of update number `update` through a model of so many recurrences, as the released code of McLeish et al. 2024
    /// draws them: n of 0..R recurrences without gradient, then g of 1..=min(R - n, b) with it, b being half of R.
    pub(super) fn passes(&self, update: u64, recurrences: usize) -> impl Iterator<Item = Pass> + use<> {
        let all = recurrences;
        let Some(loss) = self.progressive_loss.as_ref().filter(|_| all > 1) else {
            return [Some(Pass { free: 0, graded: all, weight: 1.0 }), None].into_iter().flatten();
        };
        let most = if loss.gradient == GradientDepth::Half { (all / 2).max(1) } else { all };
        let whole = Pass { free: all - most, graded: most, weight: 1.0 - loss.weight };
        let mut stream = Stream::new(0, "recurrences", update);
        let free = stream.below(all as u32) as usize;
        let graded = 1 + stream.below((all - free).min((all / 2).max(1)) as u32) as usize;
        let random = match loss.gradient {
            GradientDepth::Half => Pass { free, graded, weight: loss.weight },
            GradientDepth::Full => Pass { free: 0, graded: free + graded, weight: loss.weight },
        };
        let wanted = |pass: Pass| Some(pass).filter(|pass| pass.weight > 0.0);
        [wanted(whole), wanted(random)].into_iter().flatten()
    }
}

/// The budget, however it is given.
fn read_budget(fields: &mut Fields<'_>, flops_per_example: f64) -> ConfigResult<Budget> {
    let steps = fields.integer("steps", 1..=limits::MAX_STEPS)?;
    let samples = fields.integer("samples", 1..=limits::MAX_STEPS)?;
    let hours = fields.number("device-hours", 1e-6..=1e9)?;
    let speed = fields.number("device-speed", 1.0..=1e21)?;
    // What is set over the file, as `--set train.steps=500`, wins.
    let set_over = fields.location_of("steps") == fields.location() && fields.location().is_some();
    if speed.is_some() && hours.is_none() {
        return Err(fields
            .error("device-speed", "it says nothing without `device-hours`")
            .suggest("give `device-hours` too, or drop it"));
    }
    match (steps, samples, hours) {
        (Some(steps), None, None) => Ok(Budget::Steps(steps)),
        (Some(steps), _, _) if set_over => Ok(Budget::Steps(steps)),
        (None, Some(samples), None) => Ok(Budget::Samples(samples)),
        (None, None, Some(hours)) => {
            let speed = fields.require("device-speed", speed)?;
            let samples = hours * 3600.0 * speed / flops_per_example;
            Ok(Budget::Samples((samples as u64).clamp(1, limits::MAX_STEPS)))
        }
        (None, None, None) => fields.require("steps", None),
        _ => Err(fields
            .error("steps", "there is more than one budget")
            .suggest("keep one of `steps`, `samples` and `device-hours`")),
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
