//! Probes: what is measured inside a model at an evaluation. One line in `measure`, and a file where it takes more than a line.
//!
//! A probe is a pure function of the training state (weights and optimiser), so a resumed trial measures what an
//! uninterrupted one does.

pub(crate) mod attention_entropy;
mod fourier;
mod weight_norm;

pub use fourier::{FourierMeasures, fourier_measures, gini};

use plateau_common::config::ProbeKind;

use crate::error::LabError;
use crate::evaluate::Scores;
use crate::model::Parameters;
use crate::optimizer::Optimizer;

/// Metric names, each with one value per replica.
pub(crate) type Measured = Vec<(String, Vec<f64>)>;

/// What probes may look at.
pub(crate) struct Measuring<'a> {
    pub parameters: &'a Parameters,
    pub optimizer: &'a Optimizer,
    /// The test split's scores, with the trace of its forward pass.
    pub test: &'a Scores,
    /// The training split's scores.
    pub train: &'a Scores,
    /// The modulus, for Fourier probes.
    pub modulus: Option<u32>,
}

/// Runs one probe.
pub(crate) fn measure(kind: ProbeKind, measuring: &Measuring<'_>) -> Result<Measured, LabError> {
    match kind {
        ProbeKind::WeightNorm => weight_norm::measure(measuring),
        ProbeKind::GradientNorm => Ok(gradient_norm(measuring)),
        ProbeKind::AttentionEntropy => Ok(attention_entropies(measuring)),
        ProbeKind::LogitScale => Ok(vec![("logit_scale".to_owned(), measuring.test.logit_scales())]),
        ProbeKind::Fourier => fourier::measure(measuring),
    }
}

/// `gradient_norm`: of the last update, before clipping; absent before the first.
fn gradient_norm(measuring: &Measuring<'_>) -> Measured {
    let norms = measuring.optimizer.last_norms();
    if norms.iter().all(|norm| norm.is_nan()) {
        Vec::new()
    } else {
        vec![("gradient_norm".to_owned(), norms.to_vec())]
    }
}

fn attention_entropies(measuring: &Measuring<'_>) -> Measured {
    let layers = measuring.test.entropies().into_iter().enumerate();
    layers.map(|(layer, means)| (format!("attention_entropy/{layer}"), means)).collect()
}
