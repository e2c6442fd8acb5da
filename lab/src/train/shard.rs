//! The training loop of the replicas of one thread.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use plateau_common::config::{Batch as BatchSize, ModelConfig, TrialConfig};
use plateau_common::metrics::Evaluation;
use plateau_common::random::StreamFamily;
use plateau_common::tasks::{Batch, Examples, Form, ReadOut, Scale, Split, TaskConfig};
use plateau_common::trial::Ending;

use super::{Event, Start};
use crate::checkpoint;
use crate::data::{Destination, Prepared, prepare};
use crate::error::{Doing, LabError};
use crate::evaluate::{self, Scores, Wanted};
use crate::float::dtype;
use crate::model::{self, Dropout, Model, Parameters};
use crate::ops::loss::loss;
use crate::ops::tape::differentiate;
use crate::optimizer::{Optimizer, ReplicaRule};
use crate::probes::{self, Measuring};
use plateau_common::config::ProbeKind;

/// Seconds between reports of progress.
const REPORT_SECONDS: f64 = 0.25;
/// Seconds after which a thread turns to its next shard.
const TURN_SECONDS: f64 = 0.1;

/// Numbers of activations a shard should not exceed, so that they stay in the processor's cache.
const SHARD_NUMBERS: usize = 1 << 18;

/// How many replicas of a configuration make a good shard on the CPU. (No result depends on it.)
pub(super) fn replicas_per_shard(config: &TrialConfig) -> usize {
    let ModelConfig::Transformer(model) = &config.model;
    let shape = config.task.shape();
    let examples = match config.train.batch {
        BatchSize::Full => config.task.training_set_size().unwrap_or(1),
        BatchSize::Size(size) => size,
    };
    let positions = if model.layers == 1 && shape.read_out == ReadOut::Last { 1 } else { shape.length };
    let numbers = examples * positions * (model.mlp_dim + 6 * model.dim + shape.output.width());
    (SHARD_NUMBERS / numbers.max(1)).max(1)
}

/// One replica and what belongs to it alone.
struct Replica {
    start: Start,
    examples: Box<dyn Examples>,
    scale: Scale,
    dropout: StreamFamily,
    /// Fixed evaluation sets; the training one is absent where data are endless.
    train_set: Option<Batch>,
    test_set: Option<Batch>,
}

impl Replica {
    fn new(start: &Start, form: Form) -> Self {
        let config = &start.member.config;
        let examples = config.task.examples(config.seed);
        Replica {
            start: start.clone(),
            scale: examples.scale(),
            dropout: StreamFamily::new(config.seed, "dropout"),
            train_set: examples.evaluation(Split::Train, form),
            test_set: examples.evaluation(Split::Test, form),
            examples,
        }
    }

    fn config(&self) -> &TrialConfig {
        &self.start.member.config
    }
}

/// Replicas that are trained as one batch; those that end leave it.
pub(super) struct Shard<'a> {
    replicas: Vec<Replica>,
    model: Box<dyn Model>,
    parameters: Parameters,
    optimizer: Optimizer,
    form: Form,
    to: Destination,
    step: u64,
    /// A full batch, which never changes while the replicas stay.
    constant: Option<Prepared>,
    scratch: &'a Path,
    last_save: Instant,
    /// Number of the shard, for reports.
    index: usize,
    reported: Instant,
    /// Made since the last report.
    replica_steps: u64,
    /// The device for people, as checkpoints record it.
    device_words: String,
    /// Step of the last checkpoint of all replicas; what a shard starts from needs no saving.
    saved: u64,
    /// The span of the updates since the last evaluation.
    stretch: Option<tracing::Span>,
}

type Send<'a> = &'a mut dyn FnMut(Event);

