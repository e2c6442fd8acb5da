//! Objectives: cross-entropy of classes and squared error of numbers, computed in 64 bits whatever the outputs are in.
//!
//! In 32 bits the log-softmax underflows once the loss is small and learning stops or spikes (Prieto et al. 2025;
//! Nanda et al. 2023 use 64 bits for it as well).

use std::any::Any;

use candle_core::{DType, Result, Tensor};

use crate::cpu::{Call, CpuOperation};
use crate::float::{Float, exponentials_of, highest_of, sum_of, vectorised};
use crate::program::reference::Given;
use crate::program::{Extent, Graph, Operation, SlotKind, Value};

/// What outputs are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Class numbers, in a slot of row numbers: cross-entropy.
    Classes(usize),
    /// Numbers on the output's own scale, in a slot of numbers: squared error.
    Values(usize),
}

/// The loss of every row of outputs times the row's weight; the sum over rows, times the batch's scale, is differentiated.
/// Slots: the answers, then the weights where there are any. It is recorded last and has no result of its own.
#[derive(Debug)]
pub struct Objective {
    answers: Answers,
    classes: usize,
}

impl Graph {
    /// Ends the recording with a loss of `outputs` `[rows, classes]` (values: one column); `weights` is a slot of one number a
    /// row.
    pub fn objective(&mut self, outputs: Value, answers: Answers, weights: Option<usize>) -> Result<Value> {
        let extent = self.extent(outputs);
        let (slot, kind) = match answers {
            Answers::Classes(slot) => (slot, SlotKind::Ids),
            Answers::Values(slot) => (slot, SlotKind::Numbers),
        };
        let single = Extent { width: 1, ..extent };
        let fits = self.slots[slot].kind == kind && self.slot_extent(slot) == single;
        let weighted = weights.is_none_or(|weights| self.slot_extent(weights) == single);
        if !fits || !weighted || (kind == SlotKind::Numbers && extent.width != 1) {
            candle_core::bail!("the answers or weights do not fit outputs of {extent:?}");
        }
        let slots: Vec<usize> = std::iter::once(slot).chain(weights).collect();
        let operation = Objective { answers, classes: extent.width };
        Ok(self.record(operation, &[outputs], &[], &slots, Extent { width: 0, ..extent }))
    }
}

impl Objective {
    /// Whether answers are classes.
    pub fn is_cross_entropy(&self) -> bool {
        matches!(self.answers, Answers::Classes(_))
    }
}

/// log(sum(exp(logits))) in 64 bits; fills `shares` with the softmax.
#[inline(always)]
pub(crate) fn log_sum_exp<T: Float>(logits: &[T], shares: &mut [f64]) -> f64 {
    let highest = highest_of(logits).wide();
    for (share, logit) in shares.iter_mut().zip(logits) {
        *share = logit.wide();
    }
    exponentials_of(shares, highest);
    let sum = sum_of(shares.len(), |class| shares[class]);
    let scale = 1.0 / sum;
    for share in shares.iter_mut() {
        *share *= scale;
    }
    highest + sum.ln()
}

impl CpuOperation for Objective {
    fn wide_scratch(&self) -> usize {
        self.classes
    }

    /// Nothing: the loss and its gradient are one pass, which only training needs.
    fn forward<T: Float>(&self, _: usize, _: &Call<'_, T>) {}

    fn backward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let (outputs, to_outputs) = (call.input(0), call.to_input(0));
        let ((rows, losses), shares) = (call.losses_share(), call.wide_scratch());
        let shares = &mut shares[..self.classes];
        let weights = call.has_slot(1).then(|| call.numbers(1));
        let scale = call.loss_scale();
        let outputs = outputs.chunks_exact(self.classes).skip(rows.start);
        let each = rows.zip(losses).zip(outputs).zip(to_outputs.numbers.chunks_exact_mut(self.classes));
        match self.answers {
            Answers::Classes(_) => {
                let answers = call.ids(0);
                vectorised(
                    #[inline(always)]
                    || {
                        for (((row, loss), outputs), slopes) in each {
                            let weight = weights.map_or(1.0, |weights| weights[row].wide());
                            let answer = answers[row] as usize;
                            *loss = weight * (log_sum_exp(outputs, shares) - outputs[answer].wide());
                            let factor = weight * scale;
                            for (slope, share) in slopes.iter_mut().zip(&*shares) {
                                *slope = T::of(share * factor);
                            }
                            slopes[answer] = T::of((shares[answer] - 1.0) * factor);
                        }
                    },
                );
            }
            Answers::Values(_) => {
                let answers = call.numbers(0);
                for (((row, loss), outputs), slopes) in each {
                    let weight = weights.map_or(1.0, |weights| weights[row].wide());
                    let error = outputs[0].wide() - answers[row].wide();
                    *loss = weight * error * error;
                    slopes[0] = T::of(2.0 * error * weight * scale);
                }
            }
        }
    }
}

impl Operation for Objective {
    fn name(&self) -> &'static str {
        match self.answers {
            Answers::Classes(_) => "cross-entropy",
            Answers::Values(_) => "squared-error",
        }
    }

    fn keeps_input(&self, _: usize) -> bool {
        true
    }

    /// Losses `[K, rows]` in f64, weighted but not scaled.
    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        let outputs = given.input(0).to_dtype(DType::F64)?;
        let (replicas, rows, _) = outputs.dims3()?;
        let losses = match self.answers {
            Answers::Classes(_) => {
                let ids = Tensor::from_vec(given.ids(0)?.to_vec(), (replicas, rows, 1), outputs.device())?;
                let shifted = outputs.broadcast_sub(&outputs.max_keepdim(2)?.detach())?;
                let logarithm = shifted.exp()?.sum_keepdim(2)?.log()?;
                (logarithm - shifted.gather(&ids, 2)?)?.squeeze(2)?
            }
            Answers::Values(_) => (outputs - given.numbers(0)?.to_dtype(DType::F64)?)?.sqr()?.squeeze(2)?,
        };
        if given.has_slot(1) {
            losses * given.numbers(1)?.to_dtype(DType::F64)?.squeeze(2)?
        } else {
            Ok(losses)
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
