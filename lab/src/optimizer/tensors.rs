//! Updates from plain tensor operations, for devices without a fused form and as its reference.

use candle_core::{Result, Tensor};
use plateau_common::config::OptimizerConfig;

use super::Coefficients;

/// The updated parameter `[K, …]`; the moments are replaced.
pub(super) fn update(
    rule: &OptimizerConfig,
    coefficients: &[Coefficients],
    update: u64,
    parameter: &Tensor,
    gradient: &Tensor,
    moments: &mut [Tensor],
) -> Result<Tensor> {
    let parameter = parameter.detach();
    let per_replica = |value: fn(&Coefficients) -> f64| {
        let mut shape = vec![1; parameter.rank()];
        shape[0] = coefficients.len();
        let values: Vec<f64> = coefficients.iter().map(value).collect();
        Tensor::from_vec(values, shape, parameter.device())?.to_dtype(parameter.dtype())
    };
    let gradient = (gradient.detach().broadcast_mul(&per_replica(|own| own.clip)?)?
        + parameter.broadcast_mul(&per_replica(|own| own.coupled_decay)?)?)?;
    let lr = per_replica(|own| own.lr)?;
    match (rule, moments) {
        (OptimizerConfig::Adam(adam) | OptimizerConfig::AdamW(adam), [first, second]) => {
            let correction = |beta: f64| 1.0 - beta.powf(update as f64);
            *first = ((&*first * adam.beta1)? + (&gradient * (1.0 - adam.beta1))?)?;
            *second = ((&*second * adam.beta2)? + (gradient.sqr()? * (1.0 - adam.beta2))?)?;
            let root = ((second.sqrt()? / correction(adam.beta2).sqrt())? + adam.eps)?;
            let change = (&*first / correction(adam.beta1))?.div(&root)?.broadcast_mul(&lr)?;
            parameter.broadcast_mul(&per_replica(|own| own.keep)?)? - change
        }
        (OptimizerConfig::Sgd(sgd), [velocity]) => {
            *velocity = ((&*velocity * sgd.momentum)? + gradient)?;
            parameter - velocity.broadcast_mul(&lr)?
        }
        (_, moments) => candle_core::bail!("the optimiser has {} moments", moments.len()),
    }
}
