//! From programs to the commands of passes and evaluations, and the graphs captured from them.
//!
//! A list is made when a program first runs for so many examples and then kept, up to a number of lists; whoever takes other memory
//! forgets them.

use std::collections::HashMap;
use std::mem::size_of;

use plateau_common::config::OptimizerConfig;

use super::commands::{CapturedGraph, Commands, arguments};
use super::error::CudaError;
use super::executor::{Executor, MOST_PASSES, PassPlace, SQUARE_BLOCKS};
use super::lower::{ALIGNMENT_BITS, Addresses, Examples, Lowering, THREADS, int};
use super::memory::Memory;
use super::operations;

/// Most lists of passes and of evaluations that are kept; a looped model with random depths has one for each pair of depths.
const MOST_LISTS: usize = 256;

/// Address that stands for memory not yet taken, while commands are only counted.
const NOWHERE: u64 = 1 << 20;

/// What the commands of a pass depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PassKey {
    pub place: PassPlace,
    /// Examples of the batch.
    pub examples: usize,
}

/// Lists of commands that have been made.
#[derive(Default)]
pub(super) struct Lists {
    passes: HashMap<(usize, usize, usize, bool), PassCommands>,
    /// By program and examples.
    forwards: HashMap<(usize, usize), Made>,
}

impl Lists {
    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.passes.clear();
        self.forwards.clear();
    }
}

/// Commands, and the lists of sums in the card's memory that they refer to.
struct Made {
    commands: Commands,
    _sums: Vec<Memory>,
}

/// A pass of an update, and its end where it is the last.
pub(super) struct PassCommands {
    differentiate: Made,
    apply: Option<Commands>,
    /// Whether the commands have run one by one: cuBLAS and the driver load what they need on first use, which is not to happen
    /// while a graph is captured.
    warm: bool,
    graph: Option<CapturedGraph>,
}

impl PassCommands {
    /// How many commands there are.
    pub fn count(&self) -> usize {
        self.differentiate.commands.len() + self.apply.as_ref().map_or(0, Commands::len)
    }

    /// Queues them, as a graph if they are to be one and have run before.
    pub fn run(&mut self, as_graph: bool) -> Result<(), CudaError> {
        if !as_graph || !self.warm {
            self.warm = true;
            self.differentiate.commands.run()?;
            return self.apply.as_ref().map_or(Ok(()), Commands::run);
        }
        let graph = match &mut self.graph {
            Some(graph) => graph,
            none => {
                let lists: Vec<&Commands> =
                    std::iter::once(&self.differentiate.commands).chain(&self.apply).collect();
                none.insert(Commands::capture(&lists)?)
            }
        };
        graph.run()
    }
}

impl Executor {
    /// The commands of a pass.
    pub(super) fn pass_commands(&mut self, key: PassKey) -> Result<&mut PassCommands, CudaError> {
        let PassKey { place: PassPlace { program, number, is_last }, examples } = key;
        if number >= MOST_PASSES || self.optimizer.is_none() {
            return Err(CudaError::Unsupported(format!(
                "pass {number} of an update was asked for, by an executor that knows {MOST_PASSES} or does not train"
            )));
        }
        let place = (program, examples, number, is_last);
        if !self.lists.passes.contains_key(&place) {
            let arena = self.replicas * self.layout.stride * size_of::<f32>();
            let gradients = self.gradients.at(0);
            let differentiate = self.lower(program, (examples, number), |lowering| {
                if number == 0 {
                    lowering.commands.clear(gradients, arena);
                }
                differentiate(lowering, examples)
            })?;
            let apply = if is_last { Some(self.apply_commands(key)?) } else { None };
            if self.lists.passes.len() >= MOST_LISTS {
                self.lists.passes.clear();
            }
            let made = PassCommands { differentiate, apply, warm: false, graph: None };
            self.lists.passes.insert(place, made);
        }
        let lost = || CudaError::Unsupported("a pass was lost".to_owned());
        self.lists.passes.get_mut(&place).ok_or_else(lost)
    }

    /// The commands of a forward pass.
    pub(super) fn forward_commands(
        &mut self,
        program: usize,
        examples: usize,
    ) -> Result<&Commands, CudaError> {
        let place = (program, examples);
        if !self.lists.forwards.contains_key(&place) {
            let made = self.lower(program, (examples, 0), |lowering| {
                fixed_forward(lowering)?;
                example_forward(lowering, Examples { start: 0, count: examples })
            })?;
            if self.lists.forwards.len() >= MOST_LISTS {
                self.lists.forwards.clear();
            }
            self.lists.forwards.insert(place, made);
        }
        let lost = || CudaError::Unsupported("a forward pass was lost".to_owned());
        self.lists.forwards.get(&place).map(|made| &made.commands).ok_or_else(lost)
    }

    /// Losses of pass number `number` follow those of the passes before it.
    fn addresses(&self, program: usize, (examples, number): (usize, usize)) -> Result<Addresses, CudaError> {
        let loaded = self.loaded(program)?;
        let rows = loaded.program.outputs.extent.rows;
        Ok(Addresses {
            parameters: self.parameters.at(0),
            gradients: self.gradients.at(0),
            numbers: self.numbers.at(0),
            losses: self.losses.at(number * rows.count(examples) * size_of::<f64>()),
            losses_distance: self.loss_rows,
            scales: self.feeder.scales(),
            slots: self.feeder.places(&loaded.feed),
            scratch: NOWHERE,
            partial: NOWHERE,
        })
    }

