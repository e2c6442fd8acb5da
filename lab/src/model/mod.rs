//! Models: one file each, one line in [`build`].

mod initialise;
mod input;
mod parameters;
mod transformer;

pub use input::{Dropout, InputForm, Inputs};
pub use parameters::{Initial, ParameterSpecification, Parameters};
pub use transformer::Transformer;

use candle_core::{Result, Tensor};
use plateau_common::config::ModelConfig;
use plateau_common::tasks::{Form, TaskConfig, TaskShape};

use crate::ops_old::attention::Plan;
use crate::probes::attention_entropy;

/// A model: named parameters, and a forward pass for K replicas at once.
pub trait Model: Send {
    /// Every parameter, in an order that never changes.
    fn parameters(&self) -> Vec<ParameterSpecification>;

    /// Outputs `[K, B R, width]` at the R read positions of each example.
    fn forward(
        &self,
        parameters: &Parameters,
        inputs: &Inputs,
        dropout: Option<&mut Dropout>,
        trace: Option<&mut Trace>,
    ) -> Result<Tensor>;
}

/// The model of a configuration, for sequences of this shape.
pub fn build(config: &ModelConfig, shape: TaskShape) -> Box<dyn Model> {
    match config {
        ModelConfig::Transformer(config) => Box::new(Transformer::new(config.clone(), shape)),
    }
}

/// How a task's inputs are best written for a model.
pub fn input_form(model: &ModelConfig, task: &TaskConfig) -> Form {
    if model.is_permutation_invariant() && task.supports_counts() { Form::Counts } else { Form::Tokens }
}

/// What probes see of a forward pass.
#[derive(Default)]
pub struct Trace {
    /// Per layer: for each replica the sum over examples, read positions and heads of the attention entropy in nats,
    /// and the number of terms.
    pub entropies: Vec<(Vec<f64>, f64)>,
}

impl Trace {
    pub(crate) fn attention(
        &mut self,
        q: &Tensor,
        k: &Tensor,
        plan: &Plan,
        asked: Option<Vec<u32>>,
    ) -> Result<()> {
        self.entropies.push(attention_entropy::sums(q, k, plan, asked.as_deref())?);
        Ok(())
    }
}
