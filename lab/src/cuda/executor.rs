//! Programs on a card: gradients, updates and evaluations of K replicas at once.
//!
//! All memory is taken when an executor is made. An update is one list of commands, captured as a graph where the driver can;
//! it is queued without waiting for the one before, and nothing is read back until somebody asks. A replica whose loss or
//! gradient is not finite stays as it was before that update, whatever is asked afterwards; the others go on.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::Arc;

use plateau_common::config::OptimizerConfig;

use super::commands::{CapturedGraph, Commands, MatrixMode, arguments};
use super::device::CudaDevice;
use super::error::CudaError;
use super::feed::{self, Feeder, Update};
use super::lower::{Addresses, CardLayout, Examples, Lowering, PartialSum, THREADS, flag, int};
use super::memory::Memory;
use super::operations;
use crate::cpu::Feed;
use crate::program::{Place, Program};

/// Blocks that share the sum of squares of one replica's gradient.
const SQUARE_BLOCKS: usize = 64;

/// Address that stands for memory not yet taken, while commands are only counted.
const NOWHERE: u64 = 1 << 20;

/// One replica's settings; as `Rule` of `optimizer.cu`, in numbers of 64 bits.
type RuleBits = [f64; 4];

/// How a replica's update went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Loss before the update; of a diverged replica, the one that was not finite or whose gradient was not.
    pub loss: f64,
    /// Norm of its gradient before clipping.
    pub norm: f64,
    /// The update that could not be made; the replica is as it was before.
    pub diverged_at: Option<u64>,
}

/// Which of an optimiser's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Mean of gradients (Adam), or velocity (SGD).
    First,
    /// Mean of squared gradients (Adam).
    Second,
}

/// A program with the memory to run it for K replicas on one card.
pub struct Executor {
    device: CudaDevice,
    program: Arc<Program>,
    layout: CardLayout,
    mode: MatrixMode,
    replicas: usize,
    /// Most examples fed at once.
    capacity: usize,
    optimizer: OptimizerConfig,
    parameters: Memory,
    moments: [Memory; 2],
    gradients: Memory,
    numbers: Memory,
    losses: Memory,
    rules: Memory,
    coefficients: Memory,
    squares: Memory,
    /// Losses `[K]`, norms `[K]`, numbers of the updates that diverged `[K]`; 8 bytes each.
    outcomes: Memory,
    scratch: Memory,
    partial: Memory,
    /// Lists of sums to finish, kept as long as commands refer to them.
    sums: Vec<Memory>,
    feeder: Feeder,
    /// Commands of an update and its graph, by examples of the batch.
    updates: HashMap<usize, UpdateCommands>,
    /// Commands of a forward pass, by examples.
    forwards: HashMap<usize, Commands>,
    graphs: bool,
}

struct UpdateCommands {
    differentiate: Commands,
    apply: Commands,
    /// Whether the commands have run one by one: cuBLAS and the driver load what they need on first use, which is not to happen
    /// while a graph is captured.
    warm: bool,
    graph: Option<CapturedGraph>,
}

impl Executor {
    /// Takes memory for `replicas` and at most `capacity` examples at once; the rule's kind and decays of moments hold for
    /// all replicas.
    pub fn new(
        device: &CudaDevice,
        program: Arc<Program>,
        replicas: usize,
        capacity: usize,
        optimizer: &OptimizerConfig,
        mode: MatrixMode,
    ) -> Result<Self, CudaError> {
        let layout = CardLayout::new(&program.layout);
        let needed = Self::bytes(&program, replicas, capacity);
        let (available, _) = device.memory()?;
        if needed > available {
            return Err(CudaError::OutOfMemory { needed, available });
        }
        let take = |bytes: usize| Memory::zeroed(device, bytes);
        let arena = replicas * layout.stride * size_of::<f32>();
        let rows = program.outputs.extent.rows.count(capacity);
        let executor = Executor {
            device: device.clone(),
            mode,
            replicas,
            capacity,
            optimizer: optimizer.clone(),
            parameters: take(arena)?,
            moments: [take(arena)?, take(if is_adam(optimizer) { arena } else { 0 })?],
            gradients: take(arena)?,
            numbers: take(replicas * program.workspace * size_of::<f32>())?,
            losses: take(replicas * rows * size_of::<f64>())?,
            rules: take(replicas * size_of::<RuleBits>())?,
            coefficients: take(replicas * 24)?,
            squares: take(replicas * SQUARE_BLOCKS * size_of::<f64>())?,
            outcomes: take(3 * replicas * 8)?,
            scratch: take(0)?,
            partial: take(0)?,
            sums: Vec::new(),
            feeder: Feeder::new(device, &program, replicas, capacity)?,
            updates: HashMap::new(),
            forwards: HashMap::new(),
            graphs: true,
            layout,
            program,
        };
        let bits = rule_bits(optimizer, None);
        (0..replicas).try_for_each(|replica| executor.write_rule(replica, bits))?;
        Ok(executor)
    }

