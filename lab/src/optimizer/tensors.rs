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

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use plateau_common::config::{AdamConfig, OptimizerConfig, SgdConfig};

    use super::super::{Coefficients, fused};

    fn tensor(shift: f64) -> Tensor {
        let values: Vec<f64> = (0..30).map(|index| (index as f64 * 0.9 + shift).sin()).collect();
        Tensor::from_vec(values, (2, 3, 5), &Device::Cpu).expect("thirty numbers")
    }

    /// Three updates of two replicas with different coefficients by both forms.
    #[test]
    fn plain_and_fused_updates_agree() {
        let adam = AdamConfig { lr: 0.0, beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.0 };
        let rules = [
            (OptimizerConfig::AdamW(adam), 2),
            (OptimizerConfig::Sgd(SgdConfig { lr: 0.0, momentum: 0.7, weight_decay: 0.0 }), 1),
        ];
        let coefficients = [
            Coefficients { clip: 0.5, lr: 0.1, coupled_decay: 0.2, keep: 0.9 },
            Coefficients { clip: 1.0, lr: 0.01, coupled_decay: 0.0, keep: 1.0 },
        ];
        for (rule, count) in rules {
            let zeros = || Tensor::zeros((2, 3, 5), DType::F64, &Device::Cpu).expect("zeros");
            let in_place = tensor(0.0);
            let in_place_moments: Vec<Tensor> = (0..count).map(|_| zeros()).collect();
            let mut replaced = tensor(0.0);
            let mut moments: Vec<Tensor> = (0..count).map(|_| zeros()).collect();
            for update in 1..=3 {
                let gradient = tensor(update as f64);
                fused::update(&rule, &coefficients, update, &in_place, &gradient, &in_place_moments)
                    .expect("fused");
                replaced = super::update(&rule, &coefficients, update, &replaced, &gradient, &mut moments)
                    .expect("plain");
            }
            let difference = (&in_place - &replaced)
                .and_then(|difference| difference.abs()?.max_all()?.to_scalar::<f64>());
            assert!(difference.expect("a number") < 1e-12, "{rule:?}");
            assert!(
                (tensor(0.0) - in_place)
                    .and_then(|moved| moved.abs()?.max_all()?.to_scalar::<f64>())
                    .expect("a number")
                    > 0.01
            );
        }
    }
}
