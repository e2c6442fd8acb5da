//! From a task's batches to tensors: the examples of K replicas side by side.

use std::sync::Arc;

use candle_core::{DType, Device, Result};
use plateau_common::tasks::{Batch, Input, Output, Scale, Targets, TaskShape};

use crate::model::Inputs;
use crate::ops_old::loss::{Answers, Criterion};

/// What batches become tensors for.
#[derive(Clone)]
pub(crate) struct Destination {
    pub shape: TaskShape,
    pub dtype: DType,
    pub device: Device,
}

/// A batch of K replicas, ready for a forward pass and its loss.
pub(crate) struct Prepared {
    pub inputs: Inputs,
    pub criterion: Criterion,
}

/// Puts the batches of K replicas side by side; `scales[k]` is the unit of replica k's scalar targets.
pub(crate) fn prepare(batches: &[Batch], scales: &[Scale], to: &Destination) -> Result<Prepared> {
    let inputs: Vec<Input> = batches.iter().map(|batch| batch.input.clone()).collect();
    let inputs = Inputs::new(&inputs, to.shape.vocabulary, to.dtype, &to.device)?;
    let (mut classes, mut values, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for (batch, scale) in batches.iter().zip(scales) {
        match &batch.targets {
            Targets::Classes(ids) => classes.extend(ids),
            Targets::Scalars(numbers) => {
                values
                    .extend(numbers.iter().map(|number| (f64::from(*number) - scale.mean) / scale.deviation));
            }
        }
        if let Some(own) = &batch.weights {
            weights.extend(own.iter().map(|weight| f64::from(*weight)));
        }
    }
    let answers = match to.shape.output {
        Output::Classes(_) => Answers::Classes(Arc::new(classes)),
        Output::Scalar => Answers::Values(Arc::new(values)),
    };
    let weights = if weights.is_empty() { None } else { Some(Arc::new(weights)) };
    Ok(Prepared { inputs, criterion: Criterion { answers, weights } })
}

/// Examples `from..to` of a batch.
pub(crate) fn part(batch: &Batch, from: usize, to: usize) -> Batch {
    let input = match &batch.input {
        Input::Tokens { tokens, length } => {
            Input::Tokens { tokens: tokens[from * length..to * length].to_vec(), length: *length }
        }
        Input::Counts { counts, last } => {
            let types = counts.len() / last.len().max(1);
            Input::Counts { counts: counts[from * types..to * types].to_vec(), last: last[from..to].to_vec() }
        }
    };
    let examples = batch.examples().max(1);
    let rows = match &batch.targets {
        Targets::Classes(ids) => ids.len() / examples,
        Targets::Scalars(numbers) => numbers.len() / examples,
    };
    let (start, end) = (from * rows, to * rows);
    let targets = match &batch.targets {
        Targets::Classes(ids) => Targets::Classes(ids[start..end].to_vec()),
        Targets::Scalars(numbers) => Targets::Scalars(numbers[start..end].to_vec()),
    };
    let within = |(row, _): &&(u32, u32)| (start..end).contains(&(*row as usize));
    Batch {
        input,
        targets,
        weights: batch.weights.as_ref().map(|weights| weights[start..end].to_vec()),
        also_correct: batch
            .also_correct
            .iter()
            .filter(within)
            .map(|(row, id)| (row - start as u32, *id))
            .collect(),
    }
}