    /// Makes commands twice: once to count the memory operations use on the side, then for good.
    fn lower(
        &mut self,
        program: usize,
        (examples, number): (usize, usize),
        work: impl Fn(&mut Lowering<'_>) -> Result<(), CudaError>,
    ) -> Result<Made, CudaError> {
        let mut addresses = self.addresses(program, (examples, number))?;
        let program = self.program(program)?.clone();
        let mut counted = Commands::new(&self.device, self.mode);
        let mut lowering =
            Lowering::new(&program, &self.layout, self.replicas, &addresses, &mut counted, None);
        work(&mut lowering)?;
        let (scratch, partial) = (lowering.most_scratch, lowering.most_partial * size_of::<f32>());
        for (memory, bytes) in [(&mut self.scratch, scratch), (&mut self.partial, partial)] {
            // Commands made before refer to memory in use, so more is taken only by forgetting them.
            if bytes > memory.bytes() {
                self.lists.clear();
                *memory = Memory::zeroed(&self.device, 0)?;
                *memory = Memory::zeroed(&self.device, bytes)?;
            }
        }
        (addresses.scratch, addresses.partial) = (self.scratch.at(0), self.partial.at(0));
        let (mut commands, mut sums) = (Commands::new(&self.device, self.mode), Vec::new());
        let lists = Some(&mut sums);
        let lowering = Lowering::new(&program, &self.layout, self.replicas, &addresses, &mut commands, lists);
        work(&mut lowering.continuing(number > 0))?;
        Ok(Made { commands, _sums: sums })
    }

    /// Norms, decisions and the rule itself, after the last pass.
    fn apply_commands(&self, key: PassKey) -> Result<Commands, CudaError> {
        let mut commands = Commands::new(&self.device, self.mode);
        let (replicas, stride) = (self.replicas, self.layout.stride as i64);
        let block = (THREADS as u32, 1, 1);
        let (gradients, squares, update) = (self.gradients.at(0), self.squares.at(0), self.feeder.update());
        let all = arguments![squares, gradients, stride, stride];
        commands.launch("square_sums", (SQUARE_BLOCKS, replicas, 1), block, all)?;
        let loaded = self.loaded(key.place.program)?;
        let rows = loaded.program.outputs.extent.rows;
        let outcome = |which: usize| self.outcomes.at(which * replicas * 8);
        let coefficients = self.coefficients.at(0);
        let all = arguments![
            coefficients,
            outcome(0),
            outcome(1),
            outcome(2),
            self.losses.at(0),
            self.loss_rows as i64,
            // Those of all passes stand one after another.
            int((key.place.number + 1) * rows.count(key.examples))?,
            squares,
            int(SQUARE_BLOCKS)?,
            self.rules.at(0),
            update
        ];
        commands.launch("decide", (replicas, 1, 1), block, all)?;
        let grid = (self.layout.stride.div_ceil(4 * THREADS).min(4096), replicas, 1);
        let (parameters, first, second) =
            (self.parameters.at(0), self.moments[0].at(0), self.moments[1].at(0));
        let (decays, shift) = (self.decays.at(0), ALIGNMENT_BITS as i32);
        match &self.optimizer {
            Some(OptimizerConfig::Adam(adam) | OptimizerConfig::AdamW(adam)) => {
                let all = arguments![
                    parameters,
                    first,
                    second,
                    gradients,
                    stride,
                    stride,
                    decays,
                    shift,
                    coefficients,
                    update,
                    adam.beta1,
                    adam.beta2,
                    adam.eps
                ];
                commands.launch("adam", grid, block, all)?;
            }
            Some(OptimizerConfig::Sgd(sgd)) => {
                let all = arguments![
                    parameters,
                    first,
                    gradients,
                    stride,
                    stride,
                    decays,
                    shift,
                    coefficients,
                    sgd.momentum
                ];
                commands.launch("sgd", grid, block, all)?;
            }
            None => {}
        }
        Ok(commands)
    }
}

fn fixed_forward(lowering: &mut Lowering<'_>) -> Result<(), CudaError> {
    let program = lowering.program;
    let none = Examples { start: 0, count: 0 };
    program.fixed_nodes().try_for_each(|(node, ports)| {
        operations::form(&*node.operation)?.forward(&mut lowering.call(node, ports, none))
    })
}

fn example_forward(lowering: &mut Lowering<'_>, examples: Examples) -> Result<(), CudaError> {
    let program = lowering.program;
    program.example_nodes().try_for_each(|(node, ports)| {
        operations::form(&*node.operation)?.forward(&mut lowering.call(node, ports, examples))
    })
}

/// Appends the gradients of a batch: micro-batch by micro-batch, then what all share.
fn differentiate(lowering: &mut Lowering<'_>, batch: usize) -> Result<(), CudaError> {
    let program = lowering.program;
    fixed_forward(lowering)?;
    let mut start = 0;
    while start < batch {
        if start > 0 {
            // Partial sums of the micro-batch before make room for those of the next.
            lowering.finish_sums()?;
        }
        let examples = Examples { start, count: program.micro_batch.min(batch - start) };
        example_forward(lowering, examples)?;
        for (node, ports) in program.example_nodes().rev().filter(|(_, ports)| ports.has_backward) {
            operations::form(&*node.operation)?.backward(&mut lowering.call(node, ports, examples))?;
            lowering.add_through(node, ports, examples)?;
        }
        start += examples.count;
    }
    let none = Examples { start: 0, count: 0 };
    for (node, ports) in program.fixed_nodes().rev().filter(|(_, ports)| ports.has_backward) {
        operations::form(&*node.operation)?.backward(&mut lowering.call(node, ports, none))?;
        lowering.add_through(node, ports, none)?;
    }
    lowering.finish_sums()
}