    /// Bytes of device memory an executor takes, but for what operations use on the side.
    pub fn bytes(program: &Program, replicas: usize, capacity: usize) -> u64 {
        let layout = CardLayout::new(&program.layout);
        let rows = program.outputs.extent.rows.count(capacity);
        let per_replica = 4 * layout.stride * 4 + program.workspace * 4 + rows * 8;
        (replicas * per_replica + feed::bytes(program, replicas, capacity)) as u64
    }

    /// Updates as captured graphs (the default) or command by command.
    pub fn use_graphs(&mut self, graphs: bool) {
        self.graphs = graphs;
    }

    /// The card.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Commands of one update of this many examples: launches, matrix products, clears and copies.
    pub fn commands(&mut self, examples: usize) -> Result<usize, CudaError> {
        let update = self.update_commands(examples)?;
        Ok(update.differentiate.len() + update.apply.len())
    }

    /// Settings of one replica: learning rate, decay and clipping (the kind of rule is the cohort's).
    pub fn set_rule(
        &mut self,
        replica: usize,
        optimizer: &OptimizerConfig,
        clip: Option<f64>,
    ) -> Result<(), CudaError> {
        self.write_rule(replica, rule_bits(optimizer, clip))
    }

    fn write_rule(&self, replica: usize, bits: RuleBits) -> Result<(), CudaError> {
        self.rules.write(replica * size_of::<RuleBits>(), &bits)
    }

    /// Overwrites a replica's parameters, in the program's layout.
    pub fn set_parameters(&mut self, replica: usize, numbers: &[f32]) -> Result<(), CudaError> {
        self.write_arena(&self.parameters, replica, numbers)
    }

    /// A replica's parameters after all updates asked for, in the program's layout.
    pub fn parameters(&self, replica: usize) -> Result<Vec<f32>, CudaError> {
        self.read_arena(&self.parameters, replica)
    }

    /// A replica's gradients at the last update.
    pub fn gradients(&self, replica: usize) -> Result<Vec<f32>, CudaError> {
        self.read_arena(&self.gradients, replica)
    }

    /// Overwrites numbers of a replica's optimiser.
    pub fn set_moment(&mut self, replica: usize, which: Moment, numbers: &[f32]) -> Result<(), CudaError> {
        self.write_arena(&self.moments[which as usize], replica, numbers)
    }

    /// Numbers of a replica's optimiser.
    pub fn moment(&self, replica: usize, which: Moment) -> Result<Vec<f32>, CudaError> {
        self.read_arena(&self.moments[which as usize], replica)
    }

    /// Copies replica `from` of an executor of the same model on the same card: parameters, and with `all` what else belongs
    /// to its training (the optimiser's numbers and how its last update went).
    pub fn adopt(&mut self, other: &Executor, from: usize, to: usize, all: bool) -> Result<(), CudaError> {
        let fits = self.layout == other.layout && from < other.replicas && to < self.replicas;
        if !fits || self.device.card() != other.device.card() {
            return Err(CudaError::Unsupported("a replica of another model was to be adopted".to_owned()));
        }
        let bytes = self.layout.stride * size_of::<f32>();
        let mut copies = vec![(&self.parameters, &other.parameters, to * bytes, from * bytes, bytes)];
        if all {
            let kept = if is_adam(&self.optimizer) { 2 } else { 1 };
            for (own, others) in self.moments.iter().zip(&other.moments).take(kept) {
                copies.push((own, others, to * bytes, from * bytes, bytes));
            }
            for which in 0..3 {
                let (to, from) = (which * self.replicas + to, which * other.replicas + from);
                copies.push((&self.outcomes, &other.outcomes, to * 8, from * 8, 8));
            }
        }
        copies.into_iter().try_for_each(|(own, others, to, from, bytes)| own.copy(to, others, from, bytes))
    }

