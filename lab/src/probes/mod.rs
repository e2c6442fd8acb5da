//! Probes: what is measured inside a model at an evaluation. One line in `measure`, and a file where it takes more than a line.
//!
//! A probe is a pure function of a replica's state (weights and optimiser), so a resumed trial measures what an
//! uninterrupted one does. Probes compute on the processor in 64 bits, wherever the replica is trained.

mod attention;
mod attention_entropy;
mod attention_sparsity;
mod fourier;
mod tree_projection;
mod weight_norm;
mod weight_norm_per_layer;

pub use fourier::{FourierMeasures, fourier_measures, gini};

use plateau_common::config::{ModelConfig, ProbeKind};
use plateau_common::tasks::{Batch, Sentences};

use crate::error::LabError;
use crate::evaluate::Scores;
use crate::network::Network;

/// Metric names and values.
pub(crate) type Measured = Vec<(String, f64)>;

/// What probes may look at.
pub(crate) struct Measuring<'a> {
    /// The model with the replica's weights.
    pub network: &'a mut Network,
    /// Its settings.
    pub model: &'a ModelConfig,
    /// Norm of the last update's gradient before clipping; not a number before the first.
    pub last_norm: f64,
    /// The test split.
    pub test_batch: &'a Batch,
    /// Its scores.
    pub test: &'a Scores,
    /// The training split's scores.
    pub train: &'a Scores,
    /// The modulus, for Fourier probes.
    pub modulus: Option<u32>,
    /// Sentences of the task, for probes that want some.
    pub sentences: Option<&'a Sentences>,
}

/// Runs one probe.
pub(crate) fn measure(kind: ProbeKind, measuring: &mut Measuring<'_>) -> Result<Measured, LabError> {
    match kind {
        ProbeKind::WeightNorm => Ok(weight_norm::measure(measuring)),
        ProbeKind::GradientNorm => Ok(gradient_norm(measuring)),
        ProbeKind::AttentionEntropy => attention_entropy::measure(measuring),
        ProbeKind::LogitScale => Ok(vec![("logit_scale".to_owned(), measuring.test.logit_scale())]),
        ProbeKind::Fourier => Ok(fourier::measure(measuring)),
        ProbeKind::WeightNormPerLayer => Ok(weight_norm_per_layer::measure(measuring)),
        ProbeKind::AttentionSparsity => attention_sparsity::measure(measuring),
        ProbeKind::TreeProjection => tree_projection::measure(measuring),
    }
}

/// `gradient_norm`: of the last update, before clipping; absent before the first.
fn gradient_norm(measuring: &Measuring<'_>) -> Measured {
    if measuring.last_norm.is_nan() {
        Vec::new()
    } else {
        vec![("gradient_norm".to_owned(), measuring.last_norm)]
    }
}
