//! Runs programs: forward passes, and updates' gradients over micro-batches.
//!
//! An executor holds several programs of one model (other lengths of sequences, other depths of a looped one) in one workspace and
//! runs the one it was last turned to.

use std::sync::Arc;

use super::call::{Call, Frame, Scratch};
use super::feed::{Feed, MicroBatch, SlotData};
use super::memory::Numbers;
use super::team::{Barrier, Team};
use crate::float::Float;
use crate::ops::gemm;
use crate::program::{Node, Ports, Program, SlotContent};

/// A program and its constants.
struct Loaded<T> {
    program: Arc<Program>,
    constants: Vec<SlotData<T>>,
}

/// Programs of one model with the memory to run them, for one replica at a time.
pub struct Executor<T> {
    loaded: Vec<Loaded<T>>,
    /// The one that runs.
    current: usize,
    numbers: Numbers<T>,
    gradients: Numbers<T>,
    losses: Numbers<f64>,
    /// Partial sums of the gradients' squares.
    sums: Numbers<f64>,
    scratch: Vec<OwnScratch<T>>,
    barrier: Barrier,
}

/// One part's scratch memory.
struct OwnScratch<T> {
    product: Numbers<T>,
    numbers: Numbers<T>,
    wide: Numbers<f64>,
}

