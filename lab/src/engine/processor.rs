//! Replicas on a processor, one after another.

use plateau_common::config::Pass;
use plateau_common::tasks::{Batch, Input, Scale};

use super::workbench::Executors;
use super::{Engine, Outcome, Outputs, Reading, Recruit, State, Step, Workbench};
use crate::cpu::{Arena, Feed};
use crate::data::{Chance, fill, without_padding};
use crate::error::LabError;
use crate::float::Float;
use crate::optimizer::ReplicaRule;
use crate::program::Layout;

struct Replica<T> {
    rule: ReplicaRule,
    arena: Arena<T>,
    /// The training batch, kept from update to update.
    feed: Feed<T>,
    /// The pass that it was filled for; none at first.
    fed: Option<Pass>,
}

/// Replicas whose numbers are `T`.
pub(super) struct Processor<'a, T: Float> {
    bench: &'a Workbench,
    executors: &'a Executors<T>,
    replicas: Vec<Replica<T>>,
    outcomes: Vec<Outcome>,
}

impl<'a, T: Element> Processor<'a, T> {
    pub fn new(bench: &'a Workbench, executors: &'a Executors<T>, recruits: Vec<Recruit>) -> Self {
        let layout = bench.layout();
        let replicas = recruits.into_iter().map(|recruit| {
            let State { parameters, moments, last_norm } = recruit.state;
            let stretches = recruit.rule.stretches(layout);
            let arena = Arena::new(&parameters, &moments, last_norm).with_stretches(stretches);
            Replica { rule: recruit.rule, arena, feed: Feed::empty(0), fed: None }
        });
        let replicas: Vec<_> = replicas.collect();
        let outcomes = Vec::with_capacity(replicas.len());
        Processor { bench, executors, replicas, outcomes }
    }
}

/// A float type with outputs of its own kind.
pub(super) trait Element: Float {
    fn outputs(numbers: &[Self]) -> Outputs<'_>;
}

impl Element for f32 {
    fn outputs(numbers: &[f32]) -> Outputs<'_> {
        Outputs::F32(numbers)
    }
}

impl Element for f64 {
    fn outputs(numbers: &[f64]) -> Outputs<'_> {
        Outputs::F64(numbers)
    }
}

impl<T: Element> Engine for Processor<'_, T> {
    fn layout(&self) -> &Layout {
        self.bench.layout()
    }

    fn update(&mut self, step: &Step<'_>) -> Result<(), LabError> {
        self.outcomes.clear();
        let refills = step.fresh || step.is_random();
        for (place, replica) in self.replicas.iter_mut().enumerate() {
            let mut loss = 0.0;
            for (number, pass) in step.passes.iter().enumerate() {
                let mut executor = self.executors.training(*pass)?;
                // A feed is laid out for one program and weighted for one pass.
                if refills || replica.fed != Some(*pass) {
                    let program = executor.program().clone();
                    let (batch, scale) = (&step.batches[place], step.scales[place]);
                    fill(&mut replica.feed, &program, batch, scale, step.chance(place))?;
                    replica.feed.loss_scale *= pass.weight;
                    replica.fed = Some(*pass);
                }
                let (team, parameters) = (&self.bench.team, replica.arena.parameters());
                loss += match number {
                    0 => executor.differentiate(team, parameters, &replica.feed),
                    _ => executor.differentiate_further(team, parameters, &replica.feed),
                };
            }
            let mut executor = self.executors.training(step.passes[0])?;
            let settings = (&replica.rule, step.update, step.multiplier);
            let norm = executor.apply(&self.bench.team, &mut replica.arena, settings, loss.is_finite());
            let finite = loss.is_finite() && norm.is_finite();
            self.outcomes.push(Outcome { loss, norm, diverged_at: (!finite).then_some(step.update) });
        }
        Ok(())
    }

    fn patience(&self) -> u64 {
        1
    }

    fn outcomes(&mut self) -> Result<&[Outcome], LabError> {
        Ok(&self.outcomes)
    }

    fn evaluate(
        &mut self,
        replica: usize,
        batch: &Batch,
        (scale, reading): (Scale, Reading),
        visit: &mut dyn FnMut(usize, Outputs<'_>),
    ) -> Result<(), LabError> {
        let mut executor = self.executors.evaluation(batch.length(), reading)?;
        let program = executor.program().clone();
        let parameters = self.replicas[replica].arena.parameters();
        let mut feed = Feed::empty(program.slots.len());
        fill(&mut feed, &program, batch, scale, Chance::default())?;
        executor.prepare(&self.bench.team, parameters, &feed);
        for micro_batch in feed.micro_batches(&program) {
            executor.forward(&self.bench.team, parameters, &feed, micro_batch);
            let outputs = executor.outputs(micro_batch.examples);
            match (&batch.input, program.ragged) {
                (Input::Ragged { ends, .. }, None) => {
                    let size = (program.output_rows(), program.outputs.extent.width);
                    let visit = &mut |first: usize, outputs: &[T]| visit(first, T::outputs(outputs));
                    without_padding(ends, size, micro_batch.start, outputs, visit);
                }
                _ => visit(micro_batch.start * program.output_rows(), T::outputs(outputs)),
            }
        }
        Ok(())
    }

    fn state(&self, replica: usize) -> Result<State, LabError> {
        let replica = &self.replicas[replica];
        let wide = |numbers: &[T]| numbers.iter().map(|number| number.wide()).collect::<Vec<f64>>();
        let moments = replica.arena.moments().into_iter().take(replica.rule.moment_names().len());
        Ok(State {
            parameters: wide(replica.arena.parameters()),
            moments: moments.map(wide).collect(),
            last_norm: replica.arena.last_norm(),
        })
    }

    fn keep(&mut self, stays: &[bool]) -> Result<(), LabError> {
        let mut stays = stays.iter();
        self.replicas.retain(|_| stays.next().copied().unwrap_or(true));
        Ok(())
    }
}
