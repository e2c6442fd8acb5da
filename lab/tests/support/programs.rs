//! Holds recorded operations against their references: values, gradients, differences, teams, micro-batches.
#![allow(dead_code, reason = "each test file uses its own part")]

#[cfg(feature = "cuda")]
#[path = "cards.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
pub mod cards;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use plateau_common::random::Stream;
use plateau_lab::cpu::{Executor, Feed, SlotData, Team};
use plateau_lab::model::{Initial, ParameterSpecification};
use plateau_lab::ops::objective::Answers;
use plateau_lab::program::reference::{self, SlotTensor};
use plateau_lab::program::{Extent, Graph, Program, Rows, SlotContent, SlotKind, Source, Value};

/// A recording to check, with the size of its inputs.
pub struct Case<'a> {
    /// Names and shapes of parameters.
    pub parameters: &'a [(&'a str, &'a [usize])],
    /// Examples.
    pub examples: usize,
    /// Row numbers in slots are below this.
    pub ids_below: u32,
    /// Parameters are this times a normal number, slots' numbers too.
    pub deviation: f64,
    /// Records the operation; a result of one column is held against numbers, a wider one against classes.
    pub record: &'a dyn Fn(&mut Graph) -> Result<Value>,
}

impl Case<'_> {
    pub fn program(&self, micro_batch: usize) -> Arc<Program> {
        let parameters = self.parameters.iter().map(|(name, shape)| ParameterSpecification {
            name: (*name).to_owned(),
            shape: shape.to_vec(),
            initial: Initial::Constant(0.0),
        });
        let mut graph = Graph::new(parameters.collect());
        let outputs = (self.record)(&mut graph).unwrap();
        let single = Extent { width: 1, ..graph.extent(outputs) };
        let answers = match graph.extent(outputs).width {
            1 => Answers::Values(graph.slot(Source::Values, single)),
            _ => Answers::Classes(graph.slot(Source::Classes, single)),
        };
        let weights = graph.slot(Source::Weights, single);
        graph.objective(outputs, answers, Some(weights)).unwrap();
        Arc::new(graph.finish(outputs, micro_batch, false).unwrap())
    }

    pub fn feed(&self, program: &Program, stream: &mut Stream) -> Feed<f64> {
        let mut feed = Feed::empty(program.slots.len());
        feed.examples = self.examples;
        feed.loss_scale = 1.0 / self.examples as f64;
        for (slot, specification) in program.slots.iter().enumerate() {
            let count = specification.extent.count(self.examples);
            let classes = program.outputs.extent.width as u32;
            match (specification.source, specification.kind) {
                (Source::Constant, _) => {}
                // Positions increase.
                (Source::Numbering { .. }, _) => {
                    feed.ids_mut(slot).extend((0..count as u32).map(|at| 2 * at + stream.below(2)));
                }
                (source, SlotKind::Ids) => {
                    let below = if source == Source::Classes { classes } else { self.ids_below };
                    feed.ids_mut(slot).extend((0..count).map(|_| stream.below(below)));
                }
                (Source::Weights, SlotKind::Numbers) => {
                    feed.numbers_mut(slot).extend((0..count).map(|_| stream.unit()));
                }
                (Source::LogCounts, SlotKind::Numbers) => {
                    // Every third token does not occur.
                    let rows = specification.extent.rows.count(1);
                    let hidden = |at: usize| at % rows % 3 == 1;
                    let draw = |at: usize| if hidden(at) { f64::NEG_INFINITY } else { stream.normal() };
                    feed.numbers_mut(slot).extend((0..count).map(draw));
                }
                (_, SlotKind::Numbers) => {
                    feed.numbers_mut(slot).extend((0..count).map(|_| self.deviation * stream.normal()));
                }
            }
        }
        feed
    }
}