impl<T: Float> OwnScratch<T> {
    fn share(&mut self) -> Scratch<T> {
        let counts = [self.product.slice().len(), self.numbers.slice().len(), self.wide.slice().len()];
        Scratch {
            product: self.product.share(),
            numbers: self.numbers.share(),
            wide: self.wide.share(),
            counts,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Forward,
    Backward,
}

impl<T: Float> Executor<T> {
    /// Memory for a team of `parts`.
    pub fn new(program: Arc<Program>, parts: usize) -> Self {
        let scratch = (0..parts.max(1)).map(|_| OwnScratch {
            product: Numbers::zeros(gemm::SCRATCH),
            numbers: Numbers::zeros(0),
            wide: Numbers::zeros(0),
        });
        let mut executor = Executor {
            loaded: Vec::new(),
            current: 0,
            numbers: Numbers::zeros(0),
            gradients: Numbers::zeros(program.layout.count()),
            losses: Numbers::zeros(0),
            sums: Numbers::zeros(Self::sum_count(program.layout.count())),
            scratch: scratch.collect(),
            barrier: Barrier::default(),
        };
        executor.load(program);
        executor
    }

    /// Adds a program of the same model, with memory where it needs more; its number. (Of an executor's first program it is 0.)
    pub fn load(&mut self, program: Arc<Program>) -> usize {
        let constants = program.slots.iter().map(|slot| match &slot.content {
            Some(SlotContent::Ids(ids)) => SlotData::Ids(ids.to_vec()),
            Some(SlotContent::Numbers(numbers)) => {
                SlotData::Numbers(numbers.iter().map(|number| T::of(*number)).collect())
            }
            None => SlotData::Constant,
        });
        let constants = constants.collect();
        let counts = |which: usize| {
            program.nodes.iter().map(|node| node.operation.scratch_counts()[which]).max().unwrap_or(0)
        };
        grow(&mut self.numbers, program.workspace);
        grow(&mut self.losses, program.outputs.extent.rows.count(program.micro_batch));
        for scratch in &mut self.scratch {
            grow(&mut scratch.numbers, counts(0));
            grow(&mut scratch.wide, counts(1));
        }
        self.loaded.push(Loaded { program, constants });
        self.loaded.len() - 1
    }

    /// Chooses the program that runs, by the number it was given when loaded.
    pub fn turn_to(&mut self, number: usize) {
        debug_assert!(number < self.loaded.len());
        self.current = number;
    }

    /// The program that runs.
    pub fn program(&self) -> &Arc<Program> {
        &self.loaded[self.current].program
    }

    /// Gradients of the last update, in the layout's order.
    pub fn gradients(&self) -> &[T] {
        self.gradients.slice()
    }

    /// The gradients, and memory for sums over them.
    pub(super) fn gradients_and_sums(&mut self) -> (&[T], &mut Numbers<f64>) {
        (self.gradients.slice(), &mut self.sums)
    }

    /// Outputs `[rows, width]` of the last micro-batch of `examples`.
    pub fn outputs(&self, examples: usize) -> &[T] {
        self.place(self.program().outputs, examples)
    }

    /// Numbers of a place after a forward pass of `examples`.
    pub fn place(&self, place: crate::program::Place, examples: usize) -> &[T] {
        &self.numbers.slice()[place.offset..place.offset + place.extent.count(examples)]
    }

    /// Computes what all micro-batches share; call it before [`Executor::forward`] whenever parameters have changed.
    pub fn prepare(&mut self, team: &Team, parameters: &[T], feed: &Feed<T>) {
        self.run(team, parameters, feed, |run| run.fixed(Pass::Forward));
    }

    /// Forward pass of one of a feed's [`Feed::micro_batches`].
    pub fn forward(&mut self, team: &Team, parameters: &[T], feed: &Feed<T>, micro_batch: MicroBatch) {
        self.run(team, parameters, feed, |run| run.forward(micro_batch));
    }

    /// The loss of a batch; its gradients are then in [`Executor::gradients`].
    pub fn differentiate(&mut self, team: &Team, parameters: &[T], feed: &Feed<T>) -> f64 {
        self.pass(team, parameters, feed, false)
    }

    /// The same for a further pass of an update: its gradients are added to those of the passes before.
    pub fn differentiate_further(&mut self, team: &Team, parameters: &[T], feed: &Feed<T>) -> f64 {
        self.pass(team, parameters, feed, true)
    }

    fn pass(&mut self, team: &Team, parameters: &[T], feed: &Feed<T>, continues: bool) -> f64 {
        let program = self.program().clone();
        if !continues {
            for place in &program.unreached {
                self.gradients.slice_mut()[program.layout.range(*place)].fill(T::ZERO);
            }
        }
        let losses = self.losses.share();
        let output_rows = program.output_rows();
        let total = std::sync::Mutex::new(0.0);
        self.run_on(team, parameters, feed, continues, |run| {
            run.fixed(Pass::Forward);
            let mut sum = 0.0;
            for micro_batch in feed.micro_batches(&program) {
                run.forward(micro_batch);
                run.backward(micro_batch);
                if run.part == 0 {
                    // SAFETY: all parts have passed the barrier behind the objective, which alone writes losses; the
                    // next one lies behind the barriers of the next forward pass, which this part has yet to enter.
                    #[allow(unsafe_code, reason = "reads what the team has written")]
                    let own = unsafe { losses.read(0, micro_batch.examples * output_rows) };
                    sum += own.iter().sum::<f64>();
                }
            }
            run.fixed(Pass::Backward);
            if run.part == 0 {
                *total.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = sum;
            }
        });
        total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) * feed.loss_scale
    }

    fn run(&mut self, team: &Team, parameters: &[T], feed: &Feed<T>, work: impl Fn(&Run<'_, T>) + Sync) {
        self.run_on(team, parameters, feed, false, work);
    }

    fn run_on(
        &mut self,
        team: &Team,
        parameters: &[T],
        feed: &Feed<T>,
        continues: bool,
        work: impl Fn(&Run<'_, T>) + Sync,
    ) {
        let parts = team.parts().min(self.scratch.len());
        let (numbers, gradients, losses) =
            (self.numbers.share(), self.gradients.share(), self.losses.share());
        let mut scratch = [const { None }; MOST_PARTS];
        for (own, shared) in self.scratch.iter_mut().zip(&mut scratch) {
            *shared = Some(own.share());
        }
        let Loaded { program, constants } = &self.loaded[self.current];
        let barrier = &self.barrier;
        team.run(&|part| {
            let Some(Some(scratch)) = scratch.get(part) else { return };
            let frame = Frame {
                program,
                parameters,
                feed,
                constants,
                micro_batch: NOTHING,
                first: true,
                continues,
                numbers,
                gradients,
                losses,
            };
            work(&Run { frame, scratch: *scratch, part, parts: parts.min(MOST_PARTS), barrier });
        });
    }
}

/// Takes more memory where there is less than that; what was there is lost.
fn grow<T: Float>(numbers: &mut Numbers<T>, count: usize) {
    if numbers.slice().len() < count {
        *numbers = Numbers::zeros(count);
    }
}

/// No examples: what does not depend on them is run.
const NOTHING: MicroBatch = MicroBatch { start: 0, examples: 0, sequence: 0, sequences: 0 };

/// Most threads of a team.
const MOST_PARTS: usize = 64;

/// One part's run through a program.
struct Run<'a, T> {
    frame: Frame<'a, T>,
    scratch: Scratch<T>,
    part: usize,
    parts: usize,
    barrier: &'a Barrier,
}

impl<T: Float> Run<'_, T> {
    fn fixed(&self, pass: Pass) {
        let frame = self.frame_of(NOTHING);
        match pass {
            Pass::Forward => frame.program.fixed_nodes().for_each(|node| self.node(&frame, node, pass)),
            Pass::Backward => {
                frame.program.fixed_nodes().rev().for_each(|node| self.node(&frame, node, pass))
            }
        }
    }

    fn forward(&self, micro_batch: MicroBatch) {
        let frame = self.frame_of(micro_batch);
        frame.program.example_nodes().for_each(|node| self.node(&frame, node, Pass::Forward));
    }

    fn backward(&self, micro_batch: MicroBatch) {
        let frame = self.frame_of(micro_batch);
        frame.program.example_nodes().rev().for_each(|node| self.node(&frame, node, Pass::Backward));
    }

    fn frame_of(&self, micro_batch: MicroBatch) -> Frame<'_, T> {
        Frame { micro_batch, first: micro_batch.start == 0, ..self.frame.again() }
    }

    fn node(&self, frame: &Frame<'_, T>, (node, ports): (&Node, &Ports), pass: Pass) {
        if pass == Pass::Backward && !ports.has_backward {
            return;
        }
        let call = || Call {
            frame,
            node,
            ports,
            part: self.part,
            parts: self.parts,
            scratch: self.scratch,
            read: Default::default(),
            written: Default::default(),
        };
        for stage in 0..node.operation.stages()[usize::from(pass == Pass::Backward)] {
            match pass {
                Pass::Forward => T::forward(&*node.operation, stage, &call()),
                Pass::Backward => T::backward(&*node.operation, stage, &call()),
            }
            self.barrier.wait(self.parts);
        }
        if pass == Pass::Backward && ports.add_through.is_some() {
            call().add_through();
            self.barrier.wait(self.parts);
        }
    }
}
