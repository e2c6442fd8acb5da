//! Loss and accuracy of K replicas on their examples, in chunks of bounded memory.
//!
//! Where chunks end depends on the model and the task only, never on the cohort, so that equal trials measure equal bits.

use candle_core::{DType, Device, Result};
use plateau_common::config::{ModelConfig, TrialConfig};
use plateau_common::tasks::{Batch, Input, Scale, Targets};

use crate::data::{Destination, part, prepare};
use crate::float::{Float, read, vectorised, with_float};
use crate::model::{Model, Parameters, Trace};
use crate::ops_old::loss::log_sum_exp;

/// Numbers of the widest activation a chunk of one replica may hold.
const CHUNK_NUMBERS: usize = 1 << 21;

/// Examples per chunk for a configuration.
pub(crate) fn chunk_examples(config: &TrialConfig) -> usize {
    let ModelConfig::Transformer(model) = &config.model;
    let shape = config.task.shape();
    let per_position = (model.mlp_dim + 4 * model.dim).max(shape.output.width()) + model.heads * shape.length;
    (CHUNK_NUMBERS / (per_position * shape.length)).max(1)
}

/// Sums over the examples of one replica.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    loss: f64,
    weight: f64,
    correct: f64,
    /// Standard deviation of the outputs over classes, and of how many rows.
    scale: f64,
    rows: f64,
}

/// What was asked for beside loss and accuracy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// Attention entropies.
    pub trace: bool,
    /// All outputs.
    pub outputs: bool,
}

/// The outputs of all examples, for probes.
pub(crate) struct Kept {
    /// Per replica `[N, width]`.
    outputs: Vec<Vec<f64>>,
    width: usize,
    /// Per replica the input tokens and their number per example.
    tokens: Vec<(Vec<u32>, usize)>,
}

impl Kept {
    /// Rows of outputs of one replica.
    pub fn outputs(&self, replica: usize) -> impl Iterator<Item = &[f64]> {
        self.outputs[replica].chunks_exact(self.width)
    }

    /// The first two tokens below `p` of each example: the operands of a table row in either layout.
    pub fn residues(&self, replica: usize, p: u32) -> Vec<(u32, u32)> {
        let (tokens, length) = &self.tokens[replica];
        let operands = |example: &[u32]| {
            let mut operands = example.iter().copied().filter(|token| *token < p);
            Some((operands.next()?, operands.next()?))
        };
        tokens.chunks_exact(*length).filter_map(operands).collect()
    }
}

/// Scores of K replicas on one split.
pub(crate) struct Scores {
    sums: Vec<Sums>,
    entropies: Vec<(Vec<f64>, f64)>,
    pub kept: Option<Kept>,
}

impl Scores {
    /// Weighted mean loss per replica.
    pub fn losses(&self) -> Vec<f64> {
        self.sums.iter().map(|sums| sums.loss / sums.weight).collect()
    }

    /// Weighted share of right answers per replica.
    pub fn accuracies(&self) -> Vec<f64> {
        self.sums.iter().map(|sums| sums.correct / sums.weight).collect()
    }

    /// Mean over rows of the standard deviation of the outputs over classes.
    pub fn logit_scales(&self) -> Vec<f64> {
        self.sums.iter().map(|sums| sums.scale / sums.rows).collect()
    }

    /// Mean attention entropy per layer and replica.
    pub fn entropies(&self) -> Vec<Vec<f64>> {
        self.entropies.iter().map(|(sums, terms)| sums.iter().map(|sum| sum / terms).collect()).collect()
    }
}