/// The same feed in 32 bits.
pub fn narrow(feed: &Feed<f64>) -> Feed<f32> {
    let slots = feed.slots.iter().map(|slot| match slot {
        SlotData::Constant => SlotData::Constant,
        SlotData::Ids(ids) => SlotData::Ids(ids.clone()),
        SlotData::Numbers(numbers) => {
            SlotData::Numbers(numbers.iter().map(|number| *number as f32).collect())
        }
    });
    Feed { examples: feed.examples, slots: slots.collect(), loss_scale: feed.loss_scale, ..Feed::empty(0) }
}

/// Loss and gradients of one replica by the reference.
fn by_reference(program: &Program, feed: &Feed<f64>, parameters: &[f64]) -> Result<(f64, Vec<f64>)> {
    let layout = &program.layout;
    let variables = layout.parameters.iter().enumerate().map(|(place, parameter)| {
        let mut shape = vec![1];
        shape.extend(&parameter.shape);
        Var::from_vec(parameters[layout.range(place)].to_vec(), shape, &Device::Cpu)
    });
    let variables: Vec<Var> = variables.collect::<Result<_>>()?;
    let slots = program.slots.iter().zip(&feed.slots).map(|(specification, slot)| {
        let rows = specification.extent.rows.count(feed.examples);
        let tensor = |numbers: Vec<f64>| {
            Tensor::from_vec(numbers, (1, rows, specification.extent.width), &Device::Cpu)
        };
        Ok(match (&specification.content, slot) {
            (Some(SlotContent::Ids(ids)), _) => SlotTensor::Ids(ids.to_vec()),
            (Some(SlotContent::Numbers(numbers)), _) => SlotTensor::Numbers(tensor(numbers.to_vec())?),
            (None, SlotData::Ids(ids)) => SlotTensor::Ids(ids.clone()),
            (None, SlotData::Numbers(numbers)) => SlotTensor::Numbers(tensor(numbers.clone())?),
            (None, SlotData::Constant) => unreachable!("a slot was not fed"),
        })
    });
    let slots: Vec<SlotTensor> = slots.collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let (_, losses) = reference::run(program, feed.examples, &tensors, &slots)?;
    let loss = (losses.to_dtype(DType::F64)?.sum_all()? * feed.loss_scale)?;
    let gradients = loss.backward()?;
    let mut flat = Vec::new();
    for (place, variable) in variables.iter().enumerate() {
        match gradients.get(variable) {
            Some(gradient) => flat.extend(gradient.flatten_all()?.to_vec1::<f64>()?),
            None if program.unreached.contains(&place) => flat.extend(vec![0.0; layout.range(place).len()]),
            None => candle_core::bail!("a parameter got no gradient from the reference"),
        }
    }
    Ok((loss.to_scalar()?, flat))
}

/// Largest difference over largest number.
pub fn relative(found: &[f64], expected: &[f64]) -> f64 {
    let scale = expected.iter().fold(0.0f64, |most, number| most.max(number.abs())).max(1e-30);
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale
}

/// Checks a case in 64 bits against the reference only: for numbers that 32 bits or differences cannot follow.
pub fn check_values(name: &str, case: &Case<'_>) {
    let stream = &mut plateau_common::random::StreamFamily::new(7, name).at(0);
    let program = case.program(case.examples);
    let feed = case.feed(&program, stream);
    let parameters: Vec<f64> =
        (0..program.layout.count()).map(|_| case.deviation * stream.normal()).collect();
    let (expected_loss, expected) = by_reference(&program, &feed, &parameters).unwrap();
    assert!(expected_loss.is_finite(), "{name}: the reference's loss is {expected_loss}");
    let mut executor = Executor::<f64>::new(program, 1);
    let loss = executor.differentiate(&Team::new(1), &parameters, &feed);
    let error = (loss - expected_loss).abs() / expected_loss.abs().max(1.0);
    assert!(error < 1e-10, "{name}: loss {loss}, not {expected_loss}");
    let error = relative(executor.gradients(), &expected);
    assert!(error < 1e-9, "{name}: gradients are off by {error:e}");
}