impl<'a> Shard<'a> {
    /// Fresh or resumed replicas; all start at one step. `index` is the shard's number.
    pub fn new(starts: &[Start], index: usize, device: Device, scratch: &'a Path) -> Result<Self, LabError> {
        let config = &starts[0].member.config;
        let form = model::input_form(&config.model, &config.task);
        let shape = config.task.shape();
        let model = model::build(&config.model, shape);
        let to = Destination { shape, dtype: dtype(config.train.precision), device };
        let rules: Vec<ReplicaRule> =
            starts.iter().map(|start| ReplicaRule::of(&start.member.config.train)).collect();
        let resumed: Vec<_> = starts.iter().filter_map(|start| start.resumed.as_ref()).collect();
        let seeds: Vec<u64> = starts.iter().map(|start| start.member.config.seed).collect();
        let specification = model.parameters();
        let (parameters, optimizer) = if resumed.len() == starts.len() {
            let weights: Vec<_> = resumed.iter().map(|checkpoint| checkpoint.weights.clone()).collect();
            let states: Vec<_> = resumed.iter().map(|checkpoint| checkpoint.optimizer.clone()).collect();
            let names: Vec<&str> = specification.iter().map(|parameter| parameter.name.as_str()).collect();
            let parameters = stack(&names, &weights, &to.device).doing("restoring parameters")?;
            for (parameter, (name, tensor)) in specification.iter().zip(parameters.iter()) {
                if tensor.dims()[1..] != parameter.shape[..] || tensor.dtype() != to.dtype {
                    let message =
                        format!("`{name}` of the checkpoint is {:?} {:?}", tensor.dtype(), tensor.shape());
                    return Err(LabError::Compute { doing: "restoring parameters", message });
                }
            }
            let optimizer =
                Optimizer::from_replicas(rules, &parameters, &states).doing("restoring the optimiser")?;
            (parameters, optimizer)
        } else {
            let parameters =
                Parameters::initial(&specification, &seeds, to.dtype, &to.device).doing("initialising")?;
            let optimizer = Optimizer::new(rules, &parameters).doing("initialising the optimiser")?;
            (parameters, optimizer)
        };
        let device_words = describe(&to.device);
        Ok(Shard {
            device_words,
            stretch: None,
            saved: starts[0].step(),
            index,
            reported: Instant::now(),
            replica_steps: 0,
            replicas: starts.iter().map(|start| Replica::new(start, form)).collect(),
            model,
            parameters,
            optimizer,
            form,
            to,
            step: starts[0].step(),
            constant: None,
            scratch,
            last_save: Instant::now(),
        })
    }

    /// Announces the replicas and evaluates fresh ones.
    pub fn begin(&mut self, send: Send<'_>) -> Result<(), LabError> {
        for replica in &self.replicas {
            send(Event::Started { replica: replica.start.replica, from_step: self.step });
        }
        if self.step == 0 {
            self.evaluate(send)?;
        }
        self.end_finished(send)
    }

    /// Trains for a while; tells whether there is more to do. Where `stop` is set, saves every replica instead.
    pub fn advance(&mut self, send: Send<'_>, stop: &AtomicBool) -> Result<bool, LabError> {
        let turn = Instant::now();
        while !self.replicas.is_empty() {
            if stop.load(Ordering::Relaxed) {
                self.save_all(send)?;
                break;
            }
            if turn.elapsed().as_secs_f64() >= TURN_SECONDS {
                return Ok(true);
            }
            self.stretch
                .get_or_insert_with(|| tracing::info_span!("steps", from = self.step, shard = self.index));
            let losses_finite = self.update()?;
            if losses_finite.contains(&false) {
                self.end_diverged(&losses_finite, send)?;
                continue; // the update was not made: the others make it without the diverged
            }
            self.replica_steps += self.replicas.len() as u64;
            let (step, config) = (self.step, self.replicas[0].config());
            let evaluation_due = self.replicas.iter().any(|replica| {
                let config = replica.config();
                config.evaluate.is_due(step, config.train.steps)
            });
            let every = config.checkpoint.every;
            let seconds = config.checkpoint.seconds;
            if evaluation_due || self.reported.elapsed().as_secs_f64() >= REPORT_SECONDS {
                self.report(Some(step), send);
            }
            if evaluation_due {
                self.stretch = None;
                self.evaluate(send)?;
            }
            self.end_finished(send)?;
            let by_step = every.is_some_and(|every| step.is_multiple_of(every));
            if by_step || seconds > 0.0 && self.last_save.elapsed().as_secs_f64() >= seconds {
                self.save_all(send)?;
                self.last_save = Instant::now();
            }
        }
        self.report(None, send);
        Ok(false)
    }

    fn report(&mut self, step: Option<u64>, send: Send<'_>) {
        send(Event::Steps { shard: self.index, step, replica_steps: self.replica_steps });
        (self.reported, self.replica_steps) = (Instant::now(), 0);
    }

    fn batch_size(&self) -> Option<usize> {
        match self.replicas[0].config().train.batch {
            BatchSize::Full => None,
            BatchSize::Size(size) => Some(size),
        }
    }

    fn scales(&self) -> Vec<Scale> {
        self.replicas.iter().map(|replica| replica.scale).collect()
    }