    fn write_arena(&self, arena: &Memory, replica: usize, numbers: &[f32]) -> Result<(), CudaError> {
        if numbers.len() != self.program.layout.count() || replica >= self.replicas {
            return Err(CudaError::Unsupported(format!(
                "{} numbers for replica {replica} do not fit {} replicas of {}",
                numbers.len(),
                self.replicas,
                self.program.layout.count()
            )));
        }
        arena.write(replica * self.layout.stride * size_of::<f32>(), &self.layout.spread(numbers))
    }

    fn read_arena(&self, arena: &Memory, replica: usize) -> Result<Vec<f32>, CudaError> {
        let spread = arena.read(replica * self.layout.stride * size_of::<f32>(), self.layout.stride)?;
        Ok(self.layout.gather(&spread))
    }

    /// Queues the update of this number (from 1) with the learning rates times `multiplier`. `feeds` are the replicas'
    /// batches, all of one size; `None`: those of the update before. Returns before it is done.
    pub fn update(
        &mut self,
        number: u64,
        multiplier: f64,
        feeds: &[Feed<f32>],
        fresh: bool,
    ) -> Result<(), CudaError> {
        let examples = self.examples(feeds)?;
        self.send(number, multiplier, feeds, fresh)?;
        let graphs = self.graphs;
        let update = self.update_commands(examples)?;
        if !graphs || !update.warm {
            update.warm = true;
            update.differentiate.run()?;
            return update.apply.run();
        }
        if update.graph.is_none() {
            update.graph = Some(Commands::capture(&[&update.differentiate, &update.apply])?);
        }
        update.graph.as_ref().map_or(Ok(()), CapturedGraph::run)
    }

    /// The losses of a batch; the gradients are then in [`Executor::gradients`], and nothing else has changed.
    pub fn differentiate(&mut self, feeds: &[Feed<f32>]) -> Result<Vec<f64>, CudaError> {
        let examples = self.examples(feeds)?;
        self.send(1, 1.0, feeds, true)?;
        self.update_commands(examples)?.differentiate.run()?;
        let rows = self.program.outputs.extent.rows;
        let all: Vec<f64> = self.losses.read(0, self.replicas * rows.count(self.capacity))?;
        let of_each = all.chunks_exact(rows.count(self.capacity).max(1));
        Ok(of_each.map(|losses| losses[..rows.count(examples)].iter().sum()).collect())
    }

    /// How the last update went; waits for it.
    pub fn outcomes(&self) -> Result<Vec<Outcome>, CudaError> {
        let numbers: Vec<f64> = self.outcomes.read(0, 3 * self.replicas)?;
        let (losses, rest) = numbers.split_at(self.replicas);
        let (norms, diverged) = rest.split_at(self.replicas);
        let outcome = |((loss, norm), diverged): ((&f64, &f64), &f64)| {
            let number = diverged.to_bits();
            Outcome { loss: *loss, norm: *norm, diverged_at: (number != 0).then_some(number) }
        };
        Ok(losses.iter().zip(norms).zip(diverged).map(outcome).collect())
    }

    /// Forgets that replicas have diverged, after they were given new parameters.
    pub fn forget_divergence(&mut self) -> Result<(), CudaError> {
        self.outcomes.write(0, &vec![0.0f64; 3 * self.replicas])
    }

    /// Forward pass of whole feeds, at most a micro-batch; the outputs `[rows, width]` of each replica.
    pub fn forward(&mut self, feeds: &[Feed<f32>]) -> Result<Vec<Vec<f32>>, CudaError> {
        let examples = self.examples(feeds)?;
        if examples > self.program.micro_batch {
            return Err(CudaError::Unsupported(format!(
                "{examples} examples were to be evaluated at once by a program for {}",
                self.program.micro_batch
            )));
        }
        self.send(1, 1.0, feeds, true)?;
        if !self.forwards.contains_key(&examples) {
            let all = Examples { start: 0, count: examples, batch: self.capacity };
            let commands = self.lower(|lowering| forward(lowering, all))?;
            self.forwards.insert(examples, commands);
        }
        if let Some(commands) = self.forwards.get(&examples) {
            commands.run()?;
        }
        (0..self.replicas).map(|replica| self.place(self.program.outputs, examples, replica)).collect()
    }

    /// Numbers of a place after a forward pass of `examples`.
    pub fn place(&self, place: Place, examples: usize, replica: usize) -> Result<Vec<f32>, CudaError> {
        let count = place.extent.count(examples);
        self.numbers.read((place.offset * self.replicas + replica * count) * size_of::<f32>(), count)
    }