/// Evaluates every replica on its own batch; all batches have one size.
pub(crate) fn score(
    model: &dyn Model,
    parameters: &Parameters,
    batches: &[Batch],
    scales: &[Scale],
    to: &Destination,
    chunk: usize,
    wanted: Wanted,
) -> Result<Scores> {
    let parameters = parameters.frozen();
    let examples = batches.first().map_or(0, Batch::examples);
    let mut scores = Scores { sums: vec![Sums::default(); batches.len()], entropies: Vec::new(), kept: None };
    let mut outputs_kept = vec![Vec::new(); batches.len()];
    let mut from = 0;
    while from < examples {
        let end = (from + chunk).min(examples);
        let parts: Vec<Batch> = batches.iter().map(|batch| part(batch, from, end)).collect();
        let prepared = prepare(&parts, scales, to)?;
        let mut trace = wanted.trace.then(Trace::default);
        let outputs = model.forward(&parameters, &prepared.inputs, None, trace.as_mut())?;
        let outputs = outputs.to_device(&Device::Cpu)?.contiguous()?;
        let width = outputs.dims3()?.2;
        with_float!(outputs.dtype(), T => read::<T, _>(&outputs, |outputs| {
            let per_replica = outputs.len() / parts.len().max(1);
            for (replica, outputs) in outputs.chunks_exact(per_replica).enumerate() {
                vectorised(|| add_rows(&mut scores.sums[replica], outputs, width, &parts[replica], scales[replica]));
            }
            Ok(())
        }))?;
        if wanted.outputs {
            for (replica, kept) in outputs_kept.iter_mut().enumerate() {
                kept.extend(outputs.get(replica)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?);
            }
        }
        for (layer, (sums, terms)) in trace.into_iter().flat_map(|trace| trace.entropies).enumerate() {
            match scores.entropies.get_mut(layer) {
                Some((totals, count)) => {
                    totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
                    *count += terms;
                }
                None => scores.entropies.push((sums, terms)),
            }
        }
        from = end;
    }
    if wanted.outputs {
        let tokens = batches.iter().map(|batch| match &batch.input {
            Input::Tokens { tokens, length } => (tokens.clone(), *length),
            Input::Counts { .. } => (Vec::new(), 1),
        });
        let width = to.shape.output.width();
        scores.kept = Some(Kept { outputs: outputs_kept, width, tokens: tokens.collect() });
    }
    Ok(scores)
}

fn add_rows<T: Float>(sums: &mut Sums, outputs: &[T], width: usize, batch: &Batch, scale: Scale) {
    let mut shares = vec![0.0; width];
    for (row, outputs) in outputs.chunks_exact(width).enumerate() {
        let weight = batch.weights.as_ref().map_or(1.0, |weights| f64::from(weights[row]));
        sums.weight += weight;
        sums.rows += 1.0;
        let mean = outputs.iter().map(|output| output.wide()).sum::<f64>() / width as f64;
        let variance =
            outputs.iter().map(|output| (output.wide() - mean).powi(2)).sum::<f64>() / width as f64;
        sums.scale += variance.sqrt();
        match &batch.targets {
            Targets::Classes(answers) => {
                let answer = answers[row];
                sums.loss += weight * (log_sum_exp(outputs, &mut shares) - outputs[answer as usize].wide());
                let said = highest(outputs);
                let right = said
                    .is_some_and(|said| said == answer || batch.also_correct.contains(&(row as u32, said)));
                sums.correct += if right { weight } else { 0.0 };
            }
            Targets::Scalars(answers) => {
                let answer = f64::from(answers[row]);
                let error = outputs[0].wide() - (answer - scale.mean) / scale.deviation;
                sums.loss += weight * error * error;
                let right = (outputs[0].wide() * scale.deviation + scale.mean).round() == answer;
                sums.correct += if right { weight } else { 0.0 };
            }
        }
    }
}

/// The class with the highest output, the lowest of several; none if an output is not a number.
fn highest<T: Float>(outputs: &[T]) -> Option<u32> {
    let mut best = 0;
    for (class, output) in outputs.iter().enumerate() {
        if output.wide().is_nan() {
            return None;
        }
        if *output > outputs[best] {
            best = class;
        }
    }
    Some(best as u32)
}