    /// Makes the next update, unless the loss or gradient of a replica is not finite; tells whose are.
    fn update(&mut self) -> Result<Vec<bool>, LabError> {
        let (update, size) = (self.step + 1, self.batch_size());
        let prepared = match self.constant.take() {
            Some(prepared) => prepared,
            None => {
                let draw = |replica: &Replica| replica.examples.train(update, size, self.form);
                let batches: Vec<Batch> = self.replicas.iter().map(draw).collect();
                prepare(&batches, &self.scales(), &self.to).doing("preparing a batch")?
            }
        };
        let ModelConfig::Transformer(settings) = &self.replicas[0].config().model;
        let mut dropout = (settings.dropout > 0.0).then(|| {
            let families: Vec<StreamFamily> =
                self.replicas.iter().map(|replica| replica.dropout.clone()).collect();
            Dropout::new(settings.dropout, &families, update)
        });
        let mut compute = || -> candle_core::Result<Vec<bool>> {
            let (losses, gradients) = differentiate(&self.to.device, || {
                let outputs =
                    self.model.forward(&self.parameters, &prepared.inputs, dropout.as_mut(), None)?;
                loss(&outputs, &prepared.criterion)
            })?;
            let values: Vec<f64> = losses.to_vec1()?;
            let norms = Optimizer::gradient_norms(&self.parameters, &gradients)?;
            let finite: Vec<bool> =
                values.iter().zip(&norms).map(|(loss, norm)| loss.is_finite() && norm.is_finite()).collect();
            if finite.iter().all(|finite| *finite) {
                let train = &self.replicas[0].config().train;
                let multiplier = train.schedule.multiplier(update, train.steps);
                self.optimizer.step(&mut self.parameters, &gradients, &norms, update, multiplier)?;
            }
            Ok(finite)
        };
        let finite = compute().doing("training")?;
        if finite.iter().all(|finite| *finite) {
            self.step = update;
        }
        if size.is_none() {
            self.constant = Some(prepared);
        }
        Ok(finite)
    }

    fn score(&self, batches: &[Batch], wanted: Wanted) -> Result<Scores, LabError> {
        let chunk = evaluate::chunk_examples(self.replicas[0].config());
        evaluate::score(&*self.model, &self.parameters, batches, &self.scales(), &self.to, chunk, wanted)
            .doing("evaluating")
    }

    /// Evaluates every replica at the present step.
    fn evaluate(&mut self, send: Send<'_>) -> Result<(), LabError> {
        let _span = tracing::info_span!("evaluate", step = self.step, shard = self.index).entered();
        let config = self.replicas[0].config();
        let kinds = config.evaluate.probes.clone();
        let modulus = match &config.task {
            TaskConfig::Modular(task) => Some(task.modulus),
            _ => None,
        };
        let outputs = kinds.contains(&ProbeKind::Fourier);
        let trace = kinds.contains(&ProbeKind::AttentionEntropy);
        let (next, size) = (self.step + 1, self.batch_size());
        // Where data are endless, the next update's batch stands for the training data: it has not been trained on yet,
        // but neither has anything else twice.
        let train: Vec<Batch> = self
            .replicas
            .iter()
            .map(|replica| {
                replica.train_set.clone().unwrap_or_else(|| replica.examples.train(next, size, self.form))
            })
            .collect();
        let train = self.score(&train, Wanted { trace: false, outputs })?;
        let test: Vec<Batch> = self.replicas.iter().filter_map(|replica| replica.test_set.clone()).collect();
        let test = self.score(&test, Wanted { trace, outputs })?;
        let mut columns: Vec<(String, Vec<f64>)> = vec![
            ("train_loss".to_owned(), train.losses()),
            ("train_accuracy".to_owned(), train.accuracies()),
            ("test_loss".to_owned(), test.losses()),
            ("test_accuracy".to_owned(), test.accuracies()),
        ];
        let (parameters, optimizer) = (&self.parameters, &self.optimizer);
        let measuring = Measuring { parameters, optimizer, test: &test, train: &train, modulus };
        for kind in kinds {
            columns.extend(probes::measure(kind, &measuring)?);
        }
        for (place, replica) in self.replicas.iter().enumerate() {
            let values = columns.iter().map(|(name, column)| (name.clone(), column[place])).collect();
            let evaluation = Evaluation { step: self.step, values };
            send(Event::Evaluated { replica: replica.start.replica, evaluation });
        }
        Ok(())
    }

    /// Saves every replica, unless that has been done at this step.
    fn save_all(&mut self, send: Send<'_>) -> Result<(), LabError> {
        if self.saved != self.step {
            for place in 0..self.replicas.len() {
                self.save(place, send)?;
            }
            self.saved = self.step;
        }
        Ok(())
    }