/// Checks a case in every respect.
pub fn check(name: &str, case: &Case<'_>) {
    check_by(name, case, &[1, 2, 3]);
}

/// The same by these teams only: where a case has so many operations that teams wait for each other for long.
pub fn check_by(name: &str, case: &Case<'_>, teams: &[usize]) {
    let stream = &mut plateau_common::random::StreamFamily::new(7, name).at(0);
    let whole = case.program(case.examples);
    let feed = case.feed(&whole, stream);
    let parameters: Vec<f64> = (0..whole.layout.count()).map(|_| case.deviation * stream.normal()).collect();
    let (expected_loss, expected) = by_reference(&whole, &feed, &parameters).unwrap();
    assert!(expected_loss.is_finite(), "{name}: the reference's loss is {expected_loss}");

    let alone = Team::new(1);
    for micro_batch in [1, 2, case.examples] {
        let program = case.program(micro_batch);
        let mut executor = Executor::<f64>::new(program.clone(), 1);
        let loss = executor.differentiate(&alone, &parameters, &feed);
        assert!(
            (loss - expected_loss).abs() <= 1e-11 * expected_loss.abs().max(1.0),
            "{name}: loss {loss}, not {expected_loss}"
        );
        let error = relative(executor.gradients(), &expected);
        assert!(error < 1e-10, "{name}: gradients are off by {error:e} in micro-batches of {micro_batch}");
        // Again on used memory, and by any team.
        let first = executor.gradients().to_vec();
        for parts in teams.iter().copied() {
            let team = Team::new(parts);
            let mut executor = Executor::<f64>::new(program.clone(), parts);
            for _ in 0..2 {
                let again = executor.differentiate(&team, &parameters, &feed);
                assert!(
                    again == loss && executor.gradients() == first,
                    "{name}: {parts} parts give other bits"
                );
            }
        }

        let small: Vec<f32> = parameters.iter().map(|number| *number as f32).collect();
        #[cfg(feature = "cuda")]
        cards::check(name, &program, &feed, &parameters);
        let mut executor = Executor::<f32>::new(program, 1);
        executor.differentiate(&alone, &small, &narrow(&feed));
        let found: Vec<f64> = executor.gradients().iter().map(|number| f64::from(*number)).collect();
        let error = relative(&found, &expected);
        assert!(error < 1e-5, "{name}: gradients in 32 bits are off by {error:e}");
    }
    // Where gradients end half-way they are not the loss's slopes.
    if whole.nodes.iter().all(|node| !node.detached) {
        differences(name, &whole, &feed, &parameters, &expected, stream);
    }
}

/// Central differences at up to 40 numbers.
fn differences(
    name: &str,
    program: &Arc<Program>,
    feed: &Feed<f64>,
    parameters: &[f64],
    expected: &[f64],
    stream: &mut Stream,
) {
    let team = Team::new(1);
    let mut executor = Executor::<f64>::new(program.clone(), 1);
    let scale = expected.iter().fold(0.0f64, |most, number| most.max(number.abs())).max(1e-30);
    for _ in 0..40 {
        let place = stream.below(parameters.len() as u32) as usize;
        let step = 1e-5;
        let mut at = |shift: f64| {
            let mut moved = parameters.to_vec();
            moved[place] += shift;
            executor.differentiate(&team, &moved, feed)
        };
        let found = (at(step) - at(-step)) / (2.0 * step);
        let error = (found - expected[place]).abs() / scale.max(1e-3);
        assert!(error < 1e-6, "{name}: gradient {place} is {}, differences say {found}", expected[place]);
    }
}

/// `PerExample(rows)` rows of one number.
pub fn single(rows: usize) -> Extent {
    Extent { rows: Rows::PerExample(rows), width: 1 }
}
