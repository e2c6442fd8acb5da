//! The training loop of some replicas of one thread.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use plateau_common::config::{ModelConfig, Pass, Precision, ProbeKind, TrialConfig};
use plateau_common::metrics::Evaluation;
use plateau_common::random::StreamFamily;
use plateau_common::tasks::{Batch, Examples, Form, ReadOut, Scale, Sentences, Split, TaskConfig};
use plateau_common::trial::Ending;

use super::{Event, Start, assess, grid};
use crate::checkpoint::{self, Checkpoint, Named};
use crate::engine::{Engine, Reading, Recruit, State, Step, Streams, Workbench};
use crate::error::{Doing, LabError};
use crate::evaluate::{self, Scores};
use crate::model;
use crate::network::{Network, initial_weights};
use crate::optimizer::ReplicaRule;
use crate::probes::{self, Measuring};
use crate::program::Layout;

/// Seconds after which a shard reports its progress and its thread turns to the next one.
const TURN_SECONDS: f64 = 0.1;
/// Share of the test set answered right at every read position.
const EXACT_MATCH: &str = "test_exact_match";
/// Name of the tensor that holds the norm of the last gradient in an optimiser's file.
const LAST_NORM: &str = "last_gradient_norm";

/// One replica and what belongs to it alone.
struct Replica {
    start: Start,
    examples: Box<dyn Examples>,
    scale: Scale,
    streams: Streams,
    /// Fixed evaluation sets; the training one is absent where data are endless.
    train_set: Option<Batch>,
    test_set: Batch,
    /// For probes that look at sentences.
    sentences: Option<Sentences>,
}

impl Replica {
    fn new(start: &Start, form: Form) -> Self {
        let config = &start.member.config;
        let examples = config.examples();
        Replica {
            start: start.clone(),
            scale: examples.scale(),
            streams: Streams {
                dropout: StreamFamily::new(config.seed, "dropout"),
                positions: StreamFamily::new(config.seed, "positions"),
            },
            train_set: examples.evaluation(Split::Train, form),
            sentences: config
                .evaluate
                .probes
                .iter()
                .any(|probe| probe.reads_sentences())
                .then(|| examples.sentences(config.evaluate.sentences))
                .flatten(),
            test_set: examples.evaluation(Split::Test, form).unwrap_or_else(Batch::empty),
            examples,
        }
    }

    fn config(&self) -> &TrialConfig {
        &self.start.member.config
    }
}

/// Replicas that make the same updates; those that end leave it.
pub(super) struct Shard<'a> {
    replicas: Vec<Replica>,
    bench: &'a Workbench,
    engine: Box<dyn Engine + 'a>,
    form: Form,
    step: u64,
    /// The replicas' batches, drawn anew for every update unless they are the whole training set.
    batches: Vec<Batch>,
    scales: Vec<Scale>,
    streams: Vec<Streams>,
    passes: Vec<Pass>,
    /// Whether the batches are those of the update before.
    drawn: bool,
    scratch: &'a Path,
    last_save: Instant,
    /// Number of the shard, for reports.
    index: usize,
    /// Made since the last report.
    replica_steps: u64,
    /// Step of the last checkpoint of all replicas; what a shard starts from needs no saving.
    saved: u64,
    /// The span of the updates since the last evaluation.
    stretch: Option<tracing::Span>,
}

type Send<'a> = &'a mut dyn FnMut(Event);

