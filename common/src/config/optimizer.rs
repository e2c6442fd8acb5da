//! Optimisers and their settings.

use serde::Serialize;

use crate::fields::{ConfigResult, Fields, unknown_word};

/// `train.optimizer`: `{ kind = "adamw", lr = 1e-3, weight-decay = 1.0 }`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum OptimizerConfig {
    /// Adam with weight decay added to the gradient (Kingma and Ba 2015).
    Adam(AdamConfig),
    /// Adam with decoupled weight decay, multiplied by the learning rate (Loshchilov and Hutter 2019).
    #[serde(rename = "adamw")]
    AdamW(AdamConfig),
    /// Stochastic gradient descent with momentum; weight decay added to the gradient.
    Sgd(SgdConfig),
}

/// Settings of Adam and AdamW.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AdamConfig {
    /// Peak learning rate. Required.
    pub lr: f64,
    /// Decay of the first moment. Default 0.9.
    pub beta1: f64,
    /// Decay of the second moment. Default 0.999.
    pub beta2: f64,
    /// Added to the root of the second moment. Default 1e-8.
    pub eps: f64,
    /// Weight decay. Default 0.
    pub weight_decay: f64,
    /// Whether biases and norms decay too. Default true.
    #[serde(skip_serializing_if = "is_true")]
    pub decay_biases_and_norms: bool,
}

fn is_true(switch: &bool) -> bool {
    *switch
}

/// Settings of SGD.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SgdConfig {
    /// Peak learning rate. Required.
    pub lr: f64,
    /// Decay of the velocity (PyTorch convention: v = momentum v + g). Default 0.
    pub momentum: f64,
    /// Weight decay. Default 0.
    pub weight_decay: f64,
    /// Whether biases and norms decay too. Default true.
    #[serde(skip_serializing_if = "is_true")]
    pub decay_biases_and_norms: bool,
}

impl OptimizerConfig {
    /// Reads `train.optimizer`.
    pub fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let kind = fields.text("kind")?;
        let kind = fields.require("kind", kind)?;
        let kinds = [("adam", ()), ("adamw", ()), ("sgd", ())];
        if !kinds.iter().any(|(known, ())| *known == kind) {
            let error = fields.error("kind", format!("unknown optimiser `{kind}`"));
            return Err(unknown_word(error, kind, &kinds));
        }
        let lr = fields.number("lr", 0.0..=1e6)?;
        let lr = fields.require("lr", lr)?;
        let weight_decay = fields.number("weight-decay", 0.0..=1e6)?.unwrap_or(0.0);
        let decay_biases_and_norms = fields.boolean("decay-biases-and-norms")?.unwrap_or(true);
        let config = if kind == "sgd" {
            let momentum = fields.number("momentum", 0.0..=1.0)?.unwrap_or(0.0);
            OptimizerConfig::Sgd(SgdConfig { lr, momentum, weight_decay, decay_biases_and_norms })
        } else {
            let adam = AdamConfig {
                lr,
                beta1: fields.number("beta1", 0.0..=0.999_999)?.unwrap_or(0.9),
                beta2: fields.number("beta2", 0.0..=0.999_999_9)?.unwrap_or(0.999),
                eps: fields.number("eps", 0.0..=1.0)?.unwrap_or(1e-8),
                weight_decay,
                decay_biases_and_norms,
            };
            if kind == "adam" { OptimizerConfig::Adam(adam) } else { OptimizerConfig::AdamW(adam) }
        };
        fields.finish()?;
        Ok(config)
    }

    /// Peak learning rate.
    pub fn lr(&self) -> f64 {
        match self {
            OptimizerConfig::Adam(adam) | OptimizerConfig::AdamW(adam) => adam.lr,
            OptimizerConfig::Sgd(sgd) => sgd.lr,
        }
    }

    /// Weight decay.
    pub fn weight_decay(&self) -> f64 {
        match self {
            OptimizerConfig::Adam(adam) | OptimizerConfig::AdamW(adam) => adam.weight_decay,
            OptimizerConfig::Sgd(sgd) => sgd.weight_decay,
        }
    }

    /// Whether a parameter of this name decays: biases and norms are known by their names.
    pub fn decays(&self, parameter: &str) -> bool {
        let all = match self {
            OptimizerConfig::Adam(adam) | OptimizerConfig::AdamW(adam) => adam.decay_biases_and_norms,
            OptimizerConfig::Sgd(sgd) => sgd.decay_biases_and_norms,
        };
        all || !(parameter.contains("bias") || parameter.contains("norm"))
    }

    /// State numbers kept per parameter (for memory estimates).
    pub fn moments(&self) -> usize {
        match self {
            OptimizerConfig::Adam(_) | OptimizerConfig::AdamW(_) => 2,
            OptimizerConfig::Sgd(_) => 1,
        }
    }
}