    fn examples(&self, feeds: &[Feed<f32>]) -> Result<usize, CudaError> {
        let examples = feeds.first().map_or(0, |feed| feed.examples);
        let even = feeds.len() == self.replicas && feeds.iter().all(|feed| feed.examples == examples);
        if even && (1..=self.capacity).contains(&examples) {
            return Ok(examples);
        }
        Err(CudaError::Unsupported(format!(
            "{} batches of {examples} examples do not fit {} replicas with room for {} each, or differ in size",
            feeds.len(),
            self.replicas,
            self.capacity
        )))
    }

    fn send(
        &mut self,
        number: u64,
        multiplier: f64,
        feeds: &[Feed<f32>],
        fresh: bool,
    ) -> Result<(), CudaError> {
        let (beta1, beta2) = match &self.optimizer {
            OptimizerConfig::Adam(adam) | OptimizerConfig::AdamW(adam) => (adam.beta1, adam.beta2),
            OptimizerConfig::Sgd(_) => (0.0, 0.0),
        };
        let update = Update {
            number: number as i64,
            multiplier,
            first_correction: 1.0 - beta1.powf(number as f64),
            second_correction: 1.0 - beta2.powf(number as f64),
        };
        let scales: Vec<f64> = feeds.iter().map(|feed| feed.loss_scale).collect();
        self.feeder.send(update, &scales, fresh.then_some(feeds))
    }

    fn addresses(&self) -> Addresses {
        Addresses {
            parameters: self.parameters.at(0),
            gradients: self.gradients.at(0),
            numbers: self.numbers.at(0),
            losses: self.losses.at(0),
            scales: self.feeder.scales(),
            slots: self.feeder.places().to_vec(),
            scratch: NOWHERE,
            partial: NOWHERE,
        }
    }