impl<'a> Shard<'a> {
    /// Fresh or resumed replicas; all start at one step. `index` is the shard's number.
    pub fn new(
        starts: &[Start],
        index: usize,
        bench: &'a Workbench,
        scratch: &'a Path,
    ) -> Result<Self, LabError> {
        let config = &starts[0].member.config;
        let form = model::input_form(&config.model, &config.task);
        let layout = bench.layout();
        let recruits = starts.iter().map(|start| recruit(start, layout)).collect::<Result<_, _>>()?;
        let mut shard = Shard {
            engine: bench.engine(recruits)?,
            bench,
            stretch: None,
            saved: starts[0].step(),
            index,
            replica_steps: 0,
            replicas: starts.iter().map(|start| Replica::new(start, form)).collect(),
            form,
            step: starts[0].step(),
            batches: Vec::new(),
            scales: Vec::new(),
            streams: Vec::new(),
            passes: Vec::new(),
            drawn: false,
            scratch,
            last_save: Instant::now(),
        };
        shard.line_up();
        Ok(shard)
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
                self.end_diverged(send)?;
                self.save_all(send)?;
                break;
            }
            if turn.elapsed().as_secs_f64() >= TURN_SECONDS {
                self.report(Some(self.step), send);
                return Ok(true);
            }
            self.stretch
                .get_or_insert_with(|| tracing::info_span!("steps", from = self.step, shard = self.index));
            self.update()?;
            let due = self.due();
            if due.looks {
                self.end_diverged(send)?;
                if self.replicas.is_empty() {
                    break;
                }
            }
            if due.evaluation {
                self.report(Some(self.step), send);
                self.stretch = None;
                self.evaluate(send)?;
            }
            self.end_finished(send)?;
            if due.save {
                self.save_all(send)?;
                self.last_save = Instant::now();
            }
        }
        self.report(None, send);
        Ok(false)
    }

    /// What is due after the update just made.
    fn due(&self) -> Due {
        let step = self.step;
        let evaluation = self.replicas.iter().any(|replica| {
            let config = replica.config();
            config.evaluate.is_due(step, config.train.steps)
        });
        let ends = self.replicas.iter().any(|replica| step >= replica.config().train.steps);
        let policy = &self.replicas[0].config().checkpoint;
        let by_step = policy.is_due(step);
        let by_time = policy.seconds > 0.0 && self.last_save.elapsed().as_secs_f64() >= policy.seconds;
        let save = by_step || by_time;
        let looks = evaluation || ends || save || step.is_multiple_of(self.engine.patience());
        Due { evaluation, save, looks }
    }

    fn report(&mut self, step: Option<u64>, send: Send<'_>) {
        send(Event::Steps { shard: self.index, step, replica_steps: self.replica_steps });
        self.replica_steps = 0;
    }

    /// Lines up what belongs to the replicas side by side, after some have left.
    fn line_up(&mut self) {
        self.batches.resize_with(self.replicas.len(), Batch::empty);
        self.scales = self.replicas.iter().map(|replica| replica.scale).collect();
        self.streams = self.replicas.iter().map(|replica| replica.streams.clone()).collect();
        self.drawn = false;
    }

    /// Makes the next update. Nothing is allocated here from the second update on.
    fn update(&mut self) -> Result<(), LabError> {
        let update = self.step + 1;
        let config = self.replicas[0].config();
        let draw = config.train.draw(update);
        let fresh = draw.size.is_some() || !self.drawn;
        if fresh {
            for (replica, batch) in self.replicas.iter().zip(&mut self.batches) {
                replica.examples.draw(draw, self.form, batch);
            }
            self.drawn = true;
        }
        let ModelConfig::Transformer(settings) = &config.model;
        self.passes.clear();
        self.passes.extend(config.passes(update));
        let step = Step {
            update,
            multiplier: config.train.multiplier(update),
            batches: &self.batches,
            fresh,
            scales: &self.scales,
            passes: &self.passes,
            dropout: (settings.dropout > 0.0).then_some(settings.dropout),
            renumbers: settings.positions.is_random(),
            streams: &self.streams,
        };
        self.engine.update(&step)?;
        self.step = update;
        self.replica_steps += self.replicas.len() as u64;
        Ok(())
    }

    /// Evaluates every replica at the present step.
    fn evaluate(&mut self, send: Send<'_>) -> Result<(), LabError> {
        let _span = tracing::info_span!("evaluate", step = self.step, shard = self.index).entered();
        for place in 0..self.replicas.len() {
            let values = self.measure(place)?;
            let evaluation = Evaluation { step: self.step, values };
            send(Event::Evaluated { replica: self.replicas[place].start.replica, evaluation });
        }
        Ok(())
    }

    /// Metrics of the replica at `place`.
    fn measure(&mut self, place: usize) -> Result<Vec<(String, f64)>, LabError> {
        let replica = &self.replicas[place];
        let config = replica.config();
        let modulus = match &config.task {
            TaskConfig::Modular(task) => Some(task.modulus),
            _ => None,
        };
        let kinds = &config.evaluate.probes;
        let outputs = kinds.contains(&ProbeKind::Fourier);
        // Where data are endless, the next update's batch stands for the training data: it has not been trained on yet,
        // but neither has anything else twice.
        let next;
        let train_batch = match &replica.train_set {
            Some(set) => set,
            None => {
                let draw = config.train.draw(self.step + 1);
                next = Batch::filled(|batch| replica.examples.draw(draw, self.form, batch));
                &next
            }
        };
        let width = config.task.shape().output.width();
        let engine = &mut *self.engine;
        let mut score = |batch: &Batch| -> Result<Scores, LabError> {
            evaluate::score(engine, place, batch, (replica.scale, Reading::Usual), width, outputs)
        };
        let (train, test) = (score(train_batch)?, score(&replica.test_set)?);
        let mut values = vec![
            ("train_loss".to_owned(), train.loss()),
            ("train_accuracy".to_owned(), train.accuracy()),
            ("test_loss".to_owned(), test.loss()),
            ("test_accuracy".to_owned(), test.accuracy()),
        ];
        if config.task.shape().read_out == ReadOut::Every && config.task.mean_length().is_none() {
            values.push((EXACT_MATCH.to_owned(), test.exact_match()));
        }
        let shape = (config.task.shape().length, width);
        values.extend(assess::measure(engine, place, &*replica.examples, self.step, shape)?);
        if let Some(grid) =
            config.evaluate.grid.as_ref().filter(|grid| grid.is_due(self.step, config.train.steps))
        {
            values.extend(grid::measure(engine, place, grid, config, &*replica.examples)?);
        }
        if kinds.is_empty() {
            return Ok(values);
        }
        let state = self.engine.state(place)?;
        let mut network = Network::with_weights(&config.model, config.task.shape(), state.parameters);
        let mut measuring = Measuring {
            network: &mut network,
            model: &config.model,
            last_norm: state.last_norm,
            test_batch: &replica.test_set,
            test: &test,
            train: &train,
            modulus,
            sentences: replica.sentences.as_ref(),
        };
        for kind in kinds {
            values.extend(probes::measure(*kind, &mut measuring)?);
        }
        Ok(values)
    }

    /// Saves every replica, unless that has been done at this step.
    fn save_all(&mut self, send: Send<'_>) -> Result<(), LabError> {
        if self.saved != self.step {
            for place in 0..self.replicas.len() {
                self.save(place, self.step, send)?;
            }
            self.saved = self.step;
        }
        Ok(())
    }

    /// Saves the replica at `place`, which has made `step` updates; its state.
    fn save(&self, place: usize, step: u64, send: Send<'_>) -> Result<State, LabError> {
        let replica = &self.replicas[place];
        let member = &replica.start.member;
        let _span = tracing::info_span!("checkpoint", step, trial = %member.id).entered();
        let folder: PathBuf = self.scratch.join(format!("{}-{:012}", member.id, step));
        let state = self.engine.state(place)?;
        let precision = member.config.train.precision;
        let layout = self.engine.layout();
        let saved = checkpoint::State {
            id: member.id,
            config: &member.config,
            step,
            weights: named(layout, "", &state.parameters, precision).doing("saving parameters")?,
            optimizer: optimizer_tensors(layout, &member.config, &state).doing("saving the optimiser")?,
            device: self.bench.words(),
        };
        checkpoint::save(&saved, &folder)?;
        send(Event::Checkpointed { replica: replica.start.replica, step, folder });
        Ok(state)
    }

    /// Ends the replicas that have made all their steps.
    fn end_finished(&mut self, send: Send<'_>) -> Result<(), LabError> {
        if self.replicas.iter().all(|replica| self.step < replica.config().train.steps) {
            return Ok(());
        }
        let mut stays = vec![true; self.replicas.len()];
        for (place, stays) in stays.iter_mut().enumerate() {
            if self.step < self.replicas[place].config().train.steps {
                continue;
            }
            *stays = false;
            let state = self.save(place, self.step, send)?;
            let finite = state.parameters.iter().all(|number| number.is_finite());
            let ending = if finite { Ending::Completed } else { Ending::Diverged { step: self.step } };
            send(Event::Ended { replica: self.replicas[place].start.replica, ending });
        }
        self.keep(&stays)
    }

    /// Ends the replicas whose loss or gradient was not finite; they are as they were before that update.
    fn end_diverged(&mut self, send: Send<'_>) -> Result<(), LabError> {
        let outcomes = self.engine.outcomes()?;
        if outcomes.iter().all(|outcome| outcome.diverged_at.is_none()) {
            return Ok(());
        }
        let diverged: Vec<Option<u64>> = outcomes.iter().map(|outcome| outcome.diverged_at).collect();
        for (place, update) in diverged.iter().enumerate() {
            let Some(update) = update else { continue };
            self.save(place, update - 1, send)?;
            let ending = Ending::Diverged { step: update - 1 };
            send(Event::Ended { replica: self.replicas[place].start.replica, ending });
        }
        self.keep(&diverged.iter().map(Option::is_none).collect::<Vec<bool>>())
    }

    /// Removes the replicas that do not stay.
    fn keep(&mut self, stays: &[bool]) -> Result<(), LabError> {
        if stays.iter().all(|stays| *stays) {
            return Ok(());
        }
        self.engine.keep(stays)?;
        let mut stays = stays.iter();
        self.replicas.retain(|_| stays.next().copied().unwrap_or(true));
        self.line_up();
        Ok(())
    }
}

