//! One update of all parameters of a replica, in one pass over its arena.

use plateau_common::config::{OptimizerConfig, TrainConfig};

use crate::float::{Float, vectorised};
use crate::program::Layout;

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

    /// The parameters of a layout in stretches that decay or do not, in order.
    pub fn stretches(&self, layout: &Layout) -> Vec<Stretch> {
        let mut all: Vec<Stretch> = Vec::new();
        for (place, parameter) in layout.parameters.iter().enumerate() {
            let (decays, end) = (self.optimizer.decays(&parameter.name), layout.range(place).end);
            match all.last_mut() {
                Some(last) if last.decays == decays => last.end = end,
                _ => all.push(Stretch { end, decays }),
            }
        }
        all
    }

    /// Names of the moments the rule keeps for every parameter.
    pub fn moment_names(&self) -> &'static [&'static str] {
        match self.optimizer {
            OptimizerConfig::Adam(_) | OptimizerConfig::AdamW(_) => &["first_moment", "second_moment"],
            OptimizerConfig::Sgd(_) => &["velocity"],
        }
    }

    /// What the gradient is multiplied by before anything else, given its norm.
    pub fn clip_factor(&self, norm: f64) -> f64 {
        self.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0))
    }
}

/// Parameters that all decay or all do not; it begins where the one before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Number behind its last.
    pub end: usize,
    /// Whether they decay.
    pub decays: bool,
}

/// Makes update number `update` (from 1) on a stretch of the arena: `gradient` has the norm `norm`, `multiplier` is the
/// schedule's. The rules are PyTorch's (bias correction, momentum, order of decay and update).
pub fn update<T: Float>(
    rule: &ReplicaRule,
    (norm, update, multiplier): (f64, u64, f64),
    decays: bool,
    parameters: &mut [T],
    gradient: &[T],
    moments: [&mut [T]; 2],
) {
    let clip = T::of(rule.clip_factor(norm));
    let lr = rule.optimizer.lr() * multiplier;
    let decay = if decays { rule.optimizer.weight_decay() } else { 0.0 };
    let decoupled = matches!(rule.optimizer, OptimizerConfig::AdamW(_));
    let coupled = T::of(if decoupled { 0.0 } else { decay });
    let keep = T::of(if decoupled { 1.0 - lr * decay } else { 1.0 });
    let [first, second] = moments;
    let numbers = parameters.iter_mut().zip(gradient).zip(first.iter_mut());
    match &rule.optimizer {
        OptimizerConfig::Adam(adam) | OptimizerConfig::AdamW(adam) => {
            let correction = |beta: f64| 1.0 - beta.powf(update as f64);
            let rate = T::of(lr / correction(adam.beta1));
            let scale = T::of(1.0 / correction(adam.beta2).sqrt());
            let (beta1, beta2, eps) = (T::of(adam.beta1), T::of(adam.beta2), T::of(adam.eps));
            let (rest1, rest2) = (T::of(1.0 - adam.beta1), T::of(1.0 - adam.beta2));
            vectorised(
                #[inline(always)]
                || {
                    for (((parameter, gradient), first), second) in numbers.zip(second.iter_mut()) {
                        let gradient = *gradient * clip + *parameter * coupled;
                        *first = *first * beta1 + gradient * rest1;
                        *second = *second * beta2 + gradient * gradient * rest2;
                        *parameter = *parameter * keep - rate * *first / (second.sqrt() * scale + eps);
                    }
                },
            );
        }
        OptimizerConfig::Sgd(sgd) => {
            let (momentum, rate) = (T::of(sgd.momentum), T::of(lr));
            vectorised(
                #[inline(always)]
                || {
                    for ((parameter, gradient), velocity) in numbers {
                        *velocity = *velocity * momentum + (*gradient * clip + *parameter * coupled);
                        *parameter -= rate * *velocity;
                    }
                },
            );
        }
    }
}

/// Sum of squares, in 64 bits, in an order that depends on the count only. Not finite if a number is not.
pub fn square_sum<T: Float>(numbers: &[T]) -> f64 {
    vectorised(
        #[inline(always)]
        || lane_sums(numbers),
    )
}

#[inline(always)]
fn lane_sums<T: Float>(values: &[T]) -> f64 {
    const LANES: usize = 32;
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
