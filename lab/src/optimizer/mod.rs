//! Optimisers: Adam, AdamW, SGD, for K replicas with their own learning rates, weight decays and clipping.
//!
//! The state is named and can be saved; the rules follow PyTorch's definitions (bias correction, momentum, order of
//! decay and update). On the CPU each parameter is updated in place; other devices use tensor operations.

mod fused;
mod tensors;

use candle_core::{DType, Device, Result, Tensor};
use plateau_common::config::{OptimizerConfig, TrainConfig};

use crate::float::{Float, read, vectorised, with_float};
use crate::model::Parameters;
use crate::ops_old::tape::Gradients;

/// Name of the tensor that holds the norm of the last gradient in an optimiser's file.
const LAST_NORM: &str = "last_gradient_norm";

/// One replica's settings.
#[derive(Clone, Debug)]
pub struct ReplicaRule {
    /// The rule; its kind and moments' decay are equal throughout a cohort.
    pub optimizer: OptimizerConfig,
    /// Largest gradient norm; larger gradients are scaled down to it.
    pub clip: Option<f64>,
}

impl ReplicaRule {
    /// The settings of a training configuration.
    pub fn of(config: &TrainConfig) -> Self {
        ReplicaRule { optimizer: config.optimizer.clone(), clip: config.clip }
    }
}

/// Coefficients of one update of one replica.
#[derive(Clone, Copy, Debug)]
struct Coefficients {
    /// The gradient is multiplied by this first.
    clip: f64,
    /// Learning rate of this update.
    lr: f64,
    /// Added to the gradient: this times the parameter.
    coupled_decay: f64,
    /// The parameter is multiplied by this before the update.
    keep: f64,
}

/// The optimiser of K replicas.
pub struct Optimizer {
    rules: Vec<ReplicaRule>,
    /// Moments of every parameter, in the parameters' order: two for Adam, one for SGD.
    moments: Vec<Vec<Tensor>>,
    /// Norm of each replica's gradient at the last update, before clipping; NaN before the first.
    last_norms: Vec<f64>,
}

fn moment_names(kind: &OptimizerConfig) -> &'static [&'static str] {
    match kind {
        OptimizerConfig::Adam(_) | OptimizerConfig::AdamW(_) => &["first_moment", "second_moment"],
        OptimizerConfig::Sgd(_) => &["velocity"],
    }
}

impl Optimizer {
    /// An optimiser that has made no update.
    pub fn new(rules: Vec<ReplicaRule>, parameters: &Parameters) -> Result<Self> {
        let count = rules.first().map_or(0, |rule| moment_names(&rule.optimizer).len());
        let moments = parameters
            .iter()
            .map(|(_, parameter)| (0..count).map(|_| parameter.detach().zeros_like()).collect())
            .collect::<Result<_>>()?;
        let last_norms = vec![f64::NAN; rules.len()];
        Ok(Optimizer { rules, moments, last_norms })
    }

    /// Norm of each replica's last gradient before clipping; NaN before the first update.
    pub fn last_norms(&self) -> &[f64] {
        &self.last_norms
    }

    /// Norm of each replica's gradient over all parameters, in 64 bits.
    pub fn gradient_norms(parameters: &Parameters, gradients: &Gradients) -> Result<Vec<f64>> {
        let mut squares = vec![0.0; parameters.replicas()];
        for (name, parameter) in parameters.iter() {
            let gradient = gradient_of(gradients, name, parameter)?;
            for (total, own) in squares.iter_mut().zip(square_sums(&gradient)?) {
                *total += own;
            }
        }
        Ok(squares.into_iter().map(f64::sqrt).collect())
    }

