//! What several test files need: random tensors, configurations, a recording observer.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_common::metrics::Evaluation;
use plateau_common::random::Stream;
use plateau_common::trial::Ending;
use plateau_lab::ops_old::linear::{WeightLayout, linear};
use plateau_lab::ops_old::loss::{Answers, Criterion, loss};
use plateau_lab::ops_old::tape::differentiate;
use plateau_lab::{Control, DeviceChoice, Member, Observer, checkpoint, train_cohort};
use serde_json::Value;

/// Normal numbers times `deviation`, in f64.
pub fn random(stream: &mut Stream, shape: &[usize], deviation: f64) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| deviation * stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference of two tensors of one shape.
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    numbers(a).iter().zip(numbers(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Checks the gradients of `losses(inputs)` (`[K]`, summed) at every number of every input against central differences,
/// on the tape and in candle's own graph.
pub fn check_gradients(inputs: &[Tensor], losses: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let variables: Vec<Tensor> =
        inputs.iter().map(|input| candle_core::Var::from_tensor(input).unwrap().into_inner()).collect();
    let (_, gradients) = differentiate(&Device::Cpu, || losses(&variables)).unwrap();
    let graph = losses(&variables).unwrap().sum_all().unwrap().backward().unwrap();
    let total = |inputs: &[Tensor]| numbers(&losses(inputs).unwrap()).iter().sum::<f64>();
    for (place, input) in inputs.iter().enumerate() {
        let on_tape = numbers(gradients.get(&variables[place]).expect("a gradient on the tape"));
        let in_graph = numbers(graph.get(&variables[place]).expect("a gradient in the graph"));
        let values = numbers(input);
        for index in 0..values.len() {
            let step = 1e-5;
            let at = |shift: f64| {
                let mut values = values.clone();
                values[index] += shift;
                let mut all = inputs.to_vec();
                all[place] = Tensor::from_vec(values, input.dims(), &Device::Cpu).unwrap();
                total(&all)
            };
            let expected = (at(step) - at(-step)) / (2.0 * step);
            for found in [on_tape[index], in_graph[index]] {
                let error = (found - expected).abs() / expected.abs().max(1.0);
                assert!(
                    error < 2e-7,
                    "gradient {index} of input {place} is {found}, differences say {expected}"
                );
            }
        }
    }
}

/// A number per replica, `[K]`, that every number of `output` `[K, N, d]` matters to differently.
pub fn weighted_sum(output: &Tensor) -> Result<Tensor> {
    let (replicas, rows, width) = output.dims3()?;
    let pattern = |count: usize| {
        (0..count).map(|index| ((index * 37 + 11) % 17) as f64 / 8.0 - 1.0).collect::<Vec<f64>>()
    };
    let weights = Tensor::from_vec(pattern(replicas * width), (replicas, width, 1), &Device::Cpu)?;
    let values = linear(output, &weights.to_dtype(output.dtype())?, None, WeightLayout::InOut)?;
    let answers = Answers::Values(Arc::new(pattern(replicas * rows)));
    loss(&values, &Criterion { answers, weights: None })
}

pub fn config(json: Value) -> TrialConfig {
    TrialConfig::from_json(&json).unwrap_or_else(|error| panic!("{error} in {json}"))
}

pub fn member(json: Value) -> Member {
    let config = config(json);
    Member { id: TrialId::of(&config), config, resume: None }
}

/// Remembers everything it is told; asks to stop once a member has passed `stop_after` updates.
#[derive(Default)]
pub struct Recorder {
    pub started: Vec<(usize, u64)>,
    pub evaluations: BTreeMap<usize, Vec<Evaluation>>,
    pub checkpoints: BTreeMap<usize, Vec<(u64, PathBuf)>>,
    pub endings: BTreeMap<usize, Ending>,
    pub stop_after: Option<u64>,
}

impl Observer for Recorder {
    fn started(&mut self, replica: usize, from_step: u64) {
        self.started.push((replica, from_step));
    }
    fn evaluated(&mut self, replica: usize, evaluation: Evaluation) {
        self.evaluations.entry(replica).or_default().push(evaluation);
    }
    fn checkpointed(&mut self, replica: usize, step: u64, folder: &Path) {
        self.checkpoints.entry(replica).or_default().push((step, folder.to_owned()));
    }
    fn ended(&mut self, replica: usize, ending: Ending) {
        self.endings.insert(replica, ending);
    }
    fn progress(&mut self, _: u64, _: f64) -> Control {
        let seen = self.evaluations.values().flatten().map(|evaluation| evaluation.step).max().unwrap_or(0);
        if self.stop_after.is_some_and(|stop| seen >= stop) { Control::Stop } else { Control::Continue }
    }
}

impl Recorder {
    /// Hash of the weights in a member's last checkpoint.
    pub fn final_hash(&self, replica: usize) -> String {
        let (_, folder) = self.checkpoints[&replica].last().expect("a checkpoint");
        checkpoint::load(folder).unwrap().manifest.weights_hash
    }

    /// One metric's values over the evaluations of a member.
    pub fn curve(&self, replica: usize, name: &str) -> Vec<f64> {
        let value = |evaluation: &Evaluation| {
            evaluation.values.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
        };
        self.evaluations[&replica].iter().filter_map(value).collect()
    }
}

/// Trains members to the end.
pub fn train(members: &[Member], threads: usize, scratch: &Path) -> Recorder {
    let mut recorder = Recorder::default();
    train_cohort(members, &DeviceChoice::Cpu { threads }, scratch, &mut recorder).unwrap();
    recorder
}
