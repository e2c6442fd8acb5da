//! A program by plain tensor operations: the readable form every fused one is held against, differentiable by candle.

use candle_core::{Result, Tensor};

use super::{Extent, Program};

/// What an operation's reference is given, for K replicas.
pub struct Given<'a> {
    /// Replicas, K.
    pub replicas: usize,
    /// Examples.
    pub examples: usize,
    inputs: Vec<&'a Tensor>,
    parameters: Vec<&'a Tensor>,
    slots: Vec<&'a SlotTensor>,
    /// Rows and width of the result.
    pub output: Extent,
}

/// Content of a slot for K replicas.
#[derive(Clone, Debug)]
pub enum SlotTensor {
    /// Row numbers `[K, rows, width]`.
    Ids(Vec<u32>),
    /// Numbers `[K, rows, width]`.
    Numbers(Tensor),
}

impl Given<'_> {
    /// An input, `[K, rows, width]`.
    pub fn input(&self, number: usize) -> &Tensor {
        self.inputs[number]
    }

    /// A parameter, `[K, …]`.
    pub fn parameter(&self, number: usize) -> &Tensor {
        self.parameters[number]
    }

    /// Whether there is a parameter of this number.
    pub fn has_parameter(&self, number: usize) -> bool {
        number < self.parameters.len()
    }

    /// Whether there is a slot of this number.
    pub fn has_slot(&self, number: usize) -> bool {
        number < self.slots.len()
    }

    /// Row numbers of a slot, `[K, rows, width]`.
    pub fn ids(&self, number: usize) -> Result<&[u32]> {
        match self.slots[number] {
            SlotTensor::Ids(ids) => Ok(ids),
            SlotTensor::Numbers(_) => candle_core::bail!("slot {number} holds numbers, not row numbers"),
        }
    }

    /// Numbers of a slot, `[K, rows, width]`.
    pub fn numbers(&self, number: usize) -> Result<&Tensor> {
        match self.slots[number] {
            SlotTensor::Numbers(numbers) => Ok(numbers),
            SlotTensor::Ids(_) => candle_core::bail!("slot {number} holds row numbers, not numbers"),
        }
    }
}

/// Outputs `[K, rows, width]` and the losses `[K, rows]` in f64 of all examples at once. `parameters` are `[K, …]` in the
/// model's order, `slots` in the program's.
pub fn run(
    program: &Program,
    examples: usize,
    parameters: &[Tensor],
    slots: &[SlotTensor],
) -> Result<(Tensor, Tensor)> {
    let replicas = parameters.first().map_or(Ok(1), |tensor| tensor.dim(0))?;
    let mut values: Vec<Option<Tensor>> = vec![None; program.values.len()];
    let mut last = None;
    for node in &program.nodes {
        let mut inputs = Vec::new();
        for input in &node.inputs {
            match &values[input.0] {
                Some(tensor) => inputs.push(tensor),
                None => candle_core::bail!("`{}` reads a value before it is made", node.operation.name()),
            }
        }
        let given = Given {
            replicas,
            examples,
            inputs,
            parameters: node.parameters.iter().map(|place| &parameters[*place]).collect(),
            slots: node.slots.iter().map(|place| &slots[*place]).collect(),
            output: program.values[node.output.0],
        };
        let mut result = node.operation.reference(&given)?;
        if node.detached {
            result = result.detach();
        }
        values[node.output.0] = Some(result);
        last = Some(node.output);
    }
    let take = |value: Option<super::Value>| match value.and_then(|value| values[value.0].clone()) {
        Some(tensor) => Ok(tensor),
        None => candle_core::bail!("the program has no result"),
    };
    Ok((take(Some(program.output_value))?, take(last)?))
}