    /// Saves the replica at `place`.
    fn save(&self, place: usize, send: Send<'_>) -> Result<(), LabError> {
        let replica = &self.replicas[place];
        let member = &replica.start.member;
        let _span = tracing::info_span!("checkpoint", step = self.step, trial = %member.id).entered();
        let folder: PathBuf = self.scratch.join(format!("{}-{:012}", member.id, self.step));
        let state = checkpoint::State {
            id: member.id,
            config: &member.config,
            step: self.step,
            weights: self.parameters.of_replica(place).doing("saving parameters")?,
            optimizer: self.optimizer.of_replica(&self.parameters, place).doing("saving the optimiser")?,
            device: &self.device_words,
        };
        checkpoint::save(&state, &folder)?;
        send(Event::Checkpointed { replica: replica.start.replica, step: self.step, folder });
        Ok(())
    }

    /// Ends the replicas that have made all their steps.
    fn end_finished(&mut self, send: Send<'_>) -> Result<(), LabError> {
        let mut stays = vec![true; self.replicas.len()];
        for (place, stays) in stays.iter_mut().enumerate() {
            if self.step < self.replicas[place].config().train.steps {
                continue;
            }
            *stays = false;
            self.save(place, send)?;
            let finite = self.is_finite(place).doing("checking weights")?;
            let ending = if finite { Ending::Completed } else { Ending::Diverged { step: self.step } };
            send(Event::Ended { replica: self.replicas[place].start.replica, ending });
        }
        self.keep(&stays)
    }

    fn is_finite(&self, place: usize) -> candle_core::Result<bool> {
        let weights = self.parameters.of_replica(place)?;
        let norms = weights.iter().map(|(_, tensor)| crate::optimizer::square_sums(&tensor.unsqueeze(0)?));
        Ok(norms.collect::<candle_core::Result<Vec<_>>>()?.iter().flatten().all(|norm| norm.is_finite()))
    }

    /// Ends the replicas whose loss or gradient is not finite at the present weights.
    fn end_diverged(&mut self, finite: &[bool], send: Send<'_>) -> Result<(), LabError> {
        for (place, _) in finite.iter().enumerate().filter(|(_, finite)| !**finite) {
            self.save(place, send)?;
            let ending = Ending::Diverged { step: self.step };
            send(Event::Ended { replica: self.replicas[place].start.replica, ending });
        }
        self.keep(finite)
    }

    /// Removes the replicas that do not stay.
    fn keep(&mut self, stays: &[bool]) -> Result<(), LabError> {
        if stays.iter().all(|stays| *stays) {
            return Ok(());
        }
        self.constant = None;
        let places: Vec<usize> = (0..stays.len()).filter(|place| stays[*place]).collect();
        let mut compact = || -> candle_core::Result<()> {
            if places.is_empty() {
                return Ok(());
            }
            let weights = places
                .iter()
                .map(|place| self.parameters.of_replica(*place))
                .collect::<candle_core::Result<Vec<_>>>()?;
            let states = places
                .iter()
                .map(|place| self.optimizer.of_replica(&self.parameters, *place))
                .collect::<candle_core::Result<Vec<_>>>()?;
            let rules =
                places.iter().map(|place| ReplicaRule::of(&self.replicas[*place].config().train)).collect();
            let names: Vec<String> = self.parameters.iter().map(|(name, _)| name.to_owned()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            self.parameters = stack(&names, &weights, &self.to.device)?;
            self.optimizer = Optimizer::from_replicas(rules, &self.parameters, &states)?;
            Ok(())
        };
        compact().doing("removing ended replicas")?;
        let mut stays = stays.iter();
        self.replicas.retain(|_| stays.next().copied().unwrap_or(true));
        Ok(())
    }
}

/// Parameters `[K, …]` from those of K replicas, in the order of `names`.
fn stack(
    names: &[&str],
    replicas: &[Vec<(String, Tensor)>],
    device: &Device,
) -> candle_core::Result<Parameters> {
    let named = names.iter().map(|name| {
        let own = replicas.iter().map(|weights| match weights.iter().find(|(known, _)| known == name) {
            Some((_, tensor)) => Ok(tensor.clone()),
            None => candle_core::bail!("the checkpoint lacks parameter `{name}`"),
        });
        let own = own.collect::<candle_core::Result<Vec<_>>>()?;
        Ok(((*name).to_owned(), Tensor::stack(&own, 0)?.to_device(device)?))
    });
    Parameters::trainable(named.collect::<candle_core::Result<_>>()?)
}

/// The processor's model name, or that the device is a CUDA card.
fn describe(device: &Device) -> String {
    if !device.is_cpu() {
        return "cuda".to_owned();
    }
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(
        || format!("cpu ({})", std::env::consts::ARCH),
        |(_, name)| format!("cpu ({})", name.trim()),
    )
}
