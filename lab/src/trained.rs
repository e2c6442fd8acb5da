//! A model read back from a checkpoint, for its outputs outside training.

use std::path::Path;

use candle_core::DType;
use plateau_common::config::{Precision, TrialConfig};
use plateau_common::tasks::{Examples, Input};

use crate::checkpoint;
use crate::error::{Doing, LabError};
use crate::network::Network;

/// One trial's model with its weights, on the processor.
pub struct TrainedModel {
    /// The trial's configuration.
    pub config: TrialConfig,
    /// Updates made.
    pub step: u64,
    network: Network,
}

/// Reads and verifies a checkpoint folder.
pub fn load_model(folder: &Path) -> Result<TrainedModel, LabError> {
    let checkpoint = checkpoint::load(folder)?;
    let config = TrialConfig::from_json(&checkpoint.manifest.config)
        .map_err(|error| LabError::checkpoint(folder, format!("its configuration is refused: {error}")))?;
    let mut network = Network::new(&config.model, config.task.shape(), config.seed);
    for parameter in network.layout().parameters.clone() {
        let Some((name, tensor)) = checkpoint.weights.iter().find(|(name, _)| *name == parameter.name) else {
            return Err(LabError::checkpoint(folder, format!("parameter `{}` is missing", parameter.name)));
        };
        if tensor.dims() != parameter.shape {
            let problem = format!("`{name}` has the shape {:?}, not {:?}", tensor.dims(), parameter.shape);
            return Err(LabError::checkpoint(folder, problem));
        }
        let numbers = tensor.to_dtype(DType::F64).and_then(|tensor| tensor.flatten_all()?.to_vec1::<f64>());
        network.set(name, &numbers.doing("restoring parameters")?)?;
    }
    Ok(TrainedModel { config, step: checkpoint.manifest.step, network })
}

impl TrainedModel {
    /// Outputs of every read position, `[B R, width]`, in the model's own unit (scalar outputs are not scaled back), computed in
    /// the precision of training.
    pub fn outputs(&self, input: &Input) -> Result<Vec<f64>, LabError> {
        match self.config.train.precision {
            Precision::F64 => self.network.outputs::<f64>(input),
            _ => self.network.outputs::<f32>(input),
        }
    }

    /// The model and its weights.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The trial's examples.
    pub fn examples(&self) -> Box<dyn Examples> {
        self.config.examples()
    }
}
