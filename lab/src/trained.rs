//! A model read back from a checkpoint, for its outputs outside training.

use std::path::Path;

use candle_core::{Device, Tensor};
use plateau_common::config::TrialConfig;
use plateau_common::tasks::{Examples, Input};

use crate::checkpoint;
use crate::error::{Doing, LabError};
use crate::float::dtype;
use crate::model::{self, Inputs, Model, Parameters};

/// One trial's model with its weights, on the CPU.
pub struct TrainedModel {
    /// The trial's configuration.
    pub config: TrialConfig,
    /// Updates made.
    pub step: u64,
    model: Box<dyn Model>,
    parameters: Parameters,
}

/// Reads and verifies a checkpoint folder.
pub fn load_model(folder: &Path) -> Result<TrainedModel, LabError> {
    let checkpoint = checkpoint::load(folder)?;
    let config = TrialConfig::from_json(&checkpoint.manifest.config)
        .map_err(|error| LabError::checkpoint(folder, format!("its configuration is refused: {error}")))?;
    let model = model::build(&config.model, config.task.shape());
    let mut named = Vec::new();
    for parameter in model.parameters() {
        let Some((name, tensor)) = checkpoint.weights.iter().find(|(name, _)| *name == parameter.name) else {
            return Err(LabError::checkpoint(folder, format!("parameter `{}` is missing", parameter.name)));
        };
        if tensor.dims() != parameter.shape {
            let problem = format!("`{name}` has the shape {:?}, not {:?}", tensor.dims(), parameter.shape);
            return Err(LabError::checkpoint(folder, problem));
        }
        named.push((name.clone(), tensor.unsqueeze(0).doing("restoring parameters")?));
    }
    let parameters = Parameters::trainable(named).doing("restoring parameters")?;
    Ok(TrainedModel { config, step: checkpoint.manifest.step, model, parameters })
}

impl TrainedModel {
    /// Outputs of every read position, `[B R, width]`, in the model's own unit (scalar outputs are not scaled back).
    pub fn outputs(&self, input: &Input) -> Result<Tensor, LabError> {
        let run = || {
            let dtype = dtype(self.config.train.precision);
            let vocabulary = self.config.task.shape().vocabulary;
            let inputs = Inputs::new(std::slice::from_ref(input), vocabulary, dtype, &Device::Cpu)?;
            self.model.forward(&self.parameters.frozen(), &inputs, None, None)?.squeeze(0)
        };
        run().doing("computing a model's outputs")
    }

    /// The parameters, `[1, …]` each.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The trial's examples.
    pub fn examples(&self) -> Box<dyn Examples> {
        self.config.task.examples(self.config.seed)
    }
}