/// What is due after an update.
struct Due {
    evaluation: bool,
    save: bool,
    /// Whether to look how the updates went.
    looks: bool,
}

/// A member's rule and the state it starts from.
fn recruit(start: &Start, layout: &Layout) -> Result<Recruit, LabError> {
    let config = &start.member.config;
    let rule = ReplicaRule::of(&config.train);
    let state = match &start.resumed {
        None => State {
            parameters: initial_weights(layout, config.seed),
            moments: vec![vec![0.0; layout.count()]; rule.moment_names().len()],
            last_norm: f64::NAN,
        },
        Some(checkpoint) => {
            resumed(checkpoint, layout, &rule, config.train.precision).doing("restoring a trial")?
        }
    };
    Ok(Recruit { rule, state })
}

/// The state in a checkpoint.
fn resumed(
    checkpoint: &Checkpoint,
    layout: &Layout,
    rule: &ReplicaRule,
    precision: Precision,
) -> candle_core::Result<State> {
    let mut differences = Vec::new();
    compare(layout, "", &checkpoint.weights, precision, &mut differences);
    for name in rule.moment_names() {
        compare(layout, &format!("{name}."), &checkpoint.optimizer, precision, &mut differences);
    }
    if !differences.is_empty() {
        candle_core::bail!("the checkpoint's tensors are not the trial's:\n  {}", differences.join("\n  "));
    }
    let moments = rule.moment_names().iter();
    let moments = moments.map(|name| flat(layout, &format!("{name}."), &checkpoint.optimizer));
    let last_norm = match checkpoint.optimizer.iter().find(|(name, _)| name == LAST_NORM) {
        Some((_, norm)) => norm.to_dtype(DType::F64)?.reshape(())?.to_scalar()?,
        None => candle_core::bail!("the optimiser's state lacks `{LAST_NORM}`"),
    };
    Ok(State {
        parameters: flat(layout, "", &checkpoint.weights)?,
        moments: moments.collect::<candle_core::Result<_>>()?,
        last_norm,
    })
}