    /// Makes update number `update` (from 1), given the gradients' norms and the schedule's multiplier.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        norms: &[f64],
        update: u64,
        multiplier: f64,
    ) -> Result<()> {
        let coefficients: Vec<Coefficients> =
            self.rules.iter().zip(norms).map(|(rule, norm)| coefficients(rule, *norm, multiplier)).collect();
        let Some(first) = self.rules.first().map(|rule| rule.optimizer.clone()) else { return Ok(()) };
        let names: Vec<String> = parameters.iter().map(|(name, _)| name.to_owned()).collect();
        for (name, moments) in names.iter().zip(&mut self.moments) {
            let parameter = parameters.get(name)?.clone();
            let gradient = gradient_of(gradients, name, &parameter)?;
            if parameter.device().is_cpu() {
                fused::update(&first, &coefficients, update, &parameter, &gradient, moments)?;
            } else {
                let new = tensors::update(&first, &coefficients, update, &parameter, &gradient, moments)?;
                parameters.set(name, &new)?;
            }
        }
        self.last_norms = norms.to_vec();
        Ok(())
    }

    /// The state of one replica by name, without the replica dimension.
    pub fn of_replica(&self, parameters: &Parameters, replica: usize) -> Result<Vec<(String, Tensor)>> {
        let names = moment_names(&self.rules[replica].optimizer);
        let mut state = Vec::new();
        for ((parameter, _), moments) in parameters.iter().zip(&self.moments) {
            for (name, moment) in names.iter().zip(moments) {
                state.push((format!("{name}.{parameter}"), moment.get(replica)?.to_device(&Device::Cpu)?));
            }
        }
        state.push((LAST_NORM.to_owned(), Tensor::new(&[self.last_norms[replica]], &Device::Cpu)?));
        Ok(state)
    }

    /// An optimiser of K replicas from the states of each.
    pub fn from_replicas(
        rules: Vec<ReplicaRule>,
        parameters: &Parameters,
        states: &[Vec<(String, Tensor)>],
    ) -> Result<Self> {
        let mut optimizer = Self::new(rules, parameters)?;
        let find =
            |state: &[(String, Tensor)], name: &str| match state.iter().find(|(known, _)| known == name) {
                Some((_, tensor)) => Ok(tensor.clone()),
                None => candle_core::bail!("the optimiser's state lacks `{name}`"),
            };
        let names = optimizer.rules.first().map_or(&[][..], |rule| moment_names(&rule.optimizer));
        for ((parameter, tensor), moments) in parameters.iter().zip(&mut optimizer.moments) {
            for (name, moment) in names.iter().zip(moments) {
                let name = format!("{name}.{parameter}");
                let all = states.iter().map(|state| find(state, &name)).collect::<Result<Vec<_>>>()?;
                let stacked = Tensor::stack(&all, 0)?.to_device(tensor.device())?;
                if stacked.shape() != tensor.shape() || stacked.dtype() != tensor.dtype() {
                    candle_core::bail!(
                        "the optimiser's `{name}` has the shape {:?}, not {:?}",
                        stacked.shape(),
                        tensor.shape()
                    );
                }
                *moment = stacked;
            }
        }
        for (norm, state) in optimizer.last_norms.iter_mut().zip(states) {
            *norm = find(state, LAST_NORM)?.to_dtype(DType::F64)?.reshape(())?.to_scalar()?;
        }
        Ok(optimizer)
    }
}

fn gradient_of(gradients: &Gradients, name: &str, parameter: &Tensor) -> Result<Tensor> {
    match gradients.get(parameter) {
        Some(gradient) => gradient.contiguous(),
        None => candle_core::bail!("parameter `{name}` got no gradient"),
    }
}

fn coefficients(rule: &ReplicaRule, norm: f64, multiplier: f64) -> Coefficients {
    let clip = rule.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
    let lr = rule.optimizer.lr() * multiplier;
    let decay = rule.optimizer.weight_decay();
    let decoupled = matches!(rule.optimizer, OptimizerConfig::AdamW(_));
    Coefficients {
        clip,
        lr,
        coupled_decay: if decoupled { 0.0 } else { decay },
        keep: if decoupled { 1.0 - lr * decay } else { 1.0 },
    }
}

/// Sum of squares of each replica's numbers, in 64 bits.
pub(crate) fn square_sums(tensor: &Tensor) -> Result<Vec<f64>> {
    let replicas = tensor.dims().first().copied().unwrap_or(1);
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    with_float!(tensor.dtype(), T => read::<T, _>(&tensor, |values| {
        let count = (values.len() / replicas.max(1)).max(1);
        Ok(values.chunks_exact(count).map(|own| vectorised(|| square_sum(own))).collect())
    }))
}

#[inline(always)]
fn square_sum<T: Float>(values: &[T]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value.wide() * value.wide();
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|value| value.wide() * value.wide()).sum::<f64>()
}