    /// Makes commands twice: once to count the memory operations use on the side, then for good.
    fn lower(
        &mut self,
        work: impl Fn(&mut Lowering<'_>) -> Result<(), CudaError>,
    ) -> Result<Commands, CudaError> {
        let program = self.program.clone();
        let mut addresses = self.addresses();
        let mut counted = Commands::new(&self.device, self.mode);
        let mut lowering = Lowering::new(&program, &self.layout, self.replicas, &addresses, &mut counted);
        work(&mut lowering)?;
        let (scratch, partial) = (lowering.most_scratch, lowering.partial * size_of::<f32>());
        // Commands made before refer to memory in use, so more is taken beside it only by forgetting them.
        if scratch > self.scratch.bytes() || partial > self.partial.bytes() {
            self.updates.clear();
            self.forwards.clear();
            self.sums.clear();
            self.scratch = Memory::zeroed(&self.device, scratch.max(self.scratch.bytes()))?;
            self.partial = Memory::zeroed(&self.device, partial.max(self.partial.bytes()))?;
        }
        (addresses.scratch, addresses.partial) = (self.scratch.at(0), self.partial.at(0));
        let mut commands = Commands::new(&self.device, self.mode);
        let mut lowering = Lowering::new(&program, &self.layout, self.replicas, &addresses, &mut commands);
        work(&mut lowering)?;
        let rounds = std::mem::take(&mut lowering.rounds);
        for round in rounds {
            self.finish_sums(&mut commands, &round)?;
        }
        Ok(commands)
    }

    /// Appends adding up partial sums to the gradients.
    fn finish_sums(&mut self, commands: &mut Commands, round: &[PartialSum]) -> Result<(), CudaError> {
        let words: Vec<i64> = round
            .iter()
            .flat_map(|sum| [sum.partial, sum.partial_stride, sum.target, sum.width, i64::from(sum.segments)])
            .collect();
        let list = Memory::zeroed(&self.device, words.len() * 8)?;
        list.write(0, &words)?;
        let widest = round.iter().map(|sum| sum.width as usize).max().unwrap_or(0);
        let grid = (widest.div_ceil(THREADS), round.len(), self.replicas);
        let stride = self.layout.stride as i64;
        let all = arguments![self.gradients.at(0), stride, self.partial.at(0), list.at(0)];
        commands.launch("finish_sums", grid, (THREADS as u32, 1, 1), all)?;
        self.sums.push(list);
        Ok(())
    }

    fn update_commands(&mut self, examples: usize) -> Result<&mut UpdateCommands, CudaError> {
        if !self.updates.contains_key(&examples) {
            let (micro_batch, capacity) = (self.program.micro_batch, self.capacity);
            let (gradients, bytes) =
                (self.gradients.at(0), self.replicas * self.layout.stride * size_of::<f32>());
            let differentiate = self.lower(|lowering| {
                lowering.commands.clear(gradients, bytes);
                differentiate(lowering, examples, micro_batch, capacity)
            })?;
            let apply = self.apply_commands(examples)?;
            self.updates.insert(examples, UpdateCommands { differentiate, apply, warm: false, graph: None });
        }
        self.updates.get_mut(&examples).ok_or_else(|| CudaError::Unsupported("an update was lost".to_owned()))
    }

    /// Norms, decisions and the rule itself.
    fn apply_commands(&self, examples: usize) -> Result<Commands, CudaError> {
        let mut commands = Commands::new(&self.device, self.mode);
        let (replicas, stride) = (self.replicas, self.layout.stride as i64);
        let block = (THREADS as u32, 1, 1);
        let (gradients, squares, update) = (self.gradients.at(0), self.squares.at(0), self.feeder.update());
        let all = arguments![squares, gradients, stride, stride];
        commands.launch("square_sums", (SQUARE_BLOCKS, replicas, 1), block, all)?;
        let rows = self.program.outputs.extent.rows;
        let outcome = |which: usize| self.outcomes.at(which * replicas * 8);
        let coefficients = self.coefficients.at(0);
        let all = arguments![
            coefficients,
            outcome(0),
            outcome(1),
            outcome(2),
            self.losses.at(0),
            rows.count(self.capacity) as i64,
            int(rows.count(examples))?,
            squares,
            int(SQUARE_BLOCKS)?,
            self.rules.at(0),
            update
        ];
        commands.launch("decide", (replicas, 1, 1), block, all)?;
        let grid = (self.layout.stride.div_ceil(4 * THREADS).min(4096), replicas, 1);
        let (parameters, first, second) =
            (self.parameters.at(0), self.moments[0].at(0), self.moments[1].at(0));
        match &self.optimizer {
            OptimizerConfig::Adam(adam) | OptimizerConfig::AdamW(adam) => {
                let all = arguments![
                    parameters,
                    first,
                    second,
                    gradients,
                    stride,
                    stride,
                    coefficients,
                    update,
                    adam.beta1,
                    adam.beta2,
                    adam.eps
                ];
                commands.launch("adam", grid, block, all)?;
            }
            OptimizerConfig::Sgd(sgd) => {
                let all =
                    arguments![parameters, first, gradients, stride, stride, coefficients, sgd.momentum];
                commands.launch("sgd", grid, block, all)?;
            }
        }
        Ok(commands)
    }
}

fn is_adam(optimizer: &OptimizerConfig) -> bool {
    matches!(optimizer, OptimizerConfig::Adam(_) | OptimizerConfig::AdamW(_))
}

fn rule_bits(optimizer: &OptimizerConfig, clip: Option<f64>) -> RuleBits {
    let decoupled = flag(matches!(optimizer, OptimizerConfig::AdamW(_))) as u64;
    [optimizer.lr(), optimizer.weight_decay(), clip.unwrap_or(f64::INFINITY), f64::from_bits(decoupled)]
}

/// Appends the forward pass of a micro-batch, what all micro-batches share included.
fn forward(lowering: &mut Lowering<'_>, examples: Examples) -> Result<(), CudaError> {
    fixed_forward(lowering, examples.batch)?;
    example_forward(lowering, examples)
}

fn fixed_forward(lowering: &mut Lowering<'_>, batch: usize) -> Result<(), CudaError> {
    let program = lowering.program;
    let none = Examples { start: 0, count: 0, batch };
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
fn differentiate(
    lowering: &mut Lowering<'_>,
    batch: usize,
    micro_batch: usize,
    capacity: usize,
) -> Result<(), CudaError> {
    let program = lowering.program;
    fixed_forward(lowering, capacity)?;
    let mut start = 0;
    while start < batch {
        let examples = Examples { start, count: micro_batch.min(batch - start), batch: capacity };
        example_forward(lowering, examples)?;
        for (node, ports) in program.example_nodes().rev() {
            operations::form(&*node.operation)?.backward(&mut lowering.call(node, ports, examples))?;
            lowering.add_through(node, ports, examples)?;
        }
        start += examples.count;
    }
    let none = Examples { start: 0, count: 0, batch: capacity };
    for (node, ports) in program.fixed_nodes().rev() {
        operations::form(&*node.operation)?.backward(&mut lowering.call(node, ports, none))?;
        lowering.add_through(node, ports, none)?;
    }
    Ok(())
}