/// Every way in which tensors named with this prefix differ from all parameters, or from one moment of them.
fn compare(
    layout: &Layout,
    prefix: &str,
    tensors: &Named,
    precision: Precision,
    differences: &mut Vec<String>,
) {
    let dtype = dtype_of(precision);
    for parameter in &layout.parameters {
        let name = format!("{prefix}{}", parameter.name);
        let expected = format!("{dtype:?} {:?}", parameter.shape);
        let found = match tensors.iter().find(|(known, _)| *known == name) {
            Some((_, tensor)) => format!("{:?} {:?}", tensor.dtype(), tensor.dims()),
            None => "nothing".to_owned(),
        };
        if found != expected {
            differences.push(format!("{name}: checkpoint says {found}, trial says {expected}"));
        }
    }
}

/// The precision that tensors are kept in.
fn dtype_of(precision: Precision) -> DType {
    if precision == Precision::F64 { DType::F64 } else { DType::F32 }
}

/// The numbers of all parameters, or of one moment, from tensors named with this prefix.
fn flat(layout: &Layout, prefix: &str, tensors: &Named) -> candle_core::Result<Vec<f64>> {
    let mut numbers = Vec::with_capacity(layout.count());
    for parameter in &layout.parameters {
        let wanted = format!("{prefix}{}", parameter.name);
        let Some((_, tensor)) = tensors.iter().find(|(name, _)| *name == wanted) else {
            candle_core::bail!("the checkpoint lacks `{wanted}`");
        };
        if tensor.dims() != parameter.shape {
            candle_core::bail!("`{wanted}` of the checkpoint has the shape {:?}", tensor.shape());
        }
        numbers.extend(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?);
    }
    Ok(numbers)
}

/// Tensors of all parameters, or of one moment, named with this prefix, in the precision of training.
fn named(layout: &Layout, prefix: &str, numbers: &[f64], precision: Precision) -> candle_core::Result<Named> {
    let dtype = dtype_of(precision);
    let parameters = layout.parameters.iter().enumerate().map(|(place, parameter)| {
        let own = numbers[layout.range(place)].to_vec();
        let tensor = Tensor::from_vec(own, parameter.shape.as_slice(), &Device::Cpu)?.to_dtype(dtype)?;
        Ok((format!("{prefix}{}", parameter.name), tensor))
    });
    parameters.collect()
}

/// The optimiser's state by name: the moments of one parameter after another, and the last gradient's norm.
fn optimizer_tensors(layout: &Layout, config: &TrialConfig, state: &State) -> candle_core::Result<Named> {
    let mut tensors = Vec::new();
    for (name, moment) in ReplicaRule::of(&config.train).moment_names().iter().zip(&state.moments) {
        tensors.extend(named(layout, &format!("{name}."), moment, config.train.precision)?);
    }
    tensors.push((LAST_NORM.to_owned(), Tensor::new(&[state.last_norm], &Device::Cpu)?));
    Ok(tensors)
}
