//! Reverse-mode differentiation of the fused operations on the CPU.
//!
//! candle's own backward pass adds every gradient to a tensor of zeros and hands large additions to a pool of spinning
//! threads, which costs more than the arithmetic of small models. The tape records the operations of one forward pass on
//! this thread and walks them backwards, moving gradients instead of adding them where a tensor has one consumer.
//! Without an active tape the operations are recorded by candle as usual; other devices always use candle's graph.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{CustomOp1, CustomOp2, CustomOp3, Device, Result, Tensor, TensorId};

use super::sum;

/// An operation with what it was applied to.
enum Step {
    One([Tensor; 1], Box<dyn CustomOp1>),
    Two([Tensor; 2], Box<dyn CustomOp2>),
    Three([Tensor; 3], Box<dyn CustomOp3>),
}

thread_local! {
    /// The operations recorded on this thread, with their results; `None`: not recording.
    static TAPE: RefCell<Option<Vec<(Step, Tensor)>>> = const { RefCell::new(None) };
}

fn is_recording() -> bool {
    TAPE.with_borrow(Option::is_some)
}

fn record(step: Step, result: &Tensor) {
    TAPE.with_borrow_mut(|tape| {
        if let Some(tape) = tape {
            tape.push((step, result.clone()));
        }
    });
}

/// Applies an operation of one tensor and records it.
pub(super) fn apply1(x: &Tensor, op: impl CustomOp1 + Send + Sync + 'static) -> Result<Tensor> {
    if !is_recording() {
        return x.apply_op1(op);
    }
    let result = x.apply_op1_no_bwd(&op)?;
    record(Step::One([x.clone()], Box::new(op)), &result);
    Ok(result)
}

/// Applies an operation of two tensors and records it.
pub(super) fn apply2(a: &Tensor, b: &Tensor, op: impl CustomOp2 + Send + Sync + 'static) -> Result<Tensor> {
    if !is_recording() {
        return a.apply_op2(b, op);
    }
    let result = a.apply_op2_no_bwd(b, &op)?;
    record(Step::Two([a.clone(), b.clone()], Box::new(op)), &result);
    Ok(result)
}

/// Applies an operation of three tensors and records it.
pub(super) fn apply3(
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    op: impl CustomOp3 + Send + Sync + 'static,
) -> Result<Tensor> {
    if !is_recording() {
        return a.apply_op3(b, c, op);
    }
    let result = a.apply_op3_no_bwd(b, c, &op)?;
    record(Step::Three([a.clone(), b.clone(), c.clone()], Box::new(op)), &result);
    Ok(result)
}

/// Gradients by tensor.
pub enum Gradients {
    /// From the tape.
    Tape(HashMap<TensorId, Tensor>),
    /// From candle's graph.
    Graph(Box<GradStore>),
}

impl Gradients {
    /// The gradient of a tensor the losses depend on.
    pub fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        match self {
            Gradients::Tape(gradients) => gradients.get(&tensor.id()),
            Gradients::Graph(gradients) => gradients.get(tensor),
        }
    }
}

/// Computes losses `[K]`, and the gradients of their sum. `losses` must be made of operations of this module's siblings
/// where `device` is the CPU.
pub fn differentiate(
    device: &Device,
    losses: impl FnOnce() -> Result<Tensor>,
) -> Result<(Tensor, Gradients)> {
    if !device.is_cpu() {
        let losses = losses()?;
        let gradients = losses.sum_all()?.backward()?;
        return Ok((losses, Gradients::Graph(Box::new(gradients))));
    }
    TAPE.set(Some(Vec::new()));
    let losses = losses();
    let tape = TAPE.take().unwrap_or_default();
    let losses = losses?;
    let gradients = walk_back(tape, &losses)?;
    Ok((losses, Gradients::Tape(gradients)))
}

fn walk_back(mut tape: Vec<(Step, Tensor)>, losses: &Tensor) -> Result<HashMap<TensorId, Tensor>> {
    let mut gradients = HashMap::from([(losses.id(), losses.ones_like()?)]);
    while let Some((step, result)) = tape.pop() {
        let Some(gradient) = gradients.remove(&result.id()) else { continue };
        match step {
            Step::One([x], op) => add(&mut gradients, &x, op.bwd(&x, &result, &gradient)?)?,
            Step::Two([a, b], op) => {
                let (to_a, to_b) = op.bwd(&a, &b, &result, &gradient)?;
                add(&mut gradients, &a, to_a)?;
                add(&mut gradients, &b, to_b)?;
            }
            Step::Three([a, b, c], op) => {
                let (to_a, to_b, to_c) = op.bwd(&a, &b, &c, &result, &gradient)?;
                add(&mut gradients, &a, to_a)?;
                add(&mut gradients, &b, to_b)?;
                add(&mut gradients, &c, to_c)?;
            }
        }
    }
    Ok(gradients)
}

fn add(gradients: &mut HashMap<TensorId, Tensor>, tensor: &Tensor, gradient: Option<Tensor>) -> Result<()> {
    let Some(gradient) = gradient else { return Ok(()) };
    let total = match gradients.remove(&tensor.id()) {
        Some(before) => sum::add(&before, &gradient)?,
        None => gradient,
    };
    gradients.insert(tensor.id(), total);
    Ok(())
}
